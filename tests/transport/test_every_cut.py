"""Answers that are cut, or have a wrong byte, at each of their bytes in turn, over real sockets.

What a subscriber has to get is worked out from the bytes that were let through, by the plain reader
below, which shares nothing with the one under test. What events add up to is the folds' affair, and
shown by their own tests.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from samples import parsed, recorded_file
from subscribers import ASK, HANG, Subscriber, Subscribers, client_of

from rxcohere import (
    ChatEvent,
    ChatResponse,
    ChatStream,
    ConnectionFailedError,
    GenerationError,
    RxCohereError,
    StreamError,
    StreamTruncatedError,
)
from rxcohere.folds import ResponseFold
from rxcohere.testing import (
    CutEnding,
    FaultProxy,
    Playable,
    ReplayServer,
    Transcript,
    Wire,
    transcript_names,
)

FRAMINGS = ("chunked", "content-length", "close")
ENDINGS: tuple[CutEnding, ...] = ("close", "reset")
SHORT = "wire-text-command-a-short.sse"
RAG = Transcript.load("rag").frames
ABRIDGED = Transcript("rag, abridged", (*RAG[:2], RAG[11], *RAG[-2:]))
"""Its delta has a character of three bytes."""
FLIPS = (0x01, 0x02, 0x20, 0x80)

every_framing = pytest.mark.parametrize("framing", FRAMINGS)


@pytest.fixture(autouse=True)
async def quickly() -> None:
    """Debug mode notes where each callback comes from: too much for so many streams."""
    asyncio.get_running_loop().set_debug(False)


# What has arrived, worked out plainly ------------------------------------------------------------


@dataclass(frozen=True)
class Arrived:
    """What has to come out of the bytes that were let through."""

    head: bool
    events: list[dict[str, Any]]

    @property
    def is_complete(self) -> bool:
        return bool(self.events) and self.events[-1]["type"] == "message-end"


def arrived(answer: bytes, framing: str) -> Arrived:
    """The events that are whole: those whose blank line is there."""
    head, blank_line, rest = answer.partition(b"\r\n\r\n")
    if not blank_line:
        return Arrived(False, [])
    if framing == "chunked":
        body = b"".join(rest[each.start : each.stop] for each in chunks(rest))
    elif framing == "content-length":
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert length is not None
        body = rest[: int(length[1])]
    else:
        body = rest
    events: list[dict[str, Any]] = []
    for frame in body.split(b"\n\n")[:-1]:
        data = frame.partition(b"data: ")[2]
        if data != b"[DONE]":
            events.append(json.loads(data))
    return Arrived(True, events)


def chunks(rest: bytes) -> Iterator[range]:
    """Where the contents of HTTP's chunks are; that of the last one may not have come as yet."""
    at = 0
    while (size_end := rest.find(b"\r\n", at)) >= 0:
        size = int(rest[at:size_end], 16)
        yield range(size_end + 2, size_end + 2 + size)
        at = size_end + 2 + size + 2


def folded(events: Iterable[ChatEvent]) -> ChatResponse | None:
    fold = ResponseFold()
    for event in events:
        fold.push(event)
    return fold.response()


# One server, one proxy, one client, thousands of streams -----------------------------------------


class Watched(socket.socket):
    """Tells when its loop has let go of it, which it does once it has told the client."""

    def __init__(self, *kind: int) -> None:
        super().__init__(*kind)
        self.closed = asyncio.Event()

    def close(self) -> None:
        super().close()
        self.closed.set()

    def detach(self) -> int:  # which uvloop does instead
        self.closed.set()
        return super().detach()


@dataclass
class Line:
    """A way to a server whose answer is always the same, and harmed as is said each time."""

    answer: bytes
    framing: str
    proxy: FaultProxy
    stream: ChatStream
    wires: list[Wire]
    sockets: list[Watched]
    responses: dict[int, Any] = field(default_factory=dict[int, Any])

    @cached_property
    def head(self) -> int:
        """The size of the answer's head."""
        return self.answer.index(b"\r\n\r\n") + 4

    @cached_property
    def chunking(self) -> set[int]:
        """Where there is neither head nor content, but what tells chunks apart."""
        if self.framing != "chunked":
            return set()
        content = {self.head + at for each in chunks(self.answer[self.head :]) for at in each}
        return set(range(self.head, len(self.answer))) - content

    def response(self, events: list[dict[str, Any]]) -> Any:
        """The fold of so many events; they are always the same ones."""
        if len(events) not in self.responses:
            self.responses[len(events)] = folded(parsed(events))
        return self.responses[len(events)]

    async def over(self, wire: Wire, subscriber: Subscribers) -> Subscriber:
        """What a subscription brings over such a wire; there is one verdict, and it comes."""
        self.becomes(wire)
        return await subscriber().to(self.stream).end()

    def becomes(self, wire: Wire) -> None:
        """The next connection goes over such a wire."""
        self.wires[:] = [wire]
        self.sockets.clear()

    async def is_gone(self) -> None:
        """Waits until there is no connection any more, and the client has noticed."""
        await self.proxy.until(lambda p: p.open == 0)
        async with asyncio.timeout(HANG):
            for each in self.sockets:
                await each.closed.wait()

    def must_have(self, got: Subscriber, after: int, ending: str) -> None:
        """Holds what came to what was let through."""
        there = arrived(self.answer[:after], self.framing)
        where = f"cut after {after} bytes"
        sent = [event.model_dump(exclude_unset=True) for event in got.values]
        assert sent == there.events, where
        if not there.is_complete:
            kind = StreamTruncatedError
            if ending == "reset" or not there.head:
                kind = ConnectionFailedError
        elif there.events[-1]["delta"]["finish_reason"] in ("ERROR", "TIMEOUT"):
            kind = GenerationError
        else:
            assert (got.completed, got.error) == (True, None), where
            assert got.values[-1].response == self.response(there.events), where
            return
        assert type(got.error) is kind, where
        assert isinstance(got.error, StreamError)
        assert got.error.partial == self.response(there.events), where


@asynccontextmanager
async def line(playable: Playable, framing: Any, chunking: Any = "") -> AsyncIterator[Line]:
    """The way, once its answer is known."""
    wires = [Wire()]
    chunking = chunking or ("event" if framing == "chunked" else "whole")  # so there are chunks
    async with (
        ReplayServer(playable, framing=framing, chunking=chunking) as server,
        FaultProxy(server.url, lambda _: wires[0]) as proxy,
    ):
        async with client_of(proxy) as co:
            with suppress(GenerationError):  # which is how some streams end
                await co.chat_stream(**ASK)
        # Only the id of the trace is another one each time, of the same length.
        answer = await whole_answer(proxy, proxy.carried)
        sockets: list[Watched] = []
        async with session_with(sockets) as session, client_of(proxy, session=session) as co:
            yield Line(answer, framing, proxy, co.chat_stream(**ASK), wires, sockets)


def session_with(sockets: list[Watched]) -> aiohttp.ClientSession:
    """A session that adds its sockets to these."""

    def watched(address: Any) -> socket.socket:
        sockets.append(Watched(*address[:3]))
        return sockets[-1]

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, socket_factory=watched))


async def whole_answer(proxy: FaultProxy, size: int) -> bytes:
    """What stands on the wire."""
    body = json.dumps({**ASK, "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"POST /v2/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    writer.write(body)
    try:
        return await reader.readexactly(size)
    finally:
        writer.close()
        await writer.wait_closed()


def forget(got: Subscriber) -> None:
    """Keeps whether it was called again, but not what came, nor the frames that an error holds.

    Millions of objects would keep the garbage collector busy for longer than a stream may take.
    """
    got.values.clear()
    got.subscription = None
    if got.error is not None:
        got.error = RxCohereError("forgotten")


async def cut_everywhere(
    playable: Playable, framing: str, endings: Iterable[CutEnding], subscriber: Subscribers
) -> None:
    """Cuts after each byte of the answer, and once after its last one, with the endings in turn."""
    turns = cycle(endings)
    async with line(playable, framing) as way:
        for after in range(len(way.answer) + 1):
            ending = next(turns)
            got = await way.over(Wire(cut_after=after, ending=ending), subscriber)
            way.must_have(got, after, ending)
            forget(got)
        cuts = len(way.answer) + 1
        await way.proxy.until(lambda p: p.cuts == cuts)


@pytest.mark.parametrize(
    ("framing", "endings"),
    [
        ("chunked", ["close"]),
        ("chunked", ["reset"]),
        ("content-length", ENDINGS),
        ("close", ENDINGS),
    ],
)
async def test_a_recorded_stream_that_is_cut_anywhere(
    subscriber: Subscribers, framing: str, endings: Iterable[CutEnding]
) -> None:
    """All events that came whole, and one verdict: completion if ``message-end`` was among them."""
    await cut_everywhere(recorded_file(SHORT), framing, endings, subscriber)


@every_framing
async def test_a_stream_that_is_cut_anywhere(subscriber: Subscribers, framing: str) -> None:
    """The same, also within a character of several bytes; both endings take turns."""
    await cut_everywhere(ABRIDGED, framing, ENDINGS, subscriber)


@every_framing
async def test_a_slow_reader_of_a_stream_that_is_cut_near_its_end(
    subscriber: Subscribers, framing: str
) -> None:
    """All that came whole and the verdict, though they waited, and the connection is long gone."""
    turns = cycle(ENDINGS)
    async with line("rag", framing, "event") as way:
        for after in range(len(way.answer) - 300, len(way.answer) + 1):
            ending = next(turns)
            way.becomes(Wire(cut_after=after, ending=ending))
            got = subscriber()
            try:
                async for event in way.stream:
                    if not got.values:
                        await way.is_gone()
                    got.on_next(event)
            except StreamError as error:
                got.on_error(error)
            else:
                got.on_completed()
            way.must_have(got, after, ending)
            forget(got)


@pytest.mark.nightly
@every_framing
async def test_every_recorded_stream_that_is_cut_anywhere(
    subscriber: Subscribers, recorded: Path, framing: str
) -> None:
    """The same, of all of them."""
    await cut_everywhere(recorded, framing, ENDINGS, subscriber)


@pytest.mark.nightly
@every_framing
@pytest.mark.parametrize("name", transcript_names())
async def test_every_stream_that_is_cut_anywhere(
    subscriber: Subscribers, name: str, framing: str
) -> None:
    """The same, of all that come with the package."""
    await cut_everywhere(name, framing, ENDINGS, subscriber)


# One wrong byte ----------------------------------------------------------------------------------


async def corrupt_everywhere(
    playable: Playable, framing: str, flips: Iterable[int], subscriber: Subscribers
) -> None:
    """Changes each byte of the answer, in ways that take turns.

    The connection ends behind the answer, so that nobody waits for more than there is.
    """
    turns = cycle(flips)
    async with line(playable, framing) as way:
        size = len(way.answer)
        for at in range(size):
            flip = next(turns)
            wire = Wire(corrupt_at=at, flip=flip, cut_after=size)
            got = await way.over(wire, subscriber)
            where = f"byte {at} with {flip:#x}"
            assert got.completed == (got.error is None), where
            assert got.completed or isinstance(got.error, RxCohereError), where
            broken = isinstance(got.error, ConnectionFailedError) and at in way.chunking
            # aiohttp looks at no answer whose framing breaks in the same piece as its head is in.
            if at >= way.head and not (broken and not got.values):
                before = arrived(way.answer[:at], framing).events
                sent = [event.model_dump(exclude_unset=True) for event in got.values[: len(before)]]
                assert sent == before, where
            if isinstance(got.error, StreamError):
                assert got.error.partial == folded(got.values), where
            forget(got)
            await way.is_gone()  # or the next stream might take this connection


@every_framing
async def test_a_stream_with_a_wrong_byte_anywhere(subscriber: Subscribers, framing: str) -> None:
    """In the head or in the body: one verdict, of ours, after everything before that byte."""
    await corrupt_everywhere(ABRIDGED, framing, FLIPS, subscriber)


@pytest.mark.nightly
@every_framing
async def test_every_recorded_stream_with_a_wrong_byte_anywhere(
    subscriber: Subscribers, recorded: Path, framing: str
) -> None:
    """The same, of all of them."""
    await corrupt_everywhere(recorded, framing, FLIPS, subscriber)
