"""One response and everybody who listens to it: what `share_response` stands on.

The source brings its events on whatever thread it likes, one at a time: an event is put down, then
handed to all who listen. There is no lock per event, but for those who ``await`` (their own, hardly
ever contended), and now and then, when the history is compacted. Whoever joins takes the lock, says
that there is a change, and only then looks at what has come so far. An event that arrives at that
moment may be both in the history and on its way, so events are counted, and the double is dropped.

Whoever leaves asks to be let go, and whoever holds the lock next, or is just about to give it back,
does it. For the garbage collector, which runs at any moment, may dispose of a subscription while
this very thread holds the lock.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from reactivex import Observable, abc
from reactivex.disposable import SingleAssignmentDisposable
from reactivex.scheduler import CurrentThreadScheduler, TimeoutScheduler
from reactivex.scheduler.eventloop import AsyncIOScheduler

from rxcohere.delivery import is_interruption, loop_asked_for
from rxcohere.errors import StreamCancelledError
from rxcohere.events import ChatEvent
from rxcohere.folds import ResponseFold
from rxcohere.operators._history import History
from rxcohere.operators._subscriber import Subscriber
from rxcohere.pausing import subscribing_through
from rxcohere.runtime import LoopEnd, running_loop, schedule

T = TypeVar("T")


def _do_nothing() -> None:
    pass


def _clock_of(
    loop: asyncio.AbstractEventLoop, seconds: float, give_up: Callable[..., None]
) -> Callable[[], None]:
    """Gives up when the time has come, or when the loop ends: the source may be on another one.

    Returns:
        What stops the clock.
    """
    end = LoopEnd.of(loop).cancel_at_end(Future[None]())
    end.add_done_callback(lambda end: give_up() if end.cancelled() else None)
    timer = loop.call_later(seconds, end.cancel)

    def stop() -> None:
        with suppress(InvalidStateError):  # it has struck, or the loop has ended
            end.set_result(None)
        schedule(timer.cancel, loop)

    return stop


class _QueuedHistory:
    """Brings the history when its turn comes, or somewhere else if it never does.

    An exception that leaves a trampoline, be it of somebody else's making, drops what is queued.
    """

    def __init__(self, bring: Callable[[], None]) -> None:
        self._bring = bring

    def __call__(self, *_: object) -> None:
        bring, self._bring = self._bring, _do_nothing
        bring()

    def __del__(self) -> None:
        bring, loop = self._bring, running_loop()
        if bring is _do_nothing:
            return
        if loop is not None:
            loop.call_soon(bring)
        else:
            threading.Thread(target=bring, daemon=True).start()


def _bring_soon(
    subscriber: Subscriber,
    history: list[ChatEvent],
    scheduler: abc.SchedulerBase | None,
    home: asyncio.AbstractEventLoop | None,
) -> None:
    """Brings a subscriber the history, as stock sources bring what they have.

    That is on the scheduler of the subscription, else on this thread; in any case after the whole
    chain is subscribed, so that whatever the history makes of the chain can dispose of it.
    """

    def bring(*_: object) -> None:
        subscriber.bring(history)

    if home is not None:
        home.call_soon(bring)
    elif scheduler is None or isinstance(scheduler, AsyncIOScheduler):
        CurrentThreadScheduler.singleton().schedule(_QueuedHistory(bring))
    else:
        scheduler.schedule(bring)


def _interruption_of(subscriber: Subscriber, problem: BaseException) -> BaseException | None:
    """Ends the subscription of one that raised; an interruption is to pass instead."""
    if is_interruption(problem):
        return problem
    try:
        subscriber.fail(problem)
    except BaseException as interruption:  # any other is reported
        return interruption
    return None


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
        self._lock = threading.Lock()
        self._history = History()
        self._verdict: tuple[Exception | None] | None = None
        self._subscribers: dict[Subscriber, None] = {}
        self._leaving: deque[Subscriber] = deque()
        self._changed = False
        self._listening: list[Subscriber] = []  # the subscribers, as of the last event
        self._speaking = False
        self._later: deque[Callable[[], BaseException | None]] = deque()  # what comes after that

    def subscribe(
        self, observer: abc.ObserverBase[ChatEvent], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        """Adds a subscriber. The first one connects, a later one is brought the history."""
        home = loop_asked_for(scheduler)
        with self._exclusively():
            self._changed = True  # before the count, or an event between them would be missed
            self._compact_history()
            subscriber = Subscriber(self, observer, home, self._history.count, self._verdict)
            if self._verdict is None:
                self._subscribers[subscriber] = None
            history = self._history.events()
            connects, self._connected = not self._connected, True
            stop_clock, self._stop_clock = self._stop_clock, _do_nothing
        stop_clock()
        if connects:
            subscriber.bring([])
            self._connect(scheduler if home is None else None)
        else:
            _bring_soon(subscriber, history, scheduler, home)
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """Removes a subscriber; after the last one, the request is given up, or the clock set."""
        self._leaving.append(subscriber)
        self._let_go()

    def _connect(self, scheduler: abc.SchedulerBase | None) -> None:
        with subscribing_through(None):  # no single subscriber may pause what all have in common
            try:
                self._connection.disposable = self._source.subscribe(
                    self._on_next, self._end, lambda: self._end(None), scheduler=scheduler
                )
            except BaseException:  # an interruption; anything else came through on_error
                self._end(StreamCancelledError("the request was interrupted before it was sent"))
                raise

    @contextmanager
    def _exclusively(self) -> Generator[None, None, None]:
        with self._lock:
            yield
        self._let_go()

    def _let_go(self) -> None:
        """Lets those go who are leaving, unless somebody has the lock, who will do it then."""
        while self._leaving and self._lock.acquire(blocking=False):
            departure = 0
            try:
                while self._leaving:
                    self._changed = True
                    self._subscribers.pop(self._leaving.popleft(), None)
                if not self._subscribers and self._verdict is None:
                    self._departures = departure = self._departures + 1
            finally:
                self._lock.release()
            if departure:
                self._set_clock(departure)

    def _on_next(self, event: ChatEvent) -> None:
        if self._speaking:  # a subscriber has made the source speak: what it hears comes first
            self._later.append(partial(self._bring, event))
        else:
            self._speak(self._bring, event)

    def _end(self, error: Exception | None) -> None:
        if self._speaking:
            self._later.append(partial(self._bring_end, error))
        else:
            self._speak(self._bring_end, error)

    def _speak(self, bring: Callable[[T], BaseException | None], what: T) -> None:
        """Brings it, and then what subscribers to it have made the source say."""
        self._speaking = True
        try:
            interruption = bring(what)
            while self._later:
                interruption = self._later.popleft()() or interruption
        finally:
            self._speaking = False
        if interruption is not None:
            raise interruption  # now that everybody has heard

    def _bring(self, event: ChatEvent) -> BaseException | None:
        """Brings an event to all who listen; returns what interrupted that."""
        self.count += 1
        if self._history.put_down(event):
            with self._exclusively():
                self._compact_history()
        if self._changed:
            with self._exclusively():
                self._changed = False
                self._listening = list(self._subscribers)
        interruption: BaseException | None = None
        for subscriber in self._listening:
            try:
                subscriber.on_next(event)
            except BaseException as problem:
                interruption = _interruption_of(subscriber, problem) or interruption
        return interruption

    def _bring_end(self, error: Exception | None) -> BaseException | None:
        """Brings the end to all who are still there; returns what interrupted that."""
        with self._exclusively():
            subscribers: Iterable[Subscriber] = ()
            if self._verdict is None:
                self._compact_history()
                self._verdict = (error,)
                subscribers, self._subscribers = self._subscribers, {}
                self._listening = []
            stop_clock, self._stop_clock = self._stop_clock, _do_nothing
        stop_clock()
        interruption: BaseException | None = None
        for subscriber in subscribers:
            try:
                subscriber.end(error)
            except BaseException as problem:  # any other is reported
                interruption = problem
        return interruption

    def _compact_history(self) -> None:
        if self._verdict is None:  # else what is still on its way came too late
            self._history.compact()

    def _set_clock(self, departure: int) -> None:
        """Gives the request up after ``linger`` seconds without a subscriber."""
        if self._linger == 0:
            self._give_up(departure)
            return
        if self._linger > threading.TIMEOUT_MAX:  # some 292 years
            return

        def give_up(*_: object) -> None:
            self._give_up(departure)

        # Without the lock: a clock that is stopped too late finds that there was another departure.
        loop = running_loop()
        if self._scheduler is not None or loop is None:
            scheduler = self._scheduler or TimeoutScheduler()
            self._stop_clock = scheduler.schedule_relative(self._linger, give_up).dispose
        else:
            self._stop_clock = _clock_of(loop, self._linger, give_up)

    def _give_up(self, departure: int) -> None:
        """Gives the request up, unless somebody came after that departure, or the end did."""
        with self._exclusively():
            if self._subscribers or self._departures != departure or self._verdict is not None:
                return
            self._compact_history()
            error = StreamCancelledError(
                "the request of the shared response was given up when its last subscriber had "
                "left; a longer linger keeps it, and math.inf lets it run to its end"
            )
            response = ResponseFold()
            for event in self._history.events():
                response.add(event)
            error.partial = response.response()
            self._verdict = (error,)
            self._listening = []
        self._connection.dispose()
