"""Long streams: time is linear in the events, and memory flat or in proportion to the text.

Nothing is timed. What an event costs is counted, after few others and after many: the steps (calls
and lines of Python, those of the libraries too) and the bytes that are taken while it is handled,
where a copy of all that came before would show. With ``-m soak`` a million events come before.

What gives out all there is so far copies some of it, by contract: the lists of a `ChatResponse`,
the arrays and objects of `ToolCallProgress.parsed` that are still open, and a text, for whoever
keeps the one before, as ``async for`` does.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import json
import statistics
import sys
import tracemalloc
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import pytest
import samples
from reactivex import Subject
from reactivex.scheduler import VirtualTimeScheduler
from subscribers import ASK

from rxcohere import ChatEvent, ChatStream, CohereClient, ContentDelta, parse_event
from rxcohere import operators as rxc
from rxcohere.bridges import Overflow, subscribe_async, to_async_iterator
from rxcohere.folds import CitedText, CitedTextFold, ToolCallProgress
from rxcohere.testing import ReplayServer, Transcript

CYCLE = 800
"""Whatever happens now and then in a stream does so with one of these numbers of events."""
FEW, MANY, MILLION = CYCLE, 3 * CYCLE, 1_250 * CYCLE
WINDOW = 200
"""Events whose costs are counted."""
SOAK = 600.0
"""Seconds after which a test that hangs fails; nothing is timed with it."""
MIB = 1 << 20


# Streams: the events by their number -------------------------------------------------------------

Stream = Callable[[int], ChatEvent]


def text(n: int) -> ChatEvent:
    return parse_event(samples.text_delta(f"{n:04x}"))


def thinking(n: int) -> ChatEvent:
    return parse_event(samples.thinking_delta(f"{n:04x}"))


def plan(n: int) -> ChatEvent:
    return parse_event(samples.tool_plan_delta(f"{n:04x}"))


def one_call(n: int) -> ChatEvent:
    return parse_event(samples.tool_call_delta(f"{n:04x}" if n else '{"text":"'))


def calls_in_turn(n: int) -> ChatEvent:
    """Calls of 48 fragments, all of one index: a start begins a call of its own."""
    match n % 50:
        case 0:
            return parse_event(samples.tool_call_start(arguments='{"text":"'))
        case 49:
            return parse_event(samples.tool_call_end())
        case at:
            return parse_event(samples.tool_call_delta(f"{at:3} "))


def interleaved_calls(n: int) -> ChatEvent:
    """A hundred calls, of 1 MiB each after a million events."""
    fragment = f"{n % 16:104} " if n >= 100 else '{"text":"'
    return parse_event(samples.tool_call_delta(fragment, n % 100))


def escaped(n: int) -> ChatEvent:
    """A call whose fragments take a step each, as an escape does not simply go with the rest."""
    return parse_event(samples.tool_call_delta(r"a\n" if n else '{"text":"'))


def cited(n: int) -> ChatEvent:
    """Text, and with each tenth event a citation that overlaps the one before."""
    return citation(n, 50) if n % 10 == 9 else text(n)


def citations_alone(n: int) -> ChatEvent:
    return citation(n, 2)


def citation(n: int, length: int) -> ChatEvent:
    source = samples.document(f"doc:{n % 20}", title="Birds")
    return parse_event(
        samples.citation_start(samples.citation(3 * n, 3 * n + length, "text", source))
    )


def logprobs(n: int) -> ChatEvent:
    item = {"text": "abc ", "token_ids": [n % 100], "logprobs": [-0.5]}
    return parse_event({**samples.text_delta("abc "), "logprobs": item})


@cache
def old_events(stream: Stream) -> tuple[list[ChatEvent], list[ChatEvent]]:
    """The first cycle of a stream, and one like all further ones."""
    return [stream(n) for n in range(CYCLE)], [stream(n) for n in range(CYCLE, 2 * CYCLE)]


def again(stream: Stream, start: int, count: int) -> Iterable[ChatEvent]:
    """Events of a stream, but not new ones."""
    first, further = old_events(stream)
    for n in range(start, start + count):
        yield first[n] if n < CYCLE else further[n % CYCLE]


# Cases -------------------------------------------------------------------------------------------


def nothing(_: object) -> None:
    pass


@dataclass(frozen=True)
class Case:
    """An operator and a stream.

    Attributes:
        operator: its name.
        stream: what goes in.
        make: makes the operator.
        room: how many bytes may be kept for each character of the stream: 4 while nobody reads the
            text, and what a writer keeps to spare; 0 where nothing may be kept.
        read: what the subscriber does with a value.
        subscribers: how many there are.
        late: next to nothing comes before completion.
    """

    operator: str
    stream: Stream
    make: Callable[[], rxc.Operator[ChatEvent, Any]]
    room: int = 6
    read: Callable[[Any], object] = nothing
    subscribers: int = 1
    late: bool = False

    def __str__(self) -> str:
        read = "" if self.read is nothing else f"-{self.read.__name__}"
        many = "" if self.subscribers == 1 else f"-{self.subscribers}"
        return f"{self.operator}-{self.stream.__name__}{read}{many}"


def parsed(progress: ToolCallProgress) -> object:
    return progress.parsed


def all_of_it(cited_text: CitedText) -> object:
    return cited_text.text, cited_text.delta, cited_text.citation


def coalesce(max_chars: int | None = None) -> rxc.Operator[ChatEvent, ChatEvent]:
    # Its clock stands still: the window never closes by itself.
    return rxc.coalesce_deltas(1.0, max_chars, scheduler=VirtualTimeScheduler())


CASES = [
    Case("events_of", text, lambda: rxc.events_of(ContentDelta), 0),
    Case("text_deltas", text, rxc.text_deltas, 0),
    Case("thinking_deltas", thinking, rxc.thinking_deltas, 0),
    Case("tool_plan_deltas", plan, rxc.tool_plan_deltas, 0),
    Case("citations", cited, rxc.citations, 0),
    Case("accumulate_text", text, rxc.accumulate_text),
    Case("collect_text", text, rxc.collect_text, late=True),
    Case("assemble_tool_calls", one_call, rxc.assemble_tool_calls, late=True),
    Case("assemble_tool_calls", calls_in_turn, rxc.assemble_tool_calls, 0),
    Case("assemble_tool_calls", interleaved_calls, rxc.assemble_tool_calls, late=True),
    Case("track_tool_calls", one_call, rxc.track_tool_calls),
    Case("track_tool_calls", one_call, rxc.track_tool_calls, read=parsed),
    Case("track_tool_calls", calls_in_turn, rxc.track_tool_calls, 0, parsed),
    Case("track_tool_calls", interleaved_calls, rxc.track_tool_calls, read=parsed),
    Case("attach_citations", text, rxc.attach_citations),
    Case("attach_citations", cited, rxc.attach_citations),
    Case("attach_citations", cited, rxc.attach_citations, read=all_of_it),
    Case("attach_citations", citations_alone, rxc.attach_citations),
    Case("collect_cited_text", cited, rxc.collect_cited_text, late=True),
    Case("accumulate_response", text, rxc.accumulate_response),
    Case("accumulate_response", thinking, rxc.accumulate_response),
    Case("accumulate_response", one_call, rxc.accumulate_response),
    Case("collect_response", text, rxc.collect_response, late=True),
    Case("collect_response", plan, rxc.collect_response, late=True),
    Case("collect_response", interleaved_calls, rxc.collect_response, late=True),
    Case("collect_response", cited, rxc.collect_response, late=True),
    Case("collect_response", logprobs, rxc.collect_response, late=True),
    Case("coalesce_deltas", text, coalesce, late=True),
    Case("coalesce_deltas", text, lambda: coalesce(400), 0),
    Case("share_response", text, rxc.share_response),
    Case("share_response", text, rxc.share_response, subscribers=10),
    Case("share_response", calls_in_turn, rxc.share_response, 40),  # some events for each call
    Case("share_response", cited, rxc.share_response),
    Case("share_response", logprobs, rxc.share_response),
]
cases = pytest.mark.parametrize("case", CASES, ids=str)


grows_in_place = sys.implementation.name == "cpython" and sys.gettrace() is None
"""Strings do on CPython only, and not while code is traced, as for its coverage."""


# What is counted ---------------------------------------------------------------------------------


@contextmanager
def counting_steps() -> Generator[list[int]]:
    """Counts the calls and lines of Python inside the ``with``, but for its own frame's."""
    steps = [0]

    def trace(*_: object) -> Any:
        steps[0] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield steps
    finally:
        sys.settrace(before)


@contextmanager
def counting_bytes() -> Generator[Callable[[], int]]:
    """Inside the ``with``, tells how many bytes are kept of what was taken there."""

    def kept() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    gc.disable()  # when it runs has nothing to do with the event at hand
    gc.freeze()  # what there is already need not be gone through
    tracemalloc.start()
    try:
        yield kept
    finally:
        tracemalloc.stop()
        gc.unfreeze()
        gc.enable()


class Run:
    """A stream that is brought by hand, to subscribers that keep nothing of it."""

    def __init__(self, case: Case) -> None:
        self.values = 0
        self.source = Subject[ChatEvent]()
        self.through = self.source.pipe(case.make())
        self._read = case.read
        for _ in range(case.subscribers):
            self.through.subscribe(self._take, self._fail)

    def _take(self, value: Any) -> None:
        self.values += 1
        self._read(value)

    def _fail(self, error: Exception) -> None:
        raise error

    def push(self, events: Iterable[ChatEvent]) -> None:
        on_next = self.source.on_next
        for event in events:
            on_next(event)

    def steps(self, events: Iterable[ChatEvent]) -> int:
        """What it takes to bring these."""
        events = list(events)
        with counting_steps() as steps:
            self.push(events)
        return steps[0]

    def bytes_taken(self, events: Iterable[ChatEvent]) -> float:
        """How much is taken at a time to bring one of these, in the median; while tracing."""
        on_next = self.source.on_next
        taken: list[int] = []
        for event in list(events):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            on_next(event)
            taken.append(tracemalloc.get_traced_memory()[1] - before)
        return statistics.median(taken)


@dataclass(frozen=True)
class Costs:
    """What a stream costs.

    Attributes:
        kept: bytes that are kept while it is open.
        completing: bytes beyond those, at most, while it completes.
        steps: that further events take.
        bytes_taken: to bring a further event.
    """

    kept: int
    completing: int
    steps: int
    bytes_taken: float


def costs(case: Case, count: int, new: bool = True) -> Costs:
    """The costs of so many events, each a new one or not."""
    stream = case.stream
    ahead = [list(again(stream, count + n * WINDOW, WINDOW)) for n in range(2)]
    with counting_bytes() as kept:
        run = Run(case)
        run.push(map(stream, range(count)) if new else again(stream, 0, count))
        early = run.values
        bytes_kept = kept()
        bytes_taken = run.bytes_taken(ahead[0])
        steps = run.steps(ahead[1])
        tracemalloc.reset_peak()
        before = kept()
        run.source.on_completed()
        completing = tracemalloc.get_traced_memory()[1] - before
    assert early <= 1 if case.late else early >= count // 100  # or what was counted is no use
    assert run.values >= 1
    return Costs(bytes_kept, completing, steps, bytes_taken)


@cache
def content(stream: Stream) -> tuple[int, int]:
    """What a cycle of events says, in characters, and in bytes what it has beside text.

    A response has citations and log probabilities one by one, and so may whoever keeps events that
    carry them.
    """
    chars = 0
    items: list[object] = []
    with counting_bytes() as kept:
        for event in map(stream, range(CYCLE, 2 * CYCLE)):
            chars += sum(
                len(getattr(event, name, "")) for name in ("text", "thinking", "arguments")
            )
            item = getattr(event, "citation", None) or getattr(event, "logprobs", None)
            if item is not None:
                items.append(item)
        del event
        return chars, kept() if items else 0


WHOLE_EVENT = 5
"""How many times what an event carries the event may take."""
SLACK = 10_000
"""Bytes by which any two runs may differ."""


def check(case: Case, count: int, new: bool = True) -> None:
    """Nothing grows with the number of events; memory may with what they say."""
    costs(case, WINDOW, new)  # the first time, more is kept, by the libraries too
    few, many = costs(case, FEW, new), costs(case, count, new)
    assert few.steps > WINDOW * case.subscribers
    assert many.steps <= few.steps * 1.01
    if grows_in_place:
        assert many.bytes_taken <= few.bytes_taken + 1_000
    cycles = count // CYCLE - 1
    chars, items = content(case.stream)
    room = case.room * chars + (WHOLE_EVENT * items if case.room else 0)
    assert many.kept - few.kept <= room * cycles + SLACK
    assert many.completing - few.completing <= 6 * chars * cycles + SLACK
    if case.room and chars:
        assert many.kept - few.kept >= chars * cycles / 2  # or the test is no use


# Operators ---------------------------------------------------------------------------------------


def test_every_operator_has_a_case() -> None:
    """An operator that is new, and has no case here, is noticed."""
    operators = {name for name in rxc.__all__ if inspect.isfunction(getattr(rxc, name))}
    assert {case.operator for case in CASES} == operators


@cases
def test_an_event_costs_the_same_after_many_others(case: Case) -> None:
    """Steps and bytes of an event stay as they are; what is kept grows with the text alone."""
    check(case, MANY)


@pytest.mark.soak
@cases
def test_an_event_costs_the_same_after_a_million_others(case: Case) -> None:
    """The same after a million, which are not all new, as making them would take most of it."""
    check(case, MILLION, new=False)


def test_a_late_subscriber_costs_the_text_alone() -> None:
    """Whoever comes to a share gets one delta, in as many steps however many events made it up."""
    steps: list[int] = []
    for count in (FEW, FEW, MANY):  # the first time, there is more to do
        run = Run(Case("share_response", text, rxc.share_response))
        run.push(again(text, 0, count))
        got: list[ChatEvent] = []
        with counting_steps() as counted:
            run.through.subscribe(got.append)
        steps.append(counted[0])
        assert [len(event.text) for event in got if type(event) is ContentDelta] == [4 * count]
    assert steps[1] == steps[2]


@pytest.mark.parametrize("stream", [cited, logprobs], ids=lambda stream: stream.__name__)
def test_an_accumulated_response_copies_the_lists_alone(stream: Stream) -> None:
    """With citations or log probabilities, the steps stay the same, and the bytes are a list's."""
    case = Case("accumulate_response", stream, rxc.accumulate_response)
    few, many = costs(case, FEW), costs(case, MANY)
    assert many.steps <= few.steps * 1.01
    assert few.bytes_taken < many.bytes_taken <= few.bytes_taken + 8 * (MANY - FEW) + 1_000


def test_a_finished_call_is_not_built_again() -> None:
    """A call that has ended costs each later response the steps of copying a list, at most."""
    steps: list[int] = []
    for calls in (2, 102):
        run = Run(Case("accumulate_response", text, rxc.accumulate_response))
        for index in range(calls):
            run.push(samples.parsed([samples.tool_call_start(index, arguments="{}")]))
            run.push(samples.parsed([samples.tool_call_end(index)]))
        run.push(again(text, 0, WINDOW))
        steps.append(run.steps(again(text, WINDOW, WINDOW)) // WINDOW)
    assert steps[1] - steps[0] <= 20 * 100


def test_progress_that_two_read_is_parsed_once_for_each() -> None:
    """Whoever reads the same progress later than another has each character parsed once, too."""
    steps: list[int] = []
    for count in (100, 400):
        behind: deque[ToolCallProgress] = deque()

        def read(progress: ToolCallProgress, behind: deque[ToolCallProgress] = behind) -> None:
            assert progress.parsed
            behind.append(progress)
            if len(behind) > 10:
                assert behind.popleft().parsed

        run = Run(Case("track_tool_calls", escaped, rxc.track_tool_calls, read=read))
        run.push(again(escaped, 0, count))
        steps.append(run.steps(again(escaped, count, 20)))
    assert steps[1] <= steps[0] * 1.01


# Sizes -------------------------------------------------------------------------------------------


def test_arguments_of_1_mib_are_parsed_as_they_come() -> None:
    """Each of 16,384 reads takes as many steps; the last one has all of it."""
    words = "".join(f"{n:7} " for n in range(MIB // 8))
    whole = json.dumps({"words": words})
    fragments = [whole[start : start + 64] for start in range(0, len(whole), 64)]
    events = samples.parsed(map(samples.tool_call_delta, fragments))
    last: list[ToolCallProgress] = []

    def read(progress: ToolCallProgress) -> None:
        last[:] = [progress]
        assert progress.parsed is not None

    run = Run(Case("track_tool_calls", one_call, rxc.track_tool_calls, read=read))
    run.push(events[:WINDOW])
    early = run.steps(events[WINDOW : 2 * WINDOW])
    run.push(events[2 * WINDOW : -WINDOW])
    assert run.steps(events[-WINDOW:]) <= early * 1.01
    assert last[0].arguments == whole
    assert last[0].parsed == {"words": words}


def places(count: int, arrangement: str) -> Iterable[tuple[int, int]]:
    """Where so many citations start and end, in a text of eight characters for each."""
    for n in range(count):
        match arrangement:
            case "side by side":
                yield 8 * n, 8 * n + 5
            case "overlapping":
                yield 8 * n, min(8 * n + 100, 8 * count)
            case _:
                yield 8 * (count - 1 - n), 8 * (count - n)


def cited_answer(count: int, arrangement: str, live: bool) -> list[ChatEvent]:
    """A text with so many citations, each after its eight characters or all after the text."""
    words = [samples.text_delta(f"{n:7} ") for n in range(count)]
    cites = [
        samples.citation_start(samples.citation(start, end, "x"), n)
        for n, (start, end) in enumerate(places(count, arrangement))
    ]
    pairs = zip(words, cites, strict=True)
    return samples.parsed(itertools.chain(*pairs) if live else words + cites)


arrangements = pytest.mark.parametrize(
    ("arrangement", "live"), [("side by side", True), ("overlapping", True), ("backwards", False)]
)


@arrangements
def test_10_000_citations_find_their_places(arrangement: str, live: bool) -> None:
    """Each costs the same when it comes, and the segments are the text with what covers it."""
    events = cited_answer(10_000, arrangement, live)
    last: list[CitedText] = []
    run = Run(Case("attach_citations", cited, rxc.attach_citations, read=last.append))
    run.push(events[:10_000])
    before = run.steps(events[10_000 : 10_000 + WINDOW])
    run.push(events[10_000 + WINDOW : -WINDOW])
    assert run.steps(events[-WINDOW:]) <= before * 1.01
    answer = last[-1]
    segments = answer.segments()
    assert "".join(segment.text for segment in segments) == answer.text
    assert len(answer.citations) == 10_000
    covered = sum(len(segment.citations) * len(segment.text) for segment in segments)
    assert covered == sum(end - start for start, end in places(10_000, arrangement))


@arrangements
def test_reading_segments_takes_the_same_steps_for_each_citation(
    arrangement: str, live: bool
) -> None:
    """Four times as many citations take four times the steps."""
    reading: list[int] = []
    for count in (500, 2_000):
        fold = CitedTextFold()
        [answer] = samples.run(fold, cited_answer(count, arrangement, live))
        with counting_steps() as steps:
            answer.segments()
        reading.append(steps[0])
    assert reading[1] <= reading[0] * 4.1


# Into asynchronous code --------------------------------------------------------------------------

OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)
HandOver = Callable[[Run, asyncio.Event, Overflow], Awaitable[int]]


async def iterate(run: Run, go_on: asyncio.Event, overflow: Overflow) -> int:
    """Takes the first value, and the others when it may; returns how many."""
    taken = 0
    async for _ in to_async_iterator(run.source, overflow=overflow):
        taken += 1
        await go_on.wait()
    return taken


async def subscribe(run: Run, go_on: asyncio.Event, overflow: Overflow) -> int:
    """The same with `subscribe_async`."""
    done = asyncio.get_running_loop().create_future()
    taken = 0

    async def on_next(_: ChatEvent) -> None:
        nonlocal taken
        taken += 1
        await go_on.wait()

    subscribe_async(
        run.source, on_next, done.set_exception, lambda: done.set_result(None), overflow=overflow
    )
    await done
    return taken


async def hand_over(
    way: HandOver, overflow: Overflow, keeps_pace: bool, count: int, new: bool
) -> tuple[Costs, int]:
    """The costs of so many values that are handed over, and how many were taken."""
    async with asyncio.timeout(SOAK):
        run, go_on = (
            Run(Case("events_of", text, lambda: rxc.events_of(ContentDelta))),
            asyncio.Event(),
        )
        if keeps_pace:
            go_on.set()
        consumer = asyncio.ensure_future(way(run, go_on, overflow))
        await asyncio.sleep(0)  # until it has subscribed
        further = list(again(text, count, WINDOW))

        async def bring(events: Iterable[ChatEvent]) -> None:
            for n, event in enumerate(events):
                run.source.on_next(event)
                if n % 16 == 15:
                    await asyncio.sleep(0)

        with counting_bytes() as kept:
            await bring(map(text, range(count)) if new else again(text, 0, count))
            bytes_kept = kept()
        with counting_steps() as steps:
            await bring(further)
        go_on.set()
        run.source.on_completed()
        return Costs(bytes_kept, 0, steps[0], 0), await consumer


def check_hand_over(
    way: HandOver, overflow: Overflow, keeps_pace: bool, last: int, new: bool
) -> None:
    few, _ = asyncio.run(hand_over(way, overflow, keeps_pace, FEW, new))
    many, taken = asyncio.run(hand_over(way, overflow, keeps_pace, last, new))
    assert few.steps > WINDOW
    assert many.steps <= few.steps * 1.01
    merges = overflow in ("pause", "merge") and not keeps_pace
    room = 6 * 4 * (last - FEW) if merges else 0
    assert many.kept - few.kept <= room + SLACK
    assert taken == last + WINDOW if keeps_pace else taken < 300


paces = pytest.mark.parametrize(
    ("overflow", "keeps_pace"),
    [
        *((each, True) for each in OVERFLOWS),
        *((each, False) for each in OVERFLOWS if each != "error"),
    ],
)
ways = pytest.mark.parametrize("way", [iterate, subscribe], ids=lambda way: way.__name__)


@ways
@paces
def test_handing_over_costs_the_same_after_many(
    way: HandOver, overflow: Overflow, keeps_pace: bool
) -> None:
    """Whether the reader keeps pace or takes nothing, and whatever happens then."""
    check_hand_over(way, overflow, keeps_pace, MANY, new=True)


@pytest.mark.soak
@ways
@paces
def test_handing_over_costs_the_same_after_a_million(
    way: HandOver, overflow: Overflow, keeps_pace: bool
) -> None:
    """The same with a million values."""
    check_hand_over(way, overflow, keeps_pace, MILLION, new=False)


# Over a socket -----------------------------------------------------------------------------------


async def iterate_over(stream: ChatStream) -> int:
    count = 0
    async for event in stream:
        count += type(event) is ContentDelta
    return count


async def subscribe_to_text(stream: ChatStream) -> int:
    done = asyncio.get_running_loop().create_future()
    lengths = itertools.count()
    stream.text().subscribe(
        lambda _: next(lengths), done.set_exception, lambda: done.set_result(None)
    )
    await done
    return next(lengths)


async def collect(stream: ChatStream) -> int:
    return len((await stream.pipe(rxc.collect_response())).text) // LENGTH


Consumer = Callable[[ChatStream], Awaitable[int]]
LENGTH = 32
"""Characters of a delta, so that what is kept of it for certain is far less than an event."""


def answer(count: int) -> Transcript:
    delta = samples.text_delta("penguin " * (LENGTH // 8))
    return Transcript.of(
        [
            samples.message_start(),
            samples.content_start(),
            *itertools.repeat(delta, count),
            samples.content_end(),
            samples.message_end(),
        ]
    )


def consume(consumer: Consumer, count: int) -> tuple[float, float]:
    """Steps and, in another stream, bytes at most, per event; the server is in another thread."""

    async def work() -> None:
        async with asyncio.timeout(SOAK), CohereClient("a-key", base_url=server.url) as co:
            assert await consumer(co.chat_stream(**ASK)) == count

    with ReplayServer(answer(count), chunking=16_384) as server:
        with counting_steps() as steps:
            asyncio.run(work())
        with counting_bytes():
            asyncio.run(work())
            _, peak = tracemalloc.get_traced_memory()
    return steps[0] / count, peak / count


def check_client(consumer: Consumer, few: int, many: int) -> None:
    steps_of_few, _ = consume(consumer, few)
    steps, peak = consume(consumer, many)
    assert 1 < steps <= steps_of_few * 1.1
    # The transport keeps the text, and so may the consumer; beside it, the server counts its
    # frames, and a few hundred events are on their way.
    assert peak <= 2 * 6 * LENGTH + 50 + 2_000_000 / many


consumers = pytest.mark.parametrize(
    "consumer", [iterate_over, subscribe_to_text, collect], ids=lambda each: each.__name__
)


@consumers
def test_a_long_answer_costs_the_client_its_text(consumer: Consumer) -> None:
    """An event of a long answer takes no more steps; memory is that of the text."""
    check_client(consumer, 1_000, 4_000)


@pytest.mark.soak
@consumers
def test_a_million_events_cost_the_client_their_text(consumer: Consumer) -> None:
    """The same with a million events."""
    check_client(consumer, 10_000, 1_000_000)
