"""Long streams that are handed over to asynchronous code, which keeps pace or does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import get_args

import pytest
from long_streams.amounts import FEW, MANY, MILLION, SOAK, WINDOW
from long_streams.cases import Case
from long_streams.costs import Costs, Run
from long_streams.counting import SLACK, counting_bytes, counting_steps
from long_streams.streams import again, text

from rxcohere import ChatEvent, ContentDelta
from rxcohere import operators as rxc
from rxcohere.bridges import Overflow, subscribe_async, to_async_iterator

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
