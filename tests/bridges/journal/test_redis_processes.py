"""A producer and its followers in processes of their own, some of which are killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from journal_streams import ID, response_of, text_of
from redis_server import RedisProcess
from samples import parsed, text_stream
from subscribers import ANSWER, ASK, HANG, Subscriber, Subscribers, served, was_aborted

import rxcohere
from rxcohere.bridges.journal import RedisJournal, Verdict, abort, follow
from rxcohere.errors import (
    ApiError,
    GenerationError,
    RxCohereError,
    StreamAbandonedError,
    StreamCancelledError,
    StreamError,
)
from rxcohere.testing import Cut, Fault, FaultProxy, ReplayServer, Stall, Status, Transcript, Wire

PRODUCER = """
import asyncio, json, sys
from rxcohere import CohereClient, Retry
from rxcohere.bridges.journal import RedisJournal, publish

async def main(redis, cohere, stream_id, ask, lease):
    once = Retry(attempts=1)
    async with CohereClient("a-key", base_url=cohere, retry=once) as co, RedisJournal(redis) as j:
        stream = co.chat_stream(**json.loads(ask))
        verdict = await publish(j, stream_id, stream, lease=float(lease), batch_seconds=0.01)
        print(verdict.to_json())

asyncio.run(main(*sys.argv[1:]))
"""
FOLLOWER = """
import asyncio, json, sys
from rxcohere import RxCohereError
from rxcohere.bridges.journal import RedisJournal, Verdict, follow

async def main(redis, stream_id, after):
    verdict = Verdict()
    async with RedisJournal(redis) as journal:
        try:
            async for entry in follow(journal, stream_id, after or None, patience=10):
                event = entry.event.model_dump(mode="json", exclude_unset=True)
                print(json.dumps([entry.id, event]), flush=True)
        except RxCohereError as error:
            verdict = Verdict.of(error)
    print(verdict.to_json())

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def process(script: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python of its own that runs the script; it is killed at the end, if it still runs."""
    folder = str(Path(rxcohere.__file__).parents[1])
    made = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", script, *arguments),
        env={**os.environ, "PYTHONPATH": folder},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield made
    finally:
        if made.returncode is None:
            made.kill()
        await made.communicate()


def producing(
    redis: RedisProcess, server: ReplayServer | FaultProxy, lease: float = HANG
) -> Any:  # a context manager of a process
    """A process that publishes what the server answers."""
    return process(PRODUCER, redis.url, server.url, ID, json.dumps(ASK), str(lease))


def following(redis: RedisProcess, after: str = "") -> Any:
    """A process that prints what it follows, line by line, and then how it ended."""
    return process(FOLLOWER, redis.url, ID, after)


async def line_of(child: asyncio.subprocess.Process) -> Any:
    """The next line that it prints, a whole one."""
    assert child.stdout is not None
    line = await child.stdout.readline()
    assert line.endswith(b"\n"), "it has ended"
    return json.loads(line)


async def printed_by(child: asyncio.subprocess.Process) -> tuple[list[Any], Verdict]:
    """All that a follower prints from now on: pairs of an id and an event, and the verdict."""
    out, _ = await child.communicate()
    *entries, verdict = out.decode().splitlines()
    assert child.returncode == 0
    return [json.loads(line) for line in entries], Verdict.from_json(verdict)


async def test_a_stream_crosses_processes(subscriber: Subscribers) -> None:
    """Followers here and in a third process get all that the producer's own subscriber would."""
    direct = subscriber()
    async with RedisProcess() as redis, served("rag") as (server, co):
        await direct.to(co.chat_stream(**ASK)).end()
        async with (
            RedisJournal(redis.url) as journal,
            following(redis) as third,
            producing(redis, server) as producer,
        ):
            here = await subscriber().to(follow(journal, ID, patience=HANG)).end()
            entries, verdict = await printed_by(third)
            out, _ = await producer.communicate()
            assert Verdict.from_json(out) == verdict == Verdict()
    assert here.completed
    for events in ([e.event for e in here.values], parsed(event for _, event in entries)):
        assert text_of(events) == text_of(direct.values)
        assert response_of(events) == response_of(direct.values)
    assert here.values[-1].event.response == direct.values[-1].response


@pytest.mark.parametrize(
    ("transcript", "fault"),
    [
        ("text", Status(429, body={"message": "slow down"}, headers={"retry-after": "7"})),
        ("error", None),
        ("text", Cut(after_events=6, how="eof")),
    ],
    ids=["429", "GenerationError", "truncated"],
)
async def test_an_error_crosses_processes(
    subscriber: Subscribers, transcript: str, fault: Fault | None
) -> None:
    """It is of the same class and has the same fields as where the stream was read."""
    faults = [fault] if fault else []
    async with RedisProcess() as redis, served(transcript, faults) as (server, co):
        direct = await subscriber().to(co.chat_stream(**ASK)).end()
        async with RedisJournal(redis.url) as journal, producing(redis, server) as producer:
            seen = await subscriber().to(follow(journal, ID, patience=HANG)).end()
            out, _ = await producer.communicate()
    assert seen.error is not None
    assert type(seen.error) is type(direct.error)
    assert type(Verdict.from_json(out).error) is type(direct.error)
    assert fields_of(seen.error) == fields_of(direct.error)
    assert text_of([entry.event for entry in seen.values]) == text_of(direct.values)


def fields_of(error: Exception | None) -> dict[str, Any]:
    """What an error says, but for what differs from one request to the next."""
    assert isinstance(error, RxCohereError)
    told: dict[str, Any] = {}
    if isinstance(error, ApiError):
        assert error.request_id
        told = {"status": error.status_code, "body": error.body, "after": error.retry_after}
        told["headers"] = sorted(error.headers)
    if isinstance(error, GenerationError):
        told = {"reason": error.finish_reason, "error": error.error, "type": error.error_type}
    if isinstance(error, StreamError):
        told["partial"] = error.partial
    return told


def first_text(subscriber: Subscribers) -> tuple[asyncio.Event, Subscriber]:
    """A subscriber, and what is set when it has seen some text."""
    talks = asyncio.Event()
    return talks, subscriber(lambda entry: talks.set() if text_of([entry.event]) else None)


async def test_a_producer_that_is_killed(subscriber: Subscribers) -> None:
    """Followers get `StreamAbandonedError` with what came, those who come later as well."""
    async with RedisProcess() as redis, served(faults=[Stall(after_events=8)]) as (server, _):
        async with RedisJournal(redis.url) as journal:
            async with producing(redis, server, lease=1.0) as producer:
                talks, seen = first_text(subscriber)
                seen.to(follow(journal, ID, patience=HANG))
                await talks.wait()
                producer.kill()
                await server.until(was_aborted)
                await seen.end()
            late = await subscriber().to(follow(journal, ID)).end()
    for each in (seen, late):
        assert isinstance(each.error, StreamAbandonedError)
        events = [entry.event for entry in each.values]
        assert text_of(events)
        assert ANSWER.startswith(text_of(events))
        assert each.error.partial == response_of(events)


async def text_read_by(follower: asyncio.subprocess.Process) -> list[Any]:
    """The entries that it prints, up to the first that says something."""
    entries: list[Any] = []
    while not text_of(parsed(event for _, event in entries)):
        entries.append(await line_of(follower))
    return entries


async def test_a_follower_that_is_killed_goes_on_where_it_was() -> None:
    """After the last id that it printed, with no gap and nothing twice, however often."""
    fragments = [f"{number}—🐧\n" for number in range(300)]
    events, text = Transcript.of(text_stream(*fragments)), "".join(fragments)
    # What is behind the hundredth fragment comes when the proxy is healed, and not before.
    wire = Wire(cut_after=0, ending="stall", counted_from=f'"{fragments[99]}'.encode()[:-1])
    async with (
        asyncio.timeout(3 * HANG),
        RedisProcess() as redis,
        ReplayServer(events, pace=0.006) as server,
        FaultProxy(server.url, wire) as proxy,
        producing(redis, proxy) as producer,
    ):
        async with following(redis) as follower:
            entries = await text_read_by(follower)
            follower.kill()  # it has printed others, perhaps, which nobody has read
        assert producer.returncode is None
        async with following(redis, entries[-1][0]) as follower:
            proxy.heal()
            entries += await text_read_by(follower)
            follower.kill()
        assert text.startswith(text_of(parsed(event for _, event in entries)))
        async with following(redis, entries[-1][0]) as follower:
            rest, verdict = await printed_by(follower)
    entries += rest
    assert verdict == Verdict()
    numbers = [int(entry_id) for entry_id, _ in entries]
    assert numbers == sorted(set(numbers))
    seen = parsed(event for _, event in entries)
    assert text_of(seen) == text
    assert response_of(seen) == response_of(events.events)


async def test_an_abort_from_another_process(subscriber: Subscribers) -> None:
    """The producer's request is given up, and both sides hear the reason."""
    async with RedisProcess() as redis, served(faults=[Stall(after_events=6)]) as (server, _):
        async with RedisJournal(redis.url) as journal, producing(redis, server) as producer:
            talks, seen = first_text(subscriber)
            seen.to(follow(journal, ID, patience=HANG))
            await talks.wait()
            await abort(journal, ID, "the user went home — 够了")
            await server.until(was_aborted)
            await seen.end()
            out, _ = await producer.communicate()
    for error in (seen.error, Verdict.from_json(out).error):
        assert isinstance(error, StreamCancelledError)
        assert str(error) == "the user went home — 够了"
    assert isinstance(seen.error, StreamCancelledError)
    assert seen.error.partial == response_of([entry.event for entry in seen.values])
