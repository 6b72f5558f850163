"""What many streams at a time cost in one process: rxcohere beside bare aiohttp.

Run it with ``python benchmarks/scale.py``, on Linux; it needs no extra packages. A server in a
process of its own holds all streams after their first events, until the last one is open: so they
really are open at the same time, and a limit on connections would show as a hang. Then it lets them
go on.

- Memory: what the process grew by with all of them open, for each.
- Delay: the time from the server's write to ``on_next``, at 5,000 events a second for all together.
- Cost: all streams in bursts, µs an event by the clock and of CPU time, which a million divided by
  is events a second.

Before all that, one stream after the other: the time from ``subscribe`` to the first ``on_next``,
on a connection that was kept and on new ones.

Bare aiohttp splits, validates and hands over the same events. Each of the two, for each number of
streams, is measured in a process of its own. They take turns, for several rounds; what is printed
is the median, and that of the ratio to bare aiohttp of the same round. uvloop is used with
``--uvloop``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
from comparison import median_ratio
from contestants import ASK, floor
from serving import path, serving

from rxcohere import ChatEvent, CohereClient, ContentDelta

Take: TypeAlias = Callable[[ChatEvent], None]
Stream: TypeAlias = Callable[[str, Take], Awaitable[None]]
"""Asks at this URL for one stream, and hands each event over."""
Values: TypeAlias = dict[str, float]

BARE, OURS = "bare aiohttp", "rxcohere"
PACE = 5_000  # events a second, of all paced streams together
SECONDS = 5  # of paced events
BURST = 200  # events of each stream, all at once
MEASURED = {
    "memory": "KiB an open stream",
    "p50": "ms from write to on_next, p50",
    "p99": "ms from write to on_next, p99",
    "wall": "µs an event, by the clock",
    "cpu": "µs an event, of CPU",
}
FIRST = {
    "kept": "µs to the first event, p50",
    "new": "µs to it, new connection, p50",
}
Medians: TypeAlias = dict[str, dict[str, float]]
"""By what was measured and contestant."""


# The contestants ---------------------------------------------------------------------------------


@asynccontextmanager
async def bare(new_connections: bool = False) -> AsyncGenerator[Stream]:
    async with session_of(new_connections) as session:

        async def stream(url: str, take: Take) -> None:
            await floor(session, url, take)

        yield stream


@asynccontextmanager
async def ours(new_connections: bool = False) -> AsyncGenerator[Stream]:
    clients: dict[str, CohereClient] = {}
    async with AsyncExitStack() as stack:
        # The client's own session keeps connections, and nothing else is asked of it here.
        session = await stack.enter_async_context(session_of(True)) if new_connections else None

        async def stream(url: str, take: Take) -> None:
            if url not in clients:
                client = CohereClient("key", base_url=url, session=session)
                clients[url] = await stack.enter_async_context(client)
            end = asyncio.get_running_loop().create_future()
            clients[url].chat_stream(**ASK).subscribe(
                take, end.set_exception, lambda: end.set_result(None)
            )
            await end

        yield stream


def session_of(new_connections: bool) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, force_close=new_connections)
    return aiohttp.ClientSession(connector=connector)


CONTESTANTS = {BARE: bare, OURS: ours}


# What is measured --------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Crowd:
    """Streams that are all open before the first of them goes on."""

    def __init__(self, server: str, stream: Stream, streams: int) -> None:
        self._server = server
        self._stream = stream
        self._streams = streams

    async def run(self, take: Take, **asked_for: object) -> Values:
        """Opens them, lets them go on, and waits for their ends."""
        waiting = self._streams
        all_open = asyncio.Event()

        def taker() -> Take:
            then: Take

            def first(event: ChatEvent) -> None:
                nonlocal waiting, then
                waiting -= 1
                if not waiting:
                    all_open.set()
                then = take

            then = first
            return lambda event: then(event)

        gc.collect()
        before = resident()
        url = self._server + path(held=1, **asked_for)
        under_way = [
            asyncio.ensure_future(self._stream(url, taker())) for _ in range(self._streams)
        ]
        await all_open.wait()
        gc.collect()
        grown = resident() - before
        async with aiohttp.ClientSession() as session:
            cpu, wall = time.process_time(), time.perf_counter()
            async with session.get(f"{self._server}/go"):
                await asyncio.gather(*under_way)
            return {
                "memory": grown / self._streams / 1024,
                "cpu": (time.process_time() - cpu) * 1e6,
                "wall": (time.perf_counter() - wall) * 1e6,
            }


def note_time(times: list[float], _: ChatEvent) -> None:
    times.append(time.perf_counter())


async def first_event(server: str, stream: Stream, times: int = 300) -> float:
    """The median of the µs from the call to the first event."""
    url = server + path(tokens=1, shape="paced", rate=500)  # the rest comes later
    took: list[float] = []
    for _ in range(times):
        asked_at = time.perf_counter()
        came_at: list[float] = []
        await stream(url, partial(note_time, came_at))
        took.append((came_at[0] - asked_at) * 1e6)
    return statistics.median(took)


async def measure_first(server: str, who: str) -> Values:
    """How soon the first event of a stream comes, for one contestant, in this process."""
    values: Values = {}
    for key, new_connections in {"kept": False, "new": True}.items():
        async with CONTESTANTS[who](new_connections) as stream:
            values[key] = await first_event(server, stream)
    return values


async def measure(server: str, who: str, streams: int) -> Values:
    """What so many streams at a time cost, for one contestant, in this process."""
    delays: list[int] = []

    def note(event: ChatEvent) -> None:
        if type(event) is ContentDelta:
            delays.append(time.monotonic_ns() - int(event.text))

    def ignore(_: ChatEvent) -> None:
        pass

    rate = PACE / streams
    async with CONTESTANTS[who]() as stream:
        crowd = Crowd(server, stream, streams)
        paced = await crowd.run(
            note, shape="paced", rate=rate, tokens=max(1, round(rate * SECONDS))
        )
        burst = await crowd.run(ignore, shape="burst", tokens=BURST)
    delays.sort()
    return {
        "memory": paced["memory"],
        "p50": delays[len(delays) // 2] / 1e6,
        "p99": delays[len(delays) * 99 // 100] / 1e6,
        "wall": burst["wall"] / BURST / streams,
        "cpu": burst["cpu"] / BURST / streams,
    }


# How it is run and printed -----------------------------------------------------------------------


def run(who: str, streams: int, uvloop: bool) -> Values:
    """The values of one contestant, measured in a process of its own."""
    command = [sys.executable, __file__, "--measure", who, "--streams", str(streams)]
    made = subprocess.run(
        [*command, "--uvloop"] if uvloop else command, stdout=subprocess.PIPE, check=True, text=True
    )
    values: Values = json.loads(made.stdout)
    return values


def compare(streams: int, rounds: int, uvloop: bool) -> Medians:
    """Measures in turns, for so many streams or, with 0, for one after the other; prints it."""
    costs: dict[str, list[Values]] = defaultdict(list)
    for _ in range(rounds):
        for who in CONTESTANTS:
            costs[who].append(run(who, streams, uvloop))
    print(f"\n{streams:,} streams at a time" if streams else "\nOne stream after the other")
    medians: Medians = {}
    for key, title in (MEASURED if streams else FIRST).items():
        of = {who: [each[key] for each in costs[who]] for who in CONTESTANTS}
        medians[key] = {who: statistics.median(values) for who, values in of.items()}
        ratio = median_ratio(of[OURS], of[BARE])
        cells = "".join(f"{who} {medians[key][who]:10,.2f}   " for who in CONTESTANTS)
        print(f"  {title:34}{cells}x{ratio:.2f}", flush=True)
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 1_000, 4_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--json", type=Path, help="where to write the medians")
    parser.add_argument("--measure", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Each stream takes a descriptor here and one in the server, which inherits the limit.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.measure:
        new_loop: Any = asyncio.new_event_loop
        if options.uvloop:
            import uvloop

            new_loop = uvloop.new_event_loop
        with serving() as server, asyncio.Runner(loop_factory=new_loop) as runner:
            [streams], who = options.streams, options.measure
            work = measure(server, who, streams) if streams else measure_first(server, who)
            values = runner.run(work)
        print(json.dumps(values))
        return
    table: dict[int, Medians] = {}
    for streams in (0, *options.streams):
        if streams + 50 > most:
            print(f"\n{streams:,} streams need more than the {most:,} descriptors of a process")
            continue
        table[streams] = compare(streams, options.rounds, options.uvloop)
    if options.json is not None:
        options.json.write_text(json.dumps(table, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
