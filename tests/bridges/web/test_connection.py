"""Clients that leave, do not read, or read slowly: none of them holds anything, or anybody, up."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import reactivex as rx
from aiohttp import web
from bridges.web.relays import (
    ID,
    LONG,
    Answer,
    Feed,
    get,
    journal_of,
    raw_client,
    serving,
    text_of,
)
from samples import parsed, text_delta
from subscribers import ANSWER, HANG, TEXT

from rxcohere import ContentDelta
from rxcohere.bridges.journal import MemoryJournal, Verdict, follow
from rxcohere.bridges.web import event_stream
from rxcohere.errors import StreamTruncatedError
from rxcohere.sse import SSEDecoder

BIG = 8 * 1024
"""Characters of a delta, of which a few hundred fill all buffers there are."""


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Lets the loop run until it holds."""
    async with asyncio.timeout(HANG):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


class Relay:
    """A server that relays one source, and keeps the requests that it has."""

    def __init__(self, source: Any, **options: Any) -> None:
        self.source = source
        self.options = options
        self.requests: list[web.Request] = []
        self.ended = 0
        self.largest_buffer = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        try:
            source = self.source() if callable(self.source) else self.source
            return await event_stream(request, source, **self.options)
        finally:
            self.ended += 1

    def look(self) -> None:
        for request in self.requests:
            if request.transport is not None:
                size = request.transport.get_write_buffer_size()
                self.largest_buffer = max(self.largest_buffer, size)


def events_of(body: bytes) -> Answer:
    """The events of a chunked answer, which is complete or not."""
    _, _, rest = body.partition(b"\r\n\r\n")
    come, whole = bytearray(), False
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            whole = True
            break
        come += rest[:length]
        rest = rest[length + 2 :]
    return Answer(200, {}, bytes(come), whole, SSEDecoder().feed(bytes(come)))


# Leaving -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"handler_cancellation": True}], ids=["plain", "cancels"])
async def test_a_client_that_leaves_is_noticed_at_once(options: dict[str, Any]) -> None:
    """The source is given up although no event comes and no heartbeat is due."""
    feed = Feed()
    relay = Relay(feed.source, heartbeat=LONG)
    async with serving(relay.handle, **options) as url:
        async with raw_client(url) as client:
            await client.ask()
            await feed.listening()
            feed.subject.on_next(TEXT.events[0])
            await client.read_until(b"message-start")
            assert len(feed.subject.observers) == 1
        await feed.left()
        assert feed.subject.observers == []
        await until(lambda: relay.ended == 1)


async def test_a_client_that_leaves_before_anything_came() -> None:
    """Nor does it wait for the first event."""
    feed = Feed()
    async with serving(Relay(feed.source, heartbeat=LONG).handle) as url:
        async with raw_client(url) as client:
            await client.ask()
            await feed.listening()
        await feed.left()


async def test_a_client_that_leaves_with_much_unread() -> None:
    """What waits for it is thrown away, and the source given up."""
    feed = Feed()
    relay = Relay(feed.source, heartbeat=LONG, send_timeout=LONG)
    async with serving(relay.handle) as url:
        async with raw_client(url, receive_buffer=4096) as client:
            await client.ask()
            await feed.listening()
            while not (relay.requests and relay.requests[0].protocol.writing_paused):
                feed.subject.on_next(parsed([text_delta("x" * BIG)])[0])
                await turns()
        await feed.left()


async def test_following_ends_with_the_client() -> None:
    """A follower that left waits for nothing in the journal."""
    journal = MemoryJournal()
    await journal.begin(ID, LONG)
    await journal.append(ID, TEXT.events[:3], 0)
    relay = Relay(lambda: follow(journal, ID), heartbeat=LONG)
    async with serving(relay.handle) as url:
        async with raw_client(url) as client:
            await client.ask()
            await client.read_until(b"message-start")
        await until(lambda: relay.ended == 1)


async def test_a_server_that_stops() -> None:
    """Its streams are broken off, and their sources given up."""
    feed = Feed()
    async with AsyncExitStack() as stack:
        async with serving(Relay(feed.source, heartbeat=LONG).handle) as url:
            client = await stack.enter_async_context(raw_client(url))
            await client.ask()
            await feed.listening()
            feed.subject.on_next(TEXT.events[0])
            await client.read_until(b"message-start")
        assert feed.subject.observers == []
        rest = await client.read_to_end()
        assert not rest.endswith(b"0\r\n\r\n")


async def test_a_server_that_stops_under_an_old_client() -> None:
    """Whose body ends with the connection: it is reset, or the answer would look complete."""
    feed = Feed()
    async with AsyncExitStack() as stack:
        async with serving(Relay(feed.source, heartbeat=LONG).handle) as url:
            client = await stack.enter_async_context(raw_client(url))
            await client.ask(version="1.0")
            await feed.listening()
            feed.subject.on_next(TEXT.events[0])
            await client.read_until(b"message-start")
        with pytest.raises(ConnectionResetError):
            await client.read_to_end()


async def test_nothing_is_kept_of_clients_that_left() -> None:
    """Neither the request nor what watched its connection."""
    feed = Feed()
    relay = Relay(feed.source, heartbeat=LONG)
    async with serving(relay.handle) as url:
        for count in range(1, 6):
            async with raw_client(url) as client:
                await client.ask()
                await until(lambda count=count: len(feed.subject.observers) == 1)  # type: ignore[misc]
            await until(lambda count=count: relay.ended == count)  # type: ignore[misc]
            assert feed.subject.observers == []
        relay.requests.clear()
        await turns()
        gc.collect()
        kept = [each for each in gc.get_objects() if isinstance(each, web.Request)]
        assert len(kept) <= 1


async def test_a_client_that_left_before_the_handler_got_to_it() -> None:
    """Nothing is subscribed to for nobody, and nothing is reported."""
    feed, gone = Feed(), asyncio.Event()
    relay = Relay(feed.source)

    async def handle(request: web.Request) -> web.StreamResponse:
        await gone.wait()
        await until(lambda: request.transport is None)
        return await relay.handle(request)

    async with serving(handle) as url:
        async with raw_client(url) as client:
            await client.ask()
        gone.set()
        await until(lambda: relay.ended == 1)
    assert feed.subscriptions == 0


@pytest.mark.parametrize("error", [ConnectionError("no database"), TimeoutError("no database")])
async def test_an_error_of_the_server_is_not_taken_for_a_client_that_leaves(
    error: Exception,
) -> None:
    """What the server itself fails with is its own affair: the handler hears of it."""
    feed = Feed()
    heard: list[Exception] = []

    async def refuse(_: web.Request, response: web.StreamResponse) -> None:
        if response.content_type == "text/event-stream":
            raise error

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await event_stream(request, feed.source, heartbeat=LONG)
        except type(error) as problem:
            heard.append(problem)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

    async with serving(handle, on_prepare=refuse) as url, raw_client(url) as client:
        await client.ask()
        await feed.listening()
        feed.subject.on_next(TEXT.events[0])
        await feed.left()
        await until(lambda: heard)
    assert heard == [error]


# Not reading -------------------------------------------------------------------------------------


async def test_who_did_not_read_what_was_sent_before_is_disconnected() -> None:
    """Also where the answer begins behind something else that does not get through."""
    feed = Feed()

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        while not request.protocol.writing_paused:
            hints = f"HTTP/1.1 103 Early Hints\r\nX-Hint: {'x' * BIG}\r\n\r\n"
            request.transport.write(hints.encode())
        return await event_stream(request, feed.source, heartbeat=LONG, send_timeout=0.2)

    async with serving(handle) as url, raw_client(url, receive_buffer=4096) as stuck:
        await stuck.ask()
        await feed.left()
        with pytest.raises(ConnectionResetError):
            await stuck.read_to_end()


async def test_who_reads_nothing_is_disconnected() -> None:
    """After ``send_timeout``, with its source given up; another gets all of the same stream."""
    feed = Feed()
    relay = Relay(feed.source, heartbeat=LONG, send_timeout=0.2)
    events = [parsed([text_delta(f"{count} " + "x" * BIG)])[0] for count in range(1000)]
    async with serving(relay.handle) as url, raw_client(url, receive_buffer=4096) as stuck:
        await stuck.ask()
        await until(lambda: feed.subscriptions == 1)
        good = asyncio.create_task(get(url))
        await until(lambda: feed.subscriptions == 2)
        for event in events:
            feed.subject.on_next(event)
            await turns(4)
        await feed.left()
        await until(lambda: relay.ended == 1)
        assert len(feed.subject.observers) == 1
        feed.subject.on_completed()
        answer = await good
        assert answer.whole
        assert answer.text == text_of(events)
        with pytest.raises(ConnectionResetError):
            await stuck.read_to_end()


async def test_who_does_not_read_the_end_is_disconnected() -> None:
    """Also when all has been written already, and only the reading is missing."""
    journal = await journal_of(parsed([text_delta("x" * BIG)] * 2000))
    relay = Relay(lambda: follow(journal, ID), heartbeat=LONG, send_timeout=0.2)
    async with serving(relay.handle) as url, raw_client(url, receive_buffer=4096) as stuck:
        await stuck.ask()
        await until(lambda: relay.ended == 1)


async def test_who_does_not_read_the_error_is_disconnected() -> None:
    """Nor can a client keep a broken stream by not reading of it."""
    events = parsed([text_delta("x" * BIG)] * 2000)
    journal = await journal_of(events, StreamTruncatedError("cut"))
    relay = Relay(lambda: follow(journal, ID), heartbeat=LONG, send_timeout=0.2)
    async with serving(relay.handle) as url, raw_client(url, receive_buffer=4096) as stuck:
        await stuck.ask()
        await until(lambda: relay.ended == 1)


async def test_a_slow_client_gets_fewer_and_larger_deltas() -> None:
    """What it could not take is merged: no character is missing, and the buffer stays small."""
    journal = MemoryJournal()
    await journal.begin(ID, LONG)
    relay = Relay(lambda: follow(journal, ID), heartbeat=LONG, send_timeout=LONG)
    count = 600
    events = [parsed([text_delta(f"{n} " + "é" * BIG)])[0] for n in range(count)]
    async with serving(relay.handle) as url, raw_client(url, receive_buffer=4096) as slow:
        await slow.ask()
        fast = asyncio.create_task(get(url))
        await until(lambda: len(relay.requests) == 2)
        for at, event in enumerate(events):
            await journal.append(ID, [event], at)
            await turns(4)
            relay.look()
        await journal.close(ID, Verdict())
        whole = await fast
        answer = events_of(await slow.read_to_end_of_answer())
        assert answer.whole
        assert answer.text == whole.text == text_of(events)
        deltas = [each for each in answer.chat_events if isinstance(each, ContentDelta)]
        assert len(deltas) < len(whole.chat_events) < count + 1
        assert len(deltas) < count / 4
        # Of what it was waiting for it gets one delta.
        assert max(len(each.text or "") for each in deltas) > 10 * BIG
        assert relay.largest_buffer < 64 * 1024 + 8 * (2 * BIG + 1000)


async def test_a_client_that_reads_slowly_is_kept() -> None:
    """``send_timeout`` is for who reads nothing, however long all of it takes."""
    events = parsed([text_delta("x" * BIG)] * 1000)
    journal = await journal_of(events)
    relay = Relay(lambda: follow(journal, ID), heartbeat=LONG, send_timeout=1.0)
    loop = asyncio.get_running_loop()
    async with serving(relay.handle) as url, raw_client(url, receive_buffer=65536) as slow:
        await slow.ask()
        begun = loop.time()
        come = bytearray()
        while loop.time() < begun + 2.5:  # longer than it may read nothing
            come += await slow.read(16384)
            await asyncio.sleep(0.01)
        assert relay.ended == 0
        come += await slow.read_to_end_of_answer()
        assert events_of(bytes(come)).text == text_of(events)


# Many --------------------------------------------------------------------------------------------


async def test_idle_connections_do_not_keep_others_out() -> None:
    """Two hundred that sent half a request, or never read, and then one that is served."""
    feed = Feed()
    relay = Relay(feed.source, heartbeat=LONG)
    async with serving(relay.handle) as url, AsyncExitStack() as stack:
        for number in range(200):
            client = await stack.enter_async_context(raw_client(url))
            if number % 2:
                await client.ask()
            else:
                await client.send(b"GET / HTTP/1.1\r\nHost: te")
        await until(lambda: len(feed.subject.observers) == 100)
        good = asyncio.create_task(get(url))
        await until(lambda: len(feed.subject.observers) == 101)
        for event in TEXT.events:
            feed.subject.on_next(event)
        feed.subject.on_completed()
        answer = await good
        assert answer.whole
        assert answer.text == ANSWER


async def test_heartbeats_are_seen() -> None:
    """A client of a silent stream gets comments until there is something to say."""
    feed = Feed()
    async with serving(Relay(feed.source, heartbeat=0.01).handle) as url, raw_client(url) as client:
        await client.ask()
        head = await client.read_until(b": heartbeat\n\n")
        assert b"200 OK" in head
        await client.read_until(b": heartbeat\n\n")
        feed.subject.on_next(TEXT.events[0])
        feed.subject.on_completed()
        rest = await client.read_until(b"data: [DONE]\n\n")
        assert b"event: message-start\n" in rest


async def test_pipelined_requests_wait_for_their_turn() -> None:
    """What a client sends meanwhile is not lost: it is answered when the stream is over."""
    feed = Feed()
    async with serving(Relay(feed.source, heartbeat=LONG).handle) as url, raw_client(url) as client:
        request = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
        await client.send(2 * request)
        for subscriptions in (1, 2):
            await until(lambda n=subscriptions: feed.subscriptions == n)  # type: ignore[misc]
            await until(lambda: len(feed.subject.observers) == 1)
            feed.subject.on_next(TEXT.events[0])
            await client.read_until(b"message-start")
            for observer in list(feed.subject.observers):
                observer.on_completed()
            await client.read_until(b"0\r\n\r\n")


@asynccontextmanager
async def unix_server(handler: Any, path: str) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.UnixSite(runner, path).start()
        yield
    finally:
        await runner.cleanup()


async def test_a_socket_of_another_family(tmp_path: Any) -> None:
    """One that has none of the options of TCP is served as well, and watched."""
    feed = Feed()
    relay = Relay(feed.source, heartbeat=LONG)
    path = str(tmp_path / "socket")
    async with asyncio.timeout(HANG), unix_server(relay.handle, path):
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
            asking = asyncio.ensure_future(session.get("http://x/"))
            await feed.listening()
            feed.subject.on_next(TEXT.events[0])
            response = await asking
            assert (await response.content.readline()).startswith(b"event: message-start")
            response.close()
            await feed.left()


# Over TLS ----------------------------------------------------------------------------------------


async def test_over_tls(certificate: Path) -> None:
    """Complete, broken off and left: all is as without it."""
    feed = Feed()
    broken = rx.concat(rx.from_iterable(TEXT.events[:5]), rx.throw(StreamTruncatedError("cut")))
    sources = {"/whole": rx.from_iterable(TEXT.events), "/broken": broken, "/live": feed.source}

    async def handle(request: web.Request) -> web.StreamResponse:
        return await event_stream(request, sources[request.path], heartbeat=LONG)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with serving(handle, context=context) as url:
        for _ in range(2):
            whole = await get(f"{url}/whole", ssl=False)
            assert (whole.whole, whole.text) == (True, ANSWER)
        answer = await get(f"{url}/broken", ssl=False)
        assert not answer.whole
        assert answer.events[-1].event == "error"
        async with aiohttp.ClientSession() as session:
            asking = asyncio.ensure_future(session.get(f"{url}/live", ssl=False))
            await feed.listening()
            feed.subject.on_next(TEXT.events[0])
            response = await asking
            assert await response.content.readline()
            response.close()
            await feed.left()
