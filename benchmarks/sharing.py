"""What many subscribers cost: `share_response` beside stock share and replay.

Run it with ``python benchmarks/sharing.py``; it needs no network and no extra packages. The events
are made beforehand and pushed by hand, so that only handing them on is measured. The contestants
take turns, for several rounds; what is printed is the median CPU time of this process, and in
brackets the median over the rounds of its ratio to what it is compared with in the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import statistics
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.disposable import Disposable
from reactivex.observer import Observer

from rxcohere import ChatEvent, parse_event
from rxcohere import operators as rxc
from rxcohere.bridges import Overflow, subscribe_async, to_async_iterator

Operator: TypeAlias = Callable[[Observable[ChatEvent]], Observable[ChatEvent]]
Values: TypeAlias = dict[str, float]
"""What one run measured, by name."""
Runs: TypeAlias = dict[tuple[str, int], Callable[[], Values]]
"""By contestant and column: what measures it."""
Costs: TypeAlias = dict[tuple[str, str, int], list[float]]
"""By what was measured, contestant and column: one value a round."""

OTHERS = (0, 1_000, 10_000)
MOVES = 200  # subscribers who come, and then leave
BATCH = 16  # events that one turn of the loop brings, about as many as one read of the socket does

PLAIN, SHARE_RESPONSE = "one plain subscriber", "share_response()"
SHARE, REPLAY = "stock share()", "stock replay() + ref_count()"


# What is measured with ---------------------------------------------------------------------------


def fragment(n: int) -> str:
    return f" {n % 997}"


def delta(n: int) -> ChatEvent:
    content = {"message": {"content": {"text": fragment(n)}}}
    return parse_event({"type": "content-delta", "index": 0, "delta": content})


def beginning() -> list[ChatEvent]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": [],
        "tool_plan": "",
        "tool_calls": [],
    }
    content = {"message": {"content": {"type": "text", "text": ""}}}
    return [
        parse_event({"id": "benchmark", "type": "message-start", "delta": {"message": message}}),
        parse_event({"type": "content-start", "index": 0, "delta": content}),
    ]


DELTAS = [delta(n) for n in range(997)]


def deltas(count: int) -> list[ChatEvent]:
    """The same ones over and over: a list of new ones would measure the garbage collector."""
    return (DELTAS * (count // len(DELTAS) + 1))[:count]


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

    async def push_in_turns(self, events: Sequence[ChatEvent]) -> None:
        """Brings so many in each turn of the loop, and then the end."""
        for start in range(0, len(events), BATCH):
            self.push(events[start : start + BATCH])
            await asyncio.sleep(0)
        self.observer.on_completed()


class Clock:
    """The CPU time, in µs, that this process spends inside the ``with``."""

    spent = 0.0

    def __enter__(self) -> Clock:
        gc.collect()
        self._started = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.spent = (time.process_time() - self._started) * 1e6


def ignore(_: object) -> None:
    pass


def plain(source: Observable[ChatEvent]) -> Observable[ChatEvent]:
    return source


def replay(source: Observable[ChatEvent]) -> Observable[ChatEvent]:
    # Made anew for each source: the operator holds the subject, and so does what it makes.
    count = ops.ref_count()
    return count(source.pipe(ops.replay()))


CONTESTANTS: dict[str, Operator] = {
    SHARE_RESPONSE: rxc.share_response(),
    SHARE: ops.share(),
    REPLAY: replay,
}


# How it is measured and printed ------------------------------------------------------------------


def in_turns(rounds: int, runs: Runs) -> Costs:
    costs: Costs = defaultdict(list)
    for _ in range(rounds):
        for (who, column), run in runs.items():
            for what, value in run().items():
                costs[what, who, column].append(value)
    return costs


def cell(values: list[float], compared_with: list[float] | None) -> str:
    median = float(statistics.median(values))
    text = f"{median:,.0f}" if median >= 100 or median.is_integer() else f"{median:.2f}"
    if compared_with is None:
        return text
    ratio = statistics.median(a / b for a, b in zip(values, compared_with, strict=True))
    return f"{text} (x{ratio:,.0f})" if ratio >= 100 else f"{text} (x{ratio:.2g})"


def print_line(first: str, others: Iterable[str]) -> None:
    print(f"  {first:34}" + "".join(f"{other:>21}" for other in others))


def print_costs(costs: Costs, compared_with: str, column: int | None = None) -> None:
    """Prints a block for each thing that was measured.

    Args:
        costs: what was measured.
        compared_with: the contestant that all are compared with.
        column: the column of it that they are compared with; by default each with its own.
    """
    columns = sorted({key[2] for key in costs})
    for measured in dict.fromkeys(key[0] for key in costs):
        print_line(measured, (f"{each:,}" for each in columns))
        for contestant in dict.fromkeys(key[1] for key in costs):
            cells: list[str] = []
            for each in columns:
                values = costs.get((measured, contestant, each))
                reference = costs.get((measured, compared_with, each if column is None else column))
                cells.append("" if values is None else cell(values, reference))
            print_line(f"  {contestant}", cells)


def print_title(title: str, asked: str) -> None:
    print(f"\n{title}\n  Asked: {asked}", flush=True)


# 1. An event for many ----------------------------------------------------------------------------


def fan_out(operator: Operator, subscribers: int, events: list[ChatEvent]) -> Values:
    source = HotSource()
    shared = operator(source.observable)
    for _ in range(subscribers):
        shared.subscribe(ignore)
    source.push(events[:1])  # the first one finds out who is listening, and how
    with Clock() as clock:
        source.push(events)
    cost = clock.spent / len(events)
    return {"µs an event": cost, "µs an event and subscriber": cost / subscribers}


def measure_fan_out(rounds: int, count: int, subscribers: Sequence[int]) -> None:
    print_title(
        "1. One event for many subscribers",
        "share_response at most 2 µs an event with one, 0.5 µs an event and subscriber with 1,000",
    )

    runs: Runs = {(PLAIN, 1): partial(fan_out, plain, 1, deltas(count))}
    for many in sorted({1, *subscribers}):
        for name, operator in CONTESTANTS.items():
            deliveries = count // 10 if name == REPLAY else count  # it is slow
            events = deltas(max(16, deliveries // many))
            runs[name, many] = partial(fan_out, operator, many, events)
    print_costs(in_turns(rounds, runs), PLAIN, 1)


# 2. Coming and leaving ---------------------------------------------------------------------------

Order: TypeAlias = Callable[[list[abc.DisposableBase]], list[abc.DisposableBase]]

ORDERS: dict[str, Order] = {
    "first in": lambda there: there[:MOVES],
    "last in": lambda there: there[: -MOVES - 1 : -1],
    "at random": lambda there: random.Random(0).sample(there, MOVES),
}


def come_and_leave(operator: Operator, others: int) -> Values:
    values: Values = {"µs to subscribe": 0.0}
    doors = [operator(HotSource().observable)] * MOVES
    there = [doors[0].subscribe(ignore) for _ in range(others)]
    gc.freeze()  # or the collector would go through them all, again and again
    for name, order in ORDERS.items():
        if not others:  # each comes alone, to a response of its own, and is the last to leave
            doors = [operator(HotSource().observable) for _ in range(MOVES)]
        with Clock() as coming:
            there += [door.subscribe(ignore) for door in doors]
        leaving = order(there)
        with Clock() as going:
            for subscription in leaving:
                subscription.dispose()
        gone = set(leaving)
        there = [subscription for subscription in there if subscription not in gone]
        values["µs to subscribe"] += coming.spent / MOVES / len(ORDERS)
        values[f"µs to leave, {name}"] = going.spent / MOVES
    gc.unfreeze()
    return values


def measure_coming(rounds: int) -> None:
    print_title(
        "2. To come and to leave, with so many others there",
        "the same however many are there; with none, that connects, and gives the response up",
    )

    runs: Runs = {
        (name, others): partial(come_and_leave, CONTESTANTS[name], others)
        for others in OTHERS
        for name in (SHARE_RESPONSE, SHARE)
    }
    print_costs(in_turns(rounds, runs), SHARE_RESPONSE)


# 3. Memory ---------------------------------------------------------------------------------------


def kept_by(operator: Operator, count: int) -> Values:
    source = HotSource()
    shared = operator(source.observable)
    gc.collect()
    gc.disable()  # it would go through all that replay keeps, again and again
    tracemalloc.start()
    subscription = shared.subscribe(ignore)
    source.push(beginning())
    source.push(delta(n) for n in range(count))
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    gc.enable()
    subscription.dispose()
    return {"bytes": kept}


def size_of_text(count: int) -> Values:
    return {"bytes": sum(len(fragment(n).encode()) for n in range(count))}


def measure_memory(count: int) -> None:
    print_title(
        "3. Memory kept after so many deltas",
        "that it grows with the text, not with the number of events",
    )
    text = "the text alone"
    runs: Runs = {}
    for many in (max(1, count // 10), count):
        runs[text, many] = partial(size_of_text, many)
        runs[SHARE_RESPONSE, many] = partial(kept_by, CONTESTANTS[SHARE_RESPONSE], many)
    runs[REPLAY, count] = partial(kept_by, replay, count)  # only once: it takes seconds
    print_costs(in_turns(1, runs), text)


# 4. Coming late ----------------------------------------------------------------------------------


def come_late(operator: Operator, history: list[ChatEvent], comers: int) -> Values:
    source = HotSource()
    shared = operator(source.observable)
    shared.subscribe(ignore)
    source.push(history)
    heard: list[list[ChatEvent]] = [[] for _ in range(comers)]
    with Clock() as clock:
        for each in heard:
            source.push(DELTAS[:1])  # so that the history is another one than the last comer's
            shared.subscribe(each.append)
    return {"events it gets": len(heard[-1]), "µs to subscribe": clock.spent / comers}


def measure_coming_late(rounds: int, count: int) -> None:
    print_title(
        "4. To come after so many deltas of one block",
        "as many events as there are blocks, however many came, and the time of joining the text",
    )
    runs: Runs = {}
    for many in (max(1, count // 100), count):
        history = [*beginning(), *deltas(many)]
        runs[SHARE_RESPONSE, many] = partial(come_late, CONTESTANTS[SHARE_RESPONSE], history, 20)
        runs[REPLAY, many] = partial(come_late, replay, history, 1)  # it takes seconds
    print_costs(in_turns(min(rounds, 3), runs), SHARE_RESPONSE)


# 5. Into asynchronous code -----------------------------------------------------------------------

HandOver: TypeAlias = Callable[[HotSource, Callable[[], None]], Awaitable[None]]
"""Subscribes to the source, and calls back for each value where its user would have it."""


async def without(source: HotSource, take: Callable[[], None]) -> None:
    done = asyncio.get_running_loop().create_future()
    source.observable.subscribe(lambda _: take(), done.set_exception, lambda: done.set_result(None))
    await done


async def through_queue(source: HotSource, take: Callable[[], None]) -> None:
    queue: asyncio.Queue[ChatEvent | None] = asyncio.Queue()
    source.observable.subscribe(queue.put_nowait, None, lambda: queue.put_nowait(None))
    while await queue.get() is not None:
        take()


def iterating(overflow: Overflow, room: int) -> HandOver:
    async def iterate(source: HotSource, take: Callable[[], None]) -> None:
        async for _ in to_async_iterator(source.observable, max_pending=room, overflow=overflow):
            take()

    return iterate


def subscribing(overflow: Overflow, room: int) -> HandOver:
    async def subscribe(source: HotSource, take: Callable[[], None]) -> None:
        done = asyncio.get_running_loop().create_future()

        async def on_next(_: ChatEvent) -> None:
            take()

        subscribe_async(
            source.observable,
            on_next,
            done.set_exception,
            lambda: done.set_result(None),
            max_pending=room,
            overflow=overflow,
        )
        await done

    return subscribe


async def hand_over(way: HandOver, events: list[ChatEvent]) -> Values:
    source = HotSource()
    taken = 0

    def take() -> None:
        nonlocal taken
        taken += 1

    consumer = asyncio.ensure_future(way(source, take))
    await asyncio.sleep(0)  # until it has subscribed
    with Clock() as clock:
        await source.push_in_turns(events)
        await consumer
    if taken != len(events):
        raise RuntimeError(f"{len(events)} values went in, and {taken} came out")
    return {"µs a value": clock.spent / len(events)}


def run_hand_over(way: HandOver, events: list[ChatEvent]) -> Values:
    return asyncio.run(hand_over(way, events))


def ways(room: int) -> Iterator[tuple[str, HandOver]]:
    yield "without any", without
    yield "asyncio.Queue", through_queue
    overflows: tuple[Overflow, ...] = ("merge", "drop_newest")
    for overflow in overflows:
        yield f"to_async_iterator, {overflow}", iterating(overflow, room)
    for overflow in overflows:
        yield f"subscribe_async, {overflow}", subscribing(overflow, room)


def measure_hand_over(rounds: int, count: int) -> None:
    print_title(
        f"5. Hand-over of values that come {BATCH} in a turn of the loop",
        "about what an asyncio.Queue costs",
    )
    events = deltas(count)
    runs: Runs = {(name, count): partial(run_hand_over, way, events) for name, way in ways(count)}
    print_costs(in_turns(rounds, runs), "asyncio.Queue")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--deltas", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--subscribers", type=int, nargs="+", default=[1, 10, 100, 1_000])
    options = parser.parse_args()
    measure_fan_out(options.rounds, options.deltas, options.subscribers)
    measure_coming(options.rounds)
    measure_memory(options.deltas)
    measure_coming_late(options.rounds, options.deltas)
    measure_hand_over(options.rounds, options.deltas // 2)


if __name__ == "__main__":
    main()
