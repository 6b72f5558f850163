"""What a replay server has counted so far, and waiting for it to count further."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

from rxcohere.errors import BlockingCallError
from rxcohere.testing.requests import RecordedRequest


class Counters:
    """Requests and replies, counted, with ways to wait until they reach a state.

    Attributes:
        requests: all requests, in the order in which they were read.
        open: how many replies are under way, those included whose status line is still delayed.
        aborted: how many replies were not at their end when the client went away.
        completed: how many replies of status 200 were sent to the proper end of their body.
        cut: how many replies the server broke off, for a fault or because it was stopped.
    """

    def __init__(self) -> None:
        self.requests: list[RecordedRequest] = []
        self.open = 0
        self.aborted = 0
        self.completed = 0
        self.cut = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watches: dict[Future[None], Callable[[Any], bool]] = {}
        # Predicates are asked by the waiting thread and by the server's, never by both at once.
        self._lock = threading.RLock()

    def __str__(self) -> str:
        """The counters in words."""
        return (
            f"{len(self.requests)} requests, {self.open} open, {self.aborted} aborted, "
            f"{self.completed} completed, {self.cut} cut"
        )

    async def until(
        self,
        predicate: Callable[[Self], bool],
        timeout: float | None = 5.0,  # noqa: ASYNC109 - its error names the counters
    ) -> None:
        """Waits until the predicate holds; it is asked anew at every change of a counter.

        Any loop may wait, the server's or another one.

        Args:
            predicate: gets this server; it may be called in the server's thread.
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: it did not hold in time; the message has the counters.
        """
        future = self._watch(predicate)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wrap_future(future)
        except TimeoutError:
            raise self._late(timeout) from None
        finally:
            self._forget(future)

    def wait_until(self, predicate: Callable[[Self], bool], timeout: float | None = 5.0) -> None:
        """The same as `until`, blocking.

        Raises:
            TimeoutError: it did not hold in time; the message has the counters.
            BlockingCallError: the server runs on this very thread's loop.
        """
        if self._loop is not None and self._loop is _running_loop():
            raise BlockingCallError(
                "wait_until() would block the loop that the server runs on: await until() instead"
            )
        future = self._watch(predicate)
        try:
            future.result(timeout)
        except TimeoutError:
            raise self._late(timeout) from None
        finally:
            self._forget(future)

    def _watch(self, predicate: Callable[[Self], bool]) -> Future[None]:
        future = Future[None]()
        with self._lock:
            self._watches[future] = predicate
            self._changed()
        return future

    def _forget(self, future: Future[None]) -> None:
        with self._lock:
            self._watches.pop(future, None)

    def _changed(self) -> None:
        """Asks all predicates, and wakes those whose answer is yes."""
        with self._lock:
            for future, predicate in list(self._watches.items()):
                error: Exception | None = None
                try:
                    if not predicate(self):
                        continue
                except Exception as raised:
                    error = raised
                del self._watches[future]
                # False if the waiting task was cancelled meanwhile.
                if future.set_running_or_notify_cancel():
                    if error is None:
                        future.set_result(None)
                    else:
                        future.set_exception(error)

    def _late(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"the replay server did not get there in {timeout} s: {self}")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
