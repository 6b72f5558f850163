"""Sharing one response: by hand, by virtual time, from many threads, and against a model."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
import reactivex
import reactivex.operators as ops
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from reactivex import Observable, abc
from reactivex.disposable import Disposable
from reactivex.scheduler.eventloop import AsyncIOScheduler
from reactivex.subject import Subject
from reactivex.testing import ReactiveTest, TestScheduler
from reactivex.testing.subscription import Subscription
from samples import (
    Sample,
    citation,
    citation_start,
    parsed,
    streams,
    text_delta,
    text_stream,
    thinking_delta,
    tool_call_delta,
    tool_plan_delta,
)
from subscribers import HANG, Boom, Reports, Subscriber, Subscribers, boom, in_thread, started

from rxcohere import (
    ChatEvent,
    ConfigurationError,
    ContentDelta,
    StreamCancelledError,
    compact,
    parse_event,
)
from rxcohere import operators as rxc
from rxcohere.folds import ResponseFold


class Tap(Observable[ChatEvent]):
    """A source that is worked by hand, and tells how often it was subscribed to.

    Attributes:
        connected: somebody has subscribed.
        closed: it was disposed of, or has ended; `closed_by` is the thread where that happened.
    """

    def __init__(self) -> None:
        super().__init__(self._connect)
        self.subscriptions = 0
        self.connected = threading.Event()
        self.closed = threading.Event()
        self.closed_by: int | None = None

    def _connect(
        self, observer: abc.ObserverBase[ChatEvent], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        self.subscriptions += 1
        self.give = observer.on_next
        self.fail = observer.on_error
        self.complete = observer.on_completed
        self.connected.set()
        return Disposable(self._close)

    def _close(self) -> None:
        self.closed_by = threading.get_ident()
        self.closed.set()

    def say(self, text: str) -> None:
        """Brings a delta for each letter."""
        for letter in text:
            self.give(parse_event(text_delta(letter)))


def shared_tap(linger: float = 0.0, **options: Any) -> tuple[Tap, Observable[ChatEvent]]:
    tap = Tap()
    return tap, tap.pipe(rxc.share_response(linger, **options))


def text_of(values: Iterable[Any]) -> str:
    return "".join(event.text or "" for event in values if isinstance(event, ContentDelta))


def seen(subscriber: Subscriber) -> tuple[str, Any]:
    """The text that a subscriber has, and how it ended: "|", the error, or None."""
    return text_of(subscriber.values), "|" if subscriber.completed else subscriber.error


def folded(events: Iterable[ChatEvent]) -> Any:
    """The response that the events make."""
    fold = ResponseFold()
    for event in events:
        fold.add(event)
    return fold.response()


def numbers(n: int) -> str:
    """A text in which every fragment differs: what is missing or twice would show."""
    return "".join(f"{each} " for each in range(n))


def nothing(*_: object) -> None:
    """A subscriber that takes everything."""


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The errors that `threading.excepthook` is told of."""
    errors: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda told: errors.append(told.exc_value))
    return errors


# One request -------------------------------------------------------------------------------------


def test_the_first_subscriber_connects(subscriber: Subscribers) -> None:
    """The source is subscribed to once: not before the first, nor for later ones, nor anew."""
    tap, shared = shared_tap()
    assert tap.subscriptions == 0
    subscribers = [subscriber().to(shared) for _ in range(3)]
    assert tap.subscriptions == 1
    tap.say("ab")
    subscribers.append(subscriber().to(shared))
    tap.complete()
    subscribers.append(subscriber().to(shared))
    assert [seen(each) for each in subscribers] == [("ab", "|")] * 5
    assert tap.subscriptions == 1


def test_an_operator_is_used_more_than_once(subscriber: Subscribers) -> None:
    """What it makes of two sources, or of one source twice, has nothing in common."""
    one, other = Tap(), Tap()
    operator = rxc.share_response()
    first, second, again = one.pipe(operator), other.pipe(operator), one.pipe(operator)
    of_first, of_second = subscriber().to(first), subscriber().to(second)
    one.say("a")
    other.say("xy")
    of_first.dispose()
    of_again = subscriber().to(again)
    one.say("b")
    other.complete()
    assert (seen(of_first), seen(of_again)) == (("a", None), ("b", None))
    assert seen(of_second) == ("xy", "|")
    assert (one.subscriptions, other.subscriptions) == (2, 1)


def test_a_source_that_cannot_be_subscribed_to(subscriber: Subscribers) -> None:
    """What subscribing to the source raises is its error, for the first and for all others."""
    shared = Observable[ChatEvent](boom).pipe(rxc.share_response())
    first, second = subscriber().to(shared), subscriber().to(shared)
    assert isinstance(first.error, Boom)
    assert second.error is first.error


@pytest.mark.parametrize("linger", [-1, -0.001, -math.inf, math.nan, "1", None, 1j], ids=repr)
def test_linger_is_a_number(linger: Any) -> None:
    """Anything but a number of seconds from 0 is refused at the call."""
    with pytest.raises(ConfigurationError, match="share_response takes linger"):
        rxc.share_response(linger)


def test_iterating_does_not_spin() -> None:
    """A shared response refuses to be iterated over, and does not subscribe for it."""
    tap, shared = shared_tap()
    with pytest.raises(TypeError, match="to_async_iterator"):
        list(shared)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        _ = "x" in shared  # type: ignore[operator]
    assert tap.subscriptions == 0


# History -----------------------------------------------------------------------------------------


@given(streams(), st.data())
@settings(deadline=None)
def test_a_late_subscriber(sample: Sample, data: st.DataObject) -> None:
    """It has the compacted history first, then each live event itself, and the same response."""
    events = parsed(sample.events)
    before = [event.model_dump_json(exclude_unset=True) for event in events]
    joined = data.draw(st.integers(0, len(events)))
    tap, shared = shared_tap()
    first, late = Subscriber().to(shared), Subscriber()
    for event in events[:joined]:
        tap.give(event)
    late.to(shared)
    for event in events[joined:]:
        tap.give(event)
    tap.complete()
    history, live = compact(events[:joined]), events[joined:]
    assert late.values == [*history, *live]
    assert all(mine is event for mine, event in zip(late.values[len(history) :], live, strict=True))
    assert all(mine is event for mine, event in zip(first.values, events, strict=True))
    assert folded(late.values) == folded(events)
    assert (first.completed, late.completed) == (True, True)
    assert first.breaches == late.breaches == []
    assert [event.model_dump_json(exclude_unset=True) for event in events] == before


@pytest.mark.parametrize("error", [None, RuntimeError("broken")], ids=["completed", "error"])
def test_after_the_end(error: Exception | None, subscriber: Subscribers) -> None:
    """A whole answer is five events to whoever comes then, however many it took; then its end."""
    events = parsed(text_stream(*(f"{n} " for n in range(1000))))
    tap, shared = shared_tap()
    first = subscriber().to(shared)
    for event in events:
        tap.give(event)
    tap.complete() if error is None else tap.fail(error)
    late = subscriber().to(shared)
    assert len(late.values) == 5
    assert folded(late.values) == folded(events)
    assert seen(first) == seen(late) == (numbers(1000), error or "|")
    assert tap.subscriptions == 1


@pytest.mark.parametrize("said", [0, 4])
def test_after_an_abort(said: int, subscriber: Subscribers) -> None:
    """Whoever comes then gets the history, and an error that has the response so far."""
    tap, shared = shared_tap()
    first = subscriber().to(shared)
    for event in parsed(text_stream("ab", "c"))[:said]:
        tap.give(event)
    first.dispose()
    assert tap.closed_by == threading.get_ident()  # at once
    tap.say("lost")
    for late in subscriber().to(shared), subscriber().to(shared):
        assert text_of(late.values) == ("abc" if said else "")
        assert isinstance(late.error, StreamCancelledError)
        assert late.error.partial == folded(late.values)
        assert (late.error.partial is None) == (said == 0)
    assert first.is_silent
    assert tap.subscriptions == 1


def test_an_abort_closes_the_history(subscriber: Subscribers, unheard: list[Any]) -> None:
    """What a source that cannot be stopped says afterwards is in neither history nor response."""

    def speak(observer: abc.ObserverBase[ChatEvent], _: Any = None) -> abc.DisposableBase:
        for event in parsed(text_stream("a", "b")):
            observer.on_next(event)
        return Disposable()

    shared = Observable(speak).pipe(rxc.share_response())
    shared.subscribe(boom)  # and with it the only one has left
    late = subscriber().to(shared)
    assert isinstance(late.error, StreamCancelledError)
    assert late.error.partial == folded(late.values)
    assert [type(error) for error in unheard] == [Boom]


# Subscribers that raise --------------------------------------------------------------------------

Chain = Callable[[Callable[[Any], Any]], tuple[list[Any], Callable[[Any], Any]]]
"""Operators and an ``on_next``, from a function that raises."""

CHAINS: dict[str, Chain] = {
    "subscriber": lambda fail: ([], fail),
    "behind map": lambda fail: ([ops.map(lambda event: event)], fail),
    "behind ours": lambda fail: ([rxc.events_of(ContentDelta)], fail),
    "map": lambda fail: ([ops.map(fail)], nothing),
    "map and more": lambda fail: ([ops.map(fail), rxc.text_deltas(), ops.to_list()], nothing),
    "do_action": lambda fail: ([ops.do_action(fail), ops.take(9)], nothing),
}
MOMENTS = {"live": (0, "a"), "live, later": (0, "b"), "history": (2, "a"), "live, late": (2, "c")}
"""How many letters are said before the subscriber comes, and at which of four it raises."""

every_chain = pytest.mark.parametrize("chain", CHAINS)
every_moment = pytest.mark.parametrize("moment", MOMENTS)
with_and_without = pytest.mark.parametrize("handled", [True, False], ids=["on_error", "bare"])


def raising(
    chain: str, moment: str, handled: bool, subscriber: Subscribers
) -> tuple[Exception, list[Exception]]:
    """What a subscriber between two others raised, and what its ``on_error`` was told."""
    joined, letter = MOMENTS[moment]
    raised: list[Exception] = []
    told: list[Exception] = []

    def fail(event: Any) -> Any:
        if letter in event.text:
            raised.append(Boom(letter))
            raise raised[-1]
        return event

    tap, shared = shared_tap()
    before = subscriber().to(shared)
    tap.say("abcd"[:joined])
    operators, on_next = CHAINS[chain](fail)
    shared.pipe(*operators).subscribe(on_next, told.append if handled else None)
    after = subscriber().to(shared)
    tap.say("abcd"[joined:])
    assert not tap.closed.is_set()
    tap.complete()
    assert seen(before) == seen(after) == ("abcd", "|")
    return raised[0], told


@every_chain
@every_moment
@with_and_without
def test_a_raising_subscriber(
    chain: str, moment: str, handled: bool, subscriber: Subscribers, unheard: list[Any]
) -> None:
    """It alone ends; its error is told once: to its on_error, else to threading.excepthook."""
    error, told = raising(chain, moment, handled, subscriber)
    assert (told, unheard) == (([error], []) if handled else ([], [error]))


@every_chain
@every_moment
@with_and_without
async def test_a_raising_subscriber_on_a_loop(
    chain: str, moment: str, handled: bool, subscriber: Subscribers, reports: Reports
) -> None:
    """The same where a loop runs, whose exception handler is told."""
    error, told = raising(chain, moment, handled, subscriber)
    assert (told, list(reports)) == (([error], []) if handled else ([], [error]))


def test_a_subscriber_leaves_and_raises(subscriber: Subscribers, unheard: list[Any]) -> None:
    """It gets nothing any more, so its error is reported."""

    def leave(_: object) -> None:
        hasty.dispose()
        boom()

    tap, shared = shared_tap()
    hasty, other = subscriber(leave).to(shared), subscriber().to(shared)
    tap.say("ab")
    assert (seen(hasty), seen(other)) == (("a", None), ("ab", None))
    assert [type(error) for error in unheard] == [Boom]


@pytest.mark.parametrize("elsewhere", ["inside", "beside"])
def test_an_error_with_a_past(elsewhere: str, subscriber: Subscribers, unheard: list[Any]) -> None:
    """Another subscription had no handler for it; the one that raises it now is told, and once."""
    failure = Boom()

    def fail(_: object) -> None:
        raise failure

    def fail_inside(_: object) -> None:
        reactivex.throw(failure).subscribe()

    tap, shared = shared_tap()
    if elsewhere == "beside":
        shared.pipe(ops.map(fail)).subscribe()
    one = subscriber(fail if elsewhere == "beside" else fail_inside).to(shared)
    tap.say("a")
    assert one.error is failure
    assert unheard == ([failure] if elsewhere == "beside" else [])


@pytest.mark.parametrize("late", [False, True], ids=["live", "history"])
@pytest.mark.parametrize("end", ["completed", "error", "own error", "take"])
def test_a_terminal_callback_raises(
    end: str, late: bool, subscriber: Subscribers, unheard: list[Any]
) -> None:
    """An error raised by on_completed or on_error is reported once; the others get their end."""
    tap, shared = shared_tap()
    before = subscriber().to(shared)
    failure = RuntimeError("the source broke")

    def finish() -> None:
        tap.fail(failure) if end == "error" else tap.complete()

    if late:
        tap.say("ab")
        if end in ("completed", "error"):
            finish()
    source = shared.pipe(ops.take(1)) if end == "take" else shared
    source.subscribe(boom if end == "own error" else nothing, boom, boom)
    after = subscriber().to(shared)
    if not late:
        tap.say("ab")
    finish()
    assert seen(before) == seen(after) == ("ab", failure if end == "error" else "|")
    assert [type(error) for error in unheard] == [Boom]


# Inside on_next ----------------------------------------------------------------------------------


def test_a_subscriber_brings_others_along(subscriber: Subscribers) -> None:
    """Who comes out of an on_next, live or in the history, hears everything once."""
    company: list[Subscriber] = []

    def bring_along(event: ContentDelta) -> None:
        if len(company) < 8:
            company.append(subscriber(bring_along))
            company[-1].to(shared)

    tap, shared = shared_tap()
    first, second = subscriber().to(shared), subscriber(bring_along).to(shared)
    tap.say("abcd")
    tap.complete()
    assert len(company) == 8
    assert {seen(each) for each in (first, second, *company)} == {("abcd", "|")}


def test_a_source_speaks_while_the_history_is_heard(subscriber: Subscribers) -> None:
    """What comes meanwhile, the end included, comes after the history, in order."""

    def provoke(event: ContentDelta) -> None:
        if event.text == "ab":
            tap.say("cd")
        elif event.text == "cd":
            tap.say("e")
            tap.complete()

    tap, shared = shared_tap()
    first = subscriber().to(shared)
    tap.say("ab")
    late = subscriber(provoke).to(shared)
    assert [event.text for event in late.values] == ["ab", "cd", "e"]
    assert seen(first) == seen(late) == ("abcde", "|")


def test_a_subscriber_makes_the_source_speak(subscriber: Subscribers) -> None:
    """What the source says out of an on_next comes after that event, for everybody else."""

    def provoke(event: Any) -> None:
        if event.text == "a":
            tap.say("b")

    tap, shared = shared_tap()
    before = subscriber().to(shared)
    shared.subscribe(provoke)
    after = subscriber().to(shared)
    tap.say("ac")
    assert [seen(each)[0] for each in (before, after, subscriber().to(shared))] == ["abc"] * 3


@pytest.mark.parametrize("what", ["goes on", "ends"])
def test_two_subscribers_make_the_source_speak(subscriber: Subscribers, what: str) -> None:
    """Everybody has what it said in the order in which it did, who comes later as well."""

    def provoke(event: Any) -> None:
        if event.text == "a":
            tap.say("b")

    def provoke_more(event: Any) -> None:
        if event.text == "a":
            tap.say("c") if what == "goes on" else tap.complete()

    tap, shared = shared_tap()
    there = [subscriber(each).to(shared) for each in (provoke, provoke_more, nothing)]
    tap.say("a")
    expected = ("abc", None) if what == "goes on" else ("ab", "|")
    assert [seen(each) for each in (*there, subscriber().to(shared))] == [expected] * 4


def test_a_source_that_is_made_to_speak_again_and_again(subscriber: Subscribers) -> None:
    """It goes on for as long as it likes: one event is not brought inside of another."""

    def provoke(event: Any) -> None:
        if event.text.isdecimal() and (number := int(event.text)) < 5_000:
            tap.give(parse_event(text_delta(str(number + 1))))

    tap, shared = shared_tap()
    other = subscriber().to(shared)
    shared.subscribe(provoke)
    tap.say("0")
    assert [event.text for event in other.values] == [str(n) for n in range(5_001)]


def test_an_interruption_where_a_subscriber_hears_of_its_own_error(
    subscriber: Subscribers,
) -> None:
    """It passes once everybody has heard the event, and the end that came meanwhile."""

    def interrupt(_: Exception) -> None:
        raise KeyboardInterrupt

    tap, shared = shared_tap()
    shared.subscribe(lambda _: tap.complete())
    shared.subscribe(boom, interrupt)
    other = subscriber().to(shared)
    with pytest.raises(KeyboardInterrupt):
        tap.say("a")
    assert seen(other) == seen(subscriber().to(shared)) == ("a", "|")


def test_who_writes_into_an_event_harms_nobody(subscriber: Subscribers) -> None:
    """Its extra keys can be changed; the others, and those who come later, have all of the text."""

    def mark(event: Any) -> None:
        event.model_extra["seen"] = True

    tap, shared = shared_tap()
    shared.subscribe(mark)
    other = subscriber().to(shared)
    tap.say(LETTERS * 3)
    assert seen(other) == seen(subscriber().to(shared)) == (LETTERS * 3, None)


@pytest.mark.parametrize("error", [None, RuntimeError("stop")], ids=["completed", "error"])
def test_a_subscriber_ends_the_source(error: Exception | None, subscriber: Subscribers) -> None:
    """Who ends the source out of an on_next ends it after that event, for everybody."""
    stop = Subject[None]()

    def stop_at_b(event: ContentDelta) -> None:
        if event.text == "b":
            stop.on_next(None) if error is None else stop.on_error(error)

    tap = Tap()
    shared = tap.pipe(ops.take_until(stop), rxc.share_response())
    before = subscriber().to(shared)
    shared.subscribe(stop_at_b, nothing)
    after = subscriber().to(shared)
    tap.say("abc")
    late = subscriber().to(shared)
    assert [seen(each) for each in (before, after, late)] == [("ab", error or "|")] * 3


# The last one leaves -----------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyz123"
END = 210 + 10 * len(LETTERS)

STAYS: list[tuple[float, list[tuple[int, int]], int]] = [
    (0, [(205, 305)], 305),
    (0, [(205, 305), (255, 355)], 355),
    (0, [(205, 305), (315, 400), (600, 700)], 305),
    (50, [(205, 305)], 355),
    (50, [(205, 305), (345, 405)], 455),
    (50, [(205, 305), (345, 347), (395, 396), (600, 700)], 446),  # each time the clock starts anew
    (50, [(205, 305), (365, 405)], 355),
    (50, [(205, 305), (255, 306)], 356),
    (50, [(205, 305), (345, 600), (700, 800)], END),
    (50, [(205, 475), (600, 700)], END),
    (math.inf, [(205, 255), (325, 365), (600, 700)], END),
    (1e300, [(205, 255), (600, 700)], END),
]
"""Linger; when each subscriber comes and goes; when the source is left."""


@pytest.mark.parametrize(("linger", "stays", "left_at"), STAYS)
def test_linger(linger: float, stays: list[tuple[int, int]], left_at: int) -> None:
    """The source is left so long after the last subscriber, if nobody has come meanwhile."""
    scheduler = TestScheduler()
    events = parsed(text_delta(letter) for letter in LETTERS)
    spoken = [ReactiveTest.on_next(210 + 10 * n, event) for n, event in enumerate(events)]
    hot = scheduler.create_hot_observable([*spoken, ReactiveTest.on_completed(END)])
    shared = hot.pipe(rxc.share_response(linger, scheduler=scheduler))
    observers = [scheduler.create_observer() for _ in stays]

    def enter(come: int, go: int, observer: Any) -> None:
        subscription = shared.subscribe(observer)
        scheduler.schedule_absolute(go, lambda *_: subscription.dispose())

    for (come, go), observer in zip(stays, observers, strict=True):
        scheduler.schedule_absolute(come, lambda *_, of=(come, go, observer): enter(*of))
    scheduler.start()
    assert hot.subscriptions == [Subscription(205, left_at)]
    for (come, go), observer in zip(stays, observers, strict=True):
        told = observer.messages
        if go > left_at:
            *told, end = told
            error = getattr(end.value, "exception", None)
            assert end.value.kind == ("C" if left_at == END else "E")
            assert isinstance(error, StreamCancelledError) == (left_at < END)
            assert end.time == max(come, left_at)
        heard = text_of(record.value.value for record in told)
        assert heard == LETTERS[: (min(go, left_at) - 201) // 10]


class Clock(TestScheduler):
    """Virtual time that knows the timers it gave out."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[Any] = []
        self.actions: list[Callable[[Any], object]] = []

    def schedule_relative(self, duetime: Any, action: Any, state: Any = None) -> abc.DisposableBase:
        self.actions.append(action)
        timer = super().schedule_relative(duetime, action, state)
        self.timers.append(timer)
        return timer

    def are_set(self) -> list[bool]:
        """Of each timer, whether it is still to go off."""
        return [not timer.is_disposed for timer in self.timers]


@pytest.mark.parametrize("end", ["return", "completed", "error"])
def test_what_stops_the_clock(end: str, subscriber: Subscribers) -> None:
    """One timer is set when the last one leaves; it is cancelled by a return or by the end."""
    clock = Clock()
    tap, shared = shared_tap(50, scheduler=clock)
    first, other = subscriber().to(shared), subscriber().to(shared)
    first.dispose()
    assert clock.are_set() == []
    other.dispose()
    assert clock.are_set() == [True]
    if end == "return":
        subscriber().to(shared)
    else:
        tap.complete() if end == "completed" else tap.fail(RuntimeError())
    assert clock.are_set() == [False]


def test_a_timer_that_was_cancelled_too_late(subscriber: Subscribers) -> None:
    """One that goes off all the same gives nothing up, be somebody there or gone once more."""
    clock = Clock()
    tap, shared = shared_tap(50, scheduler=clock)
    subscriber().to(shared).dispose()
    again = subscriber().to(shared)
    clock.actions[0](clock)
    again.dispose()
    clock.actions[0](clock)
    assert not tap.closed.is_set()
    clock.actions[1](clock)
    assert tap.closed.is_set()


def test_linger_in_a_plain_thread(subscriber: Subscribers) -> None:
    """Where no loop runs, a timer thread gives the request up."""
    tap, shared = shared_tap(0.01)
    subscriber().to(shared).dispose()
    assert tap.closed.wait(HANG)
    assert tap.closed_by != threading.get_ident()


async def test_linger_on_a_loop(subscriber: Subscribers) -> None:
    """Where a loop runs, it gives the request up, in its own time."""
    tap, shared = shared_tap(0.01)
    subscriber().to(shared).dispose()
    assert not tap.closed.is_set()
    assert await in_thread(lambda: tap.closed.wait(HANG))
    assert tap.closed_by == threading.get_ident()


def test_those_who_left_are_forgotten() -> None:
    """Once the request has been given up, the shared response holds nobody who listened to it."""

    def listener() -> Callable[[object], None]:
        return lambda _: None

    tap, shared = shared_tap()
    on_next = listener()
    forgotten = weakref.ref(on_next)
    subscription = shared.subscribe(on_next)
    tap.say("a")
    subscription.dispose()
    del on_next, subscription
    gc.collect()
    assert forgotten() is None
    assert tap.closed.is_set()


class Forgotten:
    """Garbage that only the collector finds, and that disposes of a subscription as it goes."""

    def __init__(self, subscription: abc.DisposableBase) -> None:
        self.subscription = subscription
        self.itself = self

    def __del__(self) -> None:
        self.subscription.dispose()


@pytest.mark.parametrize("moment", ["coming", "coming again", "speaking"])
def test_the_collector_disposes(moment: str, subscriber: Subscribers) -> None:
    """At whatever moment it disposes of the last subscriber, a newcomer hears how it ends."""
    thresholds = gc.get_threshold()
    event = parse_event(text_delta("a"))
    said = 31 if moment == "speaking" else 3  # the 32nd event is one of those that are compacted
    wrong: list[tuple[int, Any]] = []
    for allocations in range(1, 200):
        tap, shared = shared_tap()
        late = subscriber()
        gc.collect(0)
        gc.disable()
        try:
            garbage = Forgotten(shared.subscribe(nothing))
            for _ in range(said):
                tap.give(event)
            if moment == "coming again":
                shared.subscribe(nothing).dispose()
            del garbage
            gc.set_threshold(allocations, 10_000, 10_000)
            gc.enable()
            tap.give(event) if moment == "speaking" else late.to(shared)
        finally:
            gc.set_threshold(*thresholds)
            gc.enable()
        if moment == "speaking":
            late.to(shared)
        else:
            tap.give(event)
        tap.complete()
        text, end = seen(late)
        if isinstance(end, StreamCancelledError):
            fine = len(text) >= said and end.partial == folded(late.values)
        else:
            fine = (len(text), end) == (said + 1, "|")
        if not fine:
            wrong.append((allocations, seen(late)))
    assert wrong == []


# Threads and loops -------------------------------------------------------------------------------


@pytest.fixture
def unfair() -> Iterator[None]:
    """Has the interpreter change threads as often as it can, to bring races about."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(*works: Callable[[], Any]) -> list[Future[Any]]:
    """Starts each in a thread of its own, all at the same moment."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        barrier.wait(HANG)
        return work()

    return [started(lambda work=work: begin(work)) for work in works]


def speak_numbers(tap: Tap, goes_on: Callable[[int], bool]) -> int:
    """Says one number after the other, completes, and tells how many there were."""
    assert tap.connected.wait(HANG)
    for n in count():
        if not goes_on(n):
            tap.complete()
            return n
        tap.give(parse_event(text_delta(f"{n} ")))
    raise AssertionError


def visit(shared: Observable[ChatEvent], patience: int) -> Subscriber:
    """Subscribes, and leaves soon: here, or perhaps in the thread that speaks."""
    visitor: Subscriber

    def react(_: object) -> None:
        if visitor.subscription is not None and len(visitor.values) > patience:
            visitor.subscription.dispose()

    visitor = Subscriber(react)
    visitor.to(shared)
    for _ in range(patience):
        time.sleep(0)  # a turn for the others
    assert visitor.subscription is not None
    visitor.subscription.dispose()  # a call may be under way in the other thread
    return visitor


@pytest.mark.usefixtures("unfair")
def test_coming_and_going(subscriber: Subscribers) -> None:
    """While others come and go by the thousand, who stays has it all, who leaves a beginning."""
    most = 100_000
    everything = numbers(most)
    tap, shared = shared_tap()
    staying = [subscriber().to(shared)]

    def come_and_go(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(500):
            visitor = visit(shared, rng.randrange(5))
            assert visitor.breaches == []
            assert visitor.error is None
            assert everything.startswith(text_of(list(visitor.values)))

    visiting = at_once(*(lambda seed=seed: come_and_go(seed) for seed in range(6)))
    busy = lambda n: n < most and not all(future.done() for future in visiting)  # noqa: E731
    speaking = started(lambda: speak_numbers(tap, busy))
    staying += [subscriber().to(shared) for _ in range(5)]
    total = speaking.result(3 * HANG)
    assert [each.result(HANG) for each in visiting] == [None] * 6
    staying.append(subscriber().to(shared))
    assert {seen(each) for each in staying} == {(numbers(total), "|")}
    assert tap.subscriptions == 1


@pytest.mark.usefixtures("unfair")
def test_coming_out_of_the_speaking_thread(subscriber: Subscribers) -> None:
    """Who joins inside an on_next and who joins from other threads all have the same text."""
    joined: list[Subscriber] = []

    def bring_along(event: Any) -> None:
        if len(joined) < 200:
            joined.append(subscriber().to(shared))

    tap, shared = shared_tap()
    guests = [[subscriber() for _ in range(30)] for _ in range(4)]
    first, last = subscriber(bring_along).to(shared), subscriber().to(shared)
    works = [lambda group=group: [guest.to(shared) for guest in group] for group in guests]
    arriving = at_once(*works)
    assert speak_numbers(tap, lambda n: n < 500) == 500
    assert [len(each.result(HANG)) for each in arriving] == [30] * 4
    everybody = [first, last, *joined, *(guest for group in guests for guest in group)]
    assert len(everybody) == 2 + 200 + 120
    assert {seen(each) for each in everybody} == {(numbers(500), "|")}


@pytest.mark.usefixtures("unfair")
def test_coming_at_the_beginning_and_at_the_end(subscriber: Subscribers) -> None:
    """Whoever is first, and whoever meets the end: one request, one whole text, one completion."""
    for n in range(250):
        tap, shared = shared_tap()
        guests = [subscriber() for _ in range(4)]
        speaking = started(lambda tap=tap, n=n: speak_numbers(tap, lambda at: at < n % 5))
        coming = at_once(*(lambda guest=guest, to=shared: guest.to(to) for guest in guests))
        assert [each.result(HANG) for each in coming] == guests
        assert speaking.result(HANG) == n % 5
        assert [seen(guest) for guest in guests] == [(numbers(n % 5), "|")] * 4
        assert tap.subscriptions == 1


@pytest.mark.usefixtures("unfair")
def test_coming_as_the_last_one_leaves(subscriber: Subscribers) -> None:
    """Whoever comes then either keeps the request going or hears that it was given up."""
    for _ in range(400):
        tap, shared = shared_tap()
        leaving, coming = subscriber().to(shared), subscriber()
        tap.say("a")
        for each in at_once(leaving.dispose, lambda to=shared, who=coming: who.to(to)):
            each.result(HANG)
        given_up = tap.closed.is_set()
        tap.say("b")
        tap.complete()
        text, end = seen(coming)
        assert text == ("a" if given_up else "ab")
        assert isinstance(end, StreamCancelledError) if given_up else end == "|"
        assert tap.subscriptions == 1


@pytest.mark.usefixtures("unfair")
def test_awaiting_elsewhere(subscriber: Subscribers) -> None:
    """Each of several loops gets history and live events at home; the source speaks elsewhere."""

    def listen(shared: Observable[ChatEvent]) -> tuple[str, set[int], int]:
        threads: set[int] = set()
        note = ops.do_action(lambda _: threads.add(threading.get_ident()))

        async def text() -> str:
            async with asyncio.timeout(HANG):
                listening = asyncio.ensure_future(shared.pipe(note, rxc.collect_text()))
                await asyncio.sleep(0)  # it subscribes
                present.wait(HANG)  # the history has been heard, and what comes now is live
                return await listening

        return asyncio.run(text()), threads, threading.get_ident()

    for _ in range(15):
        tap, shared = shared_tap()
        present = threading.Barrier(5)
        first = subscriber().to(shared)
        tap.say("abc")
        listening = at_once(*[lambda to=shared: listen(to)] * 4)
        present.wait(HANG)
        speak_numbers(tap, lambda n: n < 300)
        for text, threads, home in (each.result(HANG) for each in listening):
            assert (text, threads) == ("abc" + numbers(300), {home})
        assert seen(first) == ("abc" + numbers(300), "|")


# A model -----------------------------------------------------------------------------------------

DELTAS = [text_delta("a"), text_delta("b"), text_delta("c", 1), thinking_delta("d")]
OTHERS = [tool_plan_delta("e"), tool_call_delta("f"), citation_start(citation(0, 1, "a"))]
EVENTS = parsed([*DELTAS, *OTHERS, {"type": "keep-warm"}])
FAILURE = RuntimeError("the source broke")


@dataclass(eq=False)
class Guest:
    """A real subscriber, what the model says it has heard, and what it does at its next event."""

    real: Subscriber
    heard: list[ChatEvent]
    end: Any
    here: bool = True
    plan: Callable[[], None] = nothing
    outcome: Callable[[], None] = nothing
    """What the model makes of the plan."""


class Party(RuleBasedStateMachine):
    """A shared response beside its model: a party at which everybody hears all that was said.

    In the model, ``said`` are the events, ``verdict`` how it ended, and ``guests`` all who came.
    """

    @initialize(linger=st.sampled_from([0, math.inf]))
    def open(self, linger: float) -> None:
        self.linger = linger
        self.said: list[ChatEvent] = []
        self.verdict: Any = None
        self.guests: list[Guest] = []
        self.tap, self.shared = shared_tap(linger)

    def here(self) -> list[Guest]:
        return [guest for guest in self.guests if guest.here]

    def remove(self, guest: Guest, end: Any = None) -> None:
        if guest.here:
            guest.here, guest.end = False, end
            if self.linger == 0 and not self.here():
                self.verdict = StreamCancelledError

    @rule()
    def come(self) -> None:
        def react(_: object) -> None:
            plan, guest.plan = guest.plan, nothing
            plan()

        guest = Guest(Subscriber(react), list(self.said), self.verdict, self.verdict is None)
        self.guests.append(guest)
        guest.real.to(self.shared)

    @precondition(lambda self: self.here())
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        guest = data.draw(st.sampled_from(self.here()))
        guest.real.dispose()
        self.remove(guest)

    @precondition(lambda self: self.here())
    @rule(data=st.data(), plan=st.sampled_from(["raise", "throw out", "bring along"]))
    def make_plan(self, data: st.DataObject, plan: str) -> None:
        guest, other = (data.draw(st.sampled_from(self.here())) for _ in range(2))
        match plan:
            case "raise":
                guest.plan, guest.outcome = boom, lambda: self.remove(guest, Boom)
            case "throw out":  # perhaps itself
                guest.plan, guest.outcome = other.real.dispose, lambda: self.remove(other)
            case _:
                guest.plan, guest.outcome = self.come, nothing

    @precondition(lambda self: self.guests and self.verdict is None)
    @rule(event=st.sampled_from(EVENTS))
    def say(self, event: ChatEvent) -> None:
        listening = self.here()
        self.said.append(event)
        self.tap.give(event)
        for guest in listening:
            if guest.here:
                guest.heard.append(event)
                outcome, guest.outcome = guest.outcome, nothing
                outcome()

    @precondition(lambda self: self.guests and self.verdict is None)
    @rule(error=st.sampled_from([FAILURE, None]))
    def finish(self, error: Exception | None) -> None:
        self.tap.complete() if error is None else self.tap.fail(error)
        self.verdict = error or "|"
        for guest in self.here():
            guest.here, guest.end = False, self.verdict

    @invariant()
    def agree(self) -> None:
        for guest in self.guests:
            assert compact(guest.real.values) == compact(guest.heard)
            end = "|" if guest.real.completed else guest.real.error
            assert end is guest.end or type(end) is guest.end
            assert guest.real.breaches == []
        assert self.tap.subscriptions == bool(self.guests)
        assert self.tap.closed.is_set() == (self.verdict is not None)


def test_a_party() -> None:
    """Whoever comes, goes, raises or brings others, the model knows what everybody has heard."""
    run_state_machine_as_test(
        Party, settings=settings(deadline=None, max_examples=100, stateful_step_count=30)
    )


# Costs -------------------------------------------------------------------------------------------


def calls(work: Callable[[], object]) -> int:
    """How many functions are called in the course of it."""
    called = 0

    def count_calls(frame: Any, event: str, argument: Any) -> None:
        nonlocal called
        called += event in ("call", "c_call")

    gc.disable()  # others may have callbacks of it
    sys.setprofile(count_calls)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return called


def crowd(size: int) -> tuple[Tap, Observable[ChatEvent]]:
    """A shared response with so many subscribers, who have heard two events."""
    tap, shared = shared_tap()
    for _ in range(size):
        shared.subscribe(nothing)
    tap.say("ab")
    shared.subscribe(nothing).dispose()
    return tap, shared


def test_coming_and_going_cost_the_same_in_a_crowd() -> None:
    """To subscribe and to leave take as many calls with 2,000 others as with 10."""
    costs: list[int] = []
    for size in (10, 2000):
        _, shared = crowd(size)
        costs.append(calls(lambda shared=shared: shared.subscribe(nothing).dispose()))
    assert costs[0] == costs[1]
    assert costs[0] > 10


def test_an_event_costs_two_calls_a_subscriber() -> None:
    """Once nothing is to be watched, an event goes straight to each observer."""
    event = parse_event(text_delta("c"))
    costs: list[int] = []
    for size in (10, 1010):
        tap, _ = crowd(size)
        tap.say("c")  # those who come and go have been seen to
        costs.append(calls(lambda tap=tap: tap.give(event)))
    assert costs[1] - costs[0] == 2 * 1000  # Rx's own on_next, and the subscriber's


def test_memory_grows_with_the_text(subscriber: Subscribers) -> None:
    """A hundred thousand deltas take the room of their characters, not that of so many events."""
    text = numbers(100_000)
    tap, shared = shared_tap()
    shared.subscribe(nothing)
    tap.say("a")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for n in range(100_000):
            tap.give(parse_event(text_delta(f"{n} ")))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 12 * len(text) + 2_000_000
    [whole] = subscriber().to(shared).values
    assert whole.text == "a" + text


@pytest.mark.parametrize("delta", [text_delta, thinking_delta, tool_call_delta, tool_plan_delta])
def test_a_delta_that_goes_on_is_not_kept(delta: Callable[[str], Any]) -> None:
    """What goes on from the delta before is text by the time that the next one comes."""
    tap, shared = shared_tap()
    with shared.subscribe(nothing):
        tap.give(parse_event(delta("a")))
        event = parse_event(delta("b"))
        there = weakref.ref(event)
        tap.give(event)
        del event
        tap.give(parse_event(delta("c")))
        assert there() is None


async def test_iterating_over_it_asynchronously_says_how() -> None:
    """``async for`` is refused with what to write instead, as ``for`` is."""
    tap, shared = shared_tap()
    with pytest.raises(TypeError, match="to_async_iterator"):
        async for _ in shared:  # type: ignore[attr-defined]
            pass
    assert tap.subscriptions == 0


def test_running_inside_the_on_next_of_a_synchronous_source() -> None:
    """``run()`` there gets the history, as it would that of a stock source."""
    tap, shared = shared_tap()
    shared.subscribe(nothing)
    tap.say("abc")
    tap.complete()
    texts: list[str] = []
    reactivex.of(1).subscribe(lambda _: texts.append(shared.pipe(rxc.collect_text()).run()))
    assert texts == ["abc"]


@pytest.mark.parametrize("where", ["a plain thread", "a loop"])
def test_a_latecomer_survives_the_failure_of_whoever_brought_it(
    where: str, subscriber: Subscribers
) -> None:
    """If the on_next in which it subscribed raises, what was queued for it still comes."""
    tap, shared = shared_tap(math.inf)
    shared.subscribe(nothing)
    tap.say("abc")
    late = subscriber()

    def bring_along(_: int) -> None:
        late.to(shared)
        raise Boom

    def fail() -> None:
        with pytest.raises(Boom):
            reactivex.of(1).subscribe(bring_along)

    async def on_a_loop() -> None:
        fail()
        await asyncio.sleep(0)

    arrived = late.arrived(1)
    if where == "a loop":
        asyncio.run(on_a_loop())
    else:
        fail()
    arrived.result(HANG)
    tap.say("d")
    tap.complete()
    late.wait_for_end()
    assert seen(late) == ("abcd", "|")


def test_an_interruption_of_the_first_subscription_is_its_end(subscriber: Subscribers) -> None:
    """If Ctrl-C comes before the source is subscribed to, latecomers do not wait for ever."""

    def interrupt(*_: object) -> Any:
        raise KeyboardInterrupt

    shared = Observable[ChatEvent](interrupt).pipe(rxc.share_response())
    with pytest.raises(KeyboardInterrupt):
        shared.subscribe(nothing, nothing)
    late = subscriber().to(shared)
    assert type(late.error) is StreamCancelledError
    assert str(late.error) == "the request was interrupted before it was sent"


@pytest.mark.parametrize("error", [None, RuntimeError("stop")], ids=["completed", "error"])
def test_an_interruption_of_a_terminal_callback_passes_once_everybody_has_heard(
    error: Exception | None, subscriber: Subscribers
) -> None:
    """Who interrupts the program in on_completed or on_error takes nobody's verdict away."""

    def interrupt(*_: object) -> Any:
        raise KeyboardInterrupt

    tap, shared = shared_tap()
    before = subscriber().to(shared)
    shared.subscribe(nothing, interrupt, interrupt)
    after = subscriber().to(shared)
    tap.say("ab")
    with pytest.raises(KeyboardInterrupt):
        tap.complete() if error is None else tap.fail(error)
    late = subscriber().to(shared)
    assert [seen(each) for each in (before, after, late)] == [("ab", error or "|")] * 3


async def test_the_first_subscribers_scheduler_is_the_sources() -> None:
    """As with stock operators; but a loop that one of them wants to hear on is not the source's."""
    passed: list[abc.SchedulerBase | None] = []

    def note(_: object, scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        passed.append(scheduler)
        return Disposable()

    own, home = TestScheduler(), AsyncIOScheduler(asyncio.get_running_loop())
    for scheduler in (own, home, None):
        shared = Observable[ChatEvent](note).pipe(rxc.share_response())
        shared.subscribe(nothing, scheduler=scheduler).dispose()
    assert passed == [own, None, None]


def test_who_is_interrupted_at_an_event_goes_on_listening(subscriber: Subscribers) -> None:
    """It has not failed: it hears all that comes, unless it leaves, and so does everybody else."""
    heard: list[str] = []

    def interrupt(event: Any) -> None:
        heard.append(event.text)
        if event.text == "a":
            raise KeyboardInterrupt

    tap, shared = shared_tap()
    shared.subscribe(interrupt, boom, lambda: heard.append("|"))
    other = subscriber().to(shared)
    with pytest.raises(KeyboardInterrupt):
        tap.say("a")
    tap.say("b")
    tap.complete()
    assert heard == ["a", "b", "|"]
    assert seen(other) == ("ab", "|")


def test_an_interruption_of_the_history_is_the_leave_of_who_hears_it(
    subscriber: Subscribers,
) -> None:
    """It passes, the others hear everything, and the source is left when they are gone."""

    def interrupt(*_: object) -> Any:
        raise KeyboardInterrupt

    tap, shared = shared_tap()
    first = subscriber().to(shared)
    tap.say("ab")
    with pytest.raises(KeyboardInterrupt):
        shared.subscribe(interrupt, interrupt, interrupt)
    tap.say("c")
    assert seen(first) == ("abc", None)
    assert not tap.closed.is_set()
    first.dispose()
    assert tap.closed.is_set()


def test_the_last_one_leaves_while_another_one_ends_the_source(subscriber: Subscribers) -> None:
    """Given up before its end was told, it was given up: there is one verdict, for all who come."""

    def complete(event: Any) -> None:
        if event.text == "b":
            tap.complete()

    def leave(event: Any) -> None:
        if event.text == "b":
            first.dispose()
            last.dispose()

    tap, shared = shared_tap()
    first, last = subscriber(complete).to(shared), subscriber(leave)
    last.to(shared)
    tap.say("ab")
    assert [seen(each) for each in (first, last)] == [("ab", None)] * 2
    late = subscriber().to(shared)
    assert isinstance(late.error, StreamCancelledError)
    assert late.error.partial is not None
    assert seen(late)[0] == late.error.partial.text == "ab"


def test_a_loop_that_closes_without_a_word_loses_its_subscriber() -> None:
    """The next event finds it closed: who listened there is gone, and the source is left."""
    tap, shared = shared_tap()
    heard: list[Any] = []
    loop = asyncio.new_event_loop()

    async def listen() -> None:
        shared.subscribe(heard.append, scheduler=AsyncIOScheduler(loop))

    loop.run_until_complete(listen())
    loop.close()
    assert not tap.closed.is_set()
    tap.say("a")
    assert tap.closed.is_set()
    assert heard == []
