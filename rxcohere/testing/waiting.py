"""Waiting, on any loop or in a thread, until something that changes is in a state."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, ClassVar, Self

from rxcohere.errors import BlockingCallError


class Watchable:
    """Something whose state can be waited for; its ``str()`` tells the state in words.

    Subclasses call `_changed` whenever it has changed, and set `_loop` while they run on one.
    """

    _called: ClassVar[str]
    """What it is called in messages."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watches: dict[Future[None], Callable[[Any], bool]] = {}
        # Predicates are asked by the waiting thread and by the loop's, never by both at once.
        self._lock = threading.RLock()

    async def until(
        self,
        predicate: Callable[[Self], bool],
        timeout: float | None = 5.0,  # noqa: ASYNC109 - its error tells the state
    ) -> None:
        """Waits until the predicate holds; it is asked anew at every change.

        Any loop may wait, that on which this runs or another one.

        Args:
            predicate: gets this object; it may be called in the thread in which that runs.
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: it did not hold in time; the message tells the state.
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
            TimeoutError: it did not hold in time; the message tells the state.
            BlockingCallError: it runs on this very thread's loop.
        """
        if self._loop is not None and self._loop is running_loop():
            raise BlockingCallError(
                f"wait_until() would block the loop that {self._called} runs on: "
                "await until() instead"
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
                with suppress(InvalidStateError):  # the waiting task was cancelled meanwhile
                    if error is None:
                        future.set_result(None)
                    else:
                        future.set_exception(error)

    def _late(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"{self._called} did not get there in {timeout} s: {self}")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
