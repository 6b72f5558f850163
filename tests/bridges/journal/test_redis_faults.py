"""`RedisJournal` when the server dies, or forgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from journal_streams import (
    ID,
    Reader,
    Talk,
    outcome_of,
    publishing,
    response_of,
    text_of,
    until,
)
from redis.asyncio import Redis
from redis_server import RedisProcess
from samples import text_stream
from subscribers import ASK, HANG, Subscribers, client_of, served, was_aborted

from rxcohere.bridges.journal import (
    JournalEntry,
    RedisJournal,
    Verdict,
    feed_reader,
    follow,
    new_stream_id,
)
from rxcohere.errors import (
    JournalError,
    StreamAbandonedError,
)
from rxcohere.events import ChatEvent
from rxcohere.testing import ReplayServer, Stall, Transcript

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
EVENTS = f"rxcohere:{{{ID}}}:events"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads are short, so that what comes only with the next one comes soon."""
    monkeypatch.setattr(feed_reader, "_LONGEST_READ", 0.2)


@asynccontextmanager
async def two_journals(
    server: RedisProcess, **options: Any
) -> AsyncIterator[tuple[RedisJournal, RedisJournal]]:
    """One for a producer and one for its followers, which share no connection."""
    async with RedisJournal(server.url, **options) as there:
        async with RedisJournal(server.url, **options) as here:
            yield there, here


# A server that dies ------------------------------------------------------------------------------


async def test_a_durable_server_is_killed_in_mid_stream(subscriber: Subscribers) -> None:
    """When it is back, everything arrives, once, though it was killed several times."""
    words = [f"{number} " for number in range(150)]
    transcript = Transcript.of(text_stream(*words))
    async with RedisProcess(*DURABLE) as server, ReplayServer(transcript, pace=0.004) as cohere:
        async with client_of(cohere) as co, two_journals(server) as (there, here):
            async with publishing(there, co.chat_stream(**ASK)) as task:
                readers = [Reader(subscriber, journal) for journal in (here, here, there)]
                for length in (50, 300):
                    await readers[0].has(length)
                    server.kill()
                    await server.start()
                readers.append(Reader(subscriber, here))
                for reader in readers:
                    await reader.completes("".join(words))
                    assert response_of(reader.events) == response_of(transcript.events)
                assert (await task) == Verdict()


async def test_a_server_that_comes_back_empty(subscriber: Subscribers) -> None:
    """Followers and the producer get `JournalError` with what came; the request is given up."""
    async with RedisProcess() as server, served(faults=[Stall(after_events=12)]) as (cohere, co):
        async with two_journals(server) as (there, here):
            async with publishing(there, co.chat_stream(**ASK), lease=1.0) as task:
                readers = [Reader(subscriber, here) for _ in range(3)]
                for reader in readers:
                    await reader.has(1)
                server.kill()
                await server.start()
                for reader in readers:
                    await reader.fails()
                assert len({id(reader.seen.error) for reader in readers}) == 3
                error = await outcome_of(task)
                await cohere.until(was_aborted)
                assert isinstance(error, JournalError), repr(error)
                assert error.partial is not None


async def test_a_server_that_comes_back_empty_under_a_stream_that_goes_on(
    subscriber: Subscribers,
) -> None:
    """What the producer says then is refused, and is no new stream."""
    talk = Talk()
    async with RedisProcess() as server, two_journals(server) as (there, here):
        async with publishing(there, talk.stream) as task:
            reader = Reader(subscriber, here)
            talk.begin()
            talk.say("before")
            await reader.has(6)
            server.kill()
            talk.say(" during")
            await server.start()
            talk.say(" after")
            await reader.fails()
            error = await outcome_of(task)
            assert isinstance(error, JournalError), repr(error)
            assert error.partial is not None
            assert talk.stream.observers == []
            async with server.client() as client:
                assert await client.keys(f"*{ID}*") == []


async def test_a_server_that_stays_away(subscriber: Subscribers) -> None:
    """When ``reconnect`` seconds are over, both sides get `JournalError` with what came."""
    async with RedisProcess() as server, served(faults=[Stall(after_events=12)]) as (cohere, co):
        async with two_journals(server, reconnect=0.5) as (there, here):
            async with publishing(there, co.chat_stream(**ASK)) as task:
                readers = [Reader(subscriber, here) for _ in range(3)]
                for reader in readers:
                    await reader.has(1)
                server.kill()
                for reader in readers:
                    await reader.fails()
                error = await outcome_of(task)
                await cohere.until(was_aborted)
                assert isinstance(error, JournalError)
                assert error.partial is not None
            late = await subscriber().to(follow(here, ID)).end()
            assert isinstance(late.error, JournalError)
            await server.start()
            new = new_stream_id()  # and the journals work again
            await there.begin(new, HANG)
            await here.begun(new)


async def test_a_connection_that_breaks_under_who_waits_for_a_stream() -> None:
    """Before there is anything to lose, nothing is: the stream is heard of when it begins."""
    async with RedisProcess() as server, RedisJournal(server.url) as journal:
        waits = asyncio.create_task(journal.begun(ID))
        async with server.client() as client:
            await until(partial(has_read, client, 1))
            await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await client.config_resetstat()
            await until(partial(has_read, client, 3))  # so it has looked whether there is something
        assert not waits.done()
        await journal.begin(ID, HANG)
        async with asyncio.timeout(HANG):
            await waits


async def has_read(client: Redis, count: int) -> bool:
    """So many reads are over, besides those before the count was reset."""
    stats = (await client.info("commandstats")).get("cmdstat_xread", {"calls": 0})
    return int(stats["calls"]) >= count


# A server that forgets ---------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
async def test_a_server_that_comes_back_with_an_older_state(
    subscriber: Subscribers, ended: bool
) -> None:
    """Who has seen more gets `JournalError`; who has not gets no more than there is."""
    talk = Talk()
    async with RedisProcess() as server, two_journals(server) as (there, here):
        async with (
            publishing(there, talk.stream, lease=1.2) as task,
            RedisJournal(server.url) as new,
        ):
            talk.begin()
            talk.say("saved")
            reader = Reader(subscriber, here)
            await reader.has(5)
            async with server.client() as client:
                await client.save()
            talk.say(" lost")
            await reader.has(10)
            paused = follow(new, ID).__aiter__()
            events = await events_until("saved lost", paused)
            if ended:  # with a verdict that is lost, too, before anybody has seen it
                reader.seen.dispose()
                talk.end()
                assert (await task) == Verdict()
            server.kill()
            await server.start()
            if not ended:
                await reader.fails()
                assert reader.text == "saved lost"
            with pytest.raises(JournalError) as caught:
                await anext(paused)
            assert caught.value.partial == response_of(events)
            if not ended:
                talk.say(" more")
                assert isinstance(await outcome_of(task), JournalError)
            late = Reader(subscriber, new)
            await late.seen.end()
            assert type(late.seen.error) is (StreamAbandonedError if ended else JournalError)
            assert late.text == "saved"


async def events_until(text: str, entries: AsyncIterator[JournalEntry]) -> list[ChatEvent]:
    """The events up to where they say this text."""
    events = [(await anext(entries)).event]
    while text_of(events) != text:
        events.append((await anext(entries)).event)
    return events


async def test_followers_who_were_busy_when_the_server_forgot(subscriber: Subscribers) -> None:
    """They get `JournalError` as well when they come back, whether others wait then or not."""
    talk = Talk()
    async with RedisProcess() as server, two_journals(server) as (there, here):
        async with publishing(there, talk.stream):
            talk.begin()
            talk.say("saved")
            waits = Reader(subscriber, here)
            await waits.has(5)
            async with server.client() as client:
                await client.save()
            talk.say(" lost")
            await waits.has(10)
            busy = [follow(here, ID).__aiter__() for _ in range(2)]
            for each in busy:
                await events_until("saved lost", each)
            server.kill()
            await server.start()
            with pytest.raises(JournalError):
                await anext(busy[0])
            await waits.fails()
            with pytest.raises(JournalError):
                await anext(busy[1])


async def test_an_id_that_is_used_again(subscriber: Subscribers) -> None:
    """Once a stream is gone, followers of the next one of its id get nothing of the old one."""
    async with RedisProcess() as server, two_journals(server, keep=0.3) as (there, here):
        for word in ("old", "new"):
            talk = Talk()
            async with publishing(there, talk.stream) as task:
                reader = Reader(subscriber, here)
                for _ in range(4):
                    talk.say(word)
                    await reader.has(len(talk.text))
                talk.end()
                await reader.seen.end()
                assert (reader.text, reader.seen.completed) == (talk.text, True)
                await task
            async with server.client() as client:
                await until(partial(is_gone, client))


async def is_gone(client: Redis) -> bool:
    """Nothing of the stream is in the server."""
    return await client.keys(f"*{ID}*") == []
