"""Who ``journal.py`` compares: each writes batches of events to a stream, and others follow it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

from hot_source import HotSource
from redis.asyncio import Redis
from streams import new_events, text, two_texts

from rxcohere import ChatEvent, parse_event
from rxcohere.bridges.journal import (
    Journal,
    JournalEntry,
    MemoryJournal,
    RedisJournal,
    follow,
    publish,
)

ID, LEASE = "benchmark", 600.0
HANG = 120.0
"""Seconds after which whatever has not ended is given up."""
TYPED = "bare loop, typed"


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
        for event in texts:
            pipeline.xadd(ID, {"e": event})
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
    subscribed = asyncio.Event()
    source = HotSource(subscribed.set)
    noting: Any = Noting(journal)
    publication = asyncio.create_task(
        publish(noting, ID, source.observable, lease=LEASE, batch_events=len(batch))
    )
    await subscribed.wait()
    last = ""  # the id of the last record; to compare it costs less than to count

    async def append() -> None:
        nonlocal last
        crowd.expect(records)
        last = str(crowd.count)
        noting.answered.clear()
        source.push(batch)
        await noting.answered.wait()

    async def read() -> None:
        def on_next(entry: JournalEntry) -> None:
            if entry.id == last:
                crowd.arrived()

        with follow(journal, ID).subscribe(on_next):
            await asyncio.get_running_loop().create_future()  # until it is cancelled

    yield append, read
    source.observer.on_completed()
    await publication


@asynccontextmanager
async def in_redis(url: str, way: Callable[..., Any], *rest: Any) -> AsyncGenerator[Loops]:
    async with RedisJournal(url) as journal, way(journal, *rest) as loops:
        yield loops


def contestants(url: str, size: int) -> dict[str, Contestant]:
    batch, mergeable = list(new_events(two_texts, size)), list(new_events(text, size))

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
