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
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import product

from contestants import ASK, iterate, subscribe
from hand_over import Way, iterating, subscribing
from hot_source import BATCH, HotSource, ignore
from meters import Clock, tracing
from operator_cases import Case, cases, missing
from serving import path, serving
from streams import Stream, kib_of_text, make_once, new_events, text, timed_events

from rxcohere import ChatEvent, ChatStream, CohereClient
from rxcohere import operators as rxc
from rxcohere.bridges import Overflow

TIMES = ("µs at n/10", "µs at n", "ratio")
MEMORY = ("text of m", "kept, m/10", "kept, m", "peak, m")


# The lines that are printed ----------------------------------------------------------------------


def print_line(first: str, second: str, cells: Iterable[str], end: str = "") -> None:
    print(f"  {first:20}{second:36}" + "".join(f"{each:>11}" for each in cells) + end, flush=True)


def print_title(title: str, *cells: str) -> None:
    print(f"\n{title}")
    print_line("", "", ("events n", *cells))


def times(small: Sequence[float], large: float) -> list[str]:
    low = statistics.median(small)
    return [f"{low:.2f}", f"{large:.2f}", f"{large / low:.2f}"]


def sizes(*kibibytes: float) -> list[str]:
    return [f"{each:,.0f}" for each in kibibytes]


# 1. Operators ------------------------------------------------------------------------------------


def cost(one: Case, events: Sequence[ChatEvent]) -> float:
    """µs an event, completion included."""
    source = HotSource()
    subscriptions = one.apply(source.observable)
    with Clock() as clock:
        source.push(events)
        source.observer.on_completed()
    del subscriptions
    return clock.spent / len(events)


def memory(one: Case, count: int) -> tuple[float, float]:
    """KiB kept while the stream is open, and at most until after its completion."""
    source = HotSource()
    with tracing() as held:
        subscriptions = one.apply(source.observable)
        source.push(new_events(one.stream, count))
        kept, _ = held()
        source.observer.on_completed()
        _, peak = held()
    del subscriptions
    return kept, peak


def measure_operators(count: int) -> None:
    print_title("1. Operators; all but events, times and ratio in KiB", *TIMES, *MEMORY)
    stream: Stream | None = None
    events: list[ChatEvent] = []
    for one in cases():
        many = int(min(count, one.limit))
        if one.stream is not stream or len(events) < many:
            make_once.cache_clear()
            stream, events = one.stream, timed_events(one.stream, many)
        small = [cost(one, events[: many // 10]) for _ in range(3)]
        cells = times(small, cost(one, events[:many]))
        few = max(10, many // 40)
        kept, peak = memory(one, few)
        cells += sizes(kib_of_text(one.stream, few), memory(one, few // 10)[0], kept, peak)
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
        a_kib = f"{spent / kib_of_text(text, many):.3f}"
        print_line("share_response", "text", [f"{many:,}", str(len(got)), f"{spent:.0f}", a_kib])


# 3. Bridges --------------------------------------------------------------------------------------

OVERFLOWS: tuple[Overflow, ...] = ("pause", "merge", "error", "drop_oldest", "drop_newest")


async def hand_over(way: Way, keeps_pace: bool, events: Iterable[ChatEvent]) -> int:
    """How many are taken; who does not keep pace takes one, and the rest after the end."""
    source, may_go_on, taken = HotSource(), asyncio.Event(), 0
    if keeps_pace:
        may_go_on.set()

    def take() -> Awaitable[object]:
        nonlocal taken
        taken += 1
        return may_go_on.wait()

    consumer = asyncio.ensure_future(way(source, take))
    await asyncio.sleep(0)  # until it has subscribed
    await source.push_in_turns(events)
    may_go_on.set()
    await consumer
    return taken


def bridge_cost(way: Way, keeps_pace: bool, events: list[ChatEvent]) -> tuple[float, int]:
    """µs an event, and how many are taken."""
    with Clock() as clock:
        taken = asyncio.run(hand_over(way, keeps_pace, events))
    return clock.spent / len(events), taken


def bridge_memory(way: Way, keeps_pace: bool, count: int) -> tuple[float, float]:
    """KiB kept when all have come, before the last is taken, and at most until the end."""
    kept: list[float] = []
    with tracing() as held:

        def events() -> Iterator[ChatEvent]:
            yield from new_events(text, count)
            kept.append(held()[0])

        asyncio.run(hand_over(way, keeps_pace, events()))
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
            cells += sizes(kib_of_text(text, few), less, kept, peak)
            print_line(name, what, [f"{count:,}", *cells])


# 4. The client -----------------------------------------------------------------------------------


async def collect_response(stream: ChatStream) -> None:
    await stream.pipe(rxc.collect_response())


async def share_response(stream: ChatStream) -> None:
    await stream.share_response()


CONSUMERS: dict[str, Callable[[ChatStream], Awaitable[None]]] = {
    "async for": iterate,
    "text()": lambda stream: subscribe(stream.text()),
    "collect_response()": collect_response,
    "share_response()": share_response,
}


async def consume(url: str, count: int, way: Callable[[ChatStream], Awaitable[None]]) -> float:
    """µs an event of one stream."""
    async with CohereClient("key", base_url=f"{url}{path(tokens=count)}") as co:
        started = time.process_time()
        await way(co.chat_stream(**ASK))
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
                "CohereClient", name, [f"{count:,}", *cells, *sizes(kib_of_text(text, few), *peaks)]
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    options = parser.parse_args()
    if forgotten := missing():
        parser.error(f"these operators have no case here: {', '.join(forgotten)}")
    if options.events < 1_000:
        parser.error("fewer than 1,000 events tell nothing")
    print(__doc__)
    started = time.monotonic()
    measure_operators(options.events)
    measure_late_subscribers(options.events)
    measure_bridges(options.events)
    measure_client(options.events)
    print(f"\nTook {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
