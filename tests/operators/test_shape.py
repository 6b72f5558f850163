"""The operators that change the pace of a stream: by virtual time, and on a real loop."""

import asyncio
import threading
from collections.abc import Callable
from itertools import accumulate, cycle, islice
from typing import Any

import pytest
import reactivex
import reactivex.operators as ops
from hypothesis import given, settings
from hypothesis import strategies as st
from reactivex import Observable, abc
from reactivex.disposable import Disposable
from reactivex.scheduler.eventloop import AsyncIOScheduler
from reactivex.subject import Subject
from reactivex.testing import ReactiveTest, Recorded, TestScheduler
from reactivex.testing.subscription import Subscription
from samples import (
    JSON,
    Sample,
    citation,
    citation_start,
    content_end,
    message_end,
    message_start,
    parsed,
    streams,
    text_delta,
    thinking_delta,
    tool_call_delta,
    tool_call_start,
    tool_plan_delta,
)

from rxcohere import ChatEvent, ConfigurationError, ContentDelta, compact, parse_event
from rxcohere import operators as rxc

Timeline = list[tuple[int, JSON]]


def text(at: int, fragment: str, index: int = 0) -> tuple[int, JSON]:
    return at, text_delta(fragment, index)


def on_next(timeline: Timeline) -> list[Recorded[ChatEvent]]:
    return [ReactiveTest.on_next(at, parse_event(event)) for at, event in timeline]


def coalesced(
    seconds: float,
    timeline: Timeline,
    *ends: Recorded[Any],
    max_chars: int | None = None,
    disposed: int = 1000,
) -> list[Recorded[Any]]:
    """The records of a hot source with these events, subscribed to at 200."""
    scheduler = TestScheduler()
    hot = scheduler.create_hot_observable([*on_next(timeline), *ends])
    operator = rxc.coalesce_deltas(seconds, max_chars, scheduler=scheduler)
    return scheduler.start(lambda: hot.pipe(operator), disposed=disposed).messages


def seen(records: list[Recorded[Any]]) -> list[tuple[int, Any]]:
    """The events as wire objects, and "C" or the error, each with its time."""
    told: dict[str, Callable[[Any], Any]] = {
        "N": lambda note: note.value.model_dump(exclude_unset=True),
        "C": lambda _: "C",
        "E": lambda note: note.exception,
    }
    return [(int(each.time), told[each.value.kind](each.value)) for each in records]


# Windows -----------------------------------------------------------------------------------------


def test_the_first_delta_is_not_delayed() -> None:
    """A delta after a pause passes the moment it comes, and as the same object."""
    event = parse_event(text_delta("a"))
    scheduler = TestScheduler()
    hot = scheduler.create_hot_observable([ReactiveTest.on_next(210, event)])
    operator = rxc.coalesce_deltas(50, scheduler=scheduler)
    [only] = scheduler.start(lambda: hot.pipe(operator)).messages
    assert only.time == 210
    assert only.value.value is event


def test_what_arrives_in_the_window_is_merged() -> None:
    """Deltas after the first wait for the end of the window and come out as one."""
    timeline = [text(210, "a"), text(220, "b"), text(230, "c"), text(259, "d")]
    assert seen(coalesced(50, timeline)) == [text(210, "a"), text(260, "bcd")]


def test_a_window_that_brought_something_opens_the_next() -> None:
    """A steady stream comes once a window, however many deltas arrive."""
    timeline = [text(210 + 10 * n, str(n)) for n in range(10)]
    assert seen(coalesced(25, timeline)) == [
        text(210, "0"),
        text(235, "12"),
        text(260, "345"),  # the one of 260 came just before the window closed
        text(285, "67"),
        text(310, "89"),
    ]


def test_a_window_without_anything_closes() -> None:
    """After a pause of a whole window the next delta is the first again."""
    timeline = [text(210, "a"), text(220, "b"), text(286, "c"), text(300, "d")]
    assert seen(coalesced(25, timeline)) == [
        text(210, "a"),
        text(235, "b"),  # this window closes at 260, with nothing in it
        text(286, "c"),
        text(311, "d"),
    ]


def test_an_event_that_does_not_merge_does_not_wait() -> None:
    """It comes at once, after what was held back, and leaves the window as it is."""
    cited = citation_start(citation(0, 2, "ab"))
    timeline = [text(210, "a"), text(220, "b"), (230, cited), text(240, "c"), (250, content_end())]
    assert seen(coalesced(50, [*timeline, text(255, "d")])) == [
        text(210, "a"),
        text(230, "b"),
        (230, cited),
        text(250, "c"),
        (250, content_end()),
        text(260, "d"),
    ]


def test_an_event_that_does_not_merge_opens_no_window() -> None:
    """Only deltas do: the one after it is not delayed."""
    timeline = [(210, message_start()), (220, {"type": "keep-warm"}), text(221, "a")]
    assert seen(coalesced(50, timeline)) == timeline


def test_deltas_of_different_blocks() -> None:
    """Deltas that do not merge with one another share a window and keep their order."""
    timeline = [
        text(210, "a"),
        (220, thinking_delta("b")),
        (221, thinking_delta("c")),
        text(222, "d", 1),
        text(223, "e", 0),
        (224, tool_plan_delta("f")),
        (225, tool_plan_delta("g")),
        (226, tool_call_delta("h", 0)),
        (227, tool_call_delta("i", 1)),
        (228, tool_call_delta("j", 1)),
    ]
    assert seen(coalesced(50, timeline)) == [
        text(210, "a"),
        (260, thinking_delta("bc")),
        text(260, "d", 1),
        text(260, "e", 0),
        (260, tool_plan_delta("fg")),
        (260, tool_call_delta("h", 0)),
        (260, tool_call_delta("ij", 1)),
    ]


def test_deltas_with_log_probabilities() -> None:
    """The response keeps one item a delta, so such deltas are not merged, and not delayed."""
    items = [{"text": each, "token_ids": [n], "logprobs": [-0.5]} for n, each in enumerate("abcd")]
    timeline = [
        (210 + n, {**text_delta(item["text"]), "logprobs": item}) for n, item in enumerate(items)
    ]
    assert seen(coalesced(50, timeline)) == timeline
    between = [text(210, "a"), text(220, "b"), timeline[2], text(225, "d")]
    assert seen(coalesced(50, sorted(between, key=lambda each: each[0]))) == [
        text(210, "a"),
        timeline[2],
        text(260, "bd"),
    ]


def test_deltas_with_keys_of_tomorrow() -> None:
    """A delta that says more than its fragment comes as it is, after what was held back."""
    strange = {**text_delta("c"), "x_trace": "t-1"}
    timeline = [text(210, "a"), text(220, "b"), (230, strange), text(240, "d")]
    assert seen(coalesced(50, timeline)) == [
        text(210, "a"),
        text(230, "b"),
        (230, strange),
        text(260, "d"),
    ]


def test_empty_deltas() -> None:
    """Deltas without a character are deltas: they pass, merge, and get lost as little as others."""
    timeline = [text(210, ""), text(220, ""), text(230, "a"), text(240, "")]
    assert seen(coalesced(50, timeline)) == [text(210, ""), text(260, "a")]


def test_a_lone_delta_that_was_held_is_the_same_object() -> None:
    """Nothing is rebuilt where nothing was merged."""
    events = parsed([text_delta("a"), text_delta("b")])
    scheduler = TestScheduler()
    source = [ReactiveTest.on_next(210 + n, event) for n, event in enumerate(events)]
    hot = scheduler.create_hot_observable(source)
    operator = rxc.coalesce_deltas(50, scheduler=scheduler)
    records = scheduler.start(lambda: hot.pipe(operator)).messages
    assert [each.time for each in records] == [210, 260]
    assert records[1].value.value is events[1]


# The limit of characters -------------------------------------------------------------------------


def test_a_full_window_does_not_wait() -> None:
    """As soon as max_chars are held they come out; the window goes on and fills anew."""
    timeline = [
        text(210, "abcdef"),
        text(220, "gh"),
        text(225, "i"),
        text(230, "j"),
        text(240, "k"),
    ]
    assert seen(coalesced(50, timeline, max_chars=3)) == [
        text(210, "abcdef"),
        text(225, "ghi"),
        text(260, "jk"),
    ]


def test_one_delta_that_is_too_long() -> None:
    """A delta is never cut: one that is longer than the limit comes whole, and at once."""
    timeline = [text(210, "a"), text(220, "b"), text(230, "cdefgh"), text(240, "i")]
    assert seen(coalesced(50, timeline, max_chars=3)) == [
        text(210, "a"),
        text(230, "bcdefgh"),
        text(260, "i"),
    ]


def test_the_limit_counts_all_that_is_held() -> None:
    """Fragments of different blocks count together, in code points."""
    timeline = [text(210, "a"), (220, thinking_delta("\U0001f427")), text(230, "bc", 1)]
    assert seen(coalesced(50, timeline, max_chars=3)) == [
        text(210, "a"),
        (230, thinking_delta("\U0001f427")),
        text(230, "bc", 1),
    ]


def test_the_limit_starts_anew_in_each_window() -> None:
    """What has come out no longer counts, however it came out."""
    timeline = [
        text(210, "a"),
        text(220, "bc"),  # out at 235 with the window
        text(240, "de"),  # out at 245 with the event that does not merge
        (245, content_end()),
        text(250, "fg"),
        text(255, "h"),
    ]
    assert seen(coalesced(25, timeline, max_chars=3)) == [
        text(210, "a"),
        text(235, "bc"),
        text(245, "de"),
        (245, content_end()),
        text(255, "fgh"),
    ]


def test_a_limit_of_one() -> None:
    """With max_chars=1 every delta that holds a character passes at once."""
    timeline = [text(210, "a"), text(211, "b"), text(212, ""), text(213, "c")]
    assert seen(coalesced(50, timeline, max_chars=1)) == [
        text(210, "a"),
        text(211, "b"),
        text(213, "c"),
    ]


# Ends --------------------------------------------------------------------------------------------


def test_completion_brings_out_what_is_held() -> None:
    """Held text comes just before completion, and no timer fires afterwards."""
    timeline = [text(210, "a"), text(220, "b"), text(225, "c")]
    records = coalesced(50, timeline, ReactiveTest.on_completed(230))
    assert seen(records) == [text(210, "a"), text(230, "bc"), (230, "C")]


def test_an_error_brings_out_what_is_held() -> None:
    """No character that arrived is lost to an error; the error then passes as it is."""
    failure = RuntimeError("the source broke")
    timeline = [text(210, "a"), text(220, "b"), text(225, "c")]
    records = coalesced(50, timeline, ReactiveTest.on_error(230, failure))
    assert seen(records) == [text(210, "a"), text(230, "bc"), (230, failure)]


class WatchedScheduler(TestScheduler):
    """Virtual time that knows which of the timers it gave out are still to be cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.timers: list[abc.DisposableBase] = []

    def schedule_relative(self, duetime: Any, action: Any, state: Any = None) -> abc.DisposableBase:
        inner = super().schedule_relative(duetime, action, state)
        self.made += 1

        def cancel() -> None:
            inner.dispose()
            self.timers.remove(timer)

        timer = Disposable(cancel)
        self.timers.append(timer)
        return timer


@pytest.mark.parametrize("end", ["completion", "error", "disposal"])
def test_the_end_cancels_the_timer(end: str) -> None:
    """However a subscription ends, it leaves no timer behind and never had more than one."""
    ends: dict[str, list[Recorded[Any]]] = {
        "completion": [ReactiveTest.on_completed(280)],
        "error": [ReactiveTest.on_error(280, RuntimeError())],
        "disposal": [],
    }
    scheduler = WatchedScheduler()
    timeline = [text(210, "a"), text(220, "b"), text(270, "c")]
    hot = scheduler.create_hot_observable([*on_next(timeline), *ends[end]])
    operator = rxc.coalesce_deltas(50, scheduler=scheduler)
    live: list[int] = []
    for moment in (205, 215, 265, 275):
        scheduler.schedule_absolute(moment, lambda *_: live.append(len(scheduler.timers)))
    scheduler.start(lambda: hot.pipe(operator), disposed=280)
    assert live == [0, 1, 1, 1]
    assert (scheduler.made, scheduler.timers) == (2, [])
    assert hot.subscriptions == [Subscription(200, 280)]


def test_disposal_drops_what_is_held() -> None:
    """Whoever leaves gets nothing afterwards, not even what was held back."""
    timeline = [text(210, "a"), text(220, "b"), text(250, "c")]
    records = coalesced(50, timeline, ReactiveTest.on_completed(280), disposed=240)
    assert seen(records) == [text(210, "a")]


def test_disposal_out_of_a_window_that_closes() -> None:
    """A subscriber that leaves as the window closes gets no more of it, and no window follows."""
    scheduler = TestScheduler()
    timeline = [text(210, "a"), text(220, "b", 0), text(221, "c", 1), text(300, "d")]
    hot = scheduler.create_hot_observable(on_next(timeline))
    operator = rxc.coalesce_deltas(50, scheduler=scheduler)
    records = scheduler.start(lambda: hot.pipe(operator, ops.take(2))).messages
    assert seen(records) == [text(210, "a"), text(260, "b"), (260, "C")]
    assert hot.subscriptions == [Subscription(200, 260)]


def test_a_source_that_emits_while_it_is_subscribed() -> None:
    """A source that gives everything at once is merged into what came first and all the rest."""
    scheduler = TestScheduler()
    events = parsed([text_delta(each) for each in "abcd"])
    operator = rxc.coalesce_deltas(50, scheduler=scheduler)
    source = reactivex.from_iterable(events)
    records = scheduler.start(lambda: source.pipe(operator)).messages
    assert seen(records) == [text(200, "a"), text(200, "bcd"), (200, "C")]


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, -0.05, float("nan"), "0.05", None], ids=repr)
def test_a_window_has_a_length(seconds: Any) -> None:
    """Anything but a number above 0 is refused at the call."""
    with pytest.raises(ConfigurationError, match="coalesce_deltas takes seconds"):
        rxc.coalesce_deltas(seconds)


@pytest.mark.parametrize("max_chars", [0, -1, 2.5, "8", True], ids=repr)
def test_a_limit_is_a_whole_number(max_chars: Any) -> None:
    """Anything but None or a whole number from 1 is refused at the call."""
    with pytest.raises(ConfigurationError, match="coalesce_deltas takes max_chars"):
        rxc.coalesce_deltas(0.05, max_chars)


def test_no_clock() -> None:
    """Without a scheduler and without a loop the first delta passes, then the error says so."""
    events = parsed([message_start(), text_delta("a"), text_delta("b"), message_end()])
    received: list[ChatEvent] = []
    errors: list[Exception] = []
    source = Subject[ChatEvent]()
    source.pipe(rxc.coalesce_deltas(0.05)).subscribe(received.append, errors.append)
    for event in events:
        source.on_next(event)
    assert received == events[:2]
    [error] = errors
    assert isinstance(error, ConfigurationError)
    assert "scheduler" in str(error)
    assert isinstance(error.__cause__, RuntimeError)
    assert source.observers == []


def test_no_clock_is_needed_without_deltas() -> None:
    """Events that do not merge pass without any clock."""
    events = parsed([message_start(), tool_call_start(), content_end(), message_end()])
    received: list[ChatEvent] = []
    source = reactivex.from_iterable(events)
    source.pipe(rxc.coalesce_deltas(0.05)).subscribe(received.append)
    assert received == events


# On a real loop ----------------------------------------------------------------------------------


async def test_the_running_loop_is_the_clock() -> None:
    """By default the window is timed by the loop on which the events arrive, on its own thread."""
    source = Subject[ChatEvent]()
    received: list[str] = []
    threads: set[threading.Thread] = set()
    merged = asyncio.Event()

    def on_event(event: ChatEvent) -> None:
        assert isinstance(event, ContentDelta)
        received.append(event.text)
        threads.add(threading.current_thread())
        if len(received) == 2:
            merged.set()

    subscription = source.pipe(rxc.coalesce_deltas(0.001)).subscribe(on_event)
    for fragment in "abcd":
        source.on_next(parse_event(text_delta(fragment)))
    assert received == ["a"]
    async with asyncio.timeout(30):
        await merged.wait()
    assert received == ["a", "bcd"]
    assert threads == {threading.current_thread()}
    subscription.dispose()


async def test_disposal_on_a_real_loop() -> None:
    """A timer that would have fired before one that did fire has not: disposal cancelled it."""
    source = Subject[ChatEvent]()
    received: list[ChatEvent] = []
    subscription = source.pipe(rxc.coalesce_deltas(0.001)).subscribe(received.append)
    later = asyncio.get_running_loop().create_future()
    events = parsed([text_delta("a"), text_delta("b")])
    for event in events:
        source.on_next(event)
    subscription.dispose()
    asyncio.get_running_loop().call_later(0.005, later.set_result, None)
    async with asyncio.timeout(30):
        await later
    assert received == events[:1]
    assert source.observers == []


@pytest.mark.parametrize("operator", [False, True], ids=["subscriber", "operator"])
def test_who_raises_when_a_window_closes_hears_of_it(operator: bool) -> None:
    """What is held back comes when no source is there to catch: the error ends it all the same."""
    scheduler, source = TestScheduler(), Subject[ChatEvent]()
    seen: list[str] = []
    errors: list[Exception] = []

    def take(event: Any) -> Any:
        seen.append(event.text)
        if event.text == "bc":
            raise LookupError("no bc")
        return event

    chain = source.pipe(rxc.coalesce_deltas(50, scheduler=scheduler))
    if operator:
        chain.pipe(ops.map(take)).subscribe(on_error=errors.append)
    else:
        chain.subscribe(take, errors.append)
    for letter in "abc":
        source.on_next(parse_event(text_delta(letter)))
    scheduler.advance_to(50)
    assert seen == ["a", "bc"]
    assert [str(error) for error in errors] == ["no bc"]
    assert source.observers == []


async def test_a_given_scheduler_goes_before_the_loop() -> None:
    """A scheduler of one's own times the window, also where a loop is running."""
    scheduler = TestScheduler()
    source = Subject[ChatEvent]()
    received: list[ChatEvent] = []
    operator = rxc.coalesce_deltas(50, scheduler=scheduler)
    passed = AsyncIOScheduler(asyncio.get_running_loop())
    subscription = source.pipe(operator).subscribe(received.append, scheduler=passed)
    for fragment in "abc":
        source.on_next(parse_event(text_delta(fragment)))
    assert len(received) == 1
    scheduler.advance_to(50)
    assert received == parsed([text_delta("a"), text_delta("bc")])
    subscription.dispose()


# Laws --------------------------------------------------------------------------------------------


def characters(event: ChatEvent) -> int:
    """How many characters of whatever kind a delta carries; 1 for any other event."""
    wire = event.model_dump(exclude_unset=True)
    message = (wire.get("delta") or {}).get("message") or {}
    match wire["type"], message:
        case "content-delta", {"content": {"text": str(fragment)}}:
            return len(fragment)
        case "content-delta", {"content": {"thinking": str(fragment)}}:
            return len(fragment)
        case "tool-plan-delta", {"tool_plan": str(fragment)}:
            return len(fragment)
        case "tool-call-delta", {"tool_calls": {"function": {"arguments": str(fragment)}}}:
            return len(fragment)
        case _:
            return 1


@settings(deadline=None)
@given(
    sample=streams(),
    gaps=st.lists(st.integers(0, 30), min_size=1, max_size=40),
    window=st.integers(1, 60),
    max_chars=st.none() | st.integers(1, 12),
    fails=st.booleans(),
)
def test_nothing_is_lost_delayed_or_out_of_place(
    sample: Sample, gaps: list[int], window: int, max_chars: int | None, fails: bool
) -> None:
    """Whatever the timing: the same stream, and no character waits longer than the window."""
    events = parsed(sample.events)
    *arrivals, end = accumulate(islice(cycle(gaps), len(events)), initial=201)
    failure = RuntimeError("the source broke")
    last = ReactiveTest.on_error(end, failure) if fails else ReactiveTest.on_completed(end)
    scheduler = TestScheduler()
    hot: Observable[ChatEvent] = scheduler.create_hot_observable(
        [*map(ReactiveTest.on_next, arrivals, events), last]
    )
    operator = rxc.coalesce_deltas(window, max_chars, scheduler=scheduler)
    *records, ended = scheduler.start(lambda: hot.pipe(operator), disposed=100_000).messages

    assert (ended.time, ended.value.kind) == (end, "E" if fails else "C")
    out = [(int(each.time), each.value.value) for each in records]
    assert compact(event for _, event in out) == compact(events)
    assert len(out) <= len(events)

    def by(moment: float, timeline: list[tuple[int, ChatEvent]]) -> int:
        return sum(characters(event) for time, event in timeline if time <= moment)

    arrived = list(zip(arrivals, events, strict=True))
    for moment in arrivals:
        assert by(moment + window, out) >= by(moment, arrived)
        assert by(moment, out) <= by(moment, arrived)
        if max_chars is not None:
            assert by(moment, arrived) - by(moment, out) < max_chars
