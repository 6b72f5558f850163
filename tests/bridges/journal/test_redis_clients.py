"""`RedisJournal` with clients of all kinds, with arguments that are wrong, and in a cluster."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from journal_streams import ID, Reader, Talk, outcome_of, publishing, until
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis_server import RedisProcess
from subscribers import ASK, HANG, Subscribers, in_thread, run, served, was_aborted

from rxcohere.bridges.journal import RedisJournal, abort, feed_reader, feeds, follow, publish
from rxcohere.errors import ConfigurationError, JournalError, StreamCancelledError
from rxcohere.testing import Stall

# Clients of all kinds ----------------------------------------------------------------------------


class Watched(Redis):
    """Notes that it is closed."""

    closed = False

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        self.closed = True
        await super().aclose(close_connection_pool)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("given", [False, True], ids=["url", "client"])
async def test_clients_and_urls(
    subscriber: Subscribers, protocol: int, decode: bool, given: bool
) -> None:
    """Whatever protocol it speaks and whether it decodes, and who gives it closes it."""
    words = ["one", " — 🐧", "\0\r\n", ' "{}"']
    async with RedisProcess() as server:
        async with AsyncExitStack() as stack:
            url = f"{server.url}?protocol={protocol}&decode_responses={decode}"
            client = Watched.from_url(url)
            stack.push_async_callback(client.aclose)
            journal = await stack.enter_async_context(RedisJournal(client if given else url))
            talk = Talk()
            async with publishing(journal, talk.stream) as task:
                reader = Reader(subscriber, journal)
                talk.begin()
                for word in words:
                    talk.say(word)
                    await reader.has(len(talk.text))
                late = Reader(subscriber, journal)
                await late.has(len(talk.text))
                await abort(journal, ID, "够了")
                await reader.fails(StreamCancelledError)
                await late.fails(StreamCancelledError)
                assert str(reader.seen.error) == "够了"
                assert reader.text == late.text == talk.text
                assert isinstance((await task).error, StreamCancelledError)
            await journal.aclose()
            assert not client.closed
            if given:
                assert await client.ping()


@pytest.mark.parametrize(
    ("server", "options"),
    [
        ("http://127.0.0.1", {}),
        ("", {}),
        ("127.0.0.1:6379", {}),
        ("redis://127.0.0.1:x", {}),
        ("redis://127.0.0.1:6379?socket_timeout=soon", {}),
        (None, {}),
        (7, {}),
        (b"redis://127.0.0.1", {}),
        *[("", {"prefix": bad}) for bad in ("a{b", "{", None, b"a", 7)],
        *[
            ("", {name: bad})
            for name in ("keep", "reconnect")
            for bad in (0, -1, float("nan"), float("inf"), "1", None, 1e12)
        ],
        *[("", {"max_events": bad}) for bad in (0, -1, 1.5, "1", None, True)],
    ],
    ids=str,
)
def test_bad_arguments(server: Any, options: dict[str, Any]) -> None:
    """They are refused at the call, and named."""
    named = next(iter(options), "redis://")
    with pytest.raises(ConfigurationError, match=named):
        RedisJournal(server if not options else "redis://127.0.0.1", **options)


async def test_an_option_that_no_connection_has() -> None:
    """It is refused as a wrong argument, at the latest when a connection is made."""
    with pytest.raises(ConfigurationError):
        async with RedisJournal("redis://127.0.0.1:6379?no_such_option=1") as journal:
            await journal.begin(ID, HANG)


async def last_of(journal: RedisJournal) -> Any:
    return await follow(journal, ID)


async def test_a_second_event_loop() -> None:
    """It is refused, and the first one can go on."""
    async with RedisProcess() as server, RedisJournal(server.url) as journal:
        await journal.begin(ID, HANG)
        for call in (journal.read, journal.tail, journal.begun, journal.abort_requested):
            with pytest.raises(ConfigurationError, match="one event loop"):
                await in_thread(lambda call=call: run(call(ID)))
        with pytest.raises(ConfigurationError, match="one event loop"):
            await in_thread(lambda: run(last_of(journal)))
        assert (await journal.read(ID)).events == []


# Clusters ----------------------------------------------------------------------------------------


class WatchedCluster(RedisCluster):
    """Notes that it is closed."""

    closed = False

    async def aclose(self) -> None:
        self.closed = True
        await super().aclose()


async def is_ready(node: Redis) -> bool:
    """All slots are served."""
    return bool((await node.cluster("info"))["cluster_state"] == "ok")


def cluster_port() -> int:
    """A free port, below those that systems give out, and with a free one 10,000 above it."""
    while True:
        port = random.randrange(10_000, 22_000)
        with socket.socket() as one, socket.socket() as other, suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            return port


@asynccontextmanager
async def cluster() -> AsyncIterator[tuple[RedisProcess, WatchedCluster]]:
    """A cluster of one server, and a client of it."""
    process = RedisProcess("--cluster-enabled", "yes")
    process.port = cluster_port()
    async with process as server:
        async with server.client() as node:
            await node.execute_command("CLUSTER ADDSLOTS", *range(16384))
            await until(partial(is_ready, node))
        async with WatchedCluster(host="127.0.0.1", port=server.port) as client:
            yield server, client


async def test_a_cluster(subscriber: Subscribers) -> None:
    """Three streams at once, one of which is aborted; whose client it is closes it."""
    async with cluster() as (_, client), served(faults=[Stall(after_events=6)]) as (server, co):
        journal = RedisJournal(client)
        one, two = Talk(), Talk()
        async with (
            publishing(journal, one.stream, "one"),
            publishing(journal, two.stream, "two"),
            publishing(journal, co.chat_stream(**ASK), "three") as task,
        ):
            readers = [Reader(subscriber, journal, name) for name in ("one", "two", "three")]
            for talk in (one, two):
                talk.begin()
            for number in range(10):
                for talk, reader in zip((one, two), readers, strict=False):
                    talk.say(f"{number}{id(talk)} ")
                    await reader.has(len(talk.text))
            await abort(journal, "three", "enough")
            await server.until(was_aborted)
            await readers[2].fails(StreamCancelledError)
            assert isinstance((await task).error, StreamCancelledError)
            for talk, reader in zip((one, two), readers, strict=False):
                talk.end()
                await reader.completes(talk.text)
            late = Reader(subscriber, journal, "two")
            await late.completes(two.text)
        await journal.aclose()
        assert not client.closed
        assert await client.ping()
        with pytest.raises(JournalError):
            await journal.read("one")


async def no_others_than(tasks: set[asyncio.Task[Any]]) -> bool:
    """All other tasks are over."""
    return not asyncio.all_tasks() - tasks


async def test_a_cluster_that_many_streams_pass_through(
    subscriber: Subscribers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of those that have ended stays in the process."""
    monkeypatch.setattr(feeds, "_IDLE", 0.01)
    monkeypatch.setattr(feed_reader, "_LONGEST_READ", 0.02)
    async with cluster() as (_, client), RedisJournal(client) as journal:
        tasks = asyncio.all_tasks()
        for number in range(8):
            talk = Talk()
            async with publishing(journal, talk.stream, f"s-{number}"):
                reader = Reader(subscriber, journal, f"s-{number}")
                talk.begin()
                talk.say("word")
                await reader.has(4)
                talk.end()
                await reader.completes("word")
        await until(partial(no_others_than, tasks))
        assert len(journal._readers) <= 3


async def test_a_cluster_that_goes_away(subscriber: Subscribers) -> None:
    """Followers and the producer get `JournalError`, as with a single server."""
    talk = Talk()
    async with cluster() as (server, client), RedisJournal(client, reconnect=0.3) as journal:
        async with publishing(journal, talk.stream) as task:
            reader = Reader(subscriber, journal)
            talk.begin()
            talk.say("one")
            await reader.has(3)
            server.kill()
            await reader.fails()
            error = await outcome_of(task)
            assert isinstance(error, JournalError)
            assert talk.stream.observers == []


async def test_a_cluster_that_was_never_there(subscriber: Subscribers) -> None:
    """Every call is `JournalError`, as with a single server."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        client = RedisCluster(host="127.0.0.1", port=bound.getsockname()[1])
        async with RedisJournal(client, reconnect=0.3) as journal:
            for call in (journal.read, journal.tail, journal.begun, journal.abort_requested):
                with pytest.raises(JournalError):
                    await call(ID)
            with pytest.raises(JournalError):
                await publish(journal, ID, Talk().stream)
            seen = await subscriber().to(follow(journal, ID)).end()
            assert isinstance(seen.error, JournalError)
        await client.aclose()
