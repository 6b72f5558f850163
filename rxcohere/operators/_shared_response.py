"""One response and everybody who listens to it: what `share_response` stands on.

The source brings its events on whatever thread it likes, one at a time. Per event there is no lock:
the event is put down, then handed to everybody who is listening. Whoever joins takes the lock, says
that there is a change, and only then looks at what has come so far. An event that arrives at that
moment may be both in the history and on its way, so events are counted, and the double is dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from reactivex import Observable, abc
from reactivex.disposable import SingleAssignmentDisposable
from reactivex.scheduler import NewThreadScheduler, TimeoutScheduler
from reactivex.scheduler.eventloop import AsyncIOScheduler

from rxcohere.errors import StreamCancelledError
from rxcohere.events import ChatEvent
from rxcohere.folds import Compactor, ResponseFold
from rxcohere.operators._subscriber import Subscriber
from rxcohere.pausing import through
from rxcohere.runtime import refuse_to_block, running_loop, schedule

_RECENT = 32
"""Events that are kept as they came, until they are compacted together."""


def _do_nothing() -> None:
    pass


class SharedResponse:
    """One response: its history, its verdict, and its subscribers.

    Attributes:
        count: how many events have come.
    """

    def __init__(
        self,
        source: Observable[ChatEvent],
        linger: float,
        scheduler: abc.SchedulerBase | None,
    ) -> None:
        self.count = 0
        self._source = source
        self._connection = SingleAssignmentDisposable()
        self._connected = False
        self._linger = linger
        self._scheduler = scheduler
        self._departures = 0  # of the last subscriber
        self._stop_clock: Callable[[], object] = _do_nothing
        # The collector may run, and dispose of a subscription, while the lock is held.
        self._lock = threading.RLock()
        self._history = Compactor()
        self._compacted = 0  # how many events are in the history
        self._recent: list[ChatEvent] = []  # those that are not, yet
        self._verdict: tuple[Exception | None] | None = None
        self._subscribers: dict[Subscriber, None] = {}
        self._listening: list[Subscriber] = []  # the same, as of the last event
        self._changed = False

    def subscribe(
        self, observer: abc.ObserverBase[ChatEvent], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        """Adds a subscriber. The first one connects, a later one gets the history here and now."""
        if isinstance(scheduler, NewThreadScheduler):
            refuse_to_block("run()", "await")
        # An `await` passes the scheduler of its loop, and that is where its values have to go.
        home = running_loop() if isinstance(scheduler, AsyncIOScheduler) else None
        with self._lock:
            self._changed = True  # before the count, or an event between them would be missed
            self._compact_recent()
            subscriber = Subscriber(self, observer, home, self._compacted, self._verdict)
            if self._verdict is None:
                self._subscribers[subscriber] = None
            history = self._history.events()
            connects, self._connected = not self._connected, True
            stop_clock, self._stop_clock = self._stop_clock, _do_nothing
        stop_clock()
        subscriber.bring(history)
        if connects:
            # Shared means that no single subscriber may pause it.
            with through(None):
                self._connection.disposable = self._source.subscribe(
                    self._on_next,
                    self._end,
                    lambda: self._end(None),
                    scheduler=scheduler if home is None else None,
                )
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """Removes a subscriber; after the last one, the request is given up, or the clock set."""
        with self._lock:
            if subscriber not in self._subscribers:
                return
            del self._subscribers[subscriber]
            self._changed = True
            if self._subscribers:
                return
            self._departures += 1
            departure = self._departures
        if self._linger == 0:
            self._give_up(departure)
        elif self._linger <= threading.TIMEOUT_MAX:
            self._give_up_later(departure)

    def _on_next(self, event: ChatEvent) -> None:
        self.count += 1
        self._recent.append(event)
        if len(self._recent) >= _RECENT:
            with self._lock:
                self._compact_recent()
        if self._changed:
            with self._lock:
                self._changed = False
                self._listening = list(self._subscribers)
        for subscriber in self._listening:
            try:
                subscriber.on_next(event)
            except BaseException as problem:
                subscriber.fail(problem)

    def _end(self, error: Exception | None) -> None:
        with self._lock:
            if self._verdict is not None:
                return
            self._verdict = (error,)
            self._compact_recent()
            subscribers, self._subscribers = self._subscribers, {}
            self._listening = []
        for subscriber in subscribers:
            subscriber.end(error)

    def _compact_recent(self) -> None:
        """Moves to the history what is put down. Another thread may be adding to it."""
        recent = self._recent[:]
        del self._recent[: len(recent)]
        for event in recent:
            self._history.push(event)
        self._compacted += len(recent)

    def _give_up_later(self, departure: int) -> None:
        scheduler, loop = self._scheduler, running_loop()
        if scheduler is None:
            scheduler = TimeoutScheduler() if loop is None else AsyncIOScheduler(loop)

        def give_up(*_: object) -> None:
            self._give_up(departure)

        clock = scheduler.schedule_relative(self._linger, give_up)
        if self._scheduler is None and loop is not None:
            self._stop_clock = lambda: schedule(clock.dispose, loop)
        else:
            self._stop_clock = clock.dispose

    def _give_up(self, departure: int) -> None:
        """Gives the request up, unless somebody came after that departure, or the end did."""
        with self._lock:
            if self._subscribers or self._departures != departure or self._verdict is not None:
                return
            self._compact_recent()
            error = StreamCancelledError(
                "the last subscriber had left the shared response, so its request was given up; "
                "linger is how long it waits for another one"
            )
            response = ResponseFold()
            for event in self._history.events():
                response.add(event)
            error.partial = response.response()
            self._verdict = (error,)
        self._connection.dispose()
