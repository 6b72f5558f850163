"""A journal in the memory of this process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from rxcohere.bridges.journal.entries import JournalEntry, JournalPage, Verdict
from rxcohere.errors import (
    ConfigurationError,
    StreamAbandonedError,
    StreamExistsError,
    StreamNotFoundError,
)
from rxcohere.events import ChatEvent
from rxcohere.runtime import schedule


class _Stream:
    """One stream. The journal's lock is held whenever it is touched."""

    def __init__(self, lease: float) -> None:
        self.entries: list[JournalEntry] = []
        self.verdict: Verdict | None = None
        self.ended_at = 0.0
        self.leased_until = time.monotonic() + lease
        self.abort_reason: str | None = None
        self.waiters: set[asyncio.Future[None]] = set()

    def after(self, entry_id: str | None) -> JournalPage:
        """What comes after an entry, whose id is its number."""
        position = 0
        if entry_id is not None:
            position = int(entry_id) if entry_id.isdecimal() and len(entry_id) < 20 else -1
            if not 0 < position <= len(self.entries) or str(position) != entry_id:
                raise ConfigurationError(f"{entry_id!r:.80} is the id of no entry of this stream")
        return JournalPage(self.entries[position:], self.verdict)

    def end(self, verdict: Verdict) -> None:
        """Ends it, unless it has ended."""
        if self.verdict is None:
            self.verdict = verdict
            self.ended_at = time.monotonic()
            self.wake()

    def end_if_abandoned(self) -> None:
        """Ends it if the lease has run out."""
        if time.monotonic() >= self.leased_until:
            self.end(
                Verdict(StreamAbandonedError("the producer of the stream let its lease run out"))
            )

    def wake(self) -> None:
        """Wakes all who wait for something to change."""
        waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            schedule(partial(_settle, waiter), waiter.get_loop())


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class MemoryJournal:
    """A `Journal` for producers and followers in one process, on any loops and threads.

    Args:
        keep: seconds for which a stream that has ended can still be read.
    """

    def __init__(self, *, keep: float = 3600.0) -> None:
        if not keep >= 0:
            raise ConfigurationError(f"expected keep to be 0 or more seconds, got {keep!r}")
        self._keep = keep
        self._lock = threading.RLock()
        self._streams: dict[str, _Stream] = {}

    async def begin(self, stream_id: str, lease: float) -> None:
        """Begins a stream; see `Journal`."""
        with self._lock:
            self._forget_old()
            if stream_id in self._streams:
                raise StreamExistsError(f"there is a stream {stream_id!r} already")
            self._streams[stream_id] = _Stream(lease)

    async def append(self, stream_id: str, events: Sequence[ChatEvent]) -> None:
        """Adds events; see `Journal`."""
        with self._lock:
            stream = self._live(stream_id)
            number = len(stream.entries)
            stream.entries += [
                JournalEntry(str(number + position), event)
                for position, event in enumerate(events, 1)
            ]
            stream.wake()

    async def renew(self, stream_id: str, lease: float) -> None:
        """Makes the lease last longer; see `Journal`."""
        with self._lock:
            self._live(stream_id).leased_until = time.monotonic() + lease

    async def close(self, stream_id: str, verdict: Verdict) -> None:
        """Ends the stream; see `Journal`."""
        with self._lock:
            self._stream(stream_id).end(verdict)

    async def read(self, stream_id: str) -> JournalPage:
        """All there is now; see `Journal`."""
        with self._lock:
            return self._stream(stream_id).after(None)

    async def tail(self, stream_id: str, after: str | None) -> JournalPage:
        """What comes after an entry; see `Journal`."""
        while True:
            with self._lock:
                stream = self._stream(stream_id)
                page = stream.after(after)
                if page.entries or page.verdict is not None:
                    return page
                waiter = self._waiter(stream)
                left = stream.leased_until - time.monotonic()
            await self._wait(stream, waiter, left)

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
                waiter = self._waiter(stream)
            await self._wait(stream, waiter, None)

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

    def _waiter(self, stream: _Stream) -> asyncio.Future[None]:
        waiter = asyncio.get_running_loop().create_future()
        stream.waiters.add(waiter)
        return waiter

    async def _wait(
        self, stream: _Stream, waiter: asyncio.Future[None], seconds: float | None
    ) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await waiter
        finally:
            with self._lock:
                stream.waiters.discard(waiter)

    def _forget_old(self) -> None:
        now = time.monotonic()
        for stream_id, stream in list(self._streams.items()):
            stream.end_if_abandoned()
            if stream.verdict is not None and now - stream.ended_at >= self._keep:
                del self._streams[stream_id]
