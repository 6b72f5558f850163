"""What comes on a key, for those in a process who wait for it together."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from journal_streams import ID, until
from redis.asyncio import Redis
from redis_server import RedisProcess
from subscribers import HANG, TEXT

from rxcohere.bridges.journal import RedisJournal, feed_reader, feeds
from rxcohere.errors import JournalError


async def is_read(client: Any) -> bool:
    """A read is under way."""
    return bool((await client.info("clients"))["blocked_clients"])


class SlowToWake(Redis):
    """A client whose calls that wake a read wait until they are let through.

    Attributes:
        reads: has a place for each read that has begun.
        waking: is set when such a call has come.
        go_on: lets them through.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.reads = asyncio.Semaphore(0)
        self.waking, self.go_on = asyncio.Event(), asyncio.Event()

    async def xadd(self, *arguments: Any, **options: Any) -> Any:
        self.waking.set()
        await self.go_on.wait()
        return await super().xadd(*arguments, **options)

    async def xread(self, *arguments: Any, **options: Any) -> Any:
        self.reads.release()
        return await super().xread(*arguments, **options)


async def test_a_read_that_is_woken_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody is about to wait for is not taken for forgotten, however long that takes."""
    monkeypatch.setattr(feeds, "_IDLE", 0.0)
    monkeypatch.setattr(feed_reader, "_LONGEST_READ", 0.01)
    async with RedisProcess() as server, SlowToWake.from_url(server.url) as client:
        async with RedisJournal(client) as journal, asyncio.timeout(HANG):
            for stream_id in ("one", "two"):
                await journal.begin(stream_id, 6 * HANG)
            one = asyncio.create_task(journal.tail("one"))
            await client.reads.acquire()
            two = asyncio.create_task(journal.tail("two"))
            await client.waking.wait()
            for _ in range(3):
                await client.reads.acquire()
            client.go_on.set()
            for stream_id, waits in (("one", one), ("two", two)):
                await journal.append(stream_id, TEXT.events[:1], 0)
                assert list((await waits).events) == TEXT.events[:1]


async def test_a_read_that_nobody_waits_for_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves while it is being woken leaves nothing behind."""
    monkeypatch.setattr(feeds, "_IDLE", 0.0)
    monkeypatch.setattr(feed_reader, "_LONGEST_READ", 0.01)
    async with RedisProcess() as server, SlowToWake.from_url(server.url) as client:
        async with RedisJournal(client) as journal, asyncio.timeout(HANG):
            for stream_id in ("one", "two"):
                await journal.begin(stream_id, 6 * HANG)
            tasks = asyncio.all_tasks()
            waits = [asyncio.create_task(journal.tail("one"))]
            await client.reads.acquire()
            waits.append(asyncio.create_task(journal.tail("two")))
            await client.waking.wait()
            for each in waits:
                each.cancel()
            await asyncio.wait(waits)
            client.go_on.set()
            reading = asyncio.all_tasks() - tasks
            await asyncio.wait(reading)  # which ends by itself


async def test_a_wait_that_is_cancelled_as_the_journal_is_closed() -> None:
    """In the very turn in which all who wait are told: it is cancelled, and the others hear."""
    async with RedisProcess() as server:
        journal = RedisJournal(server.url)
        await journal.begin(ID, HANG)
        leaves, stays = (asyncio.create_task(journal.tail(ID)) for _ in range(2))
        async with server.client() as client:
            await until(partial(is_read, client))

        async def leave() -> None:
            leaves.cancel()

        # Their first steps are in one turn, so that the reader is told before the wait has ended.
        await asyncio.gather(journal.aclose(), leave())
        await asyncio.wait([leaves])
        assert leaves.cancelled()
        async with asyncio.timeout(HANG):
            with pytest.raises(JournalError, match="closed"):
                await stays
