"""`websocket`: the same stream as JSON messages."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import reactivex as rx
from aiohttp import web
from bridges.web.relays import (
    ID,
    LONG,
    Feed,
    Handler,
    get,
    journal_of,
    raw_client,
    serving,
    text_of,
)
from samples import parsed, text_delta
from subscribers import ANSWER, HANG, TEXT, Boom, Reports

from rxcohere import ContentDelta, parse_event
from rxcohere.bridges.journal import MemoryJournal, Verdict, follow
from rxcohere.bridges.web import websocket
from rxcohere.errors import RxCohereError, StreamTruncatedError, UnauthorizedError
from rxcohere.events import ChatEvent
from rxcohere.testing import Transcript, transcript_names

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    + base64.b64encode(b"0123456789abcdef")
    + b"\r\n\r\n"
)
BIG = 8 * 1024
CLOSE = b"\x88\x02" + (1000).to_bytes(2, "big")


class Relay:
    """A handler that counts the answers that have come to an end."""

    def __init__(self, source: Any, **options: Any) -> None:
        self.source = source
        self.options = options
        self.ended = 0
        self.requests: list[web.Request] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        try:
            source = self.source() if callable(self.source) else self.source
            return await websocket(request, source, **self.options)
        finally:
            self.ended += 1


def handler_of(source: Any, **options: Any) -> Handler:
    return Relay(source, **options).handle


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with asyncio.timeout(HANG), aiohttp.ClientSession() as session:
        async with session.ws_connect(url, **options) as socket:
            yield socket


async def messages_of(socket: aiohttp.ClientWebSocketResponse) -> list[Any]:
    """All messages to the end."""
    messages: list[Any] = []
    async for message in socket:
        assert message.type is aiohttp.WSMsgType.TEXT
        messages.append(json.loads(message.data))
    return messages


def events_of(messages: list[Any]) -> list[ChatEvent]:
    return [parse_event(message["event"]) for message in messages]


async def until(condition: Any) -> None:
    async with asyncio.timeout(HANG):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


def masked(opcode: int, payload: bytes) -> bytes:
    """A frame of a client, with a mask that changes nothing."""
    size = len(payload)
    head = bytes([0x80 | opcode, 0x80 | (size if size < 126 else 126)])
    return head + (size.to_bytes(2, "big") if size >= 126 else b"") + bytes(4) + payload


# What is sent ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in transcript_names() if name != "error"])
async def test_the_messages_are_the_entries(name: str) -> None:
    """Each has the id and the event as Cohere sends it; the end is close code 1000."""
    journal = await journal_of(Transcript.load(name).events)
    expected = [
        {"id": entry.id, "event": json.loads(entry.event.model_dump_json(exclude_unset=True))}
        async for entry in follow(journal, ID)
    ]
    async with serving(handler_of(lambda: follow(journal, ID))) as url:
        async with connected(url) as socket:
            assert await messages_of(socket) == expected
            assert socket.close_code == 1000


async def test_plain_events_have_no_id() -> None:
    """A source that is in no journal is sent as it is."""
    async with serving(handler_of(rx.from_iterable(TEXT.events))) as url:
        async with connected(url) as socket:
            messages = await messages_of(socket)
    assert all(message.keys() == {"event"} for message in messages)
    assert text_of(events_of(messages)) == ANSWER


async def test_going_on() -> None:
    """``?after=`` goes on after that entry; what there is not is a status before the handshake."""
    journal = await journal_of(TEXT.events)
    last = str(len(TEXT.events))
    async with serving(handler_of(lambda: follow(journal, ID))) as url:
        for after in ("1", "4", last):
            async with connected(f"{url}/?after={after}") as socket:
                rest = events_of(await messages_of(socket))
                assert text_of([*TEXT.events[: int(after)], *rest]) == ANSWER
                assert socket.close_code == 1000
        answer = await get(f"{url}/?after=x")
        assert (answer.status, json.loads(answer.body)["error"]) == (400, "ConfigurationError")
        async with connected(f"{url}/?after=999") as socket:
            (told,) = await messages_of(socket)
            assert told["error"]["error"] == "ConfigurationError"
            assert socket.close_code == 1011


async def test_going_on_after_the_error() -> None:
    """Who has been told that the stream failed is told that there is nothing more."""
    journal = await journal_of(TEXT.events[:4], StreamTruncatedError("cut"))
    async with serving(handler_of(lambda: follow(journal, ID))) as url:
        answer = await get(f"{url}/?after=4:error")
        assert (answer.status, answer.body) == (204, b"")


async def test_a_client_that_left_before_the_handler_got_to_it() -> None:
    """Nothing is subscribed to for nobody, and nothing is reported."""
    feed, gone, ended = Feed(), asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        await gone.wait()
        await until(lambda: request.transport is None)
        try:
            return await websocket(request, feed.source)
        finally:
            ended.set()

    async with serving(handle) as url:
        async with raw_client(url) as client:
            await client.send(UPGRADE)
        gone.set()
        async with asyncio.timeout(HANG):
            await ended.wait()
    assert feed.subscriptions == 0


async def test_a_request_that_is_no_websocket() -> None:
    """It is told to upgrade, in JSON, and the source is not subscribed to."""
    feed = Feed()
    async with serving(handler_of(feed.source)) as url:
        headers = {"Upgrade": "<script>", "Connection": "Upgrade"}
        for options in ({}, {"headers": headers}):
            answer = await get(url, **options)
            assert answer.status == 426
            assert answer.headers["upgrade"] == "websocket"
            assert answer.headers["content-type"].startswith("application/json")
            assert b"<script>" not in answer.body
    assert feed.subscriptions == 0


async def test_a_handshake_of_an_old_version() -> None:
    """HTTP/1.0 has no upgrades (RFC 6455, section 4.1): the client is told of it, and refused."""
    feed = Feed()
    async with serving(handler_of(feed.source)) as url, raw_client(url) as client:
        await client.send(UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, body = (await client.read_to_end()).partition(b"\r\n\r\n")
        assert head.split(b" ", 2)[1] == b"426"
        assert json.loads(body)["error"] == "ConfigurationError"
    assert feed.subscriptions == 0


@pytest.mark.parametrize("error", [StreamTruncatedError("cut"), Boom("cut"), TimeoutError("cut")])
async def test_an_error(error: Exception, reports: Reports) -> None:
    """The last message tells of it, and the socket is closed with 1011."""
    source = rx.concat(rx.from_iterable(TEXT.events[:5]), rx.throw(error))
    async with serving(handler_of(source)) as url, connected(url) as socket:
        *messages, told = await messages_of(socket)
        assert events_of(messages) == TEXT.events[:5]
        assert told.keys() == {"error"}
        assert told["error"]["type"] == "error"
        ours = isinstance(error, RxCohereError)
        assert told["error"]["message"] == ("cut" if ours else "the server failed")
        assert socket.close_code == 1011
    assert reports == ([] if ours else [error])


async def test_a_long_error() -> None:
    """The reason of the close is cut between characters; headers of an answer are not shown."""
    error = UnauthorizedError(401, {"message": "é" * 500}, {"set-cookie": "secret"})
    async with serving(handler_of(rx.throw(error))) as url, connected(url) as socket:
        message = await socket.receive()
        assert "secret" not in message.data
        assert json.loads(message.data)["error"]["status_code"] == 401
        closed = await socket.receive()
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1011)
        assert closed.extra is not None
        assert len(closed.extra.encode()) <= 123
        assert closed.extra.endswith("é")


def messages_in(frames: bytes) -> list[Any]:
    """What the text frames of a server say, up to its close."""
    messages: list[Any] = []
    at = 0
    while frames[at] != 0x88:
        assert frames[at] == 0x81
        size, at = frames[at + 1], at + 2
        if size > 125:
            digits = 2 if size == 126 else 8
            size, at = int.from_bytes(frames[at : at + digits], "big"), at + digits
        messages.append(json.loads(frames[at : at + size]))
        at += size
    return messages


async def test_a_slow_client_gets_fewer_and_larger_deltas() -> None:
    """What it could not take is merged, no character is missing, and the buffer stays small."""
    journal = MemoryJournal()
    await journal.begin(ID, LONG)
    relay = Relay(lambda: follow(journal, ID), heartbeat=LONG)
    count, largest = 600, 0
    events = [parsed([text_delta(f"{n} " + "é" * BIG)])[0] for n in range(count)]
    async with serving(relay.handle) as url, raw_client(url, receive_buffer=4096) as slow:
        await slow.send(UPGRADE)
        await until(lambda: relay.requests)
        for at, event in enumerate(events):
            await journal.append(ID, [event], at)
            for _ in range(4):
                await asyncio.sleep(0)
            if (transport := relay.requests[0].transport) is not None:
                largest = max(largest, transport.get_write_buffer_size())
        await journal.close(ID, Verdict())
        come = bytearray()
        while not come.endswith(CLOSE):
            chunk = await slow.read(1 << 20)
            assert chunk
            come += chunk
        _, _, frames = bytes(come).partition(b"\r\n\r\n")
        deltas = events_of(messages_in(frames))
        assert text_of(deltas) == text_of(events)
        assert len(deltas) < count / 4
        assert max(len(each.text or "") for each in deltas if isinstance(each, ContentDelta)) > (
            10 * BIG
        )
        assert largest < 64 * 1024 + 8 * (2 * BIG + 1000)


# Leaving -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "drop"])
async def test_a_client_that_leaves_is_noticed_at_once(how: str) -> None:
    """Whether it says so or not, the source is given up although nothing comes."""
    feed = Feed()
    relay = Relay(feed.source, heartbeat=LONG)
    async with serving(relay.handle) as url, raw_client(url) as client:
        await client.send(UPGRADE)
        await feed.listening()
        if how == "close":
            await client.send(masked(8, (1000).to_bytes(2, "big")))
        else:
            client.close()
        await feed.left()
        assert feed.subject.observers == []
        await until(lambda: relay.ended == 1)


async def test_a_client_that_does_not_answer_pings() -> None:
    """One that says nothing for two heartbeats is disconnected; one that answers is not."""
    dead, alive = Feed(), Feed()
    async with serving(handler_of(dead.source, heartbeat=0.05)) as url:
        async with raw_client(url) as client:
            await client.send(UPGRADE)
            await dead.left()
    async with serving(handler_of(alive.source, heartbeat=0.05)) as url:
        async with connected(url, autoping=False) as socket:
            for _ in range(5):
                message = await socket.receive()
                assert message.type is aiohttp.WSMsgType.PING
                await socket.pong(message.data)
            assert len(alive.subject.observers) == 1


async def test_who_reads_nothing_is_disconnected() -> None:
    """After ``send_timeout``, with the source given up."""
    feed = Feed()
    relay = Relay(feed.source, heartbeat=LONG, send_timeout=0.2)
    async with serving(relay.handle) as url, raw_client(url, receive_buffer=4096) as stuck:
        await stuck.send(UPGRADE)
        await feed.listening()
        for count in range(1000):
            feed.subject.on_next(parsed([text_delta(f"{count} " + "x" * BIG)])[0])
            for _ in range(4):
                await asyncio.sleep(0)
        await feed.left()
        await until(lambda: relay.ended == 1)


async def test_who_does_not_close_is_disconnected() -> None:
    """A client that does not answer the close is not waited for."""
    relay = Relay(rx.from_iterable(TEXT.events), send_timeout=0.1)
    async with serving(relay.handle) as url, raw_client(url) as client:
        await client.send(UPGRADE)
        await until(lambda: relay.ended == 1)
        come = b""
        while chunk := await client.read():
            come += chunk
        assert come.endswith(CLOSE)


async def test_a_server_that_stops() -> None:
    """Its sockets are closed, and their sources given up."""
    feed = Feed()
    async with serving(handler_of(feed.source, heartbeat=LONG)) as url:
        async with aiohttp.ClientSession() as session, session.ws_connect(url):
            await feed.listening()
    await feed.left()
    assert feed.subject.observers == []


# Clients that talk -------------------------------------------------------------------------------


async def test_what_a_client_says_is_ignored() -> None:
    """A flood of messages and pings does not keep the stream from its end."""
    feed = Feed()
    async with serving(handler_of(feed.source, heartbeat=LONG)) as url:
        async with raw_client(url) as client:
            await client.send(UPGRADE)
            await feed.listening()
            flood = (masked(1, b"x" * 100) + masked(2, b"\xff") + masked(9, b"p")) * 10000
            flooding = asyncio.create_task(client.send(flood))
            for event in TEXT.events:
                feed.subject.on_next(event)
                await asyncio.sleep(0)
            feed.subject.on_completed()
            await client.read_until(b"message-end")
            flooding.cancel()
            await asyncio.wait([flooding])


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (masked(1, b"x" * 4097), 1009),
        (masked(1, b"\xff\xfe"), 1007),
        (bytes([0xFF, 0x80, 0, 0, 0, 0]), 1002),
    ],
    ids=["too-large", "no-utf-8", "reserved-bits"],
)
@pytest.mark.parametrize("before", [b"", masked(1, b"hello")], ids=["at-once", "in-one-breath"])
async def test_a_client_that_breaks_the_rules(before: bytes, frames: bytes, code: int) -> None:
    """It is disconnected with the code for it, and its source given up."""
    feed = Feed()
    relay = Relay(feed.source, heartbeat=LONG, send_timeout=0.2)
    async with serving(relay.handle) as url, raw_client(url) as client:
        await client.send(UPGRADE)
        await client.read_until(b"\r\n\r\n")
        await feed.listening()
        await client.send(before + frames)
        await feed.left()
        come = b""
        while chunk := await client.read():
            come += chunk
        assert come[:1] == b"\x88"
        assert int.from_bytes(come[2:4], "big") == code
        await until(lambda: relay.ended == 1)
