"""`RedisJournal`: many followers of a stream, many streams, and what they leave in the server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from journal_streams import ID, Reader, Talk, outcome_of, publishing, text_of, until
from redis.asyncio import Redis
from redis_server import RedisProcess
from subscribers import ASK, HANG, TEXT, Subscribers, served

from rxcohere.bridges.journal import JournalEntry, RedisJournal, Verdict, abort, follow
from rxcohere.errors import JournalError, StreamAbandonedError, StreamError, StreamNotFoundError
from rxcohere.testing import Stall

MANY = 1000


@asynccontextmanager
async def redis_journal(**options: Any) -> AsyncIterator[tuple[Redis, RedisJournal]]:
    """A journal in a server of its own, and a client that looks at the server."""
    async with RedisProcess() as server, server.client() as client:
        async with RedisJournal(server.url, **options) as journal:
            yield client, journal


async def calls_of(client: Redis) -> dict[str, int]:
    """How often each command has been called, by scripts as well."""
    stats = await client.info("commandstats")
    return {name.removeprefix("cmdstat_"): told["calls"] for name, told in stats.items()}


# Many followers ----------------------------------------------------------------------------------


async def test_a_thousand_followers_cost_one_read() -> None:
    """All get everything over one blocked connection; what comes is fetched once for all."""
    talk, batches = Talk(), 20
    asyncio.get_running_loop().set_debug(False)  # it makes each step of each follower slow
    async with redis_journal() as (client, journal), publishing(journal, talk.stream):
        talk.begin()
        got = [""] * MANY
        ends: list[Exception | None] = []
        all_have, all_ended = asyncio.Event(), asyncio.Event()
        missing = MANY

        def take(number: int, entry: JournalEntry) -> None:
            nonlocal missing
            got[number] += text_of([entry.event])
            if got[number] == talk.text:
                missing -= 1
                if not missing:
                    all_have.set()

        def end(error: Exception | None = None) -> None:
            ends.append(error)
            if len(ends) == MANY:
                all_ended.set()

        for number in range(MANY):
            follow(journal, ID).subscribe(partial(take, number), end, end)
        for batch in range(batches):
            all_have.clear()
            missing = MANY
            talk.say(f"{batch} ")
            async with asyncio.timeout(3 * HANG):
                await all_have.wait()
            if batch == 4:  # all of them wait for the next one by now
                begun = await calls_of(client)
            assert (await client.info("clients"))["blocked_clients"] <= 1
            assert len(await client.client_list()) <= 12
        now = await calls_of(client)
        talk.end()
        async with asyncio.timeout(3 * HANG):
            await all_ended.wait()
    assert ends == [None] * MANY
    assert got == [talk.text] * MANY
    # To begin with each reads what is there. From then on their number does not matter.
    assert begun["xrange"] <= 2 * MANY + 10
    assert now.get("xrange", 0) - begun.get("xrange", 0) <= 2
    assert now["xread"] - begun.get("xread", 0) <= 2 * batches
    assert now["evalsha"] - begun["evalsha"] <= 3 * batches


async def test_a_follower_that_lags_behind(subscriber: Subscribers) -> None:
    """It has missed nothing when it goes on, though more has passed than is kept for it."""
    talk, word = Talk(), "x" * (1 << 16)
    async with redis_journal() as (_, journal), publishing(journal, talk.stream):
        talk.begin()
        talk.say("first ")
        others = [Reader(subscriber, journal) for _ in range(2)]
        await others[0].has(6)
        lags = follow(journal, ID).__aiter__()
        seen = [(await anext(lags)).event]
        for number in range(40):  # 2.6 million characters
            talk.say(f"{number}{word}")
            await others[0].has(len(talk.text))
        seen += [(await anext(lags)).event for _ in range(3)]
        talk.say(" last")
        talk.end()
        seen += [entry.event async for entry in lags]
        assert text_of(seen) == talk.text
        for reader in others:
            await reader.completes(talk.text)


async def test_what_comes_while_one_begins_to_wait() -> None:
    """It is not missed, whenever it comes, though one read for others is under way."""
    random_one = random.Random(11)
    asyncio.get_running_loop().set_debug(False)  # it makes each step slow
    async with redis_journal() as (_, journal), asyncio.TaskGroup() as tasks:
        await journal.begin("other", 6 * HANG)
        other = tasks.create_task(journal.tail("other"))
        for number in range(300):
            stream_id = f"s-{number}"
            await journal.begin(stream_id, 6 * HANG)
            tails = [tasks.create_task(journal.tail(stream_id)) for _ in range(2)]
            for _ in range(random_one.randrange(40)):
                await asyncio.sleep(0)
            await journal.append(stream_id, TEXT.events[:1], 0)
            async with asyncio.timeout(HANG):
                for page in await asyncio.gather(*tails):
                    assert list(page.events) == TEXT.events[:1]
        await journal.close("other", Verdict())
        assert (await other).verdict == Verdict()


async def test_followers_that_come_and_go(subscriber: Subscribers) -> None:
    """They leave at any moment and nothing of them stays; the others miss nothing."""
    random_one, talk = random.Random(7), Talk()
    asyncio.get_running_loop().set_debug(False)  # it makes each step slow
    async with redis_journal() as (client, journal), publishing(journal, talk.stream):
        talk.begin()
        stays = Reader(subscriber, journal)
        tasks = asyncio.all_tasks()
        for number in range(200):
            leaves = [
                asyncio.create_task(all_of(journal, ID if random_one.random() < 0.8 else "never"))
                for _ in range(random_one.randrange(1, 4))
            ]
            talk.say(f"{number} ")
            for _ in range(random_one.choice([0, 1, 2, 5, 20])):
                await asyncio.sleep(0)
            if random_one.random() < 0.2:
                await stays.has(len(talk.text))
            for task in leaves:
                task.cancel()
            await asyncio.wait(leaves)
            assert all(task.cancelled() for task in leaves)
        await stays.has(len(talk.text))
        assert len(await client.client_list()) <= 12
        assert len(asyncio.all_tasks() - tasks) <= 12  # commands that nobody waits for
        [group] = journal._readers.values()
        assert {key.split(":")[-2] for key in group._feeds} <= {f"{{{ID}}}", "{never}"}
        assert sum(len(feed._waiters) for feed in group._feeds.values()) <= 2
        talk.end()
        await stays.completes(talk.text)


async def all_of(journal: RedisJournal, stream_id: str) -> list[JournalEntry]:
    return [entry async for entry in follow(journal, stream_id, patience=HANG)]


async def test_the_producers_of_many_streams_die(subscriber: Subscribers) -> None:
    """Each is noticed, by a process that follows all of their streams; a living one is not."""
    async with redis_journal() as (_, journal):
        for number in range(50):
            await journal.begin(f"s-{number}", 0.3 + number / 200)
            await journal.append(f"s-{number}", TEXT.events[:4], 0)
        async with served(faults=[Stall(after_events=6)]) as (_, co):
            async with publishing(journal, co.chat_stream(**ASK)):
                lives = Reader(subscriber, journal)
                readers = [Reader(subscriber, journal, f"s-{n % 50}") for n in range(100)]
                for reader in readers:
                    await reader.fails(StreamAbandonedError)
                assert lives.seen.is_silent
                lives.seen.dispose()


# What it leaves in the server --------------------------------------------------------------------


@pytest.mark.parametrize("end", ["complete", "aborted", "cancelled", "abandoned"])
async def test_what_is_left_of_a_stream(subscriber: Subscribers, end: str) -> None:
    """Each key expires, while it runs and afterwards; ``keep`` seconds later none is there."""
    talk = Talk()
    async with redis_journal(keep=0.5) as (client, journal):
        async with publishing(journal, talk.stream, lease=0.6) as task:
            reader = Reader(subscriber, journal)
            talk.begin()
            talk.say("word")
            await reader.has(4)
            lives = await lives_of(client)
            assert all(0 < life <= 60_000 for life in lives.values()), lives
            if end == "complete":
                talk.end()
            elif end == "aborted":
                await abort(journal, ID)
            elif end == "cancelled":
                task.cancel()
            else:
                await client.delete(f"rxcohere:{{{ID}}}:lease")
            await reader.seen.end()
            lives = await lives_of(client)
            assert lives
            for key, life in lives.items():
                assert 0 < life <= (60_000 if ":wake:" in key else 500), lives
            await until(partial(is_gone, client))
            assert len(await lives_of(client)) <= 1  # what wakes the one read
            with pytest.raises(StreamNotFoundError):
                await journal.read(ID)


async def lives_of(client: Redis) -> dict[str, int]:
    """For how many ms each key lives yet; -1 if it stays for ever."""
    lives = {key: await client.pttl(key) for key in await client.keys()}
    return {key: life for key, life in lives.items() if life != -2}  # it is gone


async def is_gone(client: Redis) -> bool:
    """Nothing of the stream is in the server."""
    return await client.keys(f"*{ID}*") == []


async def test_a_stream_that_is_dead_and_that_nobody_reads() -> None:
    """It goes away by itself."""
    async with redis_journal(keep=0.2) as (client, journal):
        await journal.begin(ID, 0.1)
        await journal.append(ID, TEXT.events, 0)
        await journal.renew(ID, 0.2)
        await journal.request_abort(ID, "why not")
        await until(partial(is_gone, client))


async def test_more_events_than_a_stream_may_have(subscriber: Subscribers) -> None:
    """The publication fails, the request is given up, and the followers get a typed error."""
    async with redis_journal(max_events=5) as (client, journal), served() as (server, co):
        async with publishing(journal, co.chat_stream(**ASK), batch_events=1, lease=0.5) as task:
            reader = Reader(subscriber, journal)
            error = await outcome_of(task)
            assert isinstance(error, JournalError)
            assert "max_events=5" in str(error)
            await reader.seen.end()
            assert isinstance(reader.seen.error, StreamError)
            assert len(reader.events) <= 5
            assert await client.xlen(f"rxcohere:{{{ID}}}:events") <= 7
            await server.until(lambda s: s.open == 0)


async def test_prefixes_keep_journals_apart() -> None:
    """Two journals in one server know nothing of each other's streams."""
    async with redis_journal(prefix="one") as (client, one):
        port = client.connection_pool.connection_kwargs["port"]
        async with RedisJournal(f"redis://127.0.0.1:{port}", prefix="two") as two:
            await one.begin(ID, HANG)
            with pytest.raises(StreamNotFoundError):
                await two.read(ID)
            await two.begin(ID, HANG)
            assert all(key.startswith(("one:", "two:")) for key in await client.keys())
