"""Servers that break HTTP itself, or hold on to what they should give: a raw socket plays them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from subscribers import HANG, Reports, Subscribers, waiting

from rxcohere import (
    ChatEvent,
    CohereClient,
    ConnectionFailedError,
    EventDecodeError,
    GenerationError,
    Retry,
    StreamTimeoutError,
    StreamTruncatedError,
    Timeouts,
    UnauthorizedError,
)
from rxcohere.testing import ReplayServer, Status, Transcript
from rxcohere.transport import answer

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


@asynccontextmanager
async def answering(
    *pieces: bytes, later: bytes = b"", when: asyncio.Event | None = None
) -> AsyncIterator[str]:
    """A server that sends these bytes, and others at the event, then waits for the client to go."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.writelines(pieces)
        try:
            await writer.drain()
            if when is not None:
                await when.wait()
                writer.write(later)
            while await reader.read(65_536):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("rubbish", [b"zz\r\n", b"-5\r\n", b"f" * 40 + b"\r\n"])
async def test_chunks_that_cannot_be_made_out_end_the_stream_at_once(rubbish: bytes) -> None:
    """What came before is delivered; no timeout has to find out."""
    frames = Transcript.load("text").frames
    got: list[ChatEvent] = []
    limits = Timeouts(first_event=None, idle=None)
    arrived = asyncio.Event()
    good = (STREAM_HEAD, chunk(frames[0]), chunk(frames[1]))
    async with (
        asyncio.timeout(10),
        answering(*good, later=rubbish, when=arrived) as url,
        CohereClient("key", base_url=url, timeouts=limits, retry=Retry(attempts=1)) as co,
    ):
        with pytest.raises(StreamTruncatedError):
            async for event in co.chat_stream(**ASK):
                got.append(event)
                if len(got) == 2:
                    arrived.set()
    assert [event.type for event in got] == ["message-start", "content-start"]


async def test_a_status_is_not_lost_when_its_body_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status alone tells what went wrong, also when the limit for a first event is short."""
    monkeypatch.setattr(answer, "_ERROR_BODY_PATIENCE", 0.5)
    head = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 100\r\n\r\n"
    async with (
        asyncio.timeout(10),
        answering(head, b'{"mess') as url,
        CohereClient("key", base_url=url, timeouts=Timeouts(first_event=0.2)) as co,
    ):
        with pytest.raises(UnauthorizedError) as caught:
            await co.chat_stream(**ASK)
    assert caught.value.body == '{"mess'


async def test_a_reply_over_the_limit_is_refused() -> None:
    """chat() reads no more than a stream's event may have."""
    async with (
        ReplayServer("text") as server,
        CohereClient("key", base_url=server.url, max_event_bytes=100) as co,
    ):
        with pytest.raises(EventDecodeError, match="max_event_bytes"):
            await co.chat(**ASK)


async def test_a_stream_that_waits_to_try_again_holds_no_connection() -> None:
    """With one connection, another stream runs while the first one waits for its next attempt."""
    fault = Status(503, headers={"retry-after": "30"}, times=1)
    async with (
        asyncio.timeout(10),
        ReplayServer("text", faults=[fault]) as server,
        CohereClient("key", base_url=server.url, max_connections=1) as co,
    ):
        waiting = co.chat_stream(**ASK).subscribe()
        await server.until(lambda s: len(s.requests) == 1 and s.open == 0)
        assert (await co.chat_stream(**ASK).response()).finish_reason == "COMPLETE"
        waiting.dispose()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 abc\r\n\r\n",
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-long: " + b"y" * 20_000 + b"\r\n\r\n",
    ],
    ids=lambda head: head[:30],
)
async def test_a_head_that_is_no_http(head: bytes) -> None:
    """There was no answer then; the error shows why, and nothing of the request."""
    async with (
        asyncio.timeout(HANG),
        answering(head) as url,
        CohereClient("a-very-secret-key", base_url=url, retry=Retry(attempts=1)) as co,
    ):
        for ask in (co.chat_stream, co.chat):
            with pytest.raises(ConnectionFailedError) as caught:
                await ask(**ASK)
            cause = caught.value.__cause__
            assert type(cause) is ConnectionError  # aiohttp's own holds the headers it has sent
            assert str(cause).startswith("ClientResponseError: ")


async def test_no_connection_in_time() -> None:
    """A host that answers nobody is a connect timeout, which says so."""
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for each in (first, second):  # they fill its queue, so that further ones get no answer
            each.setblocking(False)
            each.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        limits = Timeouts(connect=0.1)
        async with CohereClient("", base_url=url, timeouts=limits, retry=Retry(attempts=1)) as co:
            for ask in (co.chat_stream, co.chat):
                with pytest.raises(StreamTimeoutError, match=r"0\.1 s") as caught:
                    await ask(**ASK)
                assert caught.value.phase == "connect"


async def test_a_failed_generation_in_one_reply() -> None:
    """chat() raises what its finish reason means, with all that came."""
    message = {"role": "assistant", "content": [{"type": "text", "text": "So far"}]}
    body = json.dumps({"id": "reply-1", "finish_reason": "ERROR", "message": message}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    async with (
        asyncio.timeout(HANG),
        answering(head % len(body), body) as url,
        CohereClient("key", base_url=url) as co,
    ):
        with pytest.raises(GenerationError) as caught:
            await co.chat(**ASK)
    assert caught.value.finish_reason == "ERROR"
    assert caught.value.partial is not None
    assert caught.value.partial.text == "So far"


async def test_done_before_a_broken_body_is_what_counts() -> None:
    """A slow reader hears of what the body said before it broke, not of the break."""
    frames = Transcript.load("text").frames
    first_came = asyncio.Event()
    rest = chunk(b"".join(frames[1:5]) + b"data: [DONE]\n\n") + b"rubbish\r\n"
    got: list[ChatEvent] = []
    async with (
        asyncio.timeout(HANG),
        answering(STREAM_HEAD, chunk(frames[0]), later=rest, when=first_came) as url,
        CohereClient("key", base_url=url, retry=Retry(attempts=1)) as co,
    ):
        with pytest.raises(StreamTruncatedError, match=r"\[DONE\] came before message-end"):
            async for event in co.chat_stream(**ASK):
                got.append(event)
                if len(got) == 1:
                    first_came.set()
                    for _ in range(100):  # until all of it has come, and been found out
                        await asyncio.sleep(0)
    assert len(got) == 5


def with_small_buffers(_: object = None) -> socket.socket:
    """A socket that takes a few thousand bytes, and not megabytes."""
    small = socket.socket()
    small.setblocking(False)
    for direction in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        small.setsockopt(socket.SOL_SOCKET, direction, 4096)
    return small


async def test_a_session_whose_closing_is_given_up(
    subscriber: Subscribers, reports: Reports
) -> None:
    """With a request that nobody reads: the stream ends as broken, and asyncio reports nothing."""
    loop, seen = asyncio.get_running_loop(), subscriber()
    ask = {"model": "m", "messages": [{"role": "user", "content": "x" * (1 << 20)}]}
    with with_small_buffers() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        connector = aiohttp.TCPConnector(socket_factory=with_small_buffers)
        async with asyncio.timeout(HANG), aiohttp.ClientSession(connector=connector) as session:
            async with CohereClient("key", base_url=url, session=session) as co:
                arrived = seen.arrived(1)
                seen.to(co.chat_stream(**ask))
                connection, _ = await loop.sock_accept(listener)
                with connection:
                    await loop.sock_recv(connection, 1024)  # and no more
                    frame = Transcript.load("text").frames[0]
                    await loop.sock_sendall(connection, STREAM_HEAD + chunk(frame))
                    await waiting(arrived)
                    closing = asyncio.create_task(session.close())
                    for _ in range(10):  # until it waits for what the server does not read
                        await asyncio.sleep(0)
                    assert session.closed
                    closing.cancel()
                    await asyncio.wait([closing])
                    assert closing.cancelled()
                    await seen.end()
    assert isinstance(seen.error, StreamTruncatedError)
    assert [event.type for event in seen.values] == ["message-start"]
    assert reports == []
