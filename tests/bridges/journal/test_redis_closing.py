"""`RedisJournal` when it is closed: who waits then hears of it, and nothing is left open."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from journal_streams import ID, Reader, Talk, outcome_of, publishing, until
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis_server import RedisProcess
from subscribers import HANG, Subscribers

from rxcohere.bridges.journal import (
    RedisJournal,
    Verdict,
    feed_reader,
    follow,
    new_stream_id,
    redis,
)
from rxcohere.errors import JournalError
from rxcohere.testing import FaultProxy, Transcript


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is late counts as lost so soon that a test can wait for it."""
    monkeypatch.setattr(redis, "_LATE", 0.3)
    monkeypatch.setattr(feed_reader, "_LONGEST_READ", 0.1)


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[RedisProcess, FaultProxy]]:
    """A server, and a proxy in front of it."""
    async with RedisProcess() as server, FaultProxy(server.url) as proxy:
        yield server, proxy


def foiled(proxy: FaultProxy) -> bool:
    """A client has tried in vain: what it sent was dropped, or it was refused."""
    return proxy.dropped > 0 or proxy.refused > 0


WAITS: dict[str, Callable[[RedisJournal], Awaitable[Any]]] = {
    "tail": lambda journal: journal.tail(ID),
    "begun": lambda journal: journal.begun(new_stream_id()),
    "abort_requested": lambda journal: journal.abort_requested(ID),
}
CALLS: dict[str, Callable[[RedisJournal], Awaitable[Any]]] = {
    "append": lambda journal: journal.append(ID, Transcript.load("text").events, 0),
    "renew": lambda journal: journal.renew(ID, HANG),
    "close": lambda journal: journal.close(ID, Verdict()),
    "read": lambda journal: journal.read(ID),
    "request_abort": lambda journal: journal.request_abort(ID, "why not"),
    **WAITS,
}


async def is_read(client: Redis) -> bool:
    """A read is under way."""
    return bool((await client.info("clients"))["blocked_clients"])


async def is_alone(client: Redis) -> bool:
    """Nobody else is connected to the server."""
    return len(await client.client_list()) == 1


@pytest.mark.parametrize("name", WAITS)
async def test_who_waits_when_a_journal_is_closed(name: str) -> None:
    """He gets `JournalError`, and so does who comes later."""
    async with RedisProcess() as server, RedisJournal(server.url) as journal:
        await journal.begin(ID, HANG)
        waits = [asyncio.ensure_future(WAITS[name](journal)) for _ in range(3)]
        async with server.client() as client:
            await until(partial(is_read, client))
        await journal.aclose()
        for result in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(result, JournalError)
        for call in CALLS.values():
            with pytest.raises(JournalError):
                await call(journal)


@asynccontextmanager
async def connected(url: str, owned: bool) -> AsyncIterator[RedisJournal]:
    """A journal with connections of its own, or with a client of ours."""
    if owned:
        async with RedisJournal(url) as journal:
            yield journal
    else:
        async with Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as client:
            async with RedisJournal(client) as journal:
                yield journal


@pytest.mark.parametrize("owned", [True, False], ids=["own", "given"])
@pytest.mark.parametrize("trouble", ["silent", "refusing"])
@pytest.mark.parametrize("name", CALLS)
async def test_a_command_under_way_when_a_journal_is_closed(
    quick: None, name: str, trouble: str, owned: bool
) -> None:
    """Who waits for it gets `JournalError`, and is not cancelled: nobody has cancelled him."""
    async with proxied() as (_, proxy), connected(proxy.url, owned) as journal:
        await journal.begin(ID, HANG)
        if trouble == "silent":
            proxy.silence()
        else:
            proxy.refuse()
            proxy.reset()
        call = asyncio.ensure_future(CALLS[name](journal))
        await proxy.until(foiled, HANG)
        assert not call.done()  # it is under way, or between two attempts
        await journal.aclose()
        async with asyncio.timeout(HANG):
            [result] = await asyncio.gather(call, return_exceptions=True)
        assert type(result) is JournalError


@pytest.mark.parametrize("owned", [True, False], ids=["own", "given"])
async def test_follower_and_producer_when_a_journal_is_closed_in_the_middle_of_a_command(
    subscriber: Subscribers, quick: None, owned: bool
) -> None:
    """Each ends with `JournalError`, and the producer's task does not count as cancelled."""
    talk = Talk()
    async with proxied() as (_, proxy), connected(proxy.url, owned) as journal:
        async with publishing(journal, talk.stream) as task:
            reader = Reader(subscriber, journal)
            talk.begin()
            talk.say("one")
            await reader.has(3)
            proxy.silence()
            talk.say(" two")
            late = subscriber().to(follow(journal, ID))
            await proxy.until(foiled, HANG)
            await journal.aclose()
            await reader.fails()
            await late.end()
            assert isinstance(late.error, JournalError)
            assert isinstance(await outcome_of(task), JournalError)
            assert talk.stream.observers == []


@pytest.mark.parametrize("owned", [True, False], ids=["own", "given"])
async def test_a_journal_that_is_closed_while_it_connects(quick: None, owned: bool) -> None:
    """No connection is left behind, whenever that is, and nobody waits for ever."""
    random_one = random.Random(5)
    async with proxied() as (server, proxy):
        for _ in range(40):
            async with connected(proxy.url, owned) as journal:
                calls = [asyncio.ensure_future(journal.begun(f"s-{n}")) for n in range(3)]
                calls.append(asyncio.ensure_future(journal.begin(new_stream_id(), HANG)))
                for _ in range(random_one.randrange(40)):
                    await asyncio.sleep(0)
                await journal.aclose()
                _, waiting = await asyncio.wait(calls, timeout=HANG / 5)
                for call in waiting:
                    call.cancel()
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(result) for result in results} <= {JournalError, type(None)}
        async with server.client() as client:
            await until(partial(is_alone, client))
