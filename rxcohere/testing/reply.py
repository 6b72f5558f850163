"""What one request is answered with, and how it goes over the wire.

A `Reply` is a script: some bytes, and how they end. Faults rewrite it before it is performed. It is
written with aiohttp's `StreamWriter` instead of its response classes, which would not let a body
end without its last chunk or go out without any framing.
"""

from __future__ import annotations

import asyncio
import math
import random
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import accumulate
from typing import Literal, TypeAlias

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter

from rxcohere.sse import comment
from rxcohere.testing.sockets import reset, sent
from rxcohere.testing.transcripts import is_done

Chunking: TypeAlias = Literal["whole", "event", "byte", "random"] | int
"""How a body is cut into writes: as a whole, one write a frame, one a byte, random sizes of 1 to 64
bytes, or so many bytes each."""

Framing: TypeAlias = Literal["chunked", "close", "content-length"]
"""How a client knows where a body ends: by chunks, by the connection's end, or by its length."""

Ending: TypeAlias = Literal["eof", "close", "reset", "stall", "keep-alives"]
"""What comes after the last byte: the body's proper end; the connection's end, orderly or not;
silence until the client leaves; or comments until then."""

_MAX_RANDOM_SIZE = 64
_UNSENT = 1 << 20


@dataclass(frozen=True)
class Reply:
    """The answer to one request.

    Attributes:
        frames: the body, in parts that are sent one by one.
        status: the HTTP status.
        headers: further headers; they win over those that the server sets itself.
        content_type: as it stands in the header.
        streamed: whether it is a stream; else it is sent as a whole and with its length.
        delay: seconds before the status line; `math.inf` never sends it.
        head: False closes the connection without any answer.
        ending: what comes after the last byte.
        interval: seconds between two comments, with the ending ``keep-alives``.
    """

    frames: tuple[bytes, ...] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content_type: str = "text/event-stream"
    streamed: bool = True
    delay: float = 0.0
    head: bool = True
    ending: Ending = "eof"
    interval: float = 0.0


class Performed(web.StreamResponse):
    """Tells aiohttp that the response is on the wire, and whether to keep the connection."""

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._reusable = keep_alive

    @property
    def keep_alive(self) -> bool:
        """Whether the connection can carry another request."""
        return self._reusable

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Does nothing."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Does nothing."""


async def perform(
    reply: Reply,
    request: web.BaseRequest,
    *,
    chunking: Chunking,
    pace: float,
    framing: Framing,
    rng: random.Random,
) -> web.StreamResponse:
    """Sends the reply, and returns the response to give to aiohttp.

    Raises:
        ConnectionError: the client went away before the end.
        CancelledError: the same, noticed while there was nothing to send.
    """
    await _wait(reply.delay)
    transport = request.transport
    if transport is None:  # pragma: no cover - aiohttp cancels the handler first, as it is now
        raise ConnectionResetError("the client went away")
    if not reply.head:
        transport.close()
        return Performed(keep_alive=False)
    if not reply.streamed:
        chunking, pace, framing = "whole", 0.0, "content-length"
    writer = StreamWriter(request.protocol, asyncio.get_running_loop())
    reusable = request.keep_alive and framing != "close" and reply.ending == "eof"
    response = Performed(reusable)
    await _write_head(writer, reply, framing, response)
    await _write_body(writer, reply.frames, chunking, pace, rng)
    match reply.ending:
        case "eof":
            await writer.write_eof()
        case "close":
            pass  # aiohttp closes what is not to be kept alive.
        case "reset":
            await _reset(writer, transport)
        case "keep-alives":
            while True:
                await writer.write(comment("keep-alive"))
                await asyncio.sleep(reply.interval)
        case "stall":  # pragma: no branch - pyright would see another
            await _wait(math.inf)
    return response


async def _write_head(
    writer: StreamWriter, reply: Reply, framing: Framing, response: Performed
) -> None:
    headers = response.headers
    headers["content-type"] = reply.content_type
    headers["cache-control"] = "no-cache"
    if framing == "chunked":
        writer.enable_chunking()
        headers["transfer-encoding"] = "chunked"
    elif framing == "content-length":
        length = sum(map(len, reply.frames))
        # A body that does not end properly must have some of its announced length left.
        headers["content-length"] = str(length if reply.ending == "eof" else length + _UNSENT)
    if not response.keep_alive:
        headers["connection"] = "close"
    headers.update(reply.headers)
    try:
        reason = HTTPStatus(reply.status).phrase
    except ValueError:
        reason = "Unknown"
    await writer.write_headers(f"HTTP/1.1 {reply.status} {reason}", headers)
    writer.send_headers()


async def _write_body(
    writer: StreamWriter,
    frames: tuple[bytes, ...],
    chunking: Chunking,
    pace: float,
    rng: random.Random,
) -> None:
    starts = list(accumulate(map(len, frames), initial=0))
    ends_with_done = bool(frames) and is_done(frames[-1])
    # [DONE] and the body's end follow at once: a client may leave when it has the last event.
    tail = starts[-2] if ends_with_done else starts[-1]
    written = 0
    for piece in _pieces(frames, chunking, rng):
        if 0 < written < tail:
            end = min(written + len(piece), tail)
            begun = bisect_left(starts, end) > bisect_left(starts, written)
            # Without a turn of the loop, a client in the same loop would read all pieces as one.
            await asyncio.sleep(pace if begun else 0)
        await writer.write(piece)
        written += len(piece)


def _pieces(frames: tuple[bytes, ...], chunking: Chunking, rng: random.Random) -> Iterator[bytes]:
    if chunking == "event":
        yield from frames
        return
    body = b"".join(frames)
    position = 0
    while position < len(body):
        match chunking:
            case "whole":
                size = len(body)
            case "byte":
                size = 1
            case "random":
                size = rng.randint(1, _MAX_RANDOM_SIZE)
            case _:
                size = chunking
        yield body[position : position + size]
        position += size


async def _reset(writer: StreamWriter, transport: asyncio.Transport) -> None:
    # With no room in the buffer, drain() waits until the kernel has every byte.
    transport.set_write_buffer_limits(high=0)
    await writer.drain()
    await sent(transport)
    reset(transport)


async def _wait(seconds: float) -> None:
    if seconds == math.inf:
        await asyncio.get_running_loop().create_future()
    elif seconds > 0:
        await asyncio.sleep(seconds)
