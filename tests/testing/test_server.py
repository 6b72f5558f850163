"""`ReplayServer` and its faults, as plain HTTP clients see them."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import math
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rxcohere.errors import BlockingCallError, ConfigurationError
from rxcohere.testing import (
    DONE,
    ContentType,
    Corrupt,
    Cut,
    DelayHeaders,
    DoneEarly,
    DropDone,
    Fault,
    HangUp,
    KeepAlives,
    Linger,
    RecordedRequest,
    ReplayServer,
    Stall,
    Status,
    Transcript,
    transcript_names,
)

TEXT = Transcript.load("text")
USER = {"role": "user", "content": "Where do the tallest penguins live?"}
HOUR = 3600.0


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "command-a-03-2025", "messages": [USER], "stream": True, **more}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def read_some(response: aiohttp.ClientResponse, size: int) -> bytes:
    return await response.content.readexactly(size)


async def drain(response: aiohttp.ClientResponse, pieces: list[bytes]) -> None:
    async for piece in response.content.iter_any():
        pieces.append(piece)  # noqa: PERF401 - what came before an error counts


async def raw_exchange(server: ReplayServer) -> tuple[bytes, bytes]:
    """The head and the body as they stand on the wire."""
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    body = json.dumps(ask()).encode()
    writer.write(
        b"POST /v2/chat HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    try:
        answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, rest = answer.partition(b"\r\n\r\n")
    return head, rest


def http_chunks(body: bytes) -> list[bytes]:
    """The chunks of a chunked body, without the last, empty one."""
    chunks: list[bytes] = []
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert body == b"\r\n"
            return chunks
        chunks.append(body[:length])
        assert body[length : length + 2] == b"\r\n"
        body = body[length + 2 :]


# Streaming


@pytest.mark.parametrize("framing", ["chunked", "close", "content-length"])
@pytest.mark.parametrize("chunking", ["whole", "event", "byte", "random", 7])
async def test_the_body_is_the_transcript(
    session: aiohttp.ClientSession, chunking: Any, framing: Any
) -> None:
    """However it is cut and framed, the client reads the transcript, byte for byte."""
    async with ReplayServer("rag", chunking=chunking, framing=framing) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert response.status == 200
            assert await response.read() == Transcript.load("rag").body
        await server.until(lambda s: s.completed == 1)
        assert (server.open, server.aborted, server.cut) == (0, 0, 0)


async def test_headers(session: aiohttp.ClientSession) -> None:
    """A stream has the API's content type, without a charset, and a trace id of its own."""
    async with ReplayServer("text") as server:
        ids: set[str] = set()
        for _ in range(2):
            async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
                assert response.headers["content-type"] == "text/event-stream"
                assert response.headers["transfer-encoding"] == "chunked"
                ids.add(response.headers["x-debug-trace-id"])
        assert len(ids) == 2
        assert all(len(trace_id) == 32 for trace_id in ids)


@pytest.mark.parametrize(
    ("chunking", "sizes"),
    [
        ("whole", [len(TEXT.body)]),
        ("event", [len(frame) for frame in TEXT.frames]),
        ("byte", [1] * len(TEXT.body)),
        (1000, [1000] * (len(TEXT.body) // 1000) + [len(TEXT.body) % 1000]),
    ],
)
async def test_each_write_is_a_chunk(chunking: Any, sizes: list[int]) -> None:
    """The writes are HTTP chunks of their own, of the sizes that were asked for."""
    async with ReplayServer("text", chunking=chunking) as server:
        _, body = await raw_exchange(server)
        assert [len(chunk) for chunk in http_chunks(body)] == sizes


async def test_random_chunks_depend_on_the_seed() -> None:
    """Random sizes are 1 to 64 bytes, the same for the same seed and different for another one."""
    seen: list[list[int]] = []
    for seed in (1, 1, 2):
        async with ReplayServer("text", chunking="random", seed=seed) as server:
            _, body = await raw_exchange(server)
            seen.append([len(chunk) for chunk in http_chunks(body)])
    assert seen[0] == seen[1] != seen[2]
    assert all(1 <= size <= 64 for size in seen[0])


async def test_bytes_reach_a_client_apart(session: aiohttp.ClientSession) -> None:
    """In byte chunking a client in the same loop really reads many pieces, not one."""
    async with ReplayServer("max-tokens", chunking="byte") as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            pieces = [piece async for piece in response.content.iter_any()]
    assert len(pieces) > len(b"".join(pieces)) / 10


async def test_close_framing_announces_no_length() -> None:
    """A close-delimited body has neither chunks nor a length."""
    async with ReplayServer("text", framing="close") as server:
        head, body = await raw_exchange(server)
    assert body == TEXT.body
    assert b"transfer-encoding" not in head.lower()
    assert b"content-length" not in head.lower()


@pytest.mark.parametrize("chunking", ["event", "byte"])
async def test_pace_holds_the_frames_back(session: aiohttp.ClientSession, chunking: Any) -> None:
    """With a pace of an hour the first frame comes at once, and the second does not."""
    async with ReplayServer("text", chunking=chunking, pace=HOUR) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert await read_some(response, len(TEXT.frames[0])) == TEXT.frames[0]
            assert not response.content.at_eof()
            assert response.content.read_nowait() == b""
        await server.until(lambda s: s.aborted == 1)


@pytest.mark.parametrize("chunking", ["event", "byte", "whole"])
async def test_the_end_follows_the_last_event_at_once(
    session: aiohttp.ClientSession, chunking: Any
) -> None:
    """No pace separates the last event from ``[DONE]`` and from the end of the body."""
    only = Transcript.of([{"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}])
    async with ReplayServer(only, chunking=chunking, pace=HOUR) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert await response.read() == only.body


async def test_a_connection_is_kept_for_the_next_request() -> None:
    """After a chunked stream the same connection carries another request."""
    with ReplayServer("text") as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        sockets: list[socket.socket] = []
        for _ in range(2):
            connection.request("POST", "/v2/chat", json.dumps(ask()))
            sockets.append(connection.sock)
            assert connection.getresponse().read() == TEXT.body
        assert sockets[0] is sockets[1]
        connection.close()


async def test_many_streams_at_once(session: aiohttp.ClientSession) -> None:
    """Fifty concurrent streams are all whole, and all counted."""
    async with ReplayServer(chunking="random") as server:

        async def one() -> bytes:
            async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
                return await response.read()

        bodies = await asyncio.gather(*(one() for _ in range(50)))
        assert set(bodies) == {TEXT.body}
        assert (server.completed, server.open, len(server.requests)) == (50, 0, 50)


# The choice of a transcript, and the non-streaming twin


@pytest.mark.parametrize("name", transcript_names())
async def test_non_streaming_reply(session: aiohttp.ClientSession, name: str) -> None:
    """Without ``stream`` the reply is the JSON that the transcript adds up to, or its error."""
    status, body = Transcript.load(name).reply()
    async with ReplayServer(name) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask(stream=False)) as response:
            assert response.status == status
            assert response.content_type == "application/json"
            assert await response.json() == body
    assert status == (422 if name == "error" else 200)


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
TOOL_MESSAGE = {"role": "tool", "tool_call_id": "a", "content": "21°C"}


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({}, "text"),
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "documents": ["a"]}, "tools"),
        ({"tools": [TOOL], "messages": [USER, TOOL_MESSAGE]}, "tool-answer"),
        ({"documents": ["a"]}, "rag"),
        ({"thinking": {"type": "enabled"}}, "reasoning"),
        ({"thinking": {"token_budget": 500}}, "reasoning"),
        ({"thinking": {"type": "disabled"}}, "text"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": False}, "text"),
    ],
)
async def test_the_request_chooses(
    session: aiohttp.ClientSession, more: dict[str, Any], name: str
) -> None:
    """Without a transcript given, what the request asks for decides."""
    async with ReplayServer() as server:
        async with session.post(f"{server.url}/v2/chat", json=ask(**more)) as response:
            assert await response.read() == Transcript.load(name).body


async def test_kinds_of_transcripts(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """A transcript is given by name, as a path, as bytes, as itself or by a function."""
    path = tmp_path / "mine.sse"
    path.write_bytes(TEXT.body)

    def by_seed(request: RecordedRequest) -> str:
        return "rag" if request.json.get("seed") == 1 else "text"

    for source in ("text", str(path), path, TEXT.body, TEXT, by_seed):
        async with ReplayServer(source) as server:
            async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
                assert await response.read() == TEXT.body
    async with ReplayServer(by_seed) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask(seed=1)) as response:
            assert await response.read() == Transcript.load("rag").body


async def test_a_sequence_is_played_in_turn(session: aiohttp.ClientSession) -> None:
    """Each success plays the next transcript, an error takes no turn, and the last one repeats."""
    async with ReplayServer(["tools", "tool-answer"], faults=[Status(503, times=1)]) as server:
        bodies: list[bytes] = []
        for _ in range(4):
            async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
                bodies.append(await response.read())
    answer = Transcript.load("tool-answer").body
    assert bodies[1:] == [Transcript.load("tools").body, answer, answer]


@pytest.mark.parametrize("source", ["no-such-transcript", [], ["text", "no-such"], Path("/none")])
def test_a_wrong_transcript_is_refused_at_once(source: Any) -> None:
    """A name or a path that leads nowhere is an error of the call, not of a request."""
    with pytest.raises(ConfigurationError):
        ReplayServer(source)


@pytest.mark.parametrize(
    "wrong", [{"chunking": "word"}, {"chunking": 0}, {"framing": "none"}, {"pace": -1.0}]
)
def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    """Other values than the documented ones are refused at the call."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        ReplayServer(**wrong)


# Requests


async def test_requests_are_recorded(session: aiohttp.ClientSession) -> None:
    """Method, path, query, headers and JSON of each request can be read afterwards."""
    async with ReplayServer() as server:
        url = f"{server.url}/proxy/v2/chat?a=1"
        headers = {"Authorization": "Bearer k", "X-Client-Name": "test"}
        async with session.post(url, json=ask(seed=3), headers=headers) as response:
            assert response.status == 200
        (request,) = server.requests
    assert (request.method, request.path, request.query["a"]) == ("POST", "/proxy/v2/chat", "1")
    assert request.headers["authorization"] == "Bearer k"
    assert request.headers["x-client-name"] == "test"
    assert request.json == ask(seed=3)
    assert json.loads(request.body) == request.json
    assert request.streamed
    assert "Bearer" not in repr(request)


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"", 400, "not a JSON object"),
        (b"{", 400, "not a JSON object"),
        (b"[]", 400, "not a JSON object"),
        (b"\xff", 400, "not a JSON object"),
        (b'{"messages": [{}]}', 400, "model"),
        (b'{"model": "m"}', 400, "messages"),
        (b'{"model": "m", "messages": []}', 400, "messages"),
        (
            json.dumps(ask(top_k=3)).encode(),
            422,
            "unknown field: parameter 'top_k' is not a valid field",
        ),
    ],
)
async def test_bad_requests(
    session: aiohttp.ClientSession, data: bytes, status: int, message: str
) -> None:
    """What is no chat request gets the API's status, and JSON with a message."""
    async with ReplayServer(faults=[Status(503, times=1)]) as server:
        async with session.post(f"{server.url}/v2/chat", data=data) as response:
            assert response.status == status
            assert message in (await response.json())["message"]
        assert (len(server.requests), server.completed) == (1, 0)


async def test_other_paths_and_methods(session: aiohttp.ClientSession) -> None:
    """Another path is 404 and another method 405, both recorded."""
    async with ReplayServer() as server:
        async with session.post(f"{server.url}/v1/chat", json=ask()) as response:
            assert response.status == 404
        async with session.get(f"{server.url}/v2/chat") as response:
            assert response.status == 405
        assert [request.method for request in server.requests] == ["POST", "GET"]


async def test_a_large_request(session: aiohttp.ClientSession) -> None:
    """A request of several MiB is read whole."""
    async with ReplayServer() as server:
        documents = ["x" * 3_000_000]
        data = io.BytesIO(json.dumps(ask(documents=documents)).encode())
        async with session.post(f"{server.url}/v2/chat", data=data) as response:
            assert response.status == 200
        assert server.requests[0].json["documents"] == documents


# Faults


async def test_status_for_the_first_requests(session: aiohttp.ClientSession) -> None:
    """A status applies as often as it says, with its headers and body, then the stream comes."""
    fault = Status(429, {"message": "slow down"}, {"retry-after": "0"}, times=2)
    async with ReplayServer("text", faults=[fault]) as server:
        for _ in range(2):
            async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
                assert response.status == 429
                assert response.reason == "Too Many Requests"
                assert response.headers["retry-after"] == "0"
                assert response.headers["x-debug-trace-id"]
                assert await response.json() == {"message": "slow down"}
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert await response.read() == TEXT.body
        assert (server.completed, server.aborted, server.cut) == (1, 0, 0)


async def test_status_bodies(session: aiohttp.ClientSession) -> None:
    """A status can have text, a content type of its own, nothing given, or an unofficial number."""
    html = Status(502, "<html>", {"Content-Type": "text/html"}, times=1)
    faults = [html, Status(500, "oops", times=1), Status(498, times=1), Status(204, "", times=1)]
    async with ReplayServer(faults=faults) as server:
        seen: list[tuple[int, str, str]] = []
        for _ in faults:
            async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
                seen.append((response.status, response.content_type, await response.text()))
    assert seen == [
        (502, "text/html", "<html>"),
        (500, "text/plain", "oops"),
        (498, "application/json", '{"message": "status 498"}'),
        (204, "text/plain", ""),
    ]


async def test_a_status_leaves_other_faults_unused(session: aiohttp.ClientSession) -> None:
    """Faults of the body wait for the first reply that has one."""
    faults = [Status(503, times=1), Cut(after_events=1, how="eof", times=1)]
    async with ReplayServer("text", faults=faults) as server:
        bodies: list[bytes] = []
        for _ in range(3):
            async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
                bodies.append(await response.read())
    assert bodies[1:] == [TEXT.frames[0], TEXT.body]


@pytest.mark.parametrize("framing", ["chunked", "content-length", "close"])
async def test_cut_eof(session: aiohttp.ClientSession, framing: Any) -> None:
    """A proper end in the middle looks like any other end."""
    async with ReplayServer("text", framing=framing, faults=[Cut(3, how="eof")]) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert await response.read() == b"".join(TEXT.frames[:3])
        await server.until(lambda s: s.completed == 1)


@pytest.mark.parametrize("framing", ["chunked", "content-length"])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    ("where", "size"),
    [
        ({"after_events": 0}, 0),
        ({"after_events": 3}, sum(map(len, TEXT.frames[:3]))),
        ({"after_bytes": 500}, 500),
    ],
)
async def test_cut_connection(
    session: aiohttp.ClientSession, framing: Any, how: Any, where: dict[str, int], size: int
) -> None:
    """A connection that ends in mid-body is an error, and the client got no more than was sent."""
    async with ReplayServer("text", framing=framing, faults=[Cut(**where, how=how)]) as server:
        pieces: list[bytes] = []
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await drain(response, pieces)
        got = b"".join(pieces)
        assert TEXT.body.startswith(got)
        assert len(got) <= size
        await server.until(lambda s: s.cut == 1)
        assert (server.open, server.aborted, server.completed) == (0, 0, 0)


async def test_close_and_reset_on_the_wire() -> None:
    """``close`` ends in order but without the last chunk, ``reset`` does not; all bytes come."""
    sent = b"".join(TEXT.frames[:4])
    async with ReplayServer("text", faults=[Cut(4, how="close")]) as server:
        _, body = await raw_exchange(server)
        assert body.endswith(b"\r\n")
        assert http_chunks(body + b"0\r\n\r\n") == list(TEXT.frames[:4])
    async with ReplayServer(
        "text", framing="close", chunking="whole", faults=[Cut(4, how="reset")]
    ) as server:
        url, got = server.url.removeprefix("http://").split(":"), b""
        reader, writer = await asyncio.open_connection(*url)
        data = json.dumps(ask()).encode()
        writer.write(
            b"POST /v2/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        )
        while not got.endswith(sent):
            got += await reader.readexactly(1)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()


async def test_reset_flushes_a_large_body(session: aiohttp.ClientSession) -> None:
    """A reset waits until a body larger than the socket's buffers is on its way."""
    big = Transcript.from_bytes(TEXT.frames[0] + b"data: " + b"x" * 20_000_000 + b"\n\n" + DONE)
    async with ReplayServer(big, faults=[Cut(2, how="reset")]) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            pieces: list[bytes] = []
            with pytest.raises(aiohttp.ClientPayloadError):
                await drain(response, pieces)
    assert sum(map(len, pieces)) > 10_000_000


@pytest.mark.parametrize("count", [0, 2, 1000])
async def test_stall(session: aiohttp.ClientSession, count: int) -> None:
    """After a stall nothing comes, the reply stays open, and the client's leaving is noticed."""
    expected = b"".join(TEXT.frames[:count])
    async with ReplayServer("text", faults=[Stall(count)]) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert await read_some(response, len(expected)) == expected
            assert server.open == 1
            assert not response.content.at_eof()
        await server.until(lambda s: s.aborted == 1)
        assert (server.open, server.completed, server.cut) == (0, 0, 0)


async def test_keep_alives(session: aiohttp.ClientSession) -> None:
    """Comments come for ever, and no event any more."""
    expected = b"".join(TEXT.frames[:2])
    async with ReplayServer("text", faults=[KeepAlives(2, interval=0.0)]) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert await read_some(response, len(expected)) == expected
            for _ in range(20):
                line = await response.content.readuntil(b"\n\n")
                assert line.startswith(b":")
        await server.until(lambda s: s.aborted == 1)


async def test_corrupt(session: aiohttp.ClientSession) -> None:
    """One frame has other data and its own event line; all others are as they were."""
    async with ReplayServer("text", faults=[Corrupt(2), Corrupt(4, b"[]")]) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            frames = Transcript.from_bytes(await response.read()).frames
    name, data, *_ = frames[2].splitlines()
    assert name == b"event: content-delta"
    with pytest.raises(ValueError, match="Unterminated string"):
        json.loads(data.removeprefix(b"data: "))
    assert frames[4] == b"event: content-delta\ndata: []\n\n"
    assert (frames[:2], frames[3], frames[5:]) == (TEXT.frames[:2], TEXT.frames[3], TEXT.frames[5:])


async def test_corrupt_done_has_no_event_line(session: aiohttp.ClientSession) -> None:
    """The frame without an event line gets none; a frame that does not exist changes nothing."""
    last = len(TEXT.frames) - 1
    async with ReplayServer("text", faults=[Corrupt(last, b"[done]"), Corrupt(999)]) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            expected = (*TEXT.frames[:-1], b"data: [done]\n\n")
            assert Transcript.from_bytes(await response.read()).frames == expected


async def test_content_types(session: aiohttp.ClientSession) -> None:
    """Another content type has its own body, or the same one; a JSON type bare lines of JSON."""
    seen: list[tuple[str, bytes]] = []
    for fault in (
        ContentType("text/html; charset=utf-8", "<html>"),
        ContentType("text/plain"),
        ContentType("application/json"),
    ):
        async with ReplayServer("text", faults=[fault]) as server:
            async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
                assert response.status == 200
                seen.append((response.headers["content-type"], await response.read()))
    assert seen[0] == ("text/html; charset=utf-8", b"<html>")
    assert seen[1] == ("text/plain", TEXT.body)
    assert seen[2][0] == "application/json"
    assert [json.loads(line)["type"] for line in seen[2][1].splitlines()] == [
        event.type for event in TEXT.events
    ]


async def test_linger_after_done(session: aiohttp.ClientSession) -> None:
    """All frames come, and the body stays open until the client leaves."""
    async with ReplayServer("text", faults=[Linger()]) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert await read_some(response, len(TEXT.body)) == TEXT.body
            assert (server.open, response.content.at_eof()) == (1, False)
        await server.until(lambda s: s.aborted == 1)


async def test_linger_after_message_end(session: aiohttp.ClientSession) -> None:
    """The last event comes, but neither ``[DONE]`` nor the end."""
    expected = b"".join(TEXT.frames[:-1])
    async with ReplayServer("text", faults=[Linger("message-end")]) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert await read_some(response, len(expected)) == expected
            assert response.content.read_nowait() == b""
        await server.until(lambda s: s.aborted == 1)


async def test_drop_done_and_done_early(session: aiohttp.ClientSession) -> None:
    """``[DONE]`` can be missing or come early; the body ends properly either way."""
    for fault, frames in (
        (DropDone(), TEXT.frames[:-1]),
        (DoneEarly(2), (*TEXT.frames[:2], DONE)),
        (DoneEarly(), (DONE,)),
    ):
        async with ReplayServer("text", faults=[fault]) as server:
            async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
                assert await response.read() == b"".join(frames)
            await server.until(lambda s: s.completed == 1)


async def test_refuse(session: aiohttp.ClientSession) -> None:
    """The connection ends without an answer, as often as asked; the request was read."""
    async with ReplayServer("text", faults=[HangUp(times=1)]) as server:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.post(f"{server.url}/v2/chat", json=ask())
        await server.until(lambda s: s.cut == 1)
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert await response.read() == TEXT.body
        assert len(server.requests) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_delayed_headers(session: aiohttp.ClientSession, stream: bool) -> None:
    """Headers that never come leave the reply open until the client gives up."""
    async with ReplayServer("text", faults=[DelayHeaders(times=1)]) as server:
        request = asyncio.create_task(
            session.post(f"{server.url}/v2/chat", json=ask(stream=stream))
        )
        await server.until(lambda s: s.open == 1)
        request.cancel()
        await server.until(lambda s: s.aborted == 1)
        with pytest.raises(asyncio.CancelledError):
            await request
        async with session.post(f"{server.url}/v2/chat", json=ask(stream=stream)) as response:
            assert response.status == 200


async def test_briefly_delayed_headers(session: aiohttp.ClientSession) -> None:
    """After a finite delay the reply comes as it would have, an error too."""
    faults = [Status(503, times=1), DelayHeaders(0.001)]
    async with ReplayServer("text", faults=faults) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert response.status == 503
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert await response.read() == TEXT.body


async def test_faults_of_streams_spare_other_replies(session: aiohttp.ClientSession) -> None:
    """A non-streaming reply has no events to lose, and does not use such a fault up."""
    faults: list[Fault] = [DropDone(times=1), DoneEarly(1), Corrupt(0), Linger(), KeepAlives(1)]
    async with ReplayServer("text", faults=faults[:1]) as server:
        for stream, body in ((False, None), (True, b"".join(TEXT.frames[:-1]))):
            async with session.post(f"{server.url}/v2/chat", json=ask(stream=stream)) as response:
                assert (await response.read() == body) is stream
    async with ReplayServer("text", faults=faults) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask(stream=False)) as response:
            assert await response.json() == TEXT.reply()[1]


async def test_faults_of_bodies_befall_other_replies(session: aiohttp.ClientSession) -> None:
    """A non-streaming reply can be cut as well."""
    async with ReplayServer("text", faults=[Cut(after_bytes=10)]) as server:
        async with session.post(f"{server.url}/v2/chat", json=ask(stream=False)) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cut(),
        lambda: Cut(after_events=1, after_bytes=1),
        lambda: Cut(after_events=-1),
        lambda: Cut(after_bytes=-1),
        lambda: Stall(-1),
        lambda: KeepAlives(interval=-1.0),
        lambda: Corrupt(-1),
        lambda: DoneEarly(-1),
        lambda: DelayHeaders(math.nan),
        lambda: Status(500, times=0),
    ],
)
def test_wrong_faults(make: Any) -> None:
    """A fault whose numbers make no sense is refused where it is written."""
    with pytest.raises(ConfigurationError):
        make()


# Waiting


async def test_until_says_what_was_counted() -> None:
    """A state that is not reached is a timeout that names the counters."""
    async with ReplayServer() as server:
        with pytest.raises(TimeoutError, match="0 requests, 0 open, 0 aborted, 0 completed, 0 cut"):
            await server.until(lambda s: s.completed == 1, timeout=0.001)


async def test_until_passes_on_what_the_predicate_raises(session: aiohttp.ClientSession) -> None:
    """A predicate that raises ends the waiting with its error, and harms no reply."""
    async with ReplayServer("text") as server:
        waiting = asyncio.create_task(
            server.until(lambda s: s.requests != [] and s.requests[0].json["no-such-key"])
        )
        await asyncio.sleep(0)
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            assert await response.read() == TEXT.body
        with pytest.raises(KeyError, match="no-such-key"):
            await waiting


async def test_several_wait_and_one_gives_up(session: aiohttp.ClientSession) -> None:
    """Tasks wait for different states at once; a cancelled one does not disturb the others."""
    async with ReplayServer("text") as server:
        first = asyncio.create_task(server.until(lambda s: s.open == 1))
        second = asyncio.create_task(server.until(lambda s: s.completed == 2, timeout=None))
        third = asyncio.create_task(server.until(lambda s: s.completed == 3))
        await asyncio.sleep(0)
        third.cancel()
        for _ in range(2):
            async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
                await response.read()
        await asyncio.gather(first, second)
        with pytest.raises(asyncio.CancelledError):
            await third


async def test_wait_until_refuses_to_block_its_own_loop() -> None:
    """The blocking form is an error where it would wait for itself."""
    async with ReplayServer() as server:
        with pytest.raises(BlockingCallError, match="until"):
            server.wait_until(lambda s: s.open == 1)


# Starting and stopping


def test_from_synchronous_code() -> None:
    """As a plain context manager the server runs in a thread, and a blocking client can use it."""
    with ReplayServer(faults=[Stall(2, times=1)]) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        connection.request("POST", "/v2/chat", json.dumps(ask()))
        response = connection.getresponse()
        size = len(TEXT.frames[0]) + len(TEXT.frames[1])
        assert response.read(size) == TEXT.frames[0] + TEXT.frames[1]
        server.wait_until(lambda s: s.open == 1)
        response.close()
        connection.close()
        server.wait_until(lambda s: s.aborted == 1)
        connection.request("POST", "/v2/chat", json.dumps(ask()))
        assert connection.getresponse().read() == TEXT.body
        connection.close()
        server.wait_until(lambda s: s.completed == 1)
        with pytest.raises(TimeoutError, match="2 requests, 0 open, 1 aborted"):
            server.wait_until(lambda s: s.completed == 2, timeout=0.001)


async def test_until_from_another_loop(session: aiohttp.ClientSession) -> None:
    """A task can await a server that runs in a thread."""
    with ReplayServer("text") as server:
        async with session.post(f"{server.url}/v2/chat", json=ask()) as response:
            await response.read()
        await server.until(lambda s: s.completed == 1)


async def test_leaving_ends_stalled_replies(session: aiohttp.ClientSession) -> None:
    """Leaving the context ends every reply at once, counts it as cut, and refuses new clients."""
    async with ReplayServer("text", faults=[DelayHeaders(times=1), Stall(1)]) as server:
        url = server.url
        unanswered = asyncio.create_task(session.post(f"{url}/v2/chat", json=ask()))
        await server.until(lambda s: s.open == 1)
        stalled = await session.post(f"{url}/v2/chat", json=ask())
        before = asyncio.all_tasks()
    assert (server.open, server.cut, server.aborted) == (0, 2, 0)
    assert asyncio.all_tasks() < before
    with pytest.raises(aiohttp.ClientPayloadError):
        await stalled.read()
    with pytest.raises(aiohttp.ClientError):
        await unanswered
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.post(f"{url}/v2/chat", json=ask())


def test_leaving_ends_stalled_replies_of_the_thread() -> None:
    """The same from synchronous code: the thread ends although a reply is stalled."""
    with ReplayServer("text", faults=[Stall()]) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        connection.request("POST", "/v2/chat", json.dumps(ask()))
        response = connection.getresponse()
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        response.read()
    response.close()
    connection.close()
    assert server.cut == 1


async def test_leaving_with_a_client_that_does_not_read(session: aiohttp.ClientSession) -> None:
    """A reply that is stuck in full buffers ends as well."""
    big = Transcript.from_bytes((b"data: " + b"x" * 1_000_000 + b"\n\n") * 50)
    async with ReplayServer(big) as server:
        response = await session.post(f"{server.url}/v2/chat", json=ask())
        assert server.open == 1
    assert (server.open, server.cut) == (0, 1)
    response.close()


async def test_no_warning_in_debug_mode(caplog: pytest.LogCaptureFixture) -> None:
    """With asyncio's debug mode on, aborting and leaving log no error."""
    asyncio.get_running_loop().set_debug(True)
    async with aiohttp.ClientSession() as session:
        async with ReplayServer("text", faults=[Stall(1)]) as server:
            async with session.post(f"{server.url}/v2/chat", json=ask()):
                pass
            await server.until(lambda s: s.aborted == 1)
            left_open = await session.post(f"{server.url}/v2/chat", json=ask())
        left_open.close()
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")]


async def test_running_twice() -> None:
    """One server runs once at a time, has a URL only then, and can be entered again."""
    server = ReplayServer()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not running"):
            _ = server.url
        async with server:
            assert server.url in repr(server)
            with pytest.raises(RuntimeError, match="already"):
                await server.__aenter__()
    with server:
        with pytest.raises(RuntimeError, match="already"):
            server.__enter__()
    assert "not running" in repr(server)


async def test_a_port_that_is_taken() -> None:
    """A port in use is an `OSError` of entering, in either form, and leaves nothing behind."""
    async with ReplayServer() as server:
        port = int(server.url.rpartition(":")[2])
        other = ReplayServer(port=port)
        with pytest.raises(OSError, match="in use"):
            await other.__aenter__()
        with pytest.raises(OSError, match="in use"):
            other.__enter__()
