"""Reading a source at the pace of its client, who hears of it when nothing comes for a while."""

from __future__ import annotations

import asyncio
import threading
from typing import Generic, TypeAlias, TypeVar, cast

from reactivex import Observable

from rxcohere.batches import Batches, loop_closed
from rxcohere.bridges.handover import Handover, check_observable
from rxcohere.bridges.journal import FollowedStream, JournalEntry
from rxcohere.events import ChatEvent
from rxcohere.options import check_seconds

T = TypeVar("T")

Source: TypeAlias = Observable[JournalEntry] | Observable[ChatEvent]
"""What can be sent: the events of a stream, or the entries of one in a journal."""

Value: TypeAlias = JournalEntry | ChatEvent
"""What a source brings."""

_MAX_PENDING = 16


def check_arguments(source: object, heartbeat: float, send_timeout: float = 1.0) -> None:
    """Refuses what cannot be sent, or not like that.

    Raises:
        ConfigurationError: the source is no observable, or a time is not above 0 seconds.
    """
    check_observable(source)
    check_seconds("heartbeat", heartbeat, most=threading.TIMEOUT_MAX)
    check_seconds("send_timeout", send_timeout, most=threading.TIMEOUT_MAX)


def open_batches(source: Source) -> Batches[Value]:
    """Subscribes to the source.

    A stream of a journal is read when somebody asks; anything else is merged while nobody does.
    """
    if isinstance(source, FollowedStream):
        return cast("Batches[Value]", source.batches())
    values = cast("Observable[Value]", source)
    return Handover[Value](_MAX_PENDING, "merge").subscribe_to(values)


class Pulled(Generic[T]):
    """Batches that are asked for one at a time, none before, by somebody who cannot wait for ever.

    A task of its own does the reading, so that a heartbeat does not interrupt it; one timer does
    for all heartbeats.

    Args:
        batches: what to read; given up by `aclose`.
        heartbeat: seconds after which `next_batch` comes back with nothing.
    """

    def __init__(self, batches: Batches[T], heartbeat: float) -> None:
        self._batches = batches
        self._heartbeat = heartbeat
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()
        self._reading = False
        self._outcome: list[T] | Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._beat_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._task = self._loop.create_task(self._read())

    async def next_batch(self) -> list[T] | None:
        """The next values, an empty list at the end; None if there are none yet, after a while.

        Raises:
            Exception: what the source ended with. Nothing may be asked for after that or the end.
        """
        if not self._reading:
            self._reading = True
            self._asked.set()
        self._beat_at = self._loop.time() + self._heartbeat
        if self._timer is None:
            self._timer = self._loop.call_at(self._beat_at, self._beat)
        if self._outcome is None:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        outcome, self._outcome = self._outcome, None
        self._reading = outcome is None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """Disposes of the subscription, and waits for the task to end."""
        self._batches.close()
        if self._timer is not None:
            self._timer.cancel()
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self) -> None:
        batch: list[T] | None = None
        try:
            while batch is None or batch:
                await self._asked.wait()
                self._asked.clear()
                batch = await self._batches.next_batch()
                self._tell(batch)
        except asyncio.CancelledError:
            self._tell(loop_closed(self._batches))  # for who did not ask for it
            raise
        except Exception as error:
            self._tell(error)

    def _tell(self, outcome: list[T] | Exception) -> None:
        self._outcome = outcome
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _beat(self) -> None:
        self._timer = None
        if self._waiter is None:
            return  # who asks next winds it up again
        if self._loop.time() < self._beat_at:
            self._timer = self._loop.call_at(self._beat_at, self._beat)
        else:
            self._wake()
