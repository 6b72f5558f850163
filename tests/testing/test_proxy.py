"""`FaultProxy`: what it carries, each of its faults, and what it leaves behind."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from subscribers import HANG

from rxcohere.errors import BlockingCallError, ConfigurationError
from rxcohere.testing import Cut, FaultProxy, ReplayServer, Stall, Transcript, Wire
from rxcohere.testing.sockets import accept_pending, unsent

TEXT = Transcript.load("text")
HOUR = 3600.0
PLENTY = bytes(range(256)) * 4096
"""A megabyte."""
ASK = json.dumps(
    {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
).encode()
REQUEST = b"POST /v2/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(ASK), ASK)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
async def too_late() -> AsyncIterator[None]:
    """No test hangs."""
    async with asyncio.timeout(3 * HANG):
        yield


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    """A server of plain TCP; a connection is closed when its handler returns."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # uvloop raises the latter where a connection is closed.
            with suppress(ConnectionError, RuntimeError):
                await handler(reader, writer)
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1")
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await accept_pending()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Streams]:
    """A client of plain TCP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one byte with a thousand, and waits for the client to leave."""
    while await reader.read(1):
        writer.write(PLENTY[:1000])
        await writer.drain()


async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def everything(reader: asyncio.StreamReader) -> tuple[bytes, type[Exception] | None]:
    """What comes up to the end, and whether that is an error."""
    got = bytearray()
    try:
        while data := await reader.read(65_536):
            got += data
    except ConnectionResetError as error:
        return bytes(got + reader._buffer), type(error)  # type: ignore[attr-defined]
    return bytes(got), None


async def some_turns() -> None:
    """Lets what must not happen, happen, where nothing tells that it has not."""
    for _ in range(50):
        await asyncio.sleep(0)


# What it carries ---------------------------------------------------------------------------------


async def test_it_carries_everything_as_it_is() -> None:
    """Answers come through whole, one after the other on a connection that is kept alive."""
    async with ReplayServer("text") as server, FaultProxy(server.url) as proxy:
        async with aiohttp.ClientSession() as session:
            for count in (1, 2):
                async with session.post(f"{proxy.url}/v2/chat", data=ASK) as response:
                    assert await response.read() == TEXT.body
                assert (proxy.connections, proxy.open, len(server.requests)) == (1, 1, count)
        await proxy.until(lambda p: p.open == 0)
        assert (proxy.cuts, proxy.resets, proxy.held, proxy.dropped) == (0, 0, 0, 0)
        assert proxy.carried > 2 * len(TEXT.body)


async def test_much_goes_both_ways_at_once() -> None:
    """A megabyte there and back, though nobody waits for anybody."""
    async with listening(echoes) as url, FaultProxy(url) as proxy, connected(proxy) as (r, w):
        w.write(PLENTY)
        assert await r.readexactly(len(PLENTY)) == PLENTY
        assert proxy.carried == len(PLENTY)


async def test_an_end_passes_in_both_directions() -> None:
    """A client that sends no more still gets the answer, and the server's end ends it."""

    async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % len(await reader.read()))

    async with listening(counts) as url, FaultProxy(url) as proxy, connected(proxy) as (r, w):
        w.write(PLENTY)
        w.write_eof()
        assert await r.read() == b"1048576"
        await proxy.until(lambda p: p.open == 0)


async def test_a_reset_by_the_server_passes() -> None:
    """After the bytes before it."""
    body = sum(map(len, TEXT.frames[:9]))
    fault = Cut(after_events=9, how="reset")
    async with (
        ReplayServer("text", faults=[fault], framing="close") as server,
        FaultProxy(server.url) as proxy,
        connected(proxy) as (r, w),
    ):
        w.write(REQUEST)
        got, error = await everything(r)
        assert error is ConnectionResetError
        assert got.partition(b"\r\n\r\n")[2] == TEXT.body[:body]
        await proxy.until(lambda p: p.open == 0)
        assert (proxy.cuts, proxy.resets) == (0, 0)  # it was not the proxy


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_is_missed_by_the_server(how: str) -> None:
    """In good order or not, the server sees it go."""
    async with (
        ReplayServer("text", faults=[Stall(2)]) as server,
        FaultProxy(server.url) as proxy,
        connected(proxy) as (r, w),
    ):
        w.write(REQUEST)
        await r.readuntil(b"\n\n")
        if how == "reset":
            own = w.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            w.transport.abort()
        else:
            w.close()
        await server.until(lambda s: s.aborted == 1)
        await proxy.until(lambda p: p.open == 0)


@pytest.mark.parametrize("wire", [Wire(), Wire(cut_after=1), Wire(cut_after=1, ending="reset")])
async def test_a_client_that_ends_and_then_breaks(wire: Wire) -> None:
    """Its reset is not noticed before the answer is; then the link ends all the same."""
    ended, go = asyncio.Event(), asyncio.Event()

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()
        await go.wait()
        writer.write(PLENTY[:1000])

    async with listening(waits) as url, FaultProxy(url, wire) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.shutdown(socket.SHUT_WR)
            await ended.wait()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with connected(proxy):
            await proxy.until(lambda p: p.connections == 2)  # who came after the reset is noticed
            assert proxy.open == 2
        go.set()
        await proxy.until(lambda p: p.open == 0)


async def test_back_pressure_passes_through() -> None:
    """A client that does not read stops the server, while little waits in the proxy."""
    pieces = 64
    sent = 0

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(pieces):
            writer.write(PLENTY)
            await writer.drain()
            sent += 1

    async with listening(floods) as url, FaultProxy(url) as proxy, connected(proxy) as (r, _):
        r._transport.pause_reading()  # type: ignore[attr-defined]
        await proxy.until(lambda p: p.held > 0)
        before = -1
        while before < proxy.carried + sent:  # until nothing moves any more
            before = proxy.carried + sent
            await some_turns()
            assert proxy.held < 2**20
        assert sent < pieces
        r._transport.resume_reading()  # type: ignore[attr-defined]
        got, error = await everything(r)
        assert (len(got), error) == (pieces * len(PLENTY), None)
        assert got == PLENTY * pieces
        assert proxy.held == 0


async def test_back_pressure_passes_the_other_way() -> None:
    """A server that does not read stops the client."""
    go = asyncio.Event()

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(b"%d" % len(await reader.read()))

    async with listening(waits) as url, FaultProxy(url) as proxy, connected(proxy) as (r, w):
        w.write(PLENTY * 64)
        w.write_eof()
        await proxy.until(lambda p: p.held > 0)
        await some_turns()
        assert proxy.held < 2**20
        assert w.transport.get_write_buffer_size() > 0
        go.set()
        assert await r.read() == b"%d" % (64 * len(PLENTY))


async def test_its_url_is_the_servers_with_another_address() -> None:
    """Scheme, user and path stay, so that it can stand in for the server's wherever that goes."""
    async with FaultProxy("redis://:secret@127.0.0.1:6379/3") as proxy:
        port = proxy.port
        assert proxy.url == f"redis://:secret@127.0.0.1:{port}/3"
    async with FaultProxy("https://example.com/prefix", port=port) as again:
        assert again.url == f"https://127.0.0.1:{port}/prefix"


async def test_on_ipv6() -> None:
    """The address is in brackets."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("there is no IPv6 here")
    async with ReplayServer("text", host="::1") as server:
        async with FaultProxy(server.url, host="::1") as proxy, aiohttp.ClientSession() as session:
            assert proxy.url == f"http://[::1]:{proxy.port}"
            async with session.post(f"{proxy.url}/v2/chat", data=ASK) as response:
                assert await response.read() == TEXT.body


# Cuts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 640, 999, 1000])
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_a_cut_lets_exactly_so_many_bytes_through(after: int, ending: Any) -> None:
    """Then comes the end, in good order or not, for both sides."""
    left = asyncio.Event()

    async def notices(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await says(reader, writer)
        finally:
            left.set()

    wire = Wire(cut_after=after, ending=ending)
    async with (
        listening(notices) as url,
        FaultProxy(url, wire) as proxy,
        connected(proxy) as (r, w),
    ):
        w.write(b"?")
        got, error = await everything(r)
        assert got == PLENTY[:after]
        assert error is (ConnectionResetError if ending == "reset" else None)
        await left.wait()
        await proxy.until(lambda p: p.open == 0)
        assert (proxy.cuts, proxy.resets, proxy.carried) == (1, ending == "reset", after)


async def test_nothing_is_cut_before_the_server_answers() -> None:
    """Not even after 0 bytes: the request has arrived by then."""
    wire = Wire(cut_after=0)
    async with ReplayServer("text") as server, FaultProxy(server.url, wire) as proxy:
        async with connected(proxy) as (r, w):
            w.write(REQUEST)
            assert await r.read() == b""
        assert len(server.requests) == 1


async def test_a_half_close_ends_the_answer_only() -> None:
    """What the client sends still arrives; when it ends as well, all is over."""
    heard = bytearray()

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            heard.extend(data)
            writer.write(PLENTY[:1000])

    wire = Wire(cut_after=700, ending="half-close")
    async with (
        listening(listens) as url,
        FaultProxy(url, wire) as proxy,
        connected(proxy) as (r, w),
    ):
        w.write(b"one")
        assert await r.read() == PLENTY[:700]
        assert (proxy.cuts, proxy.open) == (1, 1)
        w.write(b" two")
        w.write_eof()
        await proxy.until(lambda p: p.open == 0)
        assert (heard, proxy.carried) == (b"one two", 700)


async def test_a_server_that_breaks_after_a_half_close_ends_all() -> None:
    """There is nothing left to forward to."""

    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(PLENTY[:1000])
        await reader.read(1)
        own = writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    wire = Wire(cut_after=700, ending="half-close")
    async with listening(breaks) as url, FaultProxy(url, wire) as proxy, connected(proxy) as (r, w):
        w.write(b"?")
        assert await r.read() == PLENTY[:700]
        w.write(b"?")
        await proxy.until(lambda p: p.open == 0)
        assert proxy.resets == 0


async def test_a_stall_says_nothing_more_until_it_is_healed() -> None:
    """What comes meanwhile is held; healed, the rest comes, and nothing is cut again."""
    wire = Wire(cut_after=700, ending="stall")
    async with listening(says) as url, FaultProxy(url, wire) as proxy, connected(proxy) as (r, w):
        w.write(b"?")
        assert await r.readexactly(700) == PLENTY[:700]
        w.write(b"?")
        await proxy.until(lambda p: p.held == 1300)
        assert (proxy.cuts, proxy.carried) == (1, 700)
        proxy.heal()
        assert await r.readexactly(1300) == PLENTY[700:1000] + PLENTY[:1000]
        async with connected(proxy) as (again, writer):
            writer.write(b"?")
            assert await again.readexactly(1000) == PLENTY[:1000]


async def test_a_client_may_leave_a_connection_that_stalls() -> None:
    """And the server hears of it."""
    wire = Wire(cut_after=700, ending="stall")
    async with ReplayServer("text", faults=[Stall(9)]) as server:
        async with FaultProxy(server.url, wire) as proxy:
            async with connected(proxy) as (r, w):
                w.write(REQUEST)
                await r.readexactly(700)
            await server.until(lambda s: s.aborted == 1)
            await proxy.until(lambda p: p.open == 0)


@pytest.mark.parametrize("made_by", ["proxy", "server"])
async def test_bytes_before_a_reset_arrive_though_the_client_is_slow(made_by: str) -> None:
    """An RST overtakes what waits in the kernel of its sender, so it is not sent before that is."""
    size = len(PLENTY)
    big = Transcript.from_bytes(PLENTY * 8)
    faults = [Cut(after_bytes=size, how="reset")] if made_by == "server" else []
    wire = Wire()
    if made_by == "proxy":
        wire = Wire(counted_from=b"\r\n\r\n", cut_after=size, ending="reset")
    async with (
        ReplayServer(big, chunking="whole", framing="close", faults=faults) as server,
        FaultProxy(server.url, wire) as proxy,
    ):
        port = proxy.port if made_by == "proxy" else int(server.url.rpartition(":")[2])
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.setblocking(False)
            r, w = await asyncio.open_connection(sock=slow)
            r._transport.pause_reading()  # type: ignore[attr-defined]
            w.write(REQUEST)
            if made_by == "proxy":
                await proxy.until(lambda p: p.carried > size)
            else:
                await server.until(lambda s: s.open == 1)
            await some_turns()  # in which an RST that does not wait would be sent
            r._transport.resume_reading()  # type: ignore[attr-defined]
            got, error = await everything(r)
            w.close()
        assert error is ConnectionResetError
        assert len(got.partition(b"\r\n\r\n")[2]) == size
        await proxy.until(lambda p: p.open == 0)


@pytest.mark.parametrize("ends_first", [False, True])
async def test_a_client_may_leave_before_a_reset_has_come(ends_first: bool) -> None:
    """Nobody waits for the kernel any more then."""
    wire = Wire(cut_after=len(PLENTY), ending="reset")
    ended = asyncio.Event()

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PLENTY * 2)
        await writer.drain()
        await reader.read()
        ended.set()

    async with listening(floods) as url, FaultProxy(url, wire) as proxy:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", proxy.port))
            await proxy.until(lambda p: p.carried == len(PLENTY))
            assert (proxy.cuts, proxy.open) == (0, 1)
            if ends_first:
                slow.shutdown(socket.SHUT_WR)
                await ended.wait()
        await proxy.until(lambda p: p.open == 0)


def test_what_the_kernel_does_not_tell_counts_as_sent() -> None:
    """A local socket is asked in vain."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        one.send(b"something")
        assert unsent(one) == 0


# Offsets -----------------------------------------------------------------------------------------


async def test_offsets_count_along_the_connection() -> None:
    """A second answer goes on where the first one ended."""
    wire = Wire(cut_after=1700, corrupt_at=1500)
    async with listening(says) as url, FaultProxy(url, wire) as proxy, connected(proxy) as (r, w):
        w.write(b"?")
        assert await r.readexactly(1000) == PLENTY[:1000]
        w.write(b"?")
        second = await r.read()
        assert len(second) == 700
        assert [n for n in range(700) if second[n] != PLENTY[n]] == [500]


@asynccontextmanager
async def saying(
    data: bytes, size: int, wire: Wire
) -> AsyncIterator[tuple[FaultProxy, asyncio.StreamReader]]:
    """A client that hears this, in pieces of that size, over a wire."""

    async def piecewise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(data), size):
            writer.write(data[at : at + size])
            await asyncio.sleep(0)
        writer.write_eof()
        await reader.read()

    async with listening(piecewise) as url, FaultProxy(url, wire) as proxy:
        async with connected(proxy) as (reader, _):
            yield proxy, reader


@pytest.mark.parametrize("flip", [1, 0x20, 255])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_corrupt_bytes_are_others_and_nothing_else_is(size: int, flip: int) -> None:
    """However the answer is cut into pieces."""
    wrong = [0, 700, 701, 999]
    async with saying(PLENTY[:1000], size, Wire(corrupt_at=wrong, flip=flip)) as (_, reader):
        got = await reader.read()
    assert [n for n in range(1000) if got[n] != PLENTY[n]] == wrong
    assert all(got[n] == PLENTY[n] ^ flip for n in wrong)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
async def test_offsets_can_count_from_behind_a_text(size: int) -> None:
    """From its first occurrence, wherever pieces end; nothing happens before."""
    wire = Wire(counted_from=b"aab", cut_after=3, corrupt_at=[0, 5])
    async with saying(b"ab aaab12345 aab", size, wire) as (_, reader):
        assert await reader.read() == b"ab aaab023"


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_a_text_that_does_not_come_is_waited_for(size: int) -> None:
    """Everything is let through."""
    async with saying(b"aa", size, Wire(counted_from=b"aab", cut_after=0)) as (proxy, reader):
        assert await reader.read() == b"aa"
        assert proxy.cuts == 0


async def test_behind_the_text_itself() -> None:
    """A cut after no bytes more comes at once, not with the next one."""
    wire = Wire(counted_from=b"go", cut_after=0)
    async with saying(b"go", 2, wire) as (proxy, reader):
        assert await reader.read() == b"go"
        await proxy.until(lambda p: p.cuts == 1)


async def test_offsets_of_a_body() -> None:
    """They count from behind the blank line that ends the head."""
    wire = Wire(counted_from=b"\r\n\r\n", cut_after=100)
    async with (
        ReplayServer("text", framing="close") as server,
        FaultProxy(server.url, wire) as proxy,
        connected(proxy) as (r, w),
    ):
        w.write(REQUEST)
        assert (await r.read()).partition(b"\r\n\r\n")[2] == TEXT.body[:100]


# Time --------------------------------------------------------------------------------------------


class Clock:
    """The running loop's time, which passes only as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._now = loop.time()
        if not isinstance(loop, asyncio.BaseEventLoop):
            pytest.skip("uvloop keeps its own time")
        monkeypatch.setattr(loop, "time", lambda: self._now)

    async def passes(self, seconds: float) -> None:
        self._now += seconds
        others_have_run = asyncio.Event()  # all that are due are run at once
        asyncio.get_running_loop().call_at(self._now, others_have_run.set)
        await others_have_run.wait()


async def test_latency_does_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand pieces are an hour late together, not one after the other."""
    async with saying(PLENTY[:1000], 1, Wire(delay=HOUR)) as (proxy, reader):
        await proxy.until(lambda p: p.held == 1000)
        clock = Clock(monkeypatch)
        await clock.passes(HOUR - 60)
        assert (proxy.carried, proxy.held) == (0, 1000)
        await clock.passes(60)
        assert (proxy.carried, proxy.held) == (1000, 0)
        assert await reader.read() == PLENTY[:1000]
        monkeypatch.undo()


@pytest.mark.parametrize("rate", [100, 250.5, 10_000])
async def test_a_rate_is_kept(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    """No more bytes go than the time allows, and not many fewer; a pause is not made up for."""
    size = 100_000
    async with saying(PLENTY[:size], size, Wire(rate=rate)) as (proxy, _):
        await proxy.until(lambda p: p.carried + p.held == size)
        clock = Clock(monkeypatch)
        for steps in (300, 100):
            before = proxy.carried
            for _ in range(steps):
                await clock.passes(0.01)
            assert proxy.carried - before == pytest.approx(steps * 0.01 * rate, rel=0.05)
            await clock.passes(HOUR)
            assert proxy.carried - before < steps * 0.01 * rate * 1.1
        monkeypatch.undo()


async def test_a_cut_is_as_late_as_the_bytes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not overtake them."""
    wire = Wire(delay=HOUR, cut_after=700, ending="reset")
    async with saying(PLENTY[:1000], 100, wire) as (proxy, reader):
        await proxy.until(lambda p: p.held == 700)
        assert proxy.cuts == 0
        clock = Clock(monkeypatch)
        await clock.passes(HOUR)
        monkeypatch.undo()
        assert await everything(reader) == (PLENTY[:700], ConnectionResetError)


@pytest.mark.parametrize(
    "wire", [Wire(delay=HOUR), Wire(rate=1), Wire(delay=HOUR, cut_after=700, ending="stall")]
)
async def test_healing_brings_what_is_late(wire: Wire) -> None:
    """At once; and a stall that was still to come does not."""
    async with saying(PLENTY[:1000], 100, wire) as (proxy, reader):
        await proxy.until(lambda p: p.held >= 990)
        proxy.heal()
        assert await reader.read() == PLENTY[:1000]
        assert proxy.cuts == 0


# At a moment of one's choosing -------------------------------------------------------------------


async def test_reset_ends_all_connections() -> None:
    """Both sides meet an RST; new connections are taken."""
    async with ReplayServer("text", faults=[Stall(2)]) as server:
        async with FaultProxy(server.url) as proxy:
            async with connected(proxy) as (r, w), connected(proxy) as (_, idle):
                w.write(REQUEST)
                await r.readuntil(b"\n\n")
                await proxy.until(lambda p: p.open == 2)
                proxy.reset()
                proxy.reset()  # which finds none any more
                assert (await everything(r))[1] is ConnectionResetError
                await server.until(lambda s: s.aborted == 1)
                await proxy.until(lambda p: p.open == 0)
                assert (proxy.resets, proxy.cuts) == (2, 0)
                with pytest.raises(ConnectionError):
                    await idle.wait_closed()
            async with connected(proxy) as (r, w):
                w.write(REQUEST)
                assert await r.readuntil(b"\n\n")


async def test_stall_holds_everything_and_loses_nothing() -> None:
    """In both directions, on new connections too; healed, all of it comes."""
    async with listening(echoes) as url, FaultProxy(url) as proxy, connected(proxy) as (r, w):
        w.write(b"one ")
        assert await r.readexactly(4) == b"one "
        proxy.stall()
        w.write(b"two ")
        async with connected(proxy) as (r2, w2):
            w2.write(b"other")
            await proxy.until(lambda p: p.held == 9)
            w.write(b"three")
            await proxy.until(lambda p: p.held == 14)
            proxy.heal()
            assert await r.readexactly(9) == b"two three"
            assert await r2.readexactly(5) == b"other"
        assert (proxy.dropped, proxy.resets, proxy.cuts) == (0, 0, 0)


async def test_who_leaves_while_it_stalls_is_let_go() -> None:
    """Though what he sent has not arrived."""
    async with listening(says_nothing) as url, FaultProxy(url) as proxy:
        proxy.stall()
        async with connected(proxy) as (_, w):
            w.write(b"lost")
            await proxy.until(lambda p: p.held == 4)
        await proxy.until(lambda p: p.open == 0)
        assert proxy.held == 0


async def test_silence_drops_everything_for_good() -> None:
    """Old connections stay dead when it is healed, and new ones work."""
    async with listening(says) as url, FaultProxy(url) as proxy:
        async with connected(proxy) as (r, w), connected(proxy) as (_, w2):
            w.write(b"?")
            assert len(await r.readexactly(1000)) == 1000
            proxy.silence()
            w.write(b"?")
            await proxy.until(lambda p: p.dropped == 1)
            async with connected(proxy) as (_, w3):
                w3.write(b"??")
                await proxy.until(lambda p: p.dropped == 3)
            await proxy.until(lambda p: p.open == 2)
            proxy.heal()
            w2.write(b"???")
            await proxy.until(lambda p: p.dropped == 6)
            async with connected(proxy) as (r4, w4):
                w4.write(b"?")
                assert len(await r4.readexactly(1000)) == 1000
        await proxy.until(lambda p: p.open == 0)
        assert (proxy.carried, proxy.connections) == (2000, 4)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_silence_keeps_the_servers_end_to_itself(how: str) -> None:
    """The client hears nothing, until it leaves."""
    go = asyncio.Event()
    gone = asyncio.Event()

    async def leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await go.wait()
        if how == "reset":
            own = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        gone.set()

    async with listening(leaves) as url, FaultProxy(url) as proxy:
        async with connected(proxy) as (r, w):
            await r.readexactly(5)
            proxy.silence()
            go.set()
            await gone.wait()
            for dropped in (1, 2):  # not before the end is noticed; nor before what it brings about
                w.write(b"?")
                await proxy.until(lambda p, so_far=dropped: p.dropped == so_far)
            assert not r.at_eof()
            assert r.exception() is None
            assert proxy.open == 1
        await proxy.until(lambda p: p.open == 0)


async def test_silence_forgets_what_was_held() -> None:
    """As little of it arrives as of what comes later."""
    async with listening(says_nothing) as url, FaultProxy(url) as proxy:
        proxy.stall()
        async with connected(proxy) as (_, w):
            w.write(b"lost")
            await proxy.until(lambda p: p.held == 4)
            proxy.silence()
            assert proxy.held == 0


async def test_refuse_resets_new_connections_only() -> None:
    """Those that are open go on; healed, it takes clients again."""
    async with listening(echoes) as url, FaultProxy(url) as proxy, connected(proxy) as (r, w):
        await proxy.until(lambda p: p.open == 1)
        proxy.refuse()
        async with connected(proxy) as (refused, _):
            assert await everything(refused) == (b"", ConnectionResetError)
        await proxy.until(lambda p: p.open == 1)
        assert (proxy.connections, proxy.refused, proxy.resets) == (2, 1, 1)
        w.write(b"still here")
        assert await r.readexactly(10) == b"still here"
        proxy.heal()
        async with connected(proxy) as (r2, w2):
            w2.write(b"hello")
            assert await r2.readexactly(5) == b"hello"


async def test_healing_spares_connections_that_have_not_met_their_fault() -> None:
    """A wire does nothing any more, be its connection old or new."""
    wire = Wire(cut_after=700)
    async with listening(says) as url, FaultProxy(url, wire) as proxy:
        async with connected(proxy) as (r, w):
            await proxy.until(lambda p: p.open == 1)
            proxy.heal()
            w.write(b"?")
            assert len(await r.readexactly(1000)) == 1000
        assert proxy.cuts == 0


# Which wire --------------------------------------------------------------------------------------


async def heard(proxy: FaultProxy) -> int:
    """How much of a thousand bytes comes over a new connection."""
    async with connected(proxy) as (r, w):
        w.write(b"?")
        w.write_eof()
        return len((await everything(r))[0])


async def test_a_wire_for_each_connection() -> None:
    """One after the other, the last one again and again; or as a function says."""
    wires = [Wire(cut_after=1), Wire(), Wire(cut_after=3, ending="reset")]
    async with listening(says) as url:
        async with FaultProxy(url, wires) as proxy:
            assert [await heard(proxy) for _ in range(5)] == [1, 1000, 3, 3, 3]
        async with FaultProxy(url, lambda number: Wire(cut_after=10 * number)) as proxy:
            assert [await heard(proxy) for _ in range(3)] == [0, 10, 20]


async def test_who_is_refused_takes_no_wire_away() -> None:
    """The next one gets it."""
    async with listening(says) as url, FaultProxy(url, [Wire(cut_after=1), Wire()]) as proxy:
        assert await heard(proxy) == 1
        proxy.refuse()
        async with connected(proxy) as (r, _):
            assert await everything(r) == (b"", ConnectionResetError)
        proxy._refusing = False
        assert await heard(proxy) == 1000


async def test_a_function_that_fails_fails_the_connection(reports: Any) -> None:
    """It is reset, and the loop's exception handler hears why."""
    async with listening(says) as url, FaultProxy(url, lambda number: [][number]) as proxy:
        async with connected(proxy) as (r, _):
            assert await everything(r) == (b"", ConnectionResetError)
        await proxy.until(lambda p: p.open == 0)
    assert [type(error) for error in reports] == [IndexError]


async def test_a_function_that_gives_no_wire_fails_the_connection(reports: Any) -> None:
    """The same."""
    wrong: Any = lambda number: None  # noqa: E731
    async with listening(says) as url, FaultProxy(url, wrong) as proxy:
        async with connected(proxy) as (r, _):
            assert await everything(r) == (b"", ConnectionResetError)
    assert [type(error) for error in reports] == [ConfigurationError]


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay": -1},
        {"delay": float("nan")},
        {"delay": "1"},
        {"rate": 0},
        {"rate": -1},
        {"rate": float("inf")},
        {"rate": float("nan")},
        {"rate": True},
        {"rate": "fast"},
        {"corrupt_at": -1},
        {"corrupt_at": 1.5},
        {"corrupt_at": True},
        {"corrupt_at": [1, -1]},
        {"corrupt_at": "12"},
        {"corrupt_at": 1, "flip": 0},
        {"corrupt_at": 1, "flip": 256},
        {"cut_after": -1},
        {"cut_after": 0.5},
        {"cut_after": 1, "ending": "explode"},
        {"ending": "reset"},
        {"counted_from": b"x"},
        {"counted_from": "x", "cut_after": 1},
    ],
    ids=str,
)
def test_wrong_wires(wrong: dict[str, Any]) -> None:
    """What makes no sense, or has no effect, is refused where it is written."""
    with pytest.raises(ConfigurationError):
        Wire(**wrong)


def test_wires_are_values() -> None:
    """Equal ones are equal, in whichever form the offsets are given."""
    assert Wire(corrupt_at=[3, 1, 3]) == Wire(corrupt_at=iter((1, 3)))
    assert len({Wire(corrupt_at=1), Wire(corrupt_at=[1]), Wire()}) == 2


@pytest.mark.parametrize(
    "target",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:80",
        "tcp://127.0.0.1",
        "http://:80",
        "http://x:port",
        "//x:1",
        80,
    ],
)
def test_wrong_targets(target: Any) -> None:
    """A target is a URL with a host, and a port that is told or known."""
    with pytest.raises(ConfigurationError, match="target"):
        FaultProxy(target)


@pytest.mark.parametrize("wires", [[], [None], None, 5, [Wire(), 1], "text"])
def test_no_wires(wires: Any) -> None:
    """What is no wire is refused as well, and a port that is none."""
    with pytest.raises(ConfigurationError, match=r"wire|Wire"):
        FaultProxy("tcp://127.0.0.1:1", wires)
    with pytest.raises(ConfigurationError, match="port"):
        FaultProxy("tcp://127.0.0.1:1", port=-1)


# Starting and stopping ---------------------------------------------------------------------------


async def test_a_server_that_is_not_there() -> None:
    """The client is reset, which is what comes closest for one that is connected already."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with FaultProxy(f"tcp://127.0.0.1:{bound.getsockname()[1]}") as proxy:
            async with connected(proxy) as (r, _):
                assert await everything(r) == (b"", ConnectionResetError)
            await proxy.until(lambda p: p.open == 0)
            assert proxy.resets == 0  # it has done nothing of itself


@asynccontextmanager
async def full() -> AsyncIterator[str]:
    """The address of a server whose queue is full, so that connecting takes for ever."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        clients = [socket.socket() for _ in range(4)]
        try:
            for client in clients:
                client.setblocking(False)
                client.connect_ex(server.getsockname())
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        finally:
            for client in clients:
                client.close()


async def test_a_client_that_leaves_while_the_server_is_being_reached() -> None:
    """In good order or not, nothing of it stays."""
    async with full() as url, FaultProxy(url) as proxy:
        async with connected(proxy) as (_, w):
            w.write(b"hello")
            await proxy.until(lambda p: p.held == 5)
            own = w.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            w.transport.abort()
        await proxy.until(lambda p: p.open == 0)


async def test_leaving_ends_everything_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever state a connection is in; no task stays, and nothing is logged."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().slow_callback_duration = HOUR  # a busy machine is no fault
    wires = [
        Wire(),
        Wire(cut_after=0, ending="stall"),
        Wire(delay=HOUR),
        Wire(rate=1),
        Wire(cut_after=10, ending="half-close"),
    ]
    before = asyncio.all_tasks()
    async with listening(says) as url, full() as nowhere:
        async with FaultProxy(url, wires) as proxy, FaultProxy(nowhere) as stuck:
            clients = [connected(proxy) for _ in wires] + [connected(stuck)]
            streams = [await client.__aenter__() for client in clients]
            for _, w in streams:
                w.write(b"?")
            await proxy.until(lambda p: p.open == len(wires) and p.held >= 2990)
            await stuck.until(lambda p: p.held == 1)
            url_before = proxy.url
        assert (proxy.open, proxy.held, stuck.open, stuck.held) == (0, 0, 0, 0)
        for r, _ in streams:
            await everything(r)
        for client in clients:
            await client.__aexit__(None, None, None)
        with pytest.raises(OSError, match=r"refused|failed"):
            await asyncio.open_connection("127.0.0.1", int(url_before.rpartition(":")[2]))
    assert asyncio.all_tasks() == before
    assert [each for each in caplog.records if not each.name.startswith("asyncio")] == []
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_leaving_with_a_client_that_is_being_accepted() -> None:
    """It hears of the end as well."""
    async with listening(says) as url:
        with socket.socket() as client:
            client.setblocking(False)
            async with FaultProxy(url) as proxy:
                client.connect_ex(("127.0.0.1", proxy.port))
            r, w = await asyncio.open_connection(sock=client)
            assert (await everything(r))[0] == b""
            w.close()
    assert proxy.open == 0


async def test_running_twice() -> None:
    """One proxy runs once at a time, has an address only then, and can be entered again."""
    proxy = FaultProxy("tcp://127.0.0.1:1")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not running"):
            _ = proxy.url
        async with proxy:
            assert proxy.url in repr(proxy)
            with pytest.raises(RuntimeError, match="already"):
                await proxy.__aenter__()
    with proxy:
        with pytest.raises(RuntimeError, match="already"):
            proxy.__enter__()
    assert "not running" in repr(proxy)
    await proxy.__aexit__(None, None, None)  # which does nothing any more
    proxy.__exit__(None, None, None)


async def test_a_port_that_is_taken() -> None:
    """A port in use is an `OSError` of entering, in either form, and leaves nothing behind."""
    async with FaultProxy("tcp://127.0.0.1:1") as proxy:
        other = FaultProxy("tcp://127.0.0.1:1", port=proxy.port)
        with pytest.raises(OSError, match="in use"):
            await other.__aenter__()
        with pytest.raises(OSError, match="in use"):
            other.__enter__()


def test_from_synchronous_code() -> None:
    """As a plain context manager it runs in a thread; what it is told is done when it is said."""
    with ReplayServer("text") as server, FaultProxy(server.url, Wire(cut_after=700)) as proxy:
        assert len(blocking_answer(proxy)) < 700
        proxy.wait_until(lambda p: p.cuts == 1)
        proxy.refuse()
        with pytest.raises(ConnectionError):
            blocking_answer(proxy)
        assert proxy.refused == 1
        proxy.heal()
        assert blocking_answer(proxy) == TEXT.body
        with pytest.raises(TimeoutError, match=r"3 connections, . open, 1 cut, 1 reset, 1 refused"):
            proxy.wait_until(lambda p: p.cuts == 2, timeout=0.001)


def blocking_answer(proxy: FaultProxy) -> bytes:
    """The body, as far as it comes."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
    try:
        connection.request("POST", "/v2/chat", ASK)
        return connection.getresponse().read()
    except http.client.IncompleteRead as error:
        return error.partial
    finally:
        connection.close()


async def test_a_proxy_in_a_thread_can_be_told_by_a_task() -> None:
    """From another loop than its own, too."""
    with ReplayServer("text") as server, FaultProxy(server.url) as proxy:
        proxy.stall()
        async with connected(proxy) as (r, w):
            w.write(REQUEST)
            await proxy.until(lambda p: p.held == len(REQUEST))
            proxy.heal()
            await r.readuntil(b"[DONE]")


async def test_wait_until_refuses_to_block_its_own_loop() -> None:
    """The blocking form is an error where it would wait for itself."""
    async with FaultProxy("tcp://127.0.0.1:1") as proxy:
        with pytest.raises(BlockingCallError, match="until"):
            proxy.wait_until(lambda p: p.open == 1)


async def test_it_can_be_told_before_it_runs() -> None:
    """What was said then holds when it does."""
    async with listening(says) as url:
        proxy = FaultProxy(url)
        proxy.refuse()
        proxy.reset()
        async with proxy, connected(proxy) as (r, _):
            assert await everything(r) == (b"", ConnectionResetError)


async def test_a_stall_hides_that_the_server_is_gone() -> None:
    """Who connects meanwhile hears nothing; when it is over, that nobody is there."""
    async with FaultProxy("tcp://127.0.0.1:1") as proxy:
        proxy.stall()
        async with connected(proxy) as (r, _):
            await proxy.until(lambda p: p.open == 1)
            for _ in range(3):  # which takes as long as the proxy's own attempt
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", 1)
            assert proxy.open == 1
            proxy.heal()
            assert await everything(r) == (b"", ConnectionResetError)


@pytest.mark.parametrize("what", [FaultProxy.stall, FaultProxy.silence])
async def test_a_client_that_has_finished_is_let_go(what: Callable[[FaultProxy], None]) -> None:
    """It may leave any moment, and nobody would notice, once nothing is carried."""
    server_heard = asyncio.Event()

    async def listens(r: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await r.read()
        server_heard.set()
        await asyncio.Event().wait()

    async with listening(listens) as url, FaultProxy(url) as proxy, connected(proxy) as (_, w):
        w.write_eof()
        await server_heard.wait()
        what(proxy)
        await proxy.until(lambda p: p.open == 0)


def test_a_server_with_an_impossible_name() -> None:
    """A target that no connection can be made to is refused at once."""
    with pytest.raises(ConfigurationError, match=r"expected target.*'tcp://a\.\.b:80'"):
        FaultProxy("tcp://a..b:80")
