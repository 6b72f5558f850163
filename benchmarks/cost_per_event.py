"""What one event costs: CPU time of rxcohere beside the floor and beside the official SDK.

Run it with ``pip install -e '.[bench]'`` and ``python benchmarks/cost_per_event.py``. A server in a
process of its own sends answers of many deltas in three shapes: ``burst``, one answer as fast as it
is read; ``each``, likewise, but each event is a chunk and a write of its own; and ``paced``, 100
answers at a time of 50 tokens a second. The contestants take turns, on each event loop, for several
rounds. What is printed is the median CPU time of an event in this process, request and all, and the
median over the rounds of its ratio to the floor of the same round, shape and loop.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from comparison import median_ratio
from contestants import FLOOR, ITERATE, SDK, SDK_SYNC, Contestant, contestants
from serving import path, serving

Costs: TypeAlias = dict[str, list[float]]
"""By contestant: µs an event, one value a round."""
Table: TypeAlias = dict[str, dict[str, dict[str, dict[str, float]]]]
"""By shape, loop and contestant: the median µs an event, and how many times the floor that is."""

RATE = 50  # tokens a second of a paced stream


@dataclass(frozen=True)
class Shape:
    """How the events come.

    Attributes:
        name: as the server knows it.
        tokens: of each stream.
        streams: how many at a time.
    """

    name: str
    tokens: int
    streams: int = 1

    @property
    def path(self) -> str:
        """What asks the server for it."""
        return path(shape=self.name, tokens=self.tokens, rate=RATE)


def loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """How to make each kind of loop that is installed."""
    found: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if find_spec("uvloop"):
        import uvloop

        found["uvloop"] = uvloop.new_event_loop
    return found


async def cost(shape: Shape, run: Contestant) -> float:
    """µs of CPU time for each token of all streams of this shape."""

    async def begin(number: int) -> None:
        # Spread over one interval, or all streams would speak at the same moment.
        await asyncio.sleep(number / RATE / shape.streams)
        await run()

    gc.collect()
    before = time.process_time()
    await asyncio.gather(*map(begin, range(shape.streams)))
    return (time.process_time() - before) / shape.tokens / shape.streams * 1e6


class Entrants:
    """The contestants on one loop, ready to run."""

    def __init__(self, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._runner = asyncio.Runner(loop_factory=make_loop)
        self._stack = AsyncExitStack()
        self._entered: list[tuple[str, Shape, Contestant]] = []

    def enter(self, server: str, shape: Shape, only: Iterable[str]) -> None:
        """Makes them all, for this shape, or the floor and those whose names begin so."""
        made = self._runner.run(self._stack.enter_async_context(contestants(server + shape.path)))
        for name, contestant in made.items():
            if name == FLOOR or name.startswith(tuple(only)):
                self._entered.append((name, shape, contestant))

    def run(self, costs: Costs) -> None:
        """One round: each in its turn."""
        for name, shape, contestant in self._entered:
            costs[name].append(self._runner.run(cost(shape, contestant)))

    def leave(self) -> None:
        """Closes everything."""
        self._runner.run(self._stack.aclose())
        self._runner.close()


def measure(server: str, shape: Shape, rounds: int, only: Iterable[str]) -> dict[str, Costs]:
    """By loop: what each contestant costs."""
    entrants = {name: Entrants(make_loop) for name, make_loop in loops().items()}
    costs: dict[str, Costs] = {name: defaultdict(list) for name in entrants}
    for each in entrants.values():
        each.enter(server, shape, only)
        each.run(defaultdict(list))  # the first time is not like the others
    for _ in range(rounds):
        for name, each in entrants.items():
            each.run(costs[name])
    for each in entrants.values():
        each.leave()
    return {loop: dict(of) for loop, of in costs.items()}


def summary(costs: Costs) -> dict[str, dict[str, float]]:
    """By contestant: the medians."""
    floor = costs[FLOOR]
    return {
        name: {"µs": statistics.median(of), "times the floor": median_ratio(of, floor)}
        for name, of in costs.items()
    }


def report(title: str, measured: dict[str, dict[str, dict[str, float]]]) -> None:
    print(f"\n{title}")
    print(f"{'µs an event (times the floor)':44}" + "".join(f"{loop:>18}" for loop in measured))
    for name in dict.fromkeys(name for of in measured.values() for name in of):
        cells = (
            f"{each[name]['µs']:9.2f} ({each[name]['times the floor']:5.2f})"
            for each in measured.values()
        )
        print(f"  {name:42}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def compare_with_sdk(measured: dict[str, dict[str, dict[str, float]]]) -> None:
    for loop, of in measured.items():
        for sdk in (SDK, SDK_SYNC):
            if sdk in of and ITERATE in of:
                ratio = of[sdk]["times the floor"] / of[ITERATE]["times the floor"]
                print(f"  {loop}: {sdk} costs {ratio:.1f} times {ITERATE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--deltas", type=int, default=20_000, help="of a burst")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--paced-rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", default=["burst", "each", "paced"])
    parser.add_argument("--only", nargs="+", default=[""], help="how the contestants' names begin")
    parser.add_argument("--json", type=Path, help="where to write the medians")
    options = parser.parse_args()
    count = options.deltas
    shapes = {
        "burst": (f"{count} deltas in one burst", Shape("burst", count)),
        "each": (f"{count} deltas, a write each", Shape("each", count)),
        "paced": (
            f"100 streams of {RATE} tokens a second",
            Shape("paced", 4 * RATE, 100),
        ),
    }
    table: Table = {}
    with serving() as server:
        for name in options.shapes:
            title, shape = shapes[name]
            rounds = options.paced_rounds if name == "paced" else options.rounds
            costs = measure(server, shape, rounds, options.only)
            table[name] = {loop: summary(of) for loop, of in costs.items()}
            report(f"{title}, medians of {rounds} rounds", table[name])
            compare_with_sdk(table[name])
    if options.json is not None:
        options.json.write_text(json.dumps(table, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
