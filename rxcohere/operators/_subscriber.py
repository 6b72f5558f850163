"""One who listens to a shared response, and how it comes to hear everything once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from reactivex import abc
from reactivex.observer import AutoDetachObserver

from rxcohere.delivery import as_error, report, tell
from rxcohere.events import ChatEvent
from rxcohere.folds import Compactor
from rxcohere.runtime import running_loop, schedule

_ON_ERROR = AutoDetachObserver[ChatEvent].on_error.__code__


class Shared(Protocol):
    """What it listens to."""

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
        shared: what it listens to.
        observer: who listens.
        home: the loop that everything has to be brought to; None where any thread will do.
        joined_at: how many events are in the history, which `bring` is to bring first.
        verdict: how it ended, if it has.
    """

    __slots__ = (
        "_aside",
        "_behind",
        "_home",
        "_joined_at",
        "_lock",
        "_observer",
        "_shared",
        "_verdict",
        "disposed",
        "on_next",
    )

    def __init__(
        self,
        shared: Shared,
        observer: abc.ObserverBase[ChatEvent],
        home: asyncio.AbstractEventLoop | None,
        joined_at: int,
        verdict: tuple[Exception | None] | None,
    ) -> None:
        self._shared = shared
        self._observer = observer
        self._home = home
        self._joined_at = joined_at
        self._verdict = verdict
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
            while True:
                for event in events:
                    on_next(event)
                    if self.disposed:
                        return
                with self._lock:
                    events = [] if self._aside is None else self._aside.drain()
                    if not events:
                        self._aside = None
                        verdict = self._verdict
                        self._behind = verdict is not None
                        break
        except BaseException as problem:
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
        if was_disposed or _was_told(error):
            report(error)
        if not was_disposed:
            tell(self._observer.on_error, error)

    def dispose(self) -> None:
        """Leaves the shared response."""
        if not self.disposed:
            self.disposed = True
            self._shared.leave(self)

    def _on_next(self, event: ChatEvent) -> None:
        if self._shared.count <= self._joined_at:
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
            self.on_next = self._observer.on_next
        self._observer.on_next(event)

    def _is_home(self) -> bool:
        return self._home is None or running_loop() is self._home

    def _bring_home(self) -> None:
        if self._home is None or running_loop() is self._home:
            self.bring([])
        elif not schedule(lambda: self.bring([]), self._home):
            self.dispose()  # the loop is closed, and whoever listened there is gone

    def _conclude(self, error: Exception | None) -> None:
        if error is None:
            tell(self._observer.on_completed)
        else:
            tell(self._observer.on_error, error)


def _was_told(error: Exception) -> bool:
    """Whether the error comes out of an ``on_error``, which raised it or had no handler for it.

    An operator that ends its chain while the chain is still being subscribed to cannot dispose of
    it, and another ``on_error`` would go unheard: this is the only trace.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code is not _ON_ERROR:
        trace = trace.tb_next
    return trace is not None
