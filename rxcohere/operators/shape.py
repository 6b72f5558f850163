"""Operators that change the pace of the stream, and not what it says."""

from __future__ import annotations

import asyncio
import threading

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable
from reactivex.scheduler.eventloop import AsyncIOScheduler

from rxcohere.errors import ConfigurationError
from rxcohere.events import ChatEvent
from rxcohere.folds import Compactor
from rxcohere.operators._lift import Operator


class _Window:
    """What one subscription holds back, and until when."""

    def __init__(
        self,
        observer: abc.ObserverBase[ChatEvent],
        seconds: float,
        max_chars: int | None,
        scheduler: abc.SchedulerBase | None,
    ) -> None:
        self._observer = observer
        self._seconds = seconds
        self._max_chars = max_chars
        self._scheduler = scheduler
        self._held = Compactor()
        self._chars = 0
        self._open = False
        self.timer = SerialDisposable()

    def on_next(self, event: ChatEvent) -> None:
        chars = self._held.push(event)
        self._chars += chars or 0
        is_full = self._max_chars is not None and self._chars >= self._max_chars
        if chars is None or is_full or not self._open:
            self._flush()
        if chars is not None and not self._open:
            self._start()

    def on_error(self, error: Exception) -> None:
        self._flush()
        self._observer.on_error(error)

    def on_completed(self) -> None:
        self._flush()
        self._observer.on_completed()

    def _flush(self) -> None:
        self._chars = 0
        for event in self._held.drain():
            self._observer.on_next(event)

    def _start(self) -> None:
        try:
            scheduler = self._scheduler or AsyncIOScheduler(asyncio.get_running_loop())
        except RuntimeError as error:
            problem = ConfigurationError(
                "coalesce_deltas has no clock: the events do not arrive on an event loop; "
                "give it a scheduler"
            )
            problem.__cause__ = error
            self._observer.on_error(problem)
            return
        self._scheduler = scheduler
        self._open = True
        self.timer.disposable = scheduler.schedule_relative(self._seconds, self._end)

    def _end(self, _scheduler: abc.SchedulerBase, _state: object = None) -> None:
        self._open = False
        events = self._held.drain()
        self._chars = 0
        try:
            for event in events:
                self._observer.on_next(event)
        except Exception as error:  # the source, which would route it to on_error, is not here
            self._observer.on_error(error)
        else:
            if events:
                self._start()


def coalesce_deltas(
    seconds: float,
    max_chars: int | None = None,
    *,
    scheduler: abc.SchedulerBase | None = None,
) -> Operator[ChatEvent, ChatEvent]:
    """The same stream in fewer, larger deltas: what arrives within the window is merged.

    ::

        ---t1--t2-t3-t4--------------t5--E--|
        [       coalesce_deltas(0.05)       ]
        ---t1----------t234----------t5--E--|

    The first delta after a pause passes at once and opens a window; deltas that arrive in it are
    merged and come out when it closes, which opens the next one. An event that does not merge, such
    as a citation, comes at once, after what was held back. So no character is lost, none changes
    place, and none waits longer than the window. Completion and errors bring out what is held, then
    pass.

    Args:
        seconds: the length of the window.
        max_chars: the most characters to hold back; None, the default, sets no limit.
        scheduler: for the window; by default the event loop that runs where the events arrive.

    Raises:
        ConfigurationError: at the call, if a limit is not positive; through ``on_error``, if
            there is neither a scheduler nor a running loop.
    """
    if not isinstance(seconds, (int, float)) or not 0 < seconds <= threading.TIMEOUT_MAX:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"coalesce_deltas takes seconds above 0, not {seconds!r}")
    if max_chars is not None and (type(max_chars) is not int or max_chars < 1):
        raise ConfigurationError(f"coalesce_deltas takes max_chars from 1, not {max_chars!r}")

    def operator(source: Observable[ChatEvent]) -> Observable[ChatEvent]:
        def subscribe(
            observer: abc.ObserverBase[ChatEvent], scheduler_: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            window = _Window(observer, seconds, max_chars, scheduler)
            subscription = source.subscribe(
                window.on_next, window.on_error, window.on_completed, scheduler=scheduler_
            )
            return CompositeDisposable(subscription, window.timer)

        return Observable(subscribe)

    return operator
