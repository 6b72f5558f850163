"""`RedisJournal` over a network that loses connections, and servers that it cannot use."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from journal_streams import ID, Reader, Talk, outcome_of, publishing, response_of
from redis_server import RedisProcess
from subscribers import HANG, Subscribers

from rxcohere.bridges.journal import RedisJournal, Verdict, feed_reader, follow, redis
from rxcohere.errors import JournalError
from rxcohere.testing import FaultProxy, Transcript, Wire


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is late counts as lost so soon that a test can wait for it."""
    monkeypatch.setattr(redis, "_LATE", 0.3)
    monkeypatch.setattr(feed_reader, "_LONGEST_READ", 0.1)


@asynccontextmanager
async def proxied(
    budget: Callable[[], int | None] = lambda: None,
) -> AsyncIterator[tuple[RedisProcess, FaultProxy]]:
    """A server, and a proxy in front of it.

    Args:
        budget: how many bytes of answers a new connection carries before it is reset, in the middle
            of whatever; None for any number.
    """

    def wire(_: int) -> Wire:
        bytes_left = budget()
        if bytes_left is None:
            return Wire()
        return Wire(cut_after=bytes_left, ending="reset")

    async with RedisProcess() as server, FaultProxy(server.url, wire) as proxy:
        yield server, proxy


# Connections that break --------------------------------------------------------------------------


async def test_connections_that_are_reset_all_the_time(
    subscriber: Subscribers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a hundred resets, many of them within an answer, everything is there, and once."""
    monkeypatch.setattr(redis, "_FIRST_PAUSE", 0.005)
    monkeypatch.setattr(redis, "_LONGEST_PAUSE", 0.05)
    random_one = random.Random(1)
    talk = Talk()
    async with proxied(lambda: random_one.choice([None, random_one.randrange(1, 4000)])) as (
        _,
        proxy,
    ):
        async with (
            RedisJournal(proxy.url, reconnect=6 * HANG) as there,
            RedisJournal(proxy.url, reconnect=6 * HANG) as here,
        ):
            async with publishing(there, talk.stream, lease=HANG) as task:
                readers = [Reader(subscriber, here) for _ in range(3)]
                talk.begin()
                number = 0
                while proxy.resets < 100:
                    number += 1
                    talk.say(f"{number}—🐧 ")
                    if random_one.random() < 0.1:
                        proxy.reset()
                    if proxy.resets >= 50 and len(readers) == 3:
                        readers.append(Reader(subscriber, here))
                    await asyncio.sleep(random_one.random() * 0.004)  # the pace of the words
                talk.end()
                for reader in readers:
                    await reader.completes(talk.text)
                    assert response_of(reader.events) == response_of(readers[0].events)
                assert (await task) == Verdict()


async def test_an_abort_over_connections_that_are_reset(subscriber: Subscribers) -> None:
    """It is heard of, whatever breaks."""
    random_one = random.Random(3)
    async with proxied(lambda: random_one.randrange(400, 2000)) as (_, proxy):
        async with RedisJournal(proxy.url) as there, RedisJournal(proxy.url) as here:
            for number in range(5):
                stream_id = f"s-{number}"
                await there.begin(stream_id, HANG)
                asked = asyncio.create_task(there.abort_requested(stream_id))
                await asyncio.sleep(0)
                proxy.reset()
                await here.request_abort(stream_id, "enough")
                async with asyncio.timeout(HANG):
                    assert await asked == "enough"


async def test_a_network_that_falls_silent_for_a_while(
    subscriber: Subscribers, quick: None
) -> None:
    """What was under way is done again on other connections, and everything arrives, once."""
    talk = Talk()
    async with proxied() as (_, proxy):
        async with RedisJournal(proxy.url) as there, RedisJournal(proxy.url) as here:
            async with publishing(there, talk.stream, lease=HANG) as task:
                reader = Reader(subscriber, here)
                talk.begin()
                for word in ("one", " two", " three"):
                    talk.say(word)
                    await reader.has(len(talk.text))
                    proxy.silence()
                    talk.say(" in the dark")
                    await asyncio.sleep(0.05)  # how long it is silent
                    proxy.heal()
                talk.end()
                await reader.completes(talk.text)
                assert (await task) == Verdict()


async def test_a_network_that_stays_silent(subscriber: Subscribers, quick: None) -> None:
    """Both sides get `JournalError` with what came."""
    talk = Talk()
    async with proxied() as (_, proxy):
        async with (
            RedisJournal(proxy.url, reconnect=0.3) as there,
            RedisJournal(proxy.url, reconnect=0.3) as here,
        ):
            async with publishing(there, talk.stream, lease=HANG) as task:
                reader = Reader(subscriber, here)
                talk.begin()
                talk.say("one")
                await reader.has(3)
                proxy.silence()
                await reader.fails()
                assert isinstance(await outcome_of(task), JournalError)
                assert talk.stream.observers == []


# Servers that are none ---------------------------------------------------------------------------


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def speaks_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    writer.close()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@asynccontextmanager
async def journal_at(port: int, **options: Any) -> AsyncIterator[RedisJournal]:
    """A journal that soon gives up."""
    async with RedisJournal(f"redis://127.0.0.1:{port}", reconnect=0.3, **options) as journal:
        yield journal


async def all_calls_fail(journal: RedisJournal, subscriber: Subscribers) -> None:
    """Whatever one asks for is `JournalError`."""
    calls = [
        journal.begin(ID, HANG),
        journal.append(ID, Transcript.load("text").events, 0),
        journal.renew(ID, HANG),
        journal.close(ID, Verdict()),
        journal.read(ID),
        journal.tail(ID),
        journal.begun(ID),
        journal.request_abort(ID, "why not"),
        journal.abort_requested(ID),
    ]
    seen = subscriber().to(follow(journal, ID))
    async with asyncio.timeout(HANG):
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [JournalError] * len(calls), results
    await seen.end()
    assert isinstance(seen.error, JournalError)
    assert seen.error.partial is None


@pytest.mark.parametrize("handler", [speaks_http, hangs_up, says_nothing])
async def test_a_server_that_is_not_redis(
    subscriber: Subscribers, quick: None, handler: Handler
) -> None:
    """Every call says so with `JournalError`, and soon."""
    listener = await asyncio.start_server(handler, "127.0.0.1")
    try:
        async with journal_at(listener.sockets[0].getsockname()[1]) as journal:
            await all_calls_fail(journal, subscriber)
    finally:
        listener.close()
        await some_turns()


async def some_turns() -> None:
    """Lets connections end."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_port_where_nobody_listens(subscriber: Subscribers) -> None:
    """Every call says so with `JournalError`, once ``reconnect`` seconds are over."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with journal_at(bound.getsockname()[1]) as journal:
            await all_calls_fail(journal, subscriber)


@pytest.mark.parametrize("password", ["", ":wrong@"], ids=["none", "wrong"])
async def test_a_password_that_is_not_accepted(subscriber: Subscribers, password: str) -> None:
    """Every call says so with `JournalError`, without trying again."""
    async with RedisProcess() as server:
        async with server.client() as client:
            await client.config_set("requirepass", "right")
        url = f"redis://{password}127.0.0.1:{server.port}"
        async with RedisJournal(url, reconnect=1e6) as journal:
            await all_calls_fail(journal, subscriber)
        async with RedisJournal(f"redis://:right@127.0.0.1:{server.port}") as journal:
            await journal.begin(ID, HANG)
