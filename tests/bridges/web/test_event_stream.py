"""`event_stream`: what HTTP clients, browsers and Cohere's own SDK get."""

from __future__ import annotations

import asyncio
import json
import random
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import reactivex as rx
from aiohttp import web
from bridges.web.relays import (
    ID,
    LONG,
    Answer,
    Feed,
    Handler,
    get,
    journal_of,
    raw_client,
    serving,
    text_of,
)
from subscribers import (
    ANSWER,
    ASK,
    HANG,
    LIMITS,
    TEXT,
    Boom,
    Reports,
    Subscribers,
    client_of,
    served,
)

from rxcohere import CohereClient, Retry, UnknownEvent
from rxcohere.bridges.journal import (
    Journal,
    JournalPage,
    MemoryJournal,
    Verdict,
    follow,
    new_stream_id,
    publish,
)
from rxcohere.bridges.web import event_stream
from rxcohere.errors import (
    BlockingCallError,
    BufferOverflowError,
    ConfigurationError,
    ConnectionFailedError,
    JournalError,
    RxCohereError,
    StreamAbandonedError,
    StreamError,
    StreamTimeoutError,
    StreamTruncatedError,
    api_error,
)
from rxcohere.folds import compact
from rxcohere.sse import SSEDecoder
from rxcohere.testing import Cut, Fault, Status, Transcript, transcript_names

BROKEN_OFF = r"incomplete|peer closed"


def handler_of(source: Any, **options: Any) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        return await event_stream(request, source() if callable(source) else source, **options)

    return handle


def following(journal: Journal, **options: Any) -> Handler:
    return handler_of(lambda: follow(journal, ID, patience=0.01), **options)


@asynccontextmanager
async def relayed(
    transcript: Any = "text", faults: list[Fault] | None = None, **options: Any
) -> AsyncIterator[tuple[CohereClient, str]]:
    """A client of Cohere, and the address of a server that relays it through a journal."""
    journal = MemoryJournal()
    tasks: list[asyncio.Task[Verdict]] = []
    async with served(transcript, faults) as (_, upstream):

        async def chat(request: web.Request) -> web.StreamResponse:
            await request.read()
            stream_id = new_stream_id()
            stream = upstream.chat_stream(**ASK)
            tasks.append(asyncio.create_task(publish(journal, stream_id, stream)))
            return await event_stream(request, follow(journal, stream_id), **options)

        async with serving(chat) as url:
            yield upstream, url
        await asyncio.gather(*tasks)


@asynccontextmanager
async def sdk_of(url: str) -> AsyncIterator[Any]:
    """The official client."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cohere = pytest.importorskip("cohere", reason="the official SDK is not installed")
        httpx = pytest.importorskip("httpx")
    async with httpx.AsyncClient(timeout=HANG) as session:
        yield cohere.AsyncClientV2(api_key="x", base_url=url, httpx_client=session)


# From one end to the other -----------------------------------------------------------------------


@pytest.mark.parametrize("name", transcript_names())
async def test_our_client_reads_it(subscriber: Subscribers, name: str) -> None:
    """Behind a relay and a journal the events, the response and the end are the same."""
    async with relayed(name) as (upstream, url):
        direct = await subscriber().to(upstream.chat_stream(**ASK)).end()
        options: dict[str, Any] = {"timeouts": LIMITS, "retry": Retry(attempts=1)}
        async with CohereClient("a-key", base_url=url, **options) as co:
            seen = await subscriber().to(co.chat_stream(**ASK)).end()
        assert compact(seen.values) == compact(direct.values)
        assert seen.values[-1].response == direct.values[-1].response
        assert (type(seen.error), str(seen.error)) == (type(direct.error), str(direct.error))
        assert seen.completed == direct.completed


@pytest.mark.parametrize("name", [name for name in transcript_names() if name != "error"])
async def test_the_official_client_reads_it(name: str) -> None:
    """The SDK gets all events that it knows, and comes to the end."""
    async with relayed(name) as (_, url), sdk_of(url) as co, asyncio.timeout(HANG):
        events = [event async for event in co.chat_stream(**ASK)]
        text = "".join(
            event.delta.message.content.text or ""
            for event in events
            if event.type == "content-delta"
        )
        transcript = Transcript.load(name)
        assert text == text_of(transcript.events)
        merged = [event.type for event in compact(transcript.events)]
        seen = [event.type for event in events]
        assert [kind for n, kind in enumerate(seen) if [kind] != seen[n - 1 : n]] == [
            kind for n, kind in enumerate(merged) if [kind] != merged[n - 1 : n]
        ]


async def test_the_official_client_sees_a_failed_generation() -> None:
    """Which it would have taken for a success: it gets all events, and then an exception."""
    async with relayed("error") as (_, url), sdk_of(url) as co, asyncio.timeout(HANG):
        last: Any = None
        with pytest.raises(Exception, match=BROKEN_OFF):
            async for event in co.chat_stream(**ASK):
                last = event
        assert last.type == "message-end"


@pytest.mark.parametrize("cut", [Cut(after_events=6, how="eof"), Cut(after_events=6, how="close")])
async def test_a_cut_stream_looks_complete_to_nobody(subscriber: Subscribers, cut: Fault) -> None:
    """Our client fails, and so does the SDK, which would take a complete body for a success."""
    async with relayed(faults=[cut]) as (_, url):
        options: dict[str, Any] = {"timeouts": LIMITS, "retry": Retry(attempts=1)}
        async with CohereClient("a-key", base_url=url, **options) as co:
            seen = await subscriber().to(co.chat_stream(**ASK)).end()
        assert isinstance(seen.error, StreamError)
        *events, told = seen.values
        assert text_of(events) == text_of(TEXT.events[:6])
        assert isinstance(told, UnknownEvent)
        assert told.raw["error"] in {"StreamTruncatedError", "ConnectionFailedError"}
        async with sdk_of(url) as sdk, asyncio.timeout(HANG):
            with pytest.raises(Exception, match=BROKEN_OFF):
                async for _ in sdk.chat_stream(**ASK):
                    pass


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 498, 499, 500, 501, 503, 504])
async def test_an_upstream_status_reaches_both_clients(status: int) -> None:
    """Each raises the error that it would have raised without the relay."""
    body = {"message": "no, thank you", "id": "x"}
    fault = Status(status, body, {"retry-after": "7", "set-cookie": "a=secret"})
    async with relayed(faults=[fault]) as (upstream, url):
        with pytest.raises(Exception, match="no, thank you") as direct:
            await upstream.chat_stream(**ASK)
        options: dict[str, Any] = {"timeouts": LIMITS, "retry": Retry(attempts=1)}
        async with CohereClient("a-key", base_url=url, **options) as co:
            with pytest.raises(Exception, match="no, thank you") as behind:
                await co.chat_stream(**ASK)
        assert type(behind.value) is type(direct.value)
        told: Any = behind.value
        assert (told.status_code, told.body, told.retry_after) == (status, body, 7.0)
        assert "set-cookie" not in told.headers
        async with sdk_of(url) as sdk, asyncio.timeout(HANG):
            with pytest.raises(Exception, match="no, thank you") as caught:
                async for _ in sdk.chat_stream(**ASK):
                    pass
            raised: Any = caught.value
            assert raised.status_code == status
            assert type(raised).__name__ == type(direct.value).__name__


async def test_the_headers() -> None:
    """They keep caches, compressors and proxies away from the events."""
    async with serving(handler_of(rx.from_iterable(TEXT.events))) as url:
        answer = await get(url)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.whole
    assert answer.text == ANSWER
    assert answer.body.endswith(b"\n\ndata: [DONE]\n\n")


async def test_a_connection_serves_again() -> None:
    """After a stream to its end the connection goes on with the next request."""
    async with serving(handler_of(lambda: rx.from_iterable(TEXT.events))) as url:
        async with raw_client(url) as client:
            await client.ask()
            first = await client.read_until(b"\r\n0\r\n\r\n")
            await client.ask()
            second = await client.read_until(b"\r\n0\r\n\r\n")
            assert first.split(b"\r\n\r\n", 1)[1] == second.split(b"\r\n\r\n", 1)[1]


# Going on ----------------------------------------------------------------------------------------


class InPieces:
    """A journal that gives a few events at a time, so that many frames are sent."""

    def __init__(self, journal: MemoryJournal, size: int) -> None:
        self.journal = journal
        self.size = size

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)

    def _first_of(self, page: JournalPage) -> JournalPage:
        if len(page.events) <= self.size:
            return page
        return JournalPage(page.events[: self.size])

    async def read(self, stream_id: str, at: int = 0) -> JournalPage:
        return self._first_of(await self.journal.read(stream_id, at))

    async def tail(self, stream_id: str, at: int = 0) -> JournalPage:
        return self._first_of(await self.journal.tail(stream_id, at))


@pytest.mark.parametrize("name", ["text", "rag", "reasoning-rag", "parallel-tools"])
async def test_going_on_after_a_cut_anywhere(name: str) -> None:
    """Cut at any byte: what had come whole and what comes after its last id are the stream."""
    chance = random.Random(name)
    events = Transcript.load(name).events
    journal = await journal_of(events)

    async def handle(request: web.Request) -> web.StreamResponse:
        pieces: Any = InPieces(journal, chance.randint(1, 5))
        first = "Last-Event-ID" not in request.headers
        return await event_stream(request, follow(pieces if first else journal, ID))

    async with serving(handle) as url:
        size = len((await get(url)).body)
        statuses: set[int] = set()
        for _ in range(50):
            come = (await get(url)).body[: chance.randint(0, size)]
            seen = Answer(200, {}, come, False, SSEDecoder().feed(come))
            last = next((each.id for each in reversed(seen.events) if each.id), "")
            rest = await get(url, headers={"Last-Event-ID": last} if last else {})
            statuses.add(rest.status)
            both = seen.chat_events + rest.chat_events
            assert compact(both) == compact(events)
            assert text_of(both).encode() == text_of(events).encode()
        assert statuses <= {200, 204}


async def test_going_on_by_query() -> None:
    """``?after=`` says the same as the header, which wins."""
    journal = await journal_of(TEXT.events)
    last = str(len(TEXT.events))
    async with serving(following(journal)) as url:
        assert (await get(f"{url}/?after={last}")).status == 204
        rest = await get(f"{url}/?after=4")
        assert rest.events[0].id != "4"
        assert text_of([*TEXT.events[:4], *rest.chat_events]) == ANSWER
        both = await get(f"{url}/?after=4", headers={"Last-Event-ID": last})
        assert both.status == 204


async def test_when_there_is_nothing_more() -> None:
    """After the end of a complete stream, and after an error frame, the answer is 204."""
    complete = await journal_of(TEXT.events)
    failed = await journal_of(TEXT.events[:5], StreamTruncatedError("cut"))
    async with serving(following(complete)) as url:
        answer = await get(url)
        last = answer.events[-1].id
        again = await get(url, headers={"Last-Event-ID": last})
        assert (again.status, again.body) == (204, b"")
    async with serving(following(failed)) as url:
        answer = await get(url)
        last = answer.events[-1].id
        assert last == "5:error"
        assert (await get(url, headers={"Last-Event-ID": last})).status == 204
        # Who did not get the error frame is told what it said.
        unaware = await get(url, headers={"Last-Event-ID": "5"})
        assert unaware.status == 502
        assert json.loads(unaware.body)["error"] == "StreamTruncatedError"
    feed = Feed()
    async with serving(handler_of(feed.source)) as url:
        assert (await get(url, headers={"Last-Event-ID": ":error"})).status == 204
        assert feed.subscriptions == 0


async def test_an_empty_stream_that_is_complete() -> None:
    """There is nothing to send of it, nor after the last entry where the handler itself begins."""
    empty, whole = await journal_of([]), await journal_of(TEXT.events)
    last = str(len(TEXT.events))
    for source in (follow(empty, ID), follow(whole, ID, after=last)):
        async with serving(handler_of(source)) as url:
            for method in ("GET", "HEAD"):
                answer = await get(url, method)
                assert (answer.status, answer.body) == (204, b"")
                assert "text/event-stream" not in answer.headers.get("content-type", "")


NO_PLACES = ["0", "-1", "x", "1.0", "٣", "999", "1:errors", "0:error", "x:error", "9" * 7000]
NO_PLACES += ["<script>alert(1)</script>", "1 ", "1;2"]


@pytest.mark.parametrize("place", NO_PLACES)
async def test_a_place_that_there_is_not(place: str) -> None:
    """It is a bad request, said in JSON of a bounded length."""
    journal = await journal_of(TEXT.events)
    async with serving(following(journal)) as url:
        for options in ({"headers": {"Last-Event-ID": place}}, {"params": {"after": place}}):
            if place == "1 " and "headers" in options:
                continue  # HTTP takes the space away
            answer = await get(url, **options)
            assert answer.status == 400
            assert answer.headers["content-type"].startswith("application/json")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert json.loads(answer.body)["error"] == "ConfigurationError"
            assert len(answer.body) < 500


async def test_a_source_without_ids_cannot_go_on() -> None:
    """A request to go on is refused, and nothing is subscribed to."""
    feed = Feed()
    async with serving(handler_of(feed.source)) as url:
        answer = await get(url, headers={"Last-Event-ID": "1"})
    assert answer.status == 400
    assert feed.subscriptions == 0


# Errors ------------------------------------------------------------------------------------------

TOLD = {
    **dict.fromkeys((Boom, TimeoutError, ConnectionResetError), "the server failed"),
    JournalError: "the journal cannot be read now, or has lost part of the stream",
}
"""What is told of an error whose own words are not for the client."""

EARLY = [
    (StreamAbandonedError("x"), 502),
    (StreamTruncatedError("x"), 502),
    (StreamTimeoutError("x", "first_event"), 502),
    (JournalError("x"), 503),
    (BufferOverflowError("x"), 500),
    (BlockingCallError("x"), 500),
    (ConfigurationError("x"), 400),
    (Boom("x"), 500),
    (TimeoutError("x"), 500),
    (ConnectionResetError("x"), 500),
    (api_error(302, {"message": "x"}), 502),
    (api_error(418, "<b>x</b>"), 418),
    (api_error(418, {"x": "\ud800"}), 418),
]


@pytest.mark.parametrize(("error", "status"), EARLY, ids=lambda value: type(value).__name__)
async def test_an_error_before_anything_is_a_status(
    error: Exception, status: int, reports: Reports
) -> None:
    """An honest one, with JSON that says what happened, but nothing of the server's own affairs."""
    async with serving(handler_of(rx.throw(error))) as url:
        answer = await get(url)
    assert answer.status == status
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.whole
    told = json.loads(answer.body)
    if hasattr(error, "status_code"):
        assert told == error.body  # type: ignore[attr-defined]
    else:
        assert told["message"] == TOLD.get(type(error), "x")
    assert reports == ([] if isinstance(error, RxCohereError) else [error])


HOST = "model-7.internal.example:8443"


@pytest.mark.parametrize(("kind", "status"), [(ConnectionFailedError, 502), (JournalError, 503)])
@pytest.mark.parametrize("events", [0, 3], ids=["early", "late"])
async def test_the_hosts_of_the_server_are_for_its_log(
    kind: type[StreamError], status: int, events: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A client is told that something could not be reached, the log where that is."""
    error = kind(f"cannot connect to {HOST}")
    source = rx.concat(rx.from_iterable(TEXT.events[:events]), rx.throw(error))
    async with serving(handler_of(source)) as url:
        answer = await get(url)
    assert answer.status == (200 if events else status)
    assert kind.__name__.encode() in answer.body
    assert HOST.encode() not in answer.body
    assert HOST not in str(answer.headers)
    logged = [each for each in caplog.records if each.name == "rxcohere.bridges.web.failures"]
    assert [each.levelname for each in logged] == ["WARNING"]
    assert HOST in logged[0].getMessage()
    assert kind.__name__ in logged[0].getMessage()


async def test_a_stream_that_there_is_not() -> None:
    """It is 404, once its patience is at an end."""
    async with serving(following(MemoryJournal())) as url:
        answer = await get(url)
    assert answer.status == 404
    assert json.loads(answer.body)["error"] == "StreamNotFoundError"


@pytest.mark.parametrize("error", [StreamTruncatedError("cut"), Boom("cut"), TimeoutError("cut")])
async def test_an_error_later_breaks_the_answer_off(error: Exception, reports: Reports) -> None:
    """The error frame arrives, and the body has no end; a bug is told to the loop's handler."""
    source = rx.concat(rx.from_iterable(TEXT.events[:5]), rx.throw(error))
    async with serving(handler_of(source)) as url:
        answer = await get(url)
        assert answer.status == 200
        assert not answer.whole
        assert answer.chat_events == TEXT.events[:5]
        last = answer.events[-1]
        assert (last.event, last.id) == ("error", ":error")
        assert json.loads(last.data)["message"] == TOLD.get(type(error), "cut")
        assert b"[DONE]" not in answer.body
    assert reports == ([] if isinstance(error, RxCohereError) else [error])


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_old_client_sees_that_it_is_broken_off(version: str) -> None:
    """Where the body ends with the connection, a success is closed and a failure is reset."""
    source = rx.concat(rx.from_iterable(TEXT.events[:5]), rx.throw(StreamTruncatedError("cut")))
    async with serving(handler_of(source)) as url, raw_client(url) as client:
        await client.ask(version=version)
        come = await client.read_until(b"event: error")
        if version == "1.0":
            with pytest.raises(ConnectionResetError):
                await client.read_to_end()
        else:
            assert not (come + await client.read_to_end()).endswith(b"0\r\n\r\n")
    async with serving(handler_of(rx.from_iterable(TEXT.events))) as url:
        async with raw_client(url) as client:
            await client.ask(version=version)
            come = await client.read_until(b"data: [DONE]\n\n")
            if version == "1.0":
                assert await client.read_to_end() == b""


async def test_an_error_after_a_heartbeat() -> None:
    """Once the answer has begun, it can only be broken off."""
    feed = Feed()
    async with serving(handler_of(feed.source, heartbeat=0.01)) as url, raw_client(url) as client:
        await client.ask()
        await client.read_until(b": heartbeat\n\n")
        feed.subject.on_error(StreamTruncatedError("cut"))
        rest = await client.read_to_end()
        assert b"event: error" in rest
        assert not rest.endswith(b"0\r\n\r\n")


# Other ways to ask -------------------------------------------------------------------------------


async def test_head() -> None:
    """It is answered as GET is, without a body, and never starts a generation."""
    feed = Feed()
    async with serving(handler_of(feed.source)) as url:
        answer = await get(url, "HEAD")
        assert (answer.status, answer.body, feed.subscriptions) == (200, b"", 0)
        assert answer.headers["content-type"] == "text/event-stream"
    journal = await journal_of(TEXT.events)
    async with serving(following(journal)) as url:
        assert (await get(url, "HEAD")).status == 200
        assert (await get(url, "HEAD", params={"after": "999"})).status == 400
        assert (await get(url, "HEAD", params={"after": str(len(TEXT.events))})).status == 204
    async with serving(following(MemoryJournal())) as url:
        assert (await get(url, "HEAD")).status == 404


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (TEXT.events, {}),
        (rx.empty(), {"heartbeat": 0}),
        (rx.empty(), {"send_timeout": 0}),
        (rx.empty(), {"send_timeout": None}),
    ],
)
async def test_wrong_arguments(source: Any, options: Any) -> None:
    """They are the server's mistake, and raised at the call."""
    problems: list[Exception] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await event_stream(request, source, **options)
        except ConfigurationError as error:
            problems.append(error)
            return web.Response()

    async with serving(handle) as url:
        await get(url)
    assert len(problems) == 1


async def test_a_live_request_is_relayed_without_a_journal() -> None:
    """A `ChatStream` is a source: one request of the client is one request to Cohere."""
    async with served() as (server, _), client_of(server) as co:
        async with serving(handler_of(lambda: co.chat_stream(**ASK), heartbeat=LONG)) as url:
            answer = await get(url)
        assert answer.text == ANSWER
        assert len(server.requests) == 1
