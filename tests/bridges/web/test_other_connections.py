"""Connections of which the system tells less than of TCP's: they are served all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import reactivex as rx
from aiohttp import web
from bridges.web.relays import LONG, Feed, Handler, get, raw_client, serving
from subscribers import ANSWER, HANG, TEXT

from rxcohere.bridges.web import connection, event_stream
from rxcohere.errors import StreamTruncatedError
from rxcohere.sse import SSEDecoder

BODY = 1_000_000
"""Bytes: more than aiohttp reads of a body that its handler does not ask for."""


class Tunnel(asyncio.Transport):
    """A connection without a socket, as over some tunnel: what is written is kept.

    Attributes:
        sent: all that was written.
        reads: the protocol wants to be told what comes.
        lost: is set once the protocol knows that it was closed.
    """

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.sent = bytearray()
        self.reads = True
        self.lost = asyncio.Event()
        self._protocol = protocol
        self._closing = False
        self._written = asyncio.Event()

    async def has(self, mark: bytes) -> None:
        """Waits until this was written."""
        async with asyncio.timeout(HANG):
            while mark not in self.sent:
                self._written.clear()
                await self._written.wait()

    def write(self, data: Any) -> None:
        self.sent += data
        self._written.set()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_reading(self) -> bool:
        return self.reads

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    abort = close

    def _lose(self) -> None:
        self._protocol.connection_lost(None)
        self.lost.set()


@asynccontextmanager
async def tunnelled(handler: Handler) -> AsyncIterator[tuple[asyncio.Protocol, Tunnel]]:
    """A server for the handler at the other end of a tunnel."""
    server = web.Server(handler, access_log=None)  # type: ignore[arg-type]
    protocol = server()
    tunnel = Tunnel(protocol)
    protocol.connection_made(tunnel)
    try:
        yield protocol, tunnel
    finally:
        await server.shutdown(0.2)


async def test_an_answer_over_a_connection_without_a_socket() -> None:
    """All of it is sent; an old client hears of an error by the connection's end."""

    async def handle(request: web.Request) -> web.StreamResponse:
        source = rx.concat(rx.from_iterable(TEXT.events[:5]), rx.throw(StreamTruncatedError("cut")))
        return await event_stream(request, source, heartbeat=LONG)

    async with asyncio.timeout(HANG), tunnelled(handle) as (protocol, tunnel):
        protocol.data_received(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")
        await tunnel.lost.wait()
    head, _, body = bytes(tunnel.sent).partition(b"\r\n\r\n")
    assert b" 200 OK" in head
    *events, told = SSEDecoder().feed(body)
    assert [each.event for each in events] == [event.type for event in TEXT.events[:5]]
    assert (told.event, told.id) == ("error", ":error")


async def test_a_body_that_nobody_reads_over_a_connection_without_a_socket() -> None:
    """Nobody can tell whether its client has left behind it, so it goes on to be served."""
    feed = Feed()

    async def handle(request: web.Request) -> web.StreamResponse:
        return await event_stream(request, feed.source, heartbeat=LONG)

    async with asyncio.timeout(HANG), tunnelled(handle) as (protocol, tunnel):
        head = f"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {BODY}\r\n\r\n"
        protocol.data_received(head.encode())
        while tunnel.reads:
            protocol.data_received(b"x" * 10_000)
        await feed.listening()
        for event in TEXT.events:
            feed.subject.on_next(event)
        feed.subject.on_completed()
        await tunnel.has(b"data: [DONE]")
        assert not tunnel.reads


@pytest.fixture
def knows_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without those options of sockets and polls that not all systems have."""
    for name in ("_TCP_USER_TIMEOUT", "_TCP_NOTSENT_LOWAT", "_POLLRDHUP"):
        monkeypatch.setattr(connection, name, None)


@pytest.mark.usefixtures("knows_little")
async def test_an_answer_on_a_system_that_knows_less() -> None:
    """It is the same, and a client that leaves is noticed."""

    async def handle(request: web.Request) -> web.StreamResponse:
        source = feed.source if request.path == "/live" else rx.from_iterable(TEXT.events)
        return await event_stream(request, source, heartbeat=LONG)

    feed = Feed()
    async with serving(handle) as url:
        answer = await get(url)
        assert (answer.whole, answer.text) == (True, ANSWER)
        async with raw_client(url) as client:
            await client.ask("/live")
            await feed.listening()
        await feed.left()


@pytest.mark.usefixtures("knows_little")
async def test_a_body_that_nobody_reads_on_a_system_that_knows_less() -> None:
    """That its client has left is noticed when what is sent to it comes back."""
    feed = Feed()

    async def handle(request: web.Request) -> web.StreamResponse:
        return await event_stream(request, feed.source, heartbeat=0.01)

    async with serving(handle) as url:
        async with raw_client(url) as client:
            head = f"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {BODY}\r\n\r\n"
            await client.send(head.encode() + BODY * b"x")
            await client.read_until(b": heartbeat")
        await feed.left()
    assert feed.subject.observers == []
