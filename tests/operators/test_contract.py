"""What every operator is held to, whatever it does: one table, and the same cases for each."""

import copy
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import reactivex
import reactivex.operators as ops
from reactivex import Observable
from reactivex.disposable import Disposable
from reactivex.scheduler import CurrentThreadScheduler
from reactivex.testing import ReactiveTest, Recorded, TestScheduler
from reactivex.testing.subscription import Subscription
from samples import (
    JSON,
    citation,
    citation_end,
    citation_start,
    content_end,
    content_start,
    document,
    message_end,
    message_start,
    parsed,
    text_delta,
    thinking_delta,
    tool_call_delta,
    tool_call_end,
    tool_call_start,
    tool_plan_delta,
)

from rxcohere import (
    ChatEvent,
    ChatResponse,
    CitedText,
    MessageStart,
    ToolCall,
    ToolCallProgress,
    compact,
)
from rxcohere import operators as rxc

SUBSCRIBED, DISPOSED = 200, 1000
STEP = 10
END = 500
WINDOW = 25

THE_PENGUIN = citation(0, 11, "The penguin", document("doc:0"), content_index=1)

SAMPLE: list[JSON] = [
    message_start(),  # at 210
    content_start(0, "thinking"),  # 220
    thinking_delta("Hm", 0),  # 230
    thinking_delta("m.", 0),  # 240
    content_end(0),  # 250
    content_start(1),  # 260
    text_delta("The ", 1),  # 270
    text_delta("pen", 1),  # 280
    text_delta("gu", 1),  # 290
    text_delta("in", 1),  # 300
    citation_start(THE_PENGUIN),  # 310
    citation_end(),  # 320
    content_end(1),  # 330
    tool_plan_delta("I "),  # 340
    tool_plan_delta("look."),  # 350
    tool_call_start(0, "look_up"),  # 360
    tool_call_delta('{"q":', 0),  # 370
    tool_call_start(1, "count"),  # 380
    tool_call_delta('"x"}', 0),  # 390
    tool_call_delta("{}", 1),  # 400
    tool_call_end(1),  # 410
    tool_call_end(0),  # 420
    message_end("TOOL_CALL"),  # 430
]
"""One stream in which every operator finds something; it completes at `END`."""

UNKNOWN: list[JSON] = [
    {"type": "progress-report", "index": 0, "delta": {"message": {"content": {"text": "!"}}}},
    {"type": "debug", "prompt": "<|START|>"},
    {"type": "keep-warm"},
]
"""Events that mean nothing to any operator, one of them shaped like one that does."""

Timed = list[tuple[int, Any]]


def as_it_is(value: Any) -> Any:
    return value


def as_json(value: Any) -> Any:
    return value.model_dump(exclude_unset=True)


def call_view(call: ToolCall) -> Any:
    return call.name, call.arguments, call.parsed


def progress_view(progress: ToolCallProgress) -> Any:
    # A copy: what a later event would change in place has to show.
    return progress.name, progress.delta, progress.arguments, copy.deepcopy(progress.parsed)


def cited_view(cited: CitedText) -> Any:
    segments = [(segment.text, len(segment.citations)) for segment in cited.segments()]
    return cited.delta, cited.citation is not None, cited.text, segments


def response_view(response: ChatResponse) -> Any:
    calls = [(call.name, call.arguments) for call in response.tool_calls]
    plan = response.message.tool_plan
    cited = [c.text for c in response.citations]
    return response.thinking, response.text, cited, plan, calls, response.finish_reason


@dataclass(frozen=True)
class Contract:
    """One operator, and what comes out of it, and when."""

    name: str
    make: Callable[[TestScheduler], Callable[[Observable[ChatEvent]], Observable[Any]]]
    many: Timed
    """What `SAMPLE` gives."""
    single: tuple[JSON, Timed]
    """An event, and what it gives when it comes alone at 210 and the source completes at 250."""
    empty: tuple[Any, ...] = ()
    """What comes at completion of a source without events."""
    view: Callable[[Any], Any] = as_it_is
    """What of a value is compared."""
    holds_back: bool = False
    """Whether an error brings out what was held."""
    passes_events: bool = False
    """Whether what comes out is the stream itself."""
    is_shared: bool = False
    """Whether subscriptions have their source in common."""


FINAL_RESPONSE = (
    "Hmm.",
    "The penguin",
    ["The penguin"],
    "I look.",
    [("look_up", '{"q":"x"}'), ("count", "{}")],
    "TOOL_CALL",
)

CONTRACTS = [
    Contract(
        "events_of",
        lambda _: rxc.events_of(MessageStart),
        many=[(210, message_start())],
        single=(message_start(), [(210, message_start())]),
        view=as_json,
    ),
    Contract(
        "text_deltas",
        lambda _: rxc.text_deltas(),
        many=[(270, "The "), (280, "pen"), (290, "gu"), (300, "in")],
        single=(text_delta("a"), [(210, "a")]),
    ),
    Contract(
        "thinking_deltas",
        lambda _: rxc.thinking_deltas(),
        many=[(230, "Hm"), (240, "m.")],
        single=(thinking_delta("a"), [(210, "a")]),
    ),
    Contract(
        "tool_plan_deltas",
        lambda _: rxc.tool_plan_deltas(),
        many=[(340, "I "), (350, "look.")],
        single=(tool_plan_delta("a"), [(210, "a")]),
    ),
    Contract(
        "citations",
        lambda _: rxc.citations(),
        many=[(310, THE_PENGUIN)],
        single=(citation_start(THE_PENGUIN), [(210, THE_PENGUIN)]),
        view=as_json,
    ),
    Contract(
        "accumulate_text",
        lambda _: rxc.accumulate_text(),
        many=[(270, "The "), (280, "The pen"), (290, "The pengu"), (300, "The penguin")],
        single=(text_delta("a"), [(210, "a")]),
    ),
    Contract(
        "collect_text",
        lambda _: rxc.collect_text(),
        many=[(END, "The penguin")],
        single=(text_delta("a"), [(250, "a")]),
        empty=("",),
    ),
    Contract(
        "assemble_tool_calls",
        lambda _: rxc.assemble_tool_calls(),
        many=[(410, ("count", "{}", {})), (420, ("look_up", '{"q":"x"}', {"q": "x"}))],
        single=(tool_call_start(0, "count"), [(250, ("count", "", {}))]),
        view=call_view,
    ),
    Contract(
        "track_tool_calls",
        lambda _: rxc.track_tool_calls(),
        many=[
            (370, ("look_up", '{"q":', '{"q":', {})),
            (390, ("look_up", '"x"}', '{"q":"x"}', {"q": "x"})),
            (400, ("count", "{}", "{}", {})),
        ],
        single=(tool_call_delta('{"a"'), [(210, ("", '{"a"', '{"a"', {}))]),
        view=progress_view,
    ),
    Contract(
        "attach_citations",
        lambda _: rxc.attach_citations(),
        many=[
            (270, ("The ", False, "The ", [("The ", 0)])),
            (280, ("pen", False, "The pen", [("The pen", 0)])),
            (290, ("gu", False, "The pengu", [("The pengu", 0)])),
            (300, ("in", False, "The penguin", [("The penguin", 0)])),
            (310, ("", True, "The penguin", [("The penguin", 1)])),
        ],
        single=(text_delta("a"), [(210, ("a", False, "a", [("a", 0)]))]),
        view=cited_view,
    ),
    Contract(
        "collect_cited_text",
        lambda _: rxc.collect_cited_text(),
        many=[(END, ("", False, "The penguin", [("The penguin", 1)]))],
        single=(text_delta("a"), [(250, ("", False, "a", [("a", 0)]))]),
        empty=(("", False, "", []),),
        view=cited_view,
    ),
    Contract(
        "accumulate_response",
        lambda _: rxc.accumulate_response(),
        many=[
            (210, ("", "", [], None, [], None)),
            (220, ("", "", [], None, [], None)),
            (230, ("Hm", "", [], None, [], None)),
            (240, ("Hmm.", "", [], None, [], None)),
            (260, ("Hmm.", "", [], None, [], None)),
            (270, ("Hmm.", "The ", [], None, [], None)),
            (280, ("Hmm.", "The pen", [], None, [], None)),
            (290, ("Hmm.", "The pengu", [], None, [], None)),
            (300, ("Hmm.", "The penguin", [], None, [], None)),
            (310, ("Hmm.", "The penguin", ["The penguin"], None, [], None)),
            (340, ("Hmm.", "The penguin", ["The penguin"], "I ", [], None)),
            (350, ("Hmm.", "The penguin", ["The penguin"], "I look.", [], None)),
            (360, (*FINAL_RESPONSE[:4], [("look_up", "")], None)),
            (370, (*FINAL_RESPONSE[:4], [("look_up", '{"q":')], None)),
            (380, (*FINAL_RESPONSE[:4], [("look_up", '{"q":'), ("count", "")], None)),
            (390, (*FINAL_RESPONSE[:4], [("look_up", '{"q":"x"}'), ("count", "")], None)),
            (400, (*FINAL_RESPONSE[:5], None)),
            (430, FINAL_RESPONSE),
        ],
        single=(text_delta("a"), [(210, ("", "a", [], None, [], None))]),
        view=response_view,
    ),
    Contract(
        "collect_response",
        lambda _: rxc.collect_response(),
        many=[(END, FINAL_RESPONSE)],
        single=(text_delta("a"), [(250, ("", "a", [], None, [], None))]),
        view=response_view,
    ),
    Contract(
        "coalesce_deltas",
        lambda scheduler: rxc.coalesce_deltas(WINDOW, scheduler=scheduler),
        many=[
            (210, SAMPLE[0]),
            (220, SAMPLE[1]),
            (230, thinking_delta("Hm", 0)),
            (250, thinking_delta("m.", 0)),
            (250, SAMPLE[4]),
            (260, SAMPLE[5]),
            (270, text_delta("The ", 1)),
            (295, text_delta("pengu", 1)),
            (310, text_delta("in", 1)),
            (310, SAMPLE[10]),
            (320, SAMPLE[11]),
            (330, SAMPLE[12]),
            (340, tool_plan_delta("I ")),
            (360, tool_plan_delta("look.")),
            (360, SAMPLE[15]),
            (370, tool_call_delta('{"q":', 0)),
            (380, SAMPLE[17]),
            (395, tool_call_delta('"x"}', 0)),
            (410, tool_call_delta("{}", 1)),
            (410, SAMPLE[20]),
            (420, SAMPLE[21]),
            (430, SAMPLE[22]),
        ],
        single=(text_delta("a"), [(210, text_delta("a"))]),
        view=as_json,
        holds_back=True,
        passes_events=True,
    ),
    Contract(
        "share_response",
        lambda scheduler: rxc.share_response(scheduler=scheduler),
        many=[(210 + STEP * n, event) for n, event in enumerate(SAMPLE)],
        single=(text_delta("a"), [(210, text_delta("a"))]),
        view=as_json,
        passes_events=True,
        is_shared=True,
    ),
]

each_afresh = pytest.mark.parametrize(
    "contract", [each for each in CONTRACTS if not each.is_shared], ids=lambda c: c.name
)
every_operator = pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.name)


class Failure(Exception):
    """An error that only these tests raise."""


def messages(events: list[ChatEvent], first: int = 210) -> list[Recorded[ChatEvent]]:
    """The events at intervals of `STEP`."""
    return [ReactiveTest.on_next(first + STEP * n, event) for n, event in enumerate(events)]


@dataclass
class Outcome:
    """What an observer saw of one subscription."""

    values: Timed
    end: tuple[int, Any] | None
    """The time of the terminal, and the error or None."""


def outcome(recorded: list[Recorded[Any]], view: Callable[[Any], Any]) -> Outcome:
    """The records, checked to be values and then at most one terminal."""
    kinds = "".join(record.value.kind for record in recorded)
    assert re.fullmatch("N*[CE]?", kinds), kinds
    values = [(int(r.time), view(r.value.value)) for r in recorded if r.value.kind == "N"]
    if kinds[-1:] not in ("C", "E"):
        return Outcome(values, None)
    last = recorded[-1]
    return Outcome(values, (int(last.time), getattr(last.value, "exception", None)))


def observe(
    contract: Contract, source: list[Recorded[ChatEvent]], disposed: int = DISPOSED
) -> tuple[Outcome, list[Subscription]]:
    """What comes out of a hot source with these messages, and how the source was subscribed."""
    scheduler = TestScheduler()
    hot = scheduler.create_hot_observable(source)
    operator = contract.make(scheduler)
    observer = scheduler.start(lambda: hot.pipe(operator), disposed=disposed)
    return outcome(observer.messages, contract.view), hot.subscriptions


@every_operator
def test_a_silent_source(contract: Contract) -> None:
    """A source that never speaks gives nothing, and stays subscribed until disposal."""
    seen, subscriptions = observe(contract, [])
    assert seen == Outcome([], None)
    assert subscriptions == [Subscription(SUBSCRIBED, DISPOSED)]


@every_operator
def test_an_empty_source(contract: Contract) -> None:
    """A source that completes without an event gives at most the empty value, and completes."""
    seen, subscriptions = observe(contract, [ReactiveTest.on_completed(250)])
    assert seen == Outcome([(250, value) for value in contract.empty], (250, None))
    assert subscriptions == [Subscription(SUBSCRIBED, 250)]


@every_operator
def test_one_event(contract: Contract) -> None:
    """A single event is enough: the value comes when it is due, then completion."""
    event, expected = contract.single
    source = [*messages(parsed([event])), ReactiveTest.on_completed(250)]
    seen, subscriptions = observe(contract, source)
    assert seen == Outcome(expected, (250, None))
    assert subscriptions == [Subscription(SUBSCRIBED, 250)]


@every_operator
def test_many_events(contract: Contract) -> None:
    """A whole stream gives every value at its moment, then completes with its source."""
    source = [*messages(parsed(SAMPLE)), ReactiveTest.on_completed(END)]
    seen, subscriptions = observe(contract, source)
    assert seen == Outcome(contract.many, (END, None))
    assert subscriptions == [Subscription(SUBSCRIBED, END)]


@every_operator
@pytest.mark.parametrize("count", range(len(SAMPLE) + 1))
def test_a_source_error(contract: Contract, count: int) -> None:
    """After any number of events an error passes at once, and takes nothing back."""
    at, failure = 205 + STEP * count, Failure("the source broke")
    source = [*messages(parsed(SAMPLE[:count])), ReactiveTest.on_error(at, failure)]
    seen, subscriptions = observe(contract, source)
    assert [value for value in seen.values if value[0] < at] == [
        value for value in contract.many if value[0] < at
    ]
    assert seen.end is not None
    assert seen.end[0] == at
    assert seen.end[1] is failure
    if not contract.holds_back:
        assert all(time < at for time, _ in seen.values)
    assert subscriptions == [Subscription(SUBSCRIBED, at)]


@every_operator
@pytest.mark.parametrize("count", range(len(SAMPLE) + 1))
def test_early_disposal(contract: Contract, count: int) -> None:
    """Disposal after any number of events leaves the source at once, and nothing comes later."""
    at = 205 + STEP * count
    source = [*messages(parsed(SAMPLE)), ReactiveTest.on_completed(END)]
    seen, subscriptions = observe(contract, source, disposed=at)
    assert seen == Outcome([value for value in contract.many if value[0] < at], None)
    assert subscriptions == [Subscription(SUBSCRIBED, at)]


@every_operator
def test_completion_in_the_middle(contract: Contract) -> None:
    """A stream that completes without its end is not held back: completion passes at once."""
    source = [*messages(parsed(SAMPLE[:10])), ReactiveTest.on_completed(305)]
    seen, subscriptions = observe(contract, source)
    assert [value for value in seen.values if value[0] < 305] == [
        value for value in contract.many if value[0] < 305
    ]
    assert seen.end == (305, None)
    assert subscriptions == [Subscription(SUBSCRIBED, 305)]


@each_afresh
def test_two_subscriptions_of_one_observable(contract: Contract) -> None:
    """Each subscription starts afresh, also while another one is half way through."""
    scheduler = TestScheduler()
    relative = [*messages(parsed(SAMPLE), STEP), ReactiveTest.on_completed(END - SUBSCRIBED)]
    cold = scheduler.create_cold_observable(relative)
    result = cold.pipe(contract.make(scheduler))
    first, second = scheduler.create_observer(), scheduler.create_observer()
    scheduler.schedule_absolute(200, lambda *_: result.subscribe(first))
    scheduler.schedule_absolute(285, lambda *_: result.subscribe(second))
    scheduler.schedule_absolute(700, lambda *_: result.subscribe(first))
    scheduler.start()
    expected = [*contract.many, (END, None)]
    seen = [
        (r.time, contract.view(r.value.value) if r.value.has_value else None)
        for r in first.messages
    ]
    assert seen == [*expected, *((time + 500, value) for time, value in expected)]
    later = [(time + 85, value) for time, value in contract.many]
    assert outcome(second.messages, contract.view) == Outcome(later, (END + 85, None))
    assert cold.subscriptions == [
        Subscription(200, END),
        Subscription(285, END + 85),
        Subscription(700, END + 500),
    ]


@every_operator
def test_one_operator_on_two_sources(contract: Contract) -> None:
    """An operator object may be kept: applied to two sources, it mixes nothing up."""
    scheduler = TestScheduler()
    operator = contract.make(scheduler)
    event, expected = contract.single
    whole = scheduler.create_hot_observable(
        [*messages(parsed(SAMPLE)), ReactiveTest.on_completed(END)]
    )
    short = scheduler.create_hot_observable(
        [*messages(parsed([event])), ReactiveTest.on_completed(250)]
    )
    of_whole, of_short = scheduler.create_observer(), scheduler.create_observer()
    first, second = whole.pipe(operator), short.pipe(operator)
    scheduler.schedule_absolute(SUBSCRIBED, lambda *_: first.subscribe(of_whole))
    scheduler.schedule_absolute(SUBSCRIBED, lambda *_: second.subscribe(of_short))
    scheduler.start()
    assert outcome(of_whole.messages, contract.view) == Outcome(contract.many, (END, None))
    assert outcome(of_short.messages, contract.view) == Outcome(expected, (250, None))


@every_operator
def test_unknown_events(contract: Contract) -> None:
    """Events that mean nothing here change nothing: they pass on a stream of events, or vanish."""
    noise = parsed(UNKNOWN)
    events = parsed(SAMPLE)
    mixed = [
        *messages(events),
        *(ReactiveTest.on_next(205 + STEP * n, noise[n % 3]) for n in range(len(events) + 2)),
    ]
    seen, _ = observe(contract, [*mixed, ReactiveTest.on_completed(END)])
    assert seen.end == (END, None)
    if not contract.passes_events:
        assert seen.values == contract.many
        return
    out = parsed(value for _, value in seen.values)
    arrived = [each.value.value for each in sorted(mixed, key=lambda each: each.time)]
    assert compact(out) == compact(arrived)


@every_operator
def test_nothing_but_unknown_events(contract: Contract) -> None:
    """A stream of which nothing is understood ends as an empty one does."""
    noise = parsed(UNKNOWN)
    seen, subscriptions = observe(contract, [*messages(noise), ReactiveTest.on_completed(250)])
    expected = [(250, value) for value in contract.empty]
    if contract.passes_events:
        expected = [(210 + STEP * n, contract.view(event)) for n, event in enumerate(noise)]
    assert seen == Outcome(expected, (250, None))
    assert subscriptions == [Subscription(SUBSCRIBED, 250)]


@every_operator
def test_events_are_left_as_they_were(contract: Contract) -> None:
    """The events that went in are the same afterwards, down to which fields are set."""
    events = parsed(SAMPLE)
    before = [event.model_dump_json(exclude_unset=True) for event in events]
    observe(contract, [*messages(events), ReactiveTest.on_completed(END)])
    assert [event.model_dump_json(exclude_unset=True) for event in events] == before
    assert events == parsed(SAMPLE)


@every_operator
def test_values_are_left_as_they_were(contract: Contract) -> None:
    """A value that was given out says the same after all later events as it did at once."""
    scheduler = TestScheduler()
    hot = scheduler.create_hot_observable(
        [*messages(parsed(SAMPLE)), ReactiveTest.on_completed(END)]
    )
    at_once: Timed = []
    read_at_once = ops.do_action(
        lambda value: at_once.append((int(scheduler.clock), contract.view(value)))
    )
    operator = contract.make(scheduler)
    observer = scheduler.start(lambda: hot.pipe(operator, read_at_once))
    assert at_once == contract.many
    assert outcome(observer.messages, contract.view).values == contract.many


@every_operator
def test_a_callback_that_raises(contract: Contract) -> None:
    """An error of a later operator reaches the subscriber, and the source is left that moment."""
    failure = Failure("the callback broke")

    def fail(value: Any) -> Any:
        raise failure

    scheduler = TestScheduler()
    hot = scheduler.create_hot_observable(
        [*messages(parsed(SAMPLE)), ReactiveTest.on_completed(END)]
    )
    operator = contract.make(scheduler)
    observer = scheduler.start(lambda: hot.pipe(operator, ops.map(fail)))
    seen = outcome(observer.messages, contract.view)
    first = contract.many[0][0]
    assert seen.values == []
    assert seen.end is not None
    assert seen.end[0] == first
    assert seen.end[1] is failure
    assert hot.subscriptions == [Subscription(SUBSCRIBED, first)]


@every_operator
def test_enough_is_enough(contract: Contract) -> None:
    """A later operator that has seen enough ends the subscription of the source there and then."""
    scheduler = TestScheduler()
    hot = scheduler.create_hot_observable(
        [*messages(parsed(SAMPLE)), ReactiveTest.on_completed(END)]
    )
    operator = contract.make(scheduler)
    observer = scheduler.start(lambda: hot.pipe(operator, ops.take(1)))
    first = contract.many[0][0]
    assert outcome(observer.messages, contract.view) == Outcome(contract.many[:1], (first, None))
    assert hot.subscriptions == [Subscription(SUBSCRIBED, first)]


@every_operator
def test_the_scheduler_of_the_subscription(contract: Contract) -> None:
    """The scheduler that a subscriber passes reaches the source."""
    passed: list[Any] = []

    def subscribe(observer: Any, scheduler: Any = None) -> Disposable:
        passed.append(scheduler)
        return Disposable()

    wanted = CurrentThreadScheduler()
    result = Observable[ChatEvent](subscribe).pipe(contract.make(TestScheduler()))
    result.subscribe(scheduler=wanted).dispose()
    assert passed == [wanted]


PUBLIC = sorted(set(rxc.__all__) - {"Operator"})


def test_the_table_is_complete() -> None:
    """Every public operator is held to this contract."""
    assert sorted(contract.name for contract in CONTRACTS) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_no_name_is_taken(name: str) -> None:
    """No operator has the name of a stock operator, of a method of Observable or of a factory."""
    stock = {*ops.__all__, *dir(ops), *dir(Observable), *reactivex.__all__}
    assert "map" in stock
    assert name not in stock


@pytest.mark.parametrize("name", PUBLIC)
def test_the_marble_diagram(name: str) -> None:
    """Every docstring draws source, operator and result in three rows of equal width."""
    documented = inspect.getdoc(getattr(rxc, name)) or ""
    assert "\n::\n\n" in documented
    drawing = documented.split("\n::\n\n")[1].split("\n\n")[0]
    rows = inspect.cleandoc(drawing).splitlines()
    assert len(rows) == 3, rows
    source, box, result = rows
    assert len(source) == len(box) == len(result), [len(row) for row in rows]
    assert re.fullmatch(rf"\[ *{name}\([^()]*\) *\]", box), box
    for row in (source, result):
        assert re.fullmatch(r"-.*(\||\|\))", row), row
    assert source.rindex("|") == result.rindex("|")
