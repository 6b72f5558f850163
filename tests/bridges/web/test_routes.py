"""`relay_routes`: all streams of a journal, for who may read or abort them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from bridges.web.relays import ID, LONG, get, journal_of, raw_client, serving
from subscribers import ANSWER, ASK, HANG, TEXT, served, was_aborted

from rxcohere.bridges.journal import MemoryJournal, publish
from rxcohere.bridges.web import relay_routes
from rxcohere.errors import ConfigurationError, JournalError, StreamCancelledError
from rxcohere.testing import Stall

ONE = f"/streams/{ID}"


async def until(condition: Any) -> None:
    async with asyncio.timeout(HANG):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


def error_in(answer: Any) -> str:
    assert answer.headers["content-type"].startswith("application/json")
    told = json.loads(answer.body)
    assert told.keys() == {"error", "message"}
    return str(told["error"])


async def test_following() -> None:
    """By server-sent events, from the beginning or after an entry, and by WebSocket."""
    journal = await journal_of(TEXT.events)
    last = str(len(TEXT.events))
    async with serving(routes=relay_routes(journal)) as url:
        answer = await get(url + ONE)
        assert (answer.status, answer.text, answer.whole) == (200, ANSWER, True)
        assert (await get(url + ONE, headers={"Last-Event-ID": last})).status == 204
        assert (await get(url + ONE, "HEAD")).status == 200
        async with asyncio.timeout(HANG), aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{url}{ONE}/websocket?after=4") as socket:
                first = await socket.receive_json()
                assert int(first["id"]) > 4


async def test_another_prefix() -> None:
    """The routes are where they are asked to be."""
    journal = await journal_of(TEXT.events)
    async with serving(routes=relay_routes(journal, "/a/b")) as url:
        assert (await get(f"{url}/a/b/{ID}")).status == 200
        assert (await get(url + ONE)).status == 404


BAD_IDS = ["a%2Fb", "a%0Ab", "a%0D%0Ab", "%C3%A9", "a%20b", "x" * 201, "%7Bx%7D", "%3Cscript%3E"]
BAD_IDS += ["%00", "..%2F..%2Fetc", "%F0%9F%90%A7", "%ff"]


@pytest.mark.parametrize("bad", BAD_IDS)
async def test_what_is_no_id(bad: str) -> None:
    """It is a bad request for each of the routes, said in JSON; nobody is asked about it."""
    asked: list[str] = []

    async def authorize(_: web.Request, stream_id: str, action: str) -> bool:
        asked.append(stream_id)
        return True

    async with serving(routes=relay_routes(MemoryJournal(), authorize=authorize)) as url:
        for path, method in (("", b"GET"), ("/websocket", b"GET"), ("/abort", b"POST")):
            request = method + f" /streams/{bad}{path} HTTP/1.0\r\nHost: x\r\n\r\n".encode()
            async with raw_client(url) as client:
                answer = await (await client.send(request)).read_to_end()
                head, _, body = answer.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.0 400 ")
                assert json.loads(body)["error"] == "ConfigurationError"
                assert b"<script>" not in body or b"application/json" in head
    assert asked == []


async def test_what_is_too_long(caplog: pytest.LogCaptureFixture) -> None:
    """Ids and places of ten kilobytes are bad requests, too: aiohttp refuses and reports them."""
    long = "x" * 10_000
    request = "GET {} HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {}\r\nConnection: close\r\n\r\n"
    async with serving(routes=relay_routes(await journal_of(TEXT.events))) as url:
        for path, place in ((f"/streams/{long}", "1"), (ONE, long), (f"{ONE}?after={long}", "")):
            async with raw_client(url) as client:
                await client.send(request.format(path, place).encode())
                assert b" 400 " in (await client.read_to_end()).split(b"\r\n", 1)[0]
    caplog.clear()


async def test_a_stream_that_there_is_not() -> None:
    """It is 404 for each of the routes; a WebSocket says so when it is open."""
    async with serving(routes=relay_routes(MemoryJournal(), patience=0)) as url:
        answer = await get(url + ONE)
        assert (answer.status, error_in(answer)) == (404, "StreamNotFoundError")
        answer = await get(f"{url}{ONE}/abort", "POST")
        assert (answer.status, error_in(answer)) == (404, "StreamNotFoundError")
        assert (await get(f"{url}{ONE}/websocket")).status == 426
        async with asyncio.timeout(HANG), aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{url}{ONE}/websocket") as socket:
                told = await socket.receive_json()
                assert told["error"]["error"] == "StreamNotFoundError"
                assert (await socket.receive()).data == 1011


async def test_a_stream_that_is_about_to_begin() -> None:
    """It is waited for."""
    journal = MemoryJournal()
    async with served() as (_, co), serving(routes=relay_routes(journal)) as url:
        asking = asyncio.create_task(get(url + ONE))
        await asyncio.sleep(0)
        await publish(journal, ID, co.chat_stream(**ASK))
        assert (await asking).text == ANSWER


async def test_a_journal_that_cannot_be_reached() -> None:
    """It is 503 for each of the routes."""

    class Down(MemoryJournal):
        async def read(self, stream_id: str, at: int = 0) -> Any:
            raise JournalError("no route")

        async def request_abort(self, stream_id: str, reason: str) -> None:
            raise JournalError("no route")

    async with serving(routes=relay_routes(Down())) as url:
        for path, method in ((ONE, "GET"), (f"{ONE}/abort", "POST")):
            answer = await get(url + path, method)
            assert (answer.status, error_in(answer)) == (503, "JournalError")


# Aborting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the stream was aborted"),
        (b" \n", "the stream was aborted"),
        (b"{}", "the stream was aborted"),
        (b'{"reason": null}', "the stream was aborted"),
        (b'{"reason": "enough", "more": 1}', "enough"),
        (json.dumps({"reason": "\U0001f427" * 1000}).encode(), "\U0001f427" * 1000),
    ],
)
async def test_aborting(body: bytes, reason: str) -> None:
    """The producer gives the request up, and its followers hear the reason."""
    journal = MemoryJournal()
    async with served(faults=[Stall(after_events=6)]) as (server, co):
        task = asyncio.create_task(publish(journal, ID, co.chat_stream(**ASK)))
        async with serving(routes=relay_routes(journal)) as url:
            async with raw_client(url) as follower:
                await follower.ask(ONE)
                await follower.read_until(b"message-start")
                answer = await get(f"{url}{ONE}/abort", "POST", data=body)
                assert (answer.status, answer.body) == (202, b"")
                rest = await follower.read_until(b"event: error")
                assert b"StreamCancelledError" in rest
            await server.until(was_aborted)
        verdict = await task
        assert isinstance(verdict.error, StreamCancelledError)
        assert str(verdict.error) == reason


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no json", 400),
        (b"[]", 400),
        (b'"reason"', 400),
        (b"null", 400),
        (b'{"reason": 5}', 400),
        (b'{"reason": ["x"]}', 400),
        (b'{"reason": "\\ud800"}', 400),
        (b'{"reason": "\xff"}', 400),
        (b"[" * 10_000, 400),
        (json.dumps({"reason": "x" * 1001}).encode(), 400),
        (json.dumps({"reason": "x" * 20_000}).encode(), 413),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_reason_that_is_none(body: bytes, status: int) -> None:
    """It is refused, and the stream is not aborted."""
    journal = MemoryJournal()
    await journal.begin(ID, LONG)
    async with serving(routes=relay_routes(journal)) as url:
        answer = await get(f"{url}{ONE}/abort", "POST", data=body)
        assert (answer.status, error_in(answer)) == (status, "ConfigurationError")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await journal.abort_requested(ID)


async def test_a_body_that_is_not_encoded_as_it_says(caplog: pytest.LogCaptureFixture) -> None:
    """It is refused, and the stream is not aborted; aiohttp reports what it cannot read on."""
    journal = MemoryJournal()
    await journal.begin(ID, LONG)
    head = f"POST {ONE}/abort HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    encoded = f"{head}Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n".encode()
    async with serving(routes=relay_routes(journal)) as url, raw_client(url) as client:
        await client.send(encoded + b"junk")
        head_of_answer, _, body = (await client.read_to_end()).partition(b"\r\n\r\n")
        assert head_of_answer.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"] == "ConfigurationError"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await journal.abort_requested(ID)
    caplog.clear()


async def test_a_body_that_does_not_come() -> None:
    """It is not waited for, nor is a client that leaves in the middle of it."""
    journal = MemoryJournal()
    await journal.begin(ID, LONG)
    head = f"POST {ONE}/abort HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode()
    routes = relay_routes(journal, send_timeout=0.05)
    # aiohttp itself would wait for the rest, even when the client has gone.
    async with serving(routes=routes, lingering_time=0) as url:
        async with raw_client(url) as client:
            await client.send(head)
            assert b" 408 " in await client.read_until(b"}")
    async with serving(routes=relay_routes(journal)) as url:
        async with raw_client(url) as client:
            await client.send(head)
        assert (await get(f"{url}{ONE}/abort", "POST")).status == 202


# Who may, and how many ---------------------------------------------------------------------------


async def test_who_may() -> None:
    """The hook is asked before the stream is looked for, and its no is 403 or its own."""
    asked: list[tuple[str, str]] = []

    async def authorize(request: web.Request, stream_id: str, action: str) -> bool | None:
        asked.append((stream_id, action))
        match request.query.get("key"):
            case "yes":
                return True
            case "raise":
                raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})
            case "nothing":
                return None
            case _:
                return False

    journal = MemoryJournal()
    async with serving(routes=relay_routes(journal, authorize=authorize, patience=0)) as url:
        paths = [("", "GET"), ("/websocket", "GET"), ("/abort", "POST")]
        for key, statuses in (
            ("no", [403, 403, 403]),
            ("nothing", [403, 403, 403]),
            ("raise", [401, 401, 401]),
            ("yes", [404, 426, 404]),
        ):
            answers = [await get(f"{url}{ONE}{end}?key={key}", how) for end, how in paths]
            assert [answer.status for answer in answers] == statuses
            if key != "raise":
                assert all(error_in(answer) for answer in answers)
    assert asked == 4 * [(ID, "follow"), (ID, "follow"), (ID, "abort")]


async def test_how_many() -> None:
    """One more than may follow is asked to come back; when one has left, there is room."""
    journal = MemoryJournal()
    await journal.begin(ID, LONG)
    await journal.append(ID, TEXT.events[:1], 0)
    async with serving(routes=relay_routes(journal, max_followers=2)) as url:
        async with raw_client(url) as first, aiohttp.ClientSession() as session:
            await first.ask(ONE)
            await first.read_until(b"message-start")
            async with session.ws_connect(f"{url}{ONE}/websocket") as second:
                await second.receive()
                for path in (ONE, f"{ONE}/websocket"):
                    answer = await get(url + path)
                    assert answer.status == 503
                    assert answer.headers["retry-after"] == "5"
                    assert error_in(answer) == "TooManyFollowersError"
                assert (await get(f"{url}{ONE}/abort", "POST")).status == 202
        # That a client has left may be seen only after the next one has asked.
        status, come = b"503", b""
        async with asyncio.timeout(HANG):
            while status == b"503":
                async with raw_client(url) as third:
                    await third.ask(ONE)
                    come = await third.read_until(b"\r\n\r\n")
                    status = come.split(b" ", 2)[1]
                    if status == b"200" and b"message-start" not in come:
                        await third.read_until(b"message-start")
        assert status == b"200"


async def test_the_limit_is_not_used_up_by_failures() -> None:
    """Requests that end in an error leave their place."""
    async with serving(routes=relay_routes(MemoryJournal(), max_followers=1, patience=0)) as url:
        for _ in range(3):
            assert (await get(url + ONE)).status == 404
            assert (await get(f"{url}{ONE}/websocket")).status == 426
            assert (await get(f"{url}{ONE}?after=x")).status == 400


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": "streams"},
        {"prefix": "/streams/"},
        {"prefix": ""},
        {"authorize": True},
        {"max_followers": 0},
        {"max_followers": 1.5},
        {"patience": -1},
        {"patience": None},
        {"heartbeat": 0},
        {"send_timeout": 0},
    ],
)
def test_wrong_arguments(options: Any) -> None:
    """They are refused at the call."""
    with pytest.raises(ConfigurationError):
        relay_routes(MemoryJournal(), **options)
