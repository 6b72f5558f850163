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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

from comparison import Runs, Values, in_turns, print_costs
from hand_over import Way, iterating, subscribing, through_queue, without
from hot_source import BATCH, HotSource, ignore
from meters import Clock, tracing
from reactivex import Observable, abc
from reactivex import operators as ops
from streams import beginning, kib_of_text, new_events, text, timed_events

from rxcohere import ChatEvent
from rxcohere import operators as rxc
from rxcohere.bridges import Overflow

Operator: TypeAlias = Callable[[Observable[ChatEvent]], Observable[ChatEvent]]

OTHERS = (0, 1_000, 10_000)
MOVES = 200  # subscribers who come, and then leave

PLAIN, SHARE_RESPONSE = "one plain subscriber", "share_response()"
SHARE, REPLAY = "stock share()", "stock replay() + ref_count()"


# The contestants ---------------------------------------------------------------------------------


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

    runs: Runs = {(PLAIN, 1): partial(fan_out, plain, 1, timed_events(text, count))}
    for many in sorted({1, *subscribers}):
        for name, operator in CONTESTANTS.items():
            deliveries = count // 10 if name == REPLAY else count  # it is slow
            events = timed_events(text, max(16, deliveries // many))
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
    gc.disable()  # it would go through all that replay keeps, again and again
    with tracing() as held:
        subscription = shared.subscribe(ignore)
        source.push(beginning())
        source.push(new_events(text, count))
        kept, _ = held()
    gc.enable()
    subscription.dispose()
    return {"bytes": kept * 1024}


def size_of_text(count: int) -> Values:
    return {"bytes": kib_of_text(text, count) * 1024}  # all of it ASCII


def measure_memory(count: int) -> None:
    print_title(
        "3. Memory kept after so many deltas",
        "that it grows with the text, not with the number of events",
    )
    alone = "the text alone"
    runs: Runs = {}
    for many in (max(1, count // 10), count):
        runs[alone, many] = partial(size_of_text, many)
        runs[SHARE_RESPONSE, many] = partial(kept_by, CONTESTANTS[SHARE_RESPONSE], many)
    runs[REPLAY, count] = partial(kept_by, replay, count)  # only once: it takes seconds
    print_costs(in_turns(1, runs), alone)


# 4. Coming late ----------------------------------------------------------------------------------


def come_late(operator: Operator, history: list[ChatEvent], comers: int) -> Values:
    source = HotSource()
    shared = operator(source.observable)
    shared.subscribe(ignore)
    source.push(history)
    another = timed_events(text, 1)
    heard: list[list[ChatEvent]] = [[] for _ in range(comers)]
    with Clock() as clock:
        for each in heard:
            source.push(another)  # so that the history is another one than the last comer's
            shared.subscribe(each.append)
    return {"events it gets": len(heard[-1]), "µs to subscribe": clock.spent / comers}


def measure_coming_late(rounds: int, count: int) -> None:
    print_title(
        "4. To come after so many deltas of one block",
        "as many events as there are blocks, however many came, and the time of joining the text",
    )
    runs: Runs = {}
    for many in (max(1, count // 100), count):
        history = [*beginning(), *timed_events(text, many)]
        runs[SHARE_RESPONSE, many] = partial(come_late, CONTESTANTS[SHARE_RESPONSE], history, 20)
        runs[REPLAY, many] = partial(come_late, replay, history, 1)  # it takes seconds
    print_costs(in_turns(min(rounds, 3), runs), SHARE_RESPONSE)


# 5. Into asynchronous code -----------------------------------------------------------------------


async def hand_over(way: Way, events: list[ChatEvent]) -> Values:
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


def run_hand_over(way: Way, events: list[ChatEvent]) -> Values:
    return asyncio.run(hand_over(way, events))


def ways(room: int) -> Iterator[tuple[str, Way]]:
    yield "without any", without
    yield "asyncio.Queue", through_queue
    overflows: tuple[Overflow, ...] = ("merge", "drop_newest")
    for overflow in overflows:
        yield f"to_async_iterator, {overflow}", iterating(overflow, max_pending=room)
    for overflow in overflows:
        yield f"subscribe_async, {overflow}", subscribing(overflow, max_pending=room)


def measure_hand_over(rounds: int, count: int) -> None:
    print_title(
        f"5. Hand-over of values that come {BATCH} in a turn of the loop",
        "about what an asyncio.Queue costs",
    )
    events = timed_events(text, count)
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
