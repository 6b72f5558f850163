"""`RedisJournal` where something else is in the server than it has put there."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest
from journal_streams import ID, Reader, Talk, outcome_of, publishing, until
from redis.asyncio import Redis
from redis_server import RedisProcess
from samples import text_stream
from subscribers import HANG, Subscribers

from rxcohere.bridges.journal import RedisJournal, Verdict, feed_reader, follow
from rxcohere.errors import (
    ConfigurationError,
    EventDecodeError,
    JournalError,
    RxCohereError,
    StreamError,
)
from rxcohere.testing import Transcript

EVENTS = f"rxcohere:{{{ID}}}:events"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads are short, so that what comes only with the next one comes soon."""
    monkeypatch.setattr(feed_reader, "_LONGEST_READ", 0.2)


@pytest.mark.parametrize(
    "fields",
    [
        {"e": "{"},
        {"e": '{"type":"content-delta","delta":7}'},
        {"e": b"\xff\xfe"},
        {"v": "{"},
        {"v": '{"error":'},
        {"v": "[]"},
        {"v": "{}"},
        {"v": '{"error":"StreamTruncatedError","partial":7}'},
        {"e": "{}", "more": "{}"},
        {b"\xff": "{}"},
    ],
    ids=str,
)
@pytest.mark.parametrize("late", [False, True], ids=["waiting", "late"])
async def test_a_record_that_cannot_be_read(
    subscriber: Subscribers, fields: dict[str, str], late: bool
) -> None:
    """Followers of that stream get a typed error, and those of others miss nothing."""
    talk = Talk()
    async with RedisProcess() as server, RedisJournal(server.url) as journal:
        await journal.begin("broken", HANG)
        async with publishing(journal, talk.stream), server.client() as client:
            other = Reader(subscriber, journal)
            talk.begin()
            talk.say("one")
            await other.has(3)
            reader = subscriber()
            if not late:
                reader.to(follow(journal, "broken"))
                await until(partial(is_read, client))
            at = "1-0" if "e" in fields else "0-2"
            await client.xadd("rxcohere:{broken}:events", fields, at)
            if late:
                reader.to(follow(journal, "broken"))
            await reader.end()
            assert isinstance(reader.error, (JournalError, EventDecodeError)), repr(reader.error)
            talk.say(" two")
            await other.has(7)
            talk.end()
            await other.completes(talk.text)


async def is_read(client: Any) -> bool:
    """A read is under way."""
    return bool((await client.info("clients"))["blocked_clients"])


async def test_what_came_before_a_record_that_cannot_be_read(subscriber: Subscribers) -> None:
    """It is delivered first, though it was read together with it."""
    async with RedisProcess() as server, RedisJournal(server.url) as journal:
        await journal.begin(ID, HANG)
        reader = Reader(subscriber, journal)
        async with server.client() as client:
            await until(partial(is_read, client))
            async with client.pipeline(transaction=True) as pipeline:
                for number, event in enumerate(text_stream("all right")[:3], 1):
                    pipeline.xadd(EVENTS, {"e": json.dumps(event)}, f"{number}-0")
                pipeline.xadd(EVENTS, {"e": "{"}, "4-0")
                await pipeline.execute()
        await reader.seen.end()
        assert isinstance(reader.seen.error, StreamError)
        assert reader.text == "all right"


async def test_a_reason_to_abort_that_is_no_text(subscriber: Subscribers) -> None:
    """It is one for that stream alone, with U+FFFD for what cannot be read."""
    talk, other = Talk(), Talk()
    async with RedisProcess() as server, RedisJournal(server.url) as journal:
        async with (
            publishing(journal, talk.stream) as task,
            publishing(journal, other.stream, "other"),
            server.client() as client,
        ):
            good = Reader(subscriber, journal, "other")
            for each in (talk, other):
                each.begin()
            await client.xadd(f"rxcohere:{{{ID}}}:abort", {"a": b"enough\xff"}, "1-0")
            error = await outcome_of(task)
            assert isinstance(error, StreamError)
            assert str(error) == "enough\ufffd"
            other.say("one")
            other.end()
            await good.completes(other.text)


@pytest.mark.parametrize("late", [False, True], ids=["waiting", "late"])
async def test_an_event_that_was_deleted(subscriber: Subscribers, late: bool) -> None:
    """Nobody is given what comes after it."""
    talk = Talk()
    async with RedisProcess() as server, RedisJournal(server.url) as journal:
        async with publishing(journal, talk.stream), server.client() as client:
            talk.begin()
            talk.say("one")
            reader = Reader(subscriber, journal)
            await reader.has(3)
            count = int((await client.xrevrange(EVENTS, count=1))[0][0].partition("-")[0])
            if late:
                await client.xdel(EVENTS, f"{count - 1}-0")
                async with RedisJournal(server.url) as elsewhere:  # where nobody has had it
                    reader = Reader(subscriber, elsewhere)
                    await reader.seen.end()
                assert isinstance(reader.seen.error, JournalError)
                assert "lost" in str(reader.seen.error)
                assert reader.text == ""
            else:
                await client.xadd(EVENTS, {"e": "{}"}, f"{count + 2}-0")
                await reader.fails()
                assert reader.text == "one"


@pytest.mark.parametrize("how", ["deleted", "of another type", "renamed"])
async def test_a_key_that_changes_under_its_followers(subscriber: Subscribers, how: str) -> None:
    """They get `JournalError` when the lease runs out at the latest; others miss nothing."""
    talk, other = Talk(), Talk()
    lease = HANG if how == "of another type" else 2.5  # which is the time that it takes
    async with RedisProcess() as server, RedisJournal(server.url) as journal:
        async with (
            publishing(journal, talk.stream, lease=lease) as task,
            publishing(journal, other.stream, "other"),
            server.client() as client,
        ):
            reader, good = Reader(subscriber, journal), Reader(subscriber, journal, "other")
            for each in (talk, other):
                each.begin()
                each.say("one")
            await reader.has(3)
            await good.has(3)
            if how == "renamed":
                await client.rename(EVENTS, "elsewhere")
            else:
                await client.delete(EVENTS)
            if how == "of another type":
                await client.set(EVENTS, "text")
            await reader.fails()
            talk.say("two")
            assert isinstance(await outcome_of(task), RxCohereError)
            other.say(" two")
            await good.has(7)
            other.end()
            await good.completes(other.text)


async def test_a_key_of_another_type_is_no_stream(subscriber: Subscribers) -> None:
    """Every call says so with `JournalError`, and those who follow other streams hear nothing."""
    talk = Talk()
    async with RedisProcess() as server, RedisJournal(server.url) as journal:
        async with publishing(journal, talk.stream), server.client() as client:
            good = Reader(subscriber, journal)
            talk.begin()
            talk.say("one")
            await good.has(3)
            await client.set("rxcohere:{odd}:events", "text")
            await client.set("rxcohere:{odd}:abort", "text")
            for call in (
                journal.begin("odd", HANG),
                journal.append("odd", Transcript.load("text").events, 0),
                journal.renew("odd", HANG),
                journal.close("odd", Verdict()),
                journal.read("odd"),
                journal.tail("odd"),
                journal.begun("odd"),
                journal.abort_requested("odd"),
            ):
                async with asyncio.timeout(HANG):
                    with pytest.raises(JournalError):
                        await call
            seen = await subscriber().to(follow(journal, "odd")).end()
            assert isinstance(seen.error, JournalError)
            talk.say(" two")
            await good.has(7)
            talk.end()
            await good.completes(talk.text)


async def test_a_client_that_decodes_what_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot even be read: all who wait get `JournalError`, and can go on with what is good."""
    monkeypatch.setattr(feed_reader, "_LONGEST_READ", HANG)
    async with RedisProcess() as server, server.client() as client:
        async with Redis.from_url(f"{server.url}?decode_responses=True") as decodes:
            async with RedisJournal(decodes) as journal:
                for stream_id in ("good", "broken"):
                    await journal.begin(stream_id, HANG)
                waits = [asyncio.create_task(journal.tail("broken"))]
                await until(partial(is_read, client))
                waits.append(asyncio.create_task(journal.tail("good")))
                await until(partial(client.keys, "*:wake:*"))  # and so that read is over
                await until(partial(is_read, client))
                await client.xadd("rxcohere:{broken}:events", {"e": b"\xff\xfe"}, "1-0")
                for each in waits:
                    async with asyncio.timeout(HANG):
                        with pytest.raises(JournalError, match="reading the journal failed"):
                            await each
                events = Transcript.load("text").events
                await journal.append("good", events, 0)
                assert list((await journal.tail("good")).events) == events


async def test_a_wake_up_key_of_another_type(subscriber: Subscribers) -> None:
    """Nobody could be woken any more: all who wait get `JournalError`; who comes later reads."""
    talk = Talk()
    async with RedisProcess() as server, RedisJournal(server.url) as journal:
        async with publishing(journal, talk.stream), server.client() as client:
            reader = Reader(subscriber, journal)
            talk.begin()
            talk.say("one")
            await reader.has(3)
            await journal.begin("other", HANG)
            other = asyncio.create_task(journal.tail("other"))
            await until(partial(client.keys, "*:wake:*"))
            (wake_up_key,) = await client.keys("*:wake:*")
            await client.set(wake_up_key, "text")
            await reader.fails()
            async with asyncio.timeout(HANG):
                with pytest.raises(JournalError):
                    await other
            late = Reader(subscriber, journal)
            await late.has(3)
            late.seen.dispose()


async def test_a_stream_without_its_beginning() -> None:
    """Whoever waits for it learns that it is there, and that it has ended."""
    async with RedisProcess() as server, RedisJournal(server.url) as journal:
        waits = asyncio.create_task(journal.begun(ID))
        async with server.client() as client:
            await until(partial(is_read, client))
            await client.xadd(EVENTS, {"v": Verdict().to_json()}, "0-2")
        async with asyncio.timeout(HANG):
            await waits
        assert (await journal.read(ID)).verdict == Verdict()


class Held(Redis):
    """A client whose blocking reads wait until they are let go."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.held, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def xread(self, *arguments: Any, **options: Any) -> Any:
        if not self.go_on.is_set():
            self.held.set()
            await self.go_on.wait()
        return await super().xread(*arguments, **options)


async def test_a_stream_that_is_rolled_back_and_ended() -> None:
    """Who waits for more than it ends with is told so; who does not gets the verdict."""
    texts = [event.model_dump_json(exclude_unset=True) for event in Transcript.load("text").events]
    async with RedisProcess() as server, server.client() as client:
        async with Held.from_url(server.url) as holds, RedisJournal(holds) as journal:
            await journal.begin(ID, HANG)
            await write(client, 0, texts[:3])
            first = asyncio.create_task(journal.tail(ID, 3))
            await until(partial(is_read, client))
            holds.go_on.clear()
            async with asyncio.timeout(HANG):
                await holds.held.wait()
            await write(client, 3, texts[3:6])
            already = await scripts_run(client)
            second = asyncio.create_task(journal.tail(ID, 6))
            await until(partial(has_run, client, already + 1))
            token = await client.get(f"rxcohere:{{{ID}}}:lease")
            await client.delete(EVENTS)
            await client.xadd(EVENTS, {"b": token}, "0-1")
            await write(client, 0, texts[:3])
            await client.xadd(EVENTS, {"v": Verdict().to_json()}, "3-2")
            holds.go_on.set()
            async with asyncio.timeout(HANG):
                page = await first
                assert (list(page.events), page.verdict) == ([], Verdict())
                with pytest.raises(ConfigurationError, match="there are only 3 events, and not 6"):
                    await second


async def write(client: Any, at: int, texts: list[str]) -> None:
    """Adds events as a journal does, after so many."""
    for number, text in enumerate(texts, at + 1):
        await client.xadd(EVENTS, {"e": text}, f"{number}-0")


async def scripts_run(client: Any) -> int:
    """How many scripts have been run, such as that which tells how it stands with a stream."""
    return int((await client.info("commandstats"))["cmdstat_evalsha"]["calls"])


async def has_run(client: Any, count: int) -> bool:
    """So many scripts have."""
    return await scripts_run(client) >= count
