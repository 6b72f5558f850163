"""Legal bodies with damage, and JSON of odd shapes: nothing but errors of ours comes of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fuzz.amounts import fuzzed
from fuzz.broken_streams import ODD, TYPES, broken_events
from fuzz.readings import read_body, read_events
from fuzz.wire import Draw, cut, frames_of
from hypothesis import strategies as st
from samples import JSON, streams
from subscribers import ASK, LIMITS, Subscriber

from rxcohere import (
    CohereClient,
    EventDecodeError,
    Retry,
    RxCohereError,
    parse_event,
)
from rxcohere.testing import DONE, Transcript, transcript_names

SEEDS = [Transcript.load(name).body for name in transcript_names()]


@st.composite
def mutated(draw: Draw, bodies: st.SearchStrategy[bytes]) -> bytes:
    """Bodies with one to six places flipped, cut out, doubled, moved or mixed with another."""
    body = bytearray(draw(bodies))
    for _ in range(draw(st.integers(1, 6))):
        at, end = sorted((draw(st.integers(0, len(body))), draw(st.integers(0, len(body)))))
        end = min(end, at + draw(st.sampled_from([1, 2, 8, 40, 400])))
        match draw(st.sampled_from(["flip", "insert", "delete", "double", "move", "splice"])):
            case "flip" if at < len(body):
                body[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                body[at:at] = draw(st.binary(max_size=6) | st.sampled_from(_PIECES))
            case "delete":
                del body[at:end]
            case "double":
                body[at:at] = body[at:end]
            case "move":
                piece = body[at:end]
                del body[at:end]
                to = draw(st.integers(0, len(body)))
                body[to:to] = piece
            case "splice":
                other = draw(st.sampled_from(SEEDS))
                start = draw(st.integers(0, len(other)))
                body[at:end] = other[start : start + draw(st.sampled_from([1, 8, 80, 800]))]
    return bytes(body)


_PIECES = [
    b"\n",
    b"\n\n",
    b"\r",
    b"data: ",
    b"[DONE]",
    b'"',
    b"{",
    b"}",
    b"\\",
    b"\\ud800",
    b"null",
]
_PIECES += [b"\xf0\x9f", b"\xef\xbb\xbf", b"1e999", b"-", b'"type":', b"[" * 300, b"0" * 5000]


@st.composite
def legal_bodies(draw: Draw) -> bytes:
    """Bodies in any framing."""
    return b"".join(frames_of(draw, draw(streams()).events)) + DONE


@fuzzed(few=80, many=20_000, body=mutated(st.sampled_from(SEEDS) | legal_bodies()))
def test_a_damaged_body(body: bytes) -> None:
    """Decoder, parser, folds, and whatever can be read of what they give, take it as it comes."""
    read_body(body)


_ODD_EVENTS = st.builds(
    lambda kind, more: {"type": kind, **more},
    st.sampled_from(TYPES) | ODD,
    st.dictionaries(st.sampled_from(["index", "delta", "id", "logprobs", "citations"]), ODD),
)


@fuzzed(few=80, many=20_000, events=st.lists(_ODD_EVENTS, max_size=6) | broken_events())
def test_odd_json(events: list[JSON]) -> None:
    """An object and its text are the same event, or both are none; events of any shape are read."""
    parsed = []
    for event in events:
        text: Any
        try:
            text = parse_event(json.dumps(event))
        except EventDecodeError:
            text = None
        try:
            parsed.append(parse_event(event))
        except EventDecodeError:
            assert text is None
        else:
            assert parsed[-1] == text
    read_events(parsed)


# Over a socket, HTTP's own bytes may be damaged too ----------------------------------------------


@asynccontextmanager
async def answering(chunks: list[bytes]) -> AsyncIterator[str]:
    """The address of a server that reads a request, writes these bytes, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if b"content-length" in line)
            await reader.readexactly(int(length.partition(b":")[2]))
            for chunk in chunks:
                writer.write(chunk)
                await asyncio.sleep(0)
            await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"


_HEADS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1500\r\n\r\n",
        b"HTTP/1.1 429 No\r\ncontent-type: application/json\r\nretry-after: 1\r\n\r\n",
    ]
)


@st.composite
def answers(draw: Draw) -> bytes:
    """Whole answers of a server, head and body."""
    head = draw(_HEADS)
    body = draw(st.sampled_from(SEEDS))
    if b"chunked" in head:
        pieces = [piece for piece in cut(draw, body) if piece]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return head + body


@fuzzed(few=50, many=8_000, answer=mutated(answers()) | mutated(_HEADS), split=st.integers(0, 300))
async def test_a_damaged_answer(answer: bytes, split: int) -> None:
    """Whatever the damage, head and chunks included: one verdict, and if an error, one of ours."""
    async with (
        answering([answer[:split], answer[split:]]) as url,
        CohereClient("key", base_url=url, timeouts=LIMITS, retry=Retry(attempts=1)) as co,
    ):
        subscriber = await Subscriber().to(co.chat_stream(**ASK)).end()
    assert subscriber.breaches == []
    if subscriber.error is not None:
        assert isinstance(subscriber.error, RxCohereError)
        assert str(subscriber.error)
    else:
        assert subscriber.values[-1].type == "message-end"
    read_events(subscriber.values)
