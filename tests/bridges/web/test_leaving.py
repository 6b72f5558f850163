"""Ends that wait behind something unread: a client's leaving, and the last words of a server."""

from __future__ import annotations

import array
import asyncio
import json
import sys

import pytest
import reactivex as rx
from aiohttp import web
from bridges.web.relays import LONG, Feed, raw_client, serving, text_of
from samples import parsed, text_delta
from subscribers import HANG, TEXT

from rxcohere import parse_event
from rxcohere.bridges.web import event_stream
from rxcohere.errors import StreamAbandonedError
from rxcohere.sse import SSEDecoder

BODY = 1_000_000
"""Bytes: more than aiohttp reads of a body that its handler does not ask for."""


async def test_a_client_whose_body_nobody_reads_is_noticed_when_it_leaves() -> None:
    """Its end is behind a megabyte that stays unread; the next heartbeat finds it all the same."""
    feed = Feed()
    ended = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await event_stream(request, feed.source, heartbeat=0.05)
        finally:
            ended.set()

    async with serving(handle) as url, asyncio.timeout(HANG):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        try:
            head = f"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {BODY}\r\n\r\n"
            writer.write(head.encode() + BODY * b"x")
            await feed.listening()
            feed.subject.on_next(TEXT.events[0])
            await reader.readuntil(b"message-start")
            await reader.readuntil(b": heartbeat\n\n")
            assert len(feed.subject.observers) == 1
            await writer.drain()
            writer.write_eof()  # a FIN: it reads on, so that no reset tells of it
            await feed.left()
            await ended.wait()
            assert feed.subject.observers == []
        finally:
            writer.transport.abort()


def unacknowledged(request: web.Request) -> int:
    """Bytes that the system has taken for a client which does not have them yet."""
    import fcntl
    import termios

    count = array.array("i", [0])
    assert request.transport is not None
    fcntl.ioctl(request.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, count)
    return count[0]


@pytest.mark.skipif(sys.platform != "linux", reason="others do not tell what has been acknowledged")
async def test_an_old_client_that_reads_late_hears_of_the_error() -> None:
    """In HTTP/1.0 the connection is reset, but not before the client has got what was sent."""
    events = parsed([text_delta(f"{number} " + 1000 * "x") for number in range(20)])
    source = rx.concat(rx.from_iterable(events), rx.throw(StreamAbandonedError("gone")))
    requests: list[web.Request] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        requests.append(request)
        return await event_stream(request, source, heartbeat=LONG, send_timeout=LONG)

    def all_is_written() -> bool:
        if not (requests and requests[0].transport):
            return False
        waiting = requests[0].transport.get_write_buffer_size()
        return waiting == 0 and unacknowledged(requests[0]) > 10_000

    async with serving(handle) as url, raw_client(url, receive_buffer=2048) as client:
        await client.ask(version="1.0")
        async with asyncio.timeout(HANG):
            while not all_is_written():  # noqa: ASYNC110 - nobody else can tell
                await asyncio.sleep(0)
            for _ in range(20):  # as many turns as it may take to close
                await asyncio.sleep(0)
        come = b""
        with pytest.raises(ConnectionResetError):
            while chunk := await client.read():
                come += chunk
    *deltas, told = SSEDecoder().feed(come.partition(b"\r\n\r\n")[2])
    assert text_of(parse_event(each.data) for each in deltas) == text_of(events)
    assert (told.event, told.id) == ("error", ":error")
    assert json.loads(told.data)["error"] == "StreamAbandonedError"
