"""A journal in the memory of this process."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from rxcohere.bridges.journal.entries import JournalPage
from rxcohere.bridges.journal.verdicts import Verdict
from rxcohere.errors import (
    ConfigurationError,
    JournalError,
    StreamAbandonedError,
    StreamExistsError,
    StreamNotFoundError,
)
from rxcohere.events import ChatEvent
from rxcohere.options import check_seconds
from rxcohere.runtime import schedule


class _Stream:
    """One stream. The journal's lock is held whenever it is touched."""

    def __init__(self, lease: float) -> None:
        self.events: list[ChatEvent] = []
        self.verdict: Verdict | None = None
        self.ended_at = 0.0
        self.leased_until = time.monotonic() + lease
        self.abort_reason: str | None = None
        self.waiters: set[asyncio.Future[None]] = set()

    def after(self, at: int) -> JournalPage:
        """What comes after so many events."""
        if at > len(self.events):
            raise ConfigurationError(f"there are only {len(self.events)} events, and not {at}")
        return JournalPage(self.events[at:], self.verdict)

    def end(self, verdict: Verdict) -> Verdict:
        """Ends it, unless it has ended; gives the verdict that counts."""
        if self.verdict is None:
            self.verdict = verdict
            self.ended_at = time.monotonic()
            self.wake()
        return self.verdict

    def end_if_abandoned(self) -> None:
        """Ends it if the lease has run out."""
        if time.monotonic() >= self.leased_until:
            self.end(Verdict.of_abandoned())

    def wake(self) -> None:
        """Wakes all who wait for something to change."""
        _wake(self.waiters)


def _waiter(waiters: set[asyncio.Future[None]]) -> asyncio.Future[None]:
    waiter = asyncio.get_running_loop().create_future()
    waiters.add(waiter)
    return waiter


def _wake(waiters: set[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        schedule(partial(_settle, waiter), waiter.get_loop())
    waiters.clear()


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class MemoryJournal:
    """A `Journal` for producers and followers in one process, on any loops and threads.

    Args:
        keep: seconds for which a stream that has ended can still be read.

    Raises:
        ConfigurationError: at the call, if that is no time.
    """

    def __init__(self, *, keep: float = 3600.0) -> None:
        check_seconds("keep", keep, zero=True, most=math.inf)
        self._keep = keep
        self._lock = threading.RLock()
        self._streams: dict[str, _Stream] = {}
        self._awaited: dict[str, set[asyncio.Future[None]]] = {}

    async def begin(self, stream_id: str, lease: float) -> None:
        """Begins a stream; see `Journal`."""
        with self._lock:
            self._forget_old()
            if stream_id in self._streams:
                raise StreamExistsError(f"there is a stream {stream_id!r} already")
            self._streams[stream_id] = _Stream(lease)
            _wake(self._awaited.pop(stream_id, set()))

    async def append(self, stream_id: str, events: Sequence[ChatEvent], at: int) -> None:
        """Adds events; see `Journal`."""
        with self._lock:
            stream = self._live(stream_id)
            count = len(stream.events)
            if at == count:
                stream.events += events
                stream.wake()
            elif at + len(events) != count:
                raise JournalError(f"there are {count} events of {stream_id!r}, expected {at}")

    async def renew(self, stream_id: str, lease: float) -> None:
        """Makes the lease last longer; see `Journal`."""
        with self._lock:
            self._live(stream_id).leased_until = time.monotonic() + lease

    async def close(self, stream_id: str, verdict: Verdict) -> Verdict:
        """Ends the stream; see `Journal`."""
        with self._lock:
            return self._stream(stream_id).end(verdict)

    async def begun(self, stream_id: str) -> None:
        """Waits until there is such a stream; see `Journal`."""
        with self._lock:
            if stream_id in self._streams:
                return
            waiters = self._awaited.setdefault(stream_id, set())
            waiter = _waiter(waiters)
        try:
            await self._wait(waiters, waiter, None)
        finally:
            with self._lock:
                if not waiters and self._awaited.get(stream_id) is waiters:
                    del self._awaited[stream_id]

    async def read(self, stream_id: str, at: int = 0) -> JournalPage:
        """What there is now; see `Journal`."""
        with self._lock:
            return self._stream(stream_id).after(at)

    async def tail(self, stream_id: str, at: int = 0) -> JournalPage:
        """What comes after so many events; see `Journal`."""
        while True:
            with self._lock:
                stream = self._stream(stream_id)
                page = stream.after(at)
                if not page.is_empty:
                    return page
                waiter = _waiter(stream.waiters)
                left = stream.leased_until - time.monotonic()
            await self._wait(stream.waiters, waiter, left)

    async def request_abort(self, stream_id: str, reason: str) -> None:
        """Asks the producer to give up; see `Journal`."""
        with self._lock:
            stream = self._stream(stream_id)
            if stream.abort_reason is None:
                stream.abort_reason = reason
                stream.wake()

    async def abort_requested(self, stream_id: str) -> str:
        """Waits until somebody asks for that; see `Journal`."""
        while True:
            with self._lock:
                stream = self._stream(stream_id)
                if stream.abort_reason is not None:
                    return stream.abort_reason
                waiter = _waiter(stream.waiters)
            await self._wait(stream.waiters, waiter, None)

    def _stream(self, stream_id: str) -> _Stream:
        try:
            stream = self._streams[stream_id]
        except KeyError:
            raise StreamNotFoundError(f"there is no stream {stream_id!r:.80}") from None
        stream.end_if_abandoned()
        return stream

    def _live(self, stream_id: str) -> _Stream:
        stream = self._stream(stream_id)
        if stream.verdict is not None:
            raise StreamAbandonedError(f"the stream {stream_id!r} has ended")
        return stream

    async def _wait(
        self,
        waiters: set[asyncio.Future[None]],
        waiter: asyncio.Future[None],
        seconds: float | None,
    ) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await waiter
        finally:
            with self._lock:
                waiters.discard(waiter)

    def _forget_old(self) -> None:
        now = time.monotonic()
        for stream_id, stream in list(self._streams.items()):
            stream.end_if_abandoned()
            if stream.verdict is not None and now - stream.ended_at >= self._keep:
                del self._streams[stream_id]
