"""A bounded buffer between an observable, on whatever thread, and one task that takes its values.

Each side works on the deque between them with single appends and pops, which are atomic, so that it
needs no lock. Only what overflows and is merged has one.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

from reactivex import Observable, abc
from reactivex.disposable import SingleAssignmentDisposable
from reactivex.scheduler import CurrentThreadScheduler

from rxcohere.bridges.journal.entries import EntryCompactor, JournalEntry
from rxcohere.errors import BufferOverflowError, ConfigurationError
from rxcohere.events import EVENT_TYPES
from rxcohere.folds import Compactor
from rxcohere.pausing import Gate, subscribing_through
from rxcohere.response import ChatResponse
from rxcohere.runtime import running_loop, schedule

T = TypeVar("T")

Overflow: TypeAlias = Literal["pause", "merge", "error", "drop_oldest", "drop_newest"]
"""What happens to values for which there is no room; see `to_async_iterator`."""

_MERGEABLE = (*EVENT_TYPES, JournalEntry)

_UNDER_WAY = 1000
"""Values that may still come, at least, once the sources are paused: what an operator makes of the
one value that filled the buffer, or what a ``delay`` still holds."""


def check_observable(observable: object) -> None:
    """Refuses what is no observable before anything is done with it.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(observable, Observable):
        raise ConfigurationError(f"expected an Observable, got {observable!r:.80}")


class Handover(abc.ObserverBase[T], Generic[T]):
    """Takes what an observable brings, until the task asks for it.

    Args:
        max_pending: how many values may wait.
        overflow: what happens to more.

    Attributes:
        dropped: how many values there was no room for.

    Raises:
        ConfigurationError: there is no such policy, or no room at all.
    """

    def __init__(self, max_pending: int, overflow: Overflow) -> None:
        if type(max_pending) is not int or max_pending < 1:
            raise ConfigurationError(f"expected max_pending to be 1 or more, got {max_pending!r}")
        policies: dict[str, Callable[[T], None]] = {
            "pause": self._pause,
            "merge": self._merge,
            "error": self._refuse,
            "drop_oldest": self._drop_oldest,
            "drop_newest": self._drop_newest,
        }
        if not isinstance(overflow, str) or overflow not in policies:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"expected overflow to be one of {', '.join(policies)}; got {overflow!r}"
            )
        self.dropped = 0
        self._overflow = overflow
        self._when_full = policies[overflow]
        self._max_pending = max_pending
        # The value that fills the buffer closes the gate, so `pause` has to see it.
        self._room = max_pending - 1 if overflow == "pause" else max_pending
        self._only_mergeable = overflow == "merge"
        self._gate = Gate()
        self._pending: deque[T] = deque()
        self._merged: Compactor | EntryCompactor | None = (
            None  # what came after all that is pending
        )
        self._merging = threading.Lock()
        self._ended = False
        self._error: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None  # the task's side sets it
        self._woken: asyncio.Future[None] | None = None  # the source's side does
        self._subscription = SingleAssignmentDisposable()

    def subscribe_to(self, source: Observable[T]) -> Handover[T]:
        """Subscribes, for a task of the loop that runs here; returns itself."""
        self._loop = asyncio.get_running_loop()

        def subscribe(*_: object) -> None:
            self._subscription.disposable = source.subscribe(self)

        trampoline = CurrentThreadScheduler.singleton()
        with subscribing_through(self._gate if self._overflow == "pause" else None):
            if trampoline.schedule_required():
                # So that a source that brings all it has at once does so when it can be stopped.
                trampoline.schedule(subscribe)
            else:
                # Later, or somebody else's trampoline would go on with it when the gate is gone.
                self._loop.call_soon(self._or_fail, subscribe)
        return self

    def _or_fail(self, subscribe: Callable[[], None]) -> None:
        try:
            subscribe()
        except Exception as error:
            self.on_error(error)

    def close(self) -> None:
        """Disposes of the subscription. May be called from any thread."""
        self._subscription.dispose()
        self._gate.retire()

    # The source's side ---------------------------------------------------------------------------

    def on_next(self, value: T) -> None:
        """Takes a value in."""
        if self._only_mergeable and not isinstance(value, _MERGEABLE):
            self._fail(
                ConfigurationError(
                    "overflow='merge' takes ChatEvents or JournalEntries, and a "
                    f"{type(value).__name__} came: hand the events over, and apply the operator to "
                    "what comes out"
                )
            )
        elif self._merged is None and len(self._pending) < self._room:
            self._pending.append(value)
        else:
            self._when_full(value)
        if self._waiter is not None:
            self._wake()

    def on_error(self, error: Exception) -> None:
        """Keeps the error until what came before it has been taken."""
        self._error = error
        self.on_completed()

    def on_completed(self) -> None:
        """Ends what comes out."""
        self._ended = True
        if self._waiter is not None:
            self._wake()

    def _pause(self, value: T) -> None:
        # Closed before the value is in: whoever takes a value opens the gate again.
        self._gate.close()
        room = self._max_pending
        if self._gate.reached:
            room += max(room, _UNDER_WAY)
        has_room = len(self._pending) < room or self._gate.given_up
        if self._merged is None and has_room:
            self._pending.append(value)
        elif isinstance(value, _MERGEABLE):
            self._merge(value)
        else:
            self._refuse(value)

    def _merge(self, value: Any) -> None:
        kind = EntryCompactor if isinstance(value, JournalEntry) else Compactor
        with self._merging:
            if self._merged is None:
                self._merged = kind()
            if type(self._merged) is kind:
                cast("Any", self._merged).push(value)
                return
        self._refuse(value)  # events and entries, mixed

    def _refuse(self, _: object) -> None:
        self.dropped += 1
        waiting = len(self._pending)
        problem = f"{waiting} values were waiting, and there was no room for another"
        if self._overflow == "pause" and self._gate.reached:
            problem += ": their source is paused, and what it had under way is too much"
        elif self._overflow == "pause":
            problem += ": their source cannot be paused, and only events can be merged"
        self._fail(
            BufferOverflowError(
                f"{problem}; take them faster, allow more than max_pending={self._max_pending}, or "
                f"choose another overflow than {self._overflow!r}"
            )
        )

    def _drop_oldest(self, value: T) -> None:
        with suppress(IndexError):  # taken in this very moment, on another thread
            self._pending.popleft()
            self.dropped += 1
        self._pending.append(value)

    def _drop_newest(self, _: T) -> None:
        self.dropped += 1

    def _fail(self, error: Exception) -> None:
        if not self._ended:
            self._room = 0  # for what a source that cannot be stopped at once still brings
            self._when_full = self._drop_newest
            self.close()
            self.on_error(error)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter is self._woken or self._loop is None:
            return
        self._woken = waiter

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        if running_loop() is self._loop:
            wake()
        elif not schedule(wake, self._loop):
            self.close()  # the loop is closed, and the task gone with it

    # The task's side -----------------------------------------------------------------------------

    async def next_batch(self) -> list[T]:
        """The next value; an empty list when there are no more.

        Only one: what has been handed out no longer counts, and can neither be merged nor dropped.

        Raises:
            Exception: what the observable ended with, once all before it has been taken.
        """
        while True:
            ended = self._ended  # if so, there is nothing that could still come in
            try:
                value = self._pending.popleft()
            except IndexError:
                pass
            else:
                if self._gate.closed and len(self._pending) <= self._max_pending // 2:
                    self._gate.open()
                return [value]
            if self._merged is not None:
                self._take_merged()
            elif not ended:
                await self._wait()
            elif self._error is not None:
                raise self._error
            else:
                return []

    def partial(self) -> ChatResponse | None:
        """None: what comes may be anything."""
        return None

    def _take_merged(self) -> None:
        with self._merging:
            assert self._merged is not None
            self._pending.extend(cast("list[T]", self._merged.drain()))
            self._merged = None

    async def _wait(self) -> None:
        assert self._loop is not None
        self._waiter = self._loop.create_future()
        try:
            # Once more, now that whoever brings something can see that it is waited for.
            if not (self._pending or self._merged is not None or self._ended):
                await self._waiter
        finally:
            self._waiter = None
