"""Servers that break HTTP itself, or hold on to what they should give: a raw socket plays them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rxcohere import (
    ChatEvent,
    CohereClient,
    EventDecodeError,
    Retry,
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
