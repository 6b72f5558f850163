"""Whether long streams stay cheap: operators, sharing, bridges and client over a million events.

Run it with ``python benchmarks/long_streams.py``; it needs no network and no extra packages, some
800 MB of memory, and four or five minutes. For each it prints the CPU time of an event in a stream
of n/10 events (the median of three), in one of n, and the ratio of the two, which is 1 where time
is linear. A line that ends in "copies" is of an operator that by contract gives out, with each
event, all there is so far: whoever reads pays for the copies. Those streams are shorter.

Memory is measured in runs of their own, because tracemalloc makes them slow, each event being a new
one there: m events are a fortieth of n, and a tenth for the client. Printed, in KiB, are the
characters of m events, what is kept when m/10 and when m have come, and the peak of the latter run
up to and with its completion. Flat memory stays the same from m/10 to m; memory that grows with the
text grows with its column.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import inspect
import math
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any, TypeAlias

from reactivex import Observable, abc
from reactivex.disposable import Disposable
from reactivex.observer import Observer
from reactivex.scheduler import VirtualTimeScheduler
from serving import path, serving

from rxcohere import ChatEvent, ChatStream, CohereClient, ContentDelta, parse_event
from rxcohere import operators as rxc
from rxcohere.bridges import Overflow, subscribe_async, to_async_iterator

Part: TypeAlias = tuple[str, str, int]
"""What an event is made of: kind, fragment and index."""
Shape: TypeAlias = Callable[[int], Part]
"""The events of a stream by their number."""
Read: TypeAlias = Callable[[Any], object]
"""What a subscriber does with a value."""

MIB = 1 << 20
FRAGMENTS = 8_192  # in a call of 1 MiB, of 128 characters each
BATCH = 16  # events that one turn of the loop brings


# The streams -------------------------------------------------------------------------------------


def text(n: int) -> Part:
    return "text", f" {n % 997}", 0


def thinking(n: int) -> Part:
    return "thinking", f" {n % 997}", 0


def plan(n: int) -> Part:
    return "plan", f" {n % 997}", 0


def one_string(n: int) -> Part:
    return "arguments", f"a{n % 900 + 100}" if n else '{"text":"', 0


def numbers(n: int) -> Part:
    return "arguments", f"{n % 900 + 100}," if n else '{"numbers":[', 0


def in_turn(n: int) -> Part:
    call, at = divmod(n, FRAGMENTS + 2)
    if at == 0:
        return "call", '{"text":"', call
    return ("arguments", "ab" * 64, call) if at <= FRAGMENTS else ("end of call", "", call)


def interleaved(n: int) -> Part:
    return "arguments", f"a{n // 100 % 10:0104d}" if n >= 100 else '{"text":"', n % 100


def cited(n: int) -> Part:
    """Each hundredth event cites the last fifty or so characters."""
    return ("citation", f"{max(0, n * 4 - 50)} {n * 4}", n) if n % 100 == 99 else text(n)


def overlapping(n: int) -> Part:
    """Each hundredth event cites the last ten thousand characters, as 25 others do."""
    return ("citation", f"{max(0, n * 4 - 10_000)} {n * 4}", n) if n % 100 == 99 else text(n)


def cited_at_once(n: int) -> Part:
    """Nothing but citations, as if all came after the text."""
    return ("citation", f"{n * 4} {n * 4 + 3}", n) if n else text(n)


def short_calls(n: int) -> Part:
    """A call of fifty fragments after the other."""
    call, at = divmod(n, 52)
    if at in (0, 51):
        return ("end of call" if at else "call"), "", call
    return "arguments", "abcd", call


def logprobs(n: int) -> Part:
    return "logprobs", f" {n % 997}", 0


def make(kind: str, fragment: str, index: int) -> ChatEvent:
    """The event of one part."""
    event: dict[str, Any] = {"type": "content-delta", "index": index}
    message: dict[str, Any] = {}
    function = {"arguments": fragment}
    match kind:
        case "text" | "thinking":
            message["content"] = {kind: fragment}
        case "logprobs":
            message["content"] = {"text": fragment}
            event["logprobs"] = {"text": fragment, "token_ids": [index], "logprobs": [-0.5]}
        case "plan":
            event["type"] = "tool-plan-delta"
            message["tool_plan"] = fragment
        case "call":
            event["type"] = "tool-call-start"
            message["tool_calls"] = {"id": f"call_{index}", "type": "function"}
            message["tool_calls"]["function"] = {"name": "look_up", **function}
        case "arguments":
            event["type"] = "tool-call-delta"
            message["tool_calls"] = {"function": function}
        case "citation":
            event["type"] = "citation-start"
            start, end = map(int, fragment.split())
            source = {"type": "document", "id": f"doc:{index % 50}", "document": {"title": "Birds"}}
            message["citations"] = {"start": start, "end": end, "text": "x", "sources": [source]}
        case _:
            return parse_event({"type": "tool-call-end", "index": index})
    return parse_event({**event, "delta": {"message": message}})


make_once = cache(make)


def timed_events(shape: Shape, count: int) -> list[ChatEvent]:
    """The same ones over and over: a list of new ones would measure the garbage collector."""
    return [make_once(*shape(n)) for n in range(count)]


class HotSource:
    """Brings what it is told to, when it is told to, to its one subscriber."""

    def __init__(self) -> None:
        self.observable: Observable[ChatEvent] = Observable(self._subscribe)
        self.observer: abc.ObserverBase[ChatEvent] = Observer()

    def _subscribe(
        self, observer: abc.ObserverBase[ChatEvent], _: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        self.observer = observer
        return Disposable()

    def push(self, events: Iterable[ChatEvent]) -> None:
        """Brings these, here and now."""
        on_next = self.observer.on_next
        for event in events:
            on_next(event)


# The contestants ---------------------------------------------------------------------------------


def ignore(_: object) -> None:
    pass


def fail(error: Exception) -> None:
    raise error


def keeping_last() -> Read:
    last: list[object] = []

    def read(value: object) -> None:
        last[:] = [value]

    return read


def parsing() -> Read:
    return lambda progress: progress.parsed


def reading_text() -> Read:
    return lambda cited_text: cited_text.text


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        operator: the operator's name, in `rxcohere.operators`.
        what: what comes, and what is done with the values.
        shape: the stream.
        apply: subscribes to the source through the operator.
        limit: the most events.
        copies: the reader pays for copies, by contract.
    """

    operator: str
    what: str
    shape: Shape
    apply: Callable[[Observable[ChatEvent]], object]
    limit: float = math.inf
    copies: bool = False


def case(
    operator: Callable[..., Any],
    what: str,
    shape: Shape,
    read: Callable[[], Read] = lambda: ignore,
    *,
    limit: float = math.inf,
    copies: bool = False,
    subscribers: int = 1,
    **options: Any,
) -> Case:
    """The case of an operator of `rxcohere.operators`."""
    arguments = (ContentDelta,) if operator is rxc.events_of else ()

    def apply(source: Observable[ChatEvent]) -> object:
        applied = source.pipe(operator(*arguments, **options))
        return [applied.subscribe(read(), fail) for _ in range(subscribers)]

    return Case(operator.__name__, what, shape, apply, limit, copies)


def cases() -> Iterator[Case]:
    """Those of one shape stand together: the events of one are made for all of them."""
    # A clock that stands still: one window, which only max_chars empties.
    window: dict[str, Any] = {"seconds": 1.0, "scheduler": VirtualTimeScheduler()}
    yield case(rxc.events_of, "text", text)
    yield case(rxc.text_deltas, "text", text)
    yield case(rxc.accumulate_text, "text", text)
    yield case(rxc.collect_text, "text", text)
    yield case(rxc.attach_citations, "text", text)
    yield case(rxc.collect_cited_text, "text", text)
    yield case(rxc.accumulate_response, "text", text)
    yield case(rxc.collect_response, "text", text)
    yield case(rxc.coalesce_deltas, "text, 256 characters a window", text, max_chars=256, **window)
    yield case(rxc.coalesce_deltas, "text, all in one window", text, **window)
    yield case(rxc.share_response, "text, 1 subscriber", text)
    yield case(rxc.share_response, "text, 10 subscribers", text, subscribers=10)
    yield case(rxc.thinking_deltas, "thinking", thinking)
    yield case(rxc.collect_response, "thinking", thinking)
    yield case(rxc.share_response, "thinking", thinking)
    yield case(rxc.tool_plan_deltas, "tool plan", plan)
    yield case(rxc.collect_response, "tool plan", plan)
    yield from tool_call_cases()
    yield from citation_cases()
    yield case(rxc.collect_response, "text with logprobs", logprobs)
    yield case(rxc.share_response, "text with logprobs", logprobs)
    yield from copying_cases()


def tool_call_cases() -> Iterator[Case]:
    small = MIB // 4  # fragments of 4 characters
    yield case(rxc.assemble_tool_calls, "a call of 1 MiB", one_string, limit=small)
    yield case(rxc.track_tool_calls, "a call of 1 MiB", one_string, limit=small)
    yield case(rxc.track_tool_calls, "a call of 1 MiB, parsed", one_string, parsing, limit=small)
    yield case(rxc.collect_response, "a call of 1 MiB", one_string, limit=small)
    yield case(rxc.accumulate_response, "a call of 1 MiB", one_string, limit=small)
    yield case(rxc.assemble_tool_calls, "calls of 1 MiB in turn", in_turn)
    yield case(rxc.track_tool_calls, "calls of 1 MiB in turn", in_turn)
    yield case(rxc.track_tool_calls, "calls of 1 MiB in turn, parsed", in_turn, parsing)
    yield case(rxc.collect_response, "calls of 1 MiB in turn", in_turn)
    yield case(rxc.share_response, "calls of 1 MiB in turn", in_turn)
    yield case(rxc.assemble_tool_calls, "100 calls, interleaved", interleaved)
    yield case(rxc.track_tool_calls, "100 calls, interleaved", interleaved)
    yield case(rxc.track_tool_calls, "100 calls, interleaved, parsed", interleaved, parsing)
    yield case(rxc.collect_response, "100 calls, interleaved", interleaved)
    yield case(rxc.share_response, "100 calls, interleaved", interleaved)


def citation_cases() -> Iterator[Case]:
    few = 10_000
    yield case(rxc.citations, "a citation in 100 events", cited)
    yield case(rxc.attach_citations, "a citation in 100 events", cited)
    yield case(rxc.attach_citations, "a citation in 100, text read", cited, reading_text)
    yield case(rxc.collect_cited_text, "a citation in 100 events", cited)
    yield case(rxc.collect_response, "a citation in 100 events", cited)
    yield case(rxc.share_response, "a citation in 100 events", cited)
    yield case(rxc.attach_citations, "the same, 25 overlapping", overlapping)
    yield case(rxc.attach_citations, "citations after the text", cited_at_once, limit=few)
    yield case(rxc.collect_cited_text, "citations after the text", cited_at_once, limit=few)


def copying_cases() -> Iterator[Case]:
    copying = partial(case, copies=True)
    respond = rxc.accumulate_response
    yield copying(rxc.accumulate_text, "text, the last kept", text, keeping_last, limit=300_000)
    yield copying(respond, "text, the last kept", text, keeping_last, limit=100_000)
    yield copying(respond, "a citation in 100 events", cited, limit=100_000)
    yield copying(respond, "text with logprobs", logprobs, limit=20_000)
    yield copying(respond, "calls of 50 fragments", short_calls, limit=5_000)
    yield copying(rxc.track_tool_calls, "one array, parsed", numbers, parsing, limit=30_000)


def missing() -> list[str]:
    """The operators that have no case."""
    operators = [name for name in rxc.__all__ if inspect.isfunction(getattr(rxc, name))]
    return sorted(set(operators) - {each.operator for each in cases()})


# How it is measured and printed ------------------------------------------------------------------


@contextmanager
def tracing() -> Iterator[Callable[[], tuple[float, float]]]:
    """Inside the ``with``, tells how many KiB are held, and were at most."""

    def held() -> tuple[float, float]:
        gc.collect()
        now, peak = tracemalloc.get_traced_memory()
        return now / 1024, peak / 1024

    gc.collect()
    tracemalloc.start()
    try:
        yield held
    finally:
        tracemalloc.stop()


def print_line(first: str, second: str, cells: Iterable[str], end: str = "") -> None:
    print(f"  {first:20}{second:36}" + "".join(f"{each:>11}" for each in cells) + end, flush=True)


def print_title(title: str, *cells: str) -> None:
    print(f"\n{title}")
    print_line("", "", ("events n", *cells))


TIMES = ("µs at n/10", "µs at n", "ratio")
MEMORY = ("text of m", "kept, m/10", "kept, m", "peak, m")


def times(small: Sequence[float], large: float) -> list[str]:
    low = statistics.median(small)
    return [f"{low:.2f}", f"{large:.2f}", f"{large / low:.2f}"]


def sizes(*kibibytes: float) -> list[str]:
    return [f"{each:,.0f}" for each in kibibytes]


def length(shape: Shape, count: int) -> float:
    """How many KiB of characters so many events bring."""
    parts = (shape(n) for n in range(count))
    return sum(len(fragment) for kind, fragment, _ in parts if kind != "citation") / 1024


# 1. Operators ------------------------------------------------------------------------------------


def cost(one: Case, events: Sequence[ChatEvent]) -> float:
    """µs an event, completion included."""
    source = HotSource()
    subscriptions = one.apply(source.observable)
    gc.collect()
    started = time.process_time()
    source.push(events)
    source.observer.on_completed()
    spent = time.process_time() - started
    del subscriptions
    return spent / len(events) * 1e6


def memory(one: Case, count: int) -> tuple[float, float]:
    """KiB kept while the stream is open, and at most until after its completion."""
    source = HotSource()
    with tracing() as held:
        subscriptions = one.apply(source.observable)
        source.push(make(*one.shape(n)) for n in range(count))
        kept, _ = held()
        source.observer.on_completed()
        _, peak = held()
    del subscriptions
    return kept, peak


def measure_operators(count: int) -> None:
    print_title("1. Operators; all but events, times and ratio in KiB", *TIMES, *MEMORY)
    shape: Shape | None = None
    events: list[ChatEvent] = []
    for one in cases():
        many = int(min(count, one.limit))
        if one.shape is not shape or len(events) < many:
            make_once.cache_clear()
            shape, events = one.shape, timed_events(one.shape, many)
        small = [cost(one, events[: many // 10]) for _ in range(3)]
        cells = times(small, cost(one, events[:many]))
        few = max(10, many // 40)
        kept, peak = memory(one, few)
        cells += sizes(length(one.shape, few), memory(one, few // 10)[0], kept, peak)
        print_line(one.operator, one.what, [f"{many:,}", *cells], "  copies" * one.copies)


# 2. Late subscribers -----------------------------------------------------------------------------


def measure_late_subscribers(count: int) -> None:
    print_title(
        "2. Who comes to share_response after so many events of one block",
        *("it gets", "µs", "µs a KiB"),
    )
    for many in (count // 10, count):
        source = HotSource()
        shared = source.observable.pipe(rxc.share_response())
        shared.subscribe(ignore)
        source.push(timed_events(text, many))
        costs: list[float] = []
        got: list[ChatEvent] = []
        for _ in range(9):
            source.push([make_once(*text(0))])  # so that the history is not the last comer's
            got = []
            started = time.process_time()
            shared.subscribe(got.append)
            costs.append((time.process_time() - started) * 1e6)
        spent = statistics.median(costs)
        a_kib = f"{spent / length(text, many):.3f}"
        print_line("share_response", "text", [f"{many:,}", str(len(got)), f"{spent:.0f}", a_kib])


# 3. Bridges --------------------------------------------------------------------------------------

HandOver: TypeAlias = Callable[[HotSource, asyncio.Event], Awaitable[int]]
"""Takes the first value, and the others once it may go on; returns how many."""

OVERFLOWS: tuple[Overflow, ...] = ("pause", "merge", "error", "drop_oldest", "drop_newest")


def iterating(overflow: Overflow) -> HandOver:
    async def iterate(source: HotSource, may_go_on: asyncio.Event) -> int:
        taken = 0
        async for _ in to_async_iterator(source.observable, overflow=overflow):
            taken += 1
            await may_go_on.wait()
        return taken

    return iterate


def subscribing(overflow: Overflow) -> HandOver:
    async def subscribe(source: HotSource, may_go_on: asyncio.Event) -> int:
        done = asyncio.get_running_loop().create_future()
        taken = 0

        async def on_next(_: ChatEvent) -> None:
            nonlocal taken
            taken += 1
            await may_go_on.wait()

        subscribe_async(
            source.observable,
            on_next,
            done.set_exception,
            lambda: done.set_result(None),
            overflow=overflow,
        )
        await done
        return taken

    return subscribe


async def hand_over(
    way: HandOver, keeps_pace: bool, events: Iterable[ChatEvent], look: Callable[[], object]
) -> int:
    """Has the events handed over; looks when all have come, and the last may not be taken yet."""
    source, may_go_on = HotSource(), asyncio.Event()
    if keeps_pace:
        may_go_on.set()
    consumer = asyncio.ensure_future(way(source, may_go_on))
    await asyncio.sleep(0)  # until it has subscribed
    for number, event in enumerate(events):
        source.observer.on_next(event)
        if number % BATCH == BATCH - 1:
            await asyncio.sleep(0)
    look()
    source.observer.on_completed()
    may_go_on.set()
    return await consumer


def bridge_cost(way: HandOver, keeps_pace: bool, events: list[ChatEvent]) -> tuple[float, int]:
    gc.collect()
    started = time.process_time()
    taken = asyncio.run(hand_over(way, keeps_pace, events, lambda: None))
    return (time.process_time() - started) / len(events) * 1e6, taken


def bridge_memory(way: HandOver, keeps_pace: bool, count: int) -> tuple[float, float]:
    kept: list[float] = []
    with tracing() as held:
        events = (make(*text(n)) for n in range(count))
        asyncio.run(hand_over(way, keeps_pace, events, lambda: kept.append(held()[0])))
        return kept[0], held()[1]


def measure_bridges(count: int) -> None:
    print_title(
        f"3. Bridges, from a source that cannot wait, {BATCH} events in a turn of the loop",
        *(*TIMES, "taken", *MEMORY),
    )
    events = timed_events(text, count)
    few = count // 40
    for keeps_pace, overflow in product((True, False), OVERFLOWS):
        if overflow == "error" and not keeps_pace:
            continue  # fails, as it should
        what = f"{overflow}, {'keeps pace' if keeps_pace else 'takes all at the end'}"
        for name, hands in (("to_async_iterator", iterating), ("subscribe_async", subscribing)):
            way = hands(overflow)
            small = [bridge_cost(way, keeps_pace, events[: count // 10])[0] for _ in range(3)]
            large, taken = bridge_cost(way, keeps_pace, events)
            kept, peak = bridge_memory(way, keeps_pace, few)
            less, _ = bridge_memory(way, keeps_pace, few // 10)
            cells = [*times(small, large), f"{taken:,}"]
            cells += sizes(length(text, few), less, kept, peak)
            print_line(name, what, [f"{count:,}", *cells])


# 4. The client -----------------------------------------------------------------------------------


async def iterate(stream: ChatStream) -> None:
    async for _ in stream:
        pass


async def subscribe_to_text(stream: ChatStream) -> None:
    done = asyncio.get_running_loop().create_future()
    stream.text().subscribe(ignore, done.set_exception, lambda: done.set_result(None))
    await done


async def collect_response(stream: ChatStream) -> None:
    await stream.pipe(rxc.collect_response())


async def share_response(stream: ChatStream) -> None:
    await stream.share_response()


CONSUMERS: dict[str, Callable[[ChatStream], Awaitable[None]]] = {
    "async for": iterate,
    "text()": subscribe_to_text,
    "collect_response()": collect_response,
    "share_response()": share_response,
}


async def consume(url: str, count: int, way: Callable[[ChatStream], Awaitable[None]]) -> float:
    """µs an event of one stream."""
    async with CohereClient("key", base_url=f"{url}{path(tokens=count)}") as co:
        started = time.process_time()
        await way(co.chat_stream(model="m", messages=[{"role": "user", "content": "Count."}]))
        return (time.process_time() - started) / count * 1e6


def measure_client(count: int) -> None:
    print_title("4. The client, over a socket", *TIMES, "text of m", "peak, m/10", "peak, m")
    few = count // 10  # more than elsewhere, as there is a constant to see past
    with serving() as url:
        for name, way in CONSUMERS.items():

            def run(many: int, way: Callable[[ChatStream], Awaitable[None]] = way) -> float:
                gc.collect()
                return asyncio.run(consume(url, many, way))

            cells = times([run(count // 10) for _ in range(3)], run(count))
            peaks: list[float] = []
            for many in (few // 10, few):
                with tracing() as held:
                    run(many)
                    peaks.append(held()[1])
            print_line(
                "CohereClient", name, [f"{count:,}", *cells, *sizes(length(text, few), *peaks)]
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    options = parser.parse_args()
    if forgotten := missing():
        parser.error(f"these operators have no case here: {', '.join(forgotten)}")
    if options.events < 1_000:
        parser.error("fewer than 1,000 events tell nothing")
    started = time.monotonic()
    measure_operators(options.events)
    measure_late_subscribers(options.events)
    measure_bridges(options.events)
    measure_client(options.events)
    print(f"\nTook {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
