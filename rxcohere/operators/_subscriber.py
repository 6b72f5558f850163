"""One who listens to a shared response, and how it comes to hear everything once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from reactivex import abc

from rxcohere.delivery import as_error, is_interruption, report, tell
from rxcohere.events import ChatEvent
from rxcohere.folds import Compactor
from rxcohere.pausing import current_gate, subscribing_through
from rxcohere.runtime import running_loop, schedule


class Hub(Protocol):
    """What many listen to."""

    count: int
    """How many events have come."""

    def leave(self, subscriber: Subscriber) -> None:
        """Brings it no more."""
        ...


class Subscriber(abc.DisposableBase):
    """One who listens to a shared response.

    As long as it is behind, what arrives for it is put aside: while it hears the history, or while
    what was put aside is brought to another loop. Otherwise events go straight to its observer.

    Args:
        hub: what it listens to.
        observer: who listens.
        home: the loop that everything has to be brought to; None where any thread will do.
        joined_at: how many events are in the history, which `bring` is to bring first.
        verdict: how it ended, if it has.
    """

    __slots__ = (
        "_aside",
        "_behind",
        "_gate",
        "_home",
        "_hub",
        "_joined_at",
        "_lock",
        "_observer",
        "_verdict",
        "disposed",
        "on_next",
    )

    def __init__(
        self,
        hub: Hub,
        observer: abc.ObserverBase[ChatEvent],
        home: asyncio.AbstractEventLoop | None,
        joined_at: int,
        verdict: tuple[Exception | None] | None,
    ) -> None:
        self._hub = hub
        self._observer = observer
        self._home = home
        self._joined_at = joined_at
        self._verdict = verdict
        self._gate = current_gate()
        self._lock = threading.Lock()
        self._behind = True
        self._aside: Compactor | None = None
        self.disposed = False
        self.on_next: Callable[[ChatEvent], None] = self._on_next
        """Takes an event; the observer's own method as soon as nothing has to be watched."""

    def bring(self, events: list[ChatEvent]) -> None:
        """Brings the observer these, and what was put aside, until it is no longer behind."""
        on_next = self._observer.on_next
        try:
            with subscribing_through(None):  # as where live events come
                while True:
                    for event in events:
                        if self.disposed:
                            return
                        on_next(event)
                    with self._lock:
                        events = [] if self._aside is None else self._aside.drain()
                        if not events:
                            self._aside = None
                            verdict = self._verdict
                            self._behind = verdict is not None
                            break
        except BaseException as problem:
            if is_interruption(problem):
                self.dispose()
                raise
            self.fail(problem)
            return
        if verdict is not None and not self.disposed:
            self._conclude(*verdict)

    def end(self, error: Exception | None) -> None:
        """Brings the verdict, after what was put aside."""
        with self._lock:
            self._verdict = (error,)
            if self._behind:
                return  # whoever brings the rest brings this too
            self._behind = True
        self._bring_home()

    def fail(self, problem: BaseException) -> None:
        """Ends the subscription of an observer that raised."""
        was_disposed = self.disposed
        self.dispose()
        error = as_error(problem)
        if was_disposed:
            report(error)
        else:
            self._conclude(error)

    def dispose(self) -> None:
        """Leaves the shared response."""
        if not self.disposed:
            self.disposed = True
            self._hub.leave(self)

    def _on_next(self, event: ChatEvent) -> None:
        if self._hub.count <= self._joined_at:
            return  # the history has it
        is_home = self._is_home()
        with self._lock:
            if self._behind or not is_home:
                if self._aside is None:
                    self._aside = Compactor()
                self._aside.push(event)
                if self._behind:
                    return
                self._behind = True
        if not is_home:
            self._bring_home()
            return
        if self._home is None:
            # It knows by itself when it has been disposed of.
            self.on_next = self._observer.on_next
        self._observer.on_next(event)

    def _is_home(self) -> bool:
        return self._home is None or running_loop() is self._home

    def _bring_home(self) -> None:
        if self._home is None or self._is_home():
            self.bring([])
        elif not schedule(lambda: self.bring([]), self._home):
            self.dispose()  # the loop is closed, and whoever listened there is gone

    def _conclude(self, error: Exception | None) -> None:
        with subscribing_through(self._gate):  # the next stream has the same consumer
            if error is None:
                tell(self._observer.on_completed)
            else:
                tell(self._observer.on_error, error)
