"""What the tests of the relays share: sources to push into, servers, and clients that misbehave."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import reactivex as rx
from aiohttp import web
from reactivex.disposable import CompositeDisposable, Disposable
from reactivex.subject import Subject
from subscribers import HANG

from rxcohere.bridges.journal import MemoryJournal, Verdict
from rxcohere.errors import RxCohereError
from rxcohere.events import ChatEvent, ContentDelta, parse_event
from rxcohere.sse import ServerSentEvent, SSEDecoder

ID = "stream-1"
LONG = 10 * HANG
"""A heartbeat or a time-out that no test lives to see."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Feed:
    """A source to push into. It tells when somebody listens, and when nobody does any more."""

    def __init__(self) -> None:
        self.subject: Subject[Any] = Subject()
        self.source: rx.Observable[Any] = rx.Observable(self._subscribe)
        self.subscriptions = 0
        self._listening = asyncio.Event()
        self._left = asyncio.Event()

    def _subscribe(self, observer: Any, scheduler: Any = None) -> Any:
        self.subscriptions += 1
        self._listening.set()
        return CompositeDisposable(self.subject.subscribe(observer), Disposable(self._left.set))

    async def listening(self) -> None:
        async with asyncio.timeout(HANG):
            await self._listening.wait()

    async def left(self) -> None:
        async with asyncio.timeout(HANG):
            await self._left.wait()


async def journal_of(
    events: Iterable[ChatEvent], error: RxCohereError | None = None
) -> MemoryJournal:
    """A journal with one stream, which has ended."""
    journal = MemoryJournal()
    await journal.begin(ID, LONG)
    await journal.append(ID, list(events), 0)
    await journal.close(ID, Verdict(error))
    return journal


@asynccontextmanager
async def serving(
    handler: Handler | None = None,
    routes: Iterable[web.RouteDef] = (),
    context: ssl.SSLContext | None = None,
    on_prepare: Callable[[web.Request, web.StreamResponse], Awaitable[None]] | None = None,
    **options: Any,
) -> AsyncIterator[str]:
    """A server of its own for the handler, or for the routes; gives its address."""
    app = web.Application()
    if on_prepare is not None:
        app.on_response_prepare.append(on_prepare)
    app.add_routes(routes)
    if handler is not None:
        app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, **options)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        scheme = "http" if context is None else "https"
        yield f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    whole: bool = True
    events: list[ServerSentEvent] = field(default_factory=list)

    @property
    def chat_events(self) -> list[ChatEvent]:
        return [
            parse_event(each.data)
            for each in self.events
            if each.event != "error" and each.data != b"[DONE]"
        ]

    @property
    def text(self) -> str:
        return text_of(self.chat_events)


def text_of(events: Iterable[ChatEvent]) -> str:
    return "".join(event.text or "" for event in events if isinstance(event, ContentDelta))


async def get(url: str, method: str = "GET", **options: Any) -> Answer:
    """All that a client gets, also of an answer that is broken off."""
    async with asyncio.timeout(HANG), aiohttp.ClientSession() as session:
        async with session.request(method, url, **options) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            answer = Answer(response.status, headers)
            body = bytearray()
            try:
                async for chunk in response.content.iter_any():
                    body += chunk
            except aiohttp.ClientPayloadError:
                answer.whole = False
            answer.body = bytes(body)
            answer.events = SSEDecoder().feed(answer.body)
            return answer


class RawClient:
    """A client that does with its socket as it likes."""

    def __init__(self, url: str, *, receive_buffer: int | None = None) -> None:
        self._port = int(url.rsplit(":", 1)[1])
        self._connected = False
        self._socket = socket.socket()
        self._socket.setblocking(False)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    async def send(self, request: bytes) -> RawClient:
        """Sends this, on one connection."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(HANG):
            if not self._connected:
                await loop.sock_connect(self._socket, ("127.0.0.1", self._port))
                self._connected = True
            await loop.sock_sendall(self._socket, request)
        return self

    async def ask(self, path: str = "/", version: str = "1.1") -> RawClient:
        return await self.send(f"GET {path} HTTP/{version}\r\nHost: test\r\n\r\n".encode())

    async def read(self, size: int = 65536) -> bytes:
        async with asyncio.timeout(HANG):
            return await asyncio.get_running_loop().sock_recv(self._socket, size)

    async def read_until(self, mark: bytes) -> bytes:
        come = b""
        while mark not in come:
            chunk = await self.read()
            assert chunk, come
            come += chunk
        return come

    async def read_to_end(self) -> bytes:
        come = b""
        while chunk := await self.read():
            come += chunk
        return come

    async def read_to_end_of_answer(self) -> bytes:
        """The rest of a chunked answer, with its last chunk."""
        come = bytearray()
        while not come.endswith(b"\r\n0\r\n\r\n"):
            chunk = await self.read(1 << 20)
            assert chunk
            come += chunk
        return bytes(come)

    def close(self) -> None:
        self._socket.close()


@asynccontextmanager
async def raw_client(url: str, **options: Any) -> AsyncIterator[RawClient]:
    client = RawClient(url, **options)
    try:
        yield client
    finally:
        client.close()
