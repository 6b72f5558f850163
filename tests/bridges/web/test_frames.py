"""`event_frames`: the body of a ``text/event-stream`` answer, as Cohere sends it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
import reactivex as rx
from bridges.web.relays import ID, LONG, Feed, journal_of, text_of
from samples import parsed, text_delta
from subscribers import ANSWER, HANG, TEXT, Boom

from rxcohere import MessageEnd, UnknownEvent, parse_event
from rxcohere.bridges.journal import JournalPage, MemoryJournal, follow
from rxcohere.bridges.web import event_frames, resumed
from rxcohere.errors import (
    ConfigurationError,
    ServiceUnavailableError,
    StreamNotFoundError,
    StreamTruncatedError,
    UnauthorizedError,
)
from rxcohere.folds import compact
from rxcohere.sse import ServerSentEvent, SSEDecoder
from rxcohere.testing import Transcript, transcript_names


async def pieces_of(frames: AsyncGenerator[bytes, None]) -> tuple[list[bytes], Exception | None]:
    """All pieces, and what was raised after them."""
    pieces: list[bytes] = []
    async with asyncio.timeout(HANG), aclosing(frames):
        try:
            while True:
                pieces.append(await anext(frames))
        except StopAsyncIteration:
            return pieces, None
        except Exception as error:
            return pieces, error


async def next_of(frames: AsyncGenerator[bytes, None]) -> bytes:
    async with asyncio.timeout(HANG):
        return await anext(frames)


def events_in(pieces: list[bytes]) -> list[ServerSentEvent]:
    return SSEDecoder().feed(b"".join(pieces))


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class CountingJournal:
    """Counts how often it was read."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)

    async def read(self, stream_id: str, at: int = 0) -> JournalPage:
        self.reads += 1
        return await self.journal.read(stream_id, at)

    async def tail(self, stream_id: str, at: int = 0) -> JournalPage:
        self.reads += 1
        return await self.journal.tail(stream_id, at)


# What is sent ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", transcript_names())
async def test_events_are_framed_as_cohere_does(name: str) -> None:
    """Where nothing is merged, the body is Cohere's own, to the byte, ``[DONE]`` included."""
    events = compact(Transcript.load(name).events)
    for count in (1, len(events)):
        pieces, error = await pieces_of(event_frames(rx.from_iterable(events[:count])))
        assert error is None
        assert b"".join(pieces) == Transcript.of(events[:count]).body


@pytest.mark.parametrize("name", transcript_names())
async def test_entries_have_ids(name: str) -> None:
    """Each frame of a journal's stream has the id of its entry, in order, except for ``[DONE]``."""
    transcript = Transcript.load(name)
    journal = await journal_of(transcript.events)
    pieces, error = await pieces_of(event_frames(follow(journal, ID)))
    entries = [entry async for entry in follow(journal, ID)]
    *sent, done = events_in(pieces)
    assert error is None
    assert [(each.id, parse_event(each.data)) for each in sent] == [
        (entry.id, parse_event(entry.event.model_dump_json(exclude_unset=True)))
        for entry in entries
    ]
    assert (done.data, done.event) == (b"[DONE]", "message")
    assert pieces[-1] == b"data: [DONE]\n\n"
    assert len(pieces) == 2  # what was at hand went out at once


async def test_what_is_sent_is_the_wire() -> None:
    """Keys and types that this version does not know are kept, the folded response is not sent."""
    unknown = {"type": "later", "x": {"é": [1, None]}, "index": 3}
    start = {"type": "content-start", "index": 0, "new": True}
    end = {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "new": 1}}
    events = parsed([unknown, start, end])
    assert isinstance(events[0], UnknownEvent)
    assert isinstance(events[2], MessageEnd)
    journal = await journal_of(events)
    pieces, _ = await pieces_of(event_frames(follow(journal, ID)))
    sent = events_in(pieces)[:-1]
    assert [json.loads(each.data) for each in sent] == [unknown, start, end]
    assert [each.event for each in sent] == ["later", "content-start", "message-end"]


@pytest.mark.parametrize("kind", ["a\nb", "a\rdata: x", "\0", "a\n\nevent: message-end"])
async def test_a_type_cannot_break_out_of_its_line(kind: str) -> None:
    """An event whose type is no name for a frame has its type in the data only."""
    event = parse_event({"type": kind})
    pieces, error = await pieces_of(event_frames(rx.just(event)))
    sent, _ = events_in(pieces)
    assert error is None
    assert sent.event == "message"
    assert json.loads(sent.data) == {"type": kind}


async def test_an_event_of_the_type_of_an_error_frame() -> None:
    """No event of a model's passes for the frame that tells of a failure: it has no type line."""
    event = parse_event({"type": "error", "message": "not ours"})
    assert isinstance(event, UnknownEvent)
    pieces, error = await pieces_of(event_frames(rx.just(event)))
    sent, done = events_in(pieces)
    assert error is None
    assert b"event:" not in b"".join(pieces)
    assert (sent.event, sent.id, done.data) == ("message", "", b"[DONE]")
    assert json.loads(sent.data) == {"type": "error", "message": "not ours"}


async def test_a_stream_without_events() -> None:
    """It is complete: ``[DONE]`` is all there is."""
    pieces, error = await pieces_of(event_frames(rx.empty()))
    assert (pieces, error) == ([b"data: [DONE]\n\n"], None)


# Time --------------------------------------------------------------------------------------------


async def test_heartbeats() -> None:
    """A silent source makes comments, as many as one waits for, and is not disturbed by them."""
    feed = Feed()
    async with aclosing(event_frames(feed.source, heartbeat=0.01)) as frames:
        for _ in range(3):
            piece = await next_of(frames)
            assert piece.startswith(b":")
            assert piece.endswith(b"\n\n")
            assert SSEDecoder().feed(piece) == []
        feed.subject.on_next(TEXT.events[0])
        while (piece := await next_of(frames)).startswith(b":"):
            pass
        assert piece.startswith(b"event: message-start\n")
        assert feed.subscriptions == 1


class Clock:
    """The running loop's, which a test puts forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        real = loop.time
        self._ahead = 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + self._ahead)

    async def advance(self, seconds: float) -> None:
        """Lets happen what is due by then."""
        self._ahead += seconds
        await turns()


async def test_heartbeats_of_who_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time in which nobody asked is no silence: the next one comes that long after the question."""
    feed, clock = Feed(), Clock(monkeypatch)
    async with aclosing(event_frames(feed.source, heartbeat=1.0)) as frames:
        for count in range(2):
            asking = asyncio.ensure_future(next_of(frames))
            await feed.listening()
            feed.subject.on_next(TEXT.events[count])
            assert (await asking).startswith(b"event: ")
            await clock.advance(5.0)  # in which it is sent, say
        asking = asyncio.ensure_future(next_of(frames))
        await turns()
        await clock.advance(0.5)
        assert not asking.done()
        await clock.advance(0.5)
        assert (await asking).startswith(b":")


async def test_what_comes_while_a_heartbeat_is_sent_is_there_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who asks after a heartbeat gets what has come meanwhile, without a wait."""
    feed, clock = Feed(), Clock(monkeypatch)
    async with aclosing(event_frames(feed.source, heartbeat=1.0)) as frames:
        asking = asyncio.ensure_future(next_of(frames))
        await turns()
        await clock.advance(1.0)
        assert (await asking).startswith(b":")
        feed.subject.on_next(TEXT.events[0])
        await turns()
        with pytest.raises(StopIteration) as told:
            anext(frames).__await__().send(None)  # it does not give way to anybody
        assert told.value.value.startswith(b"event: message-start\n")


async def test_a_heartbeat_does_not_start_the_waiting_anew() -> None:
    """A stream that is not there is given up after its patience, however many comments come."""
    frames = event_frames(follow(MemoryJournal(), ID, patience=0.1), heartbeat=0.01)
    pieces, error = await pieces_of(frames)
    assert isinstance(error, StreamNotFoundError)
    assert all(piece.startswith(b":") for piece in pieces[:-1])
    assert len(pieces) > 2


async def test_nothing_is_subscribed_to_before_it_is_asked_for() -> None:
    """Making the generator does nothing; closing it unasked does nothing either."""
    feed = Feed()
    frames = event_frames(feed.source)
    await turns()
    assert feed.subscriptions == 0
    await frames.aclose()
    assert feed.subscriptions == 0


async def test_a_journal_is_read_when_the_client_has_room() -> None:
    """While nothing is asked for nothing is read, and what has come is then one delta."""
    journal = CountingJournal()
    await journal.begin(ID, LONG)
    await journal.append(ID, parsed([text_delta("a")]), 0)
    async with aclosing(event_frames(follow(journal, ID), heartbeat=LONG)) as frames:
        first = await next_of(frames)
        reads = journal.reads
        for count in range(1, 1000):
            await journal.append(ID, parsed([text_delta(f" {count}")]), count)
            if count % 100 == 0:
                await turns(3)
        assert journal.reads == reads
        second = await next_of(frames)
        sent = events_in([first, second])
        assert [each.id for each in sent] == ["1", "1000"]
        assert text_of(parse_event(each.data) for each in sent) == "a" + "".join(
            f" {count}" for count in range(1, 1000)
        )


async def test_a_source_is_merged_while_the_client_has_no_room() -> None:
    """A live one is not slowed, loses nothing, and what waits is some events and one delta."""
    feed = Feed()
    async with aclosing(event_frames(feed.source, heartbeat=LONG)) as frames:
        asking = asyncio.ensure_future(next_of(frames))
        await feed.listening()
        for count in range(1000):
            feed.subject.on_next(parsed([text_delta(f"{count} ")])[0])
        feed.subject.on_completed()
        pieces = [await asking, *[piece async for piece in frames]]
        sent = events_in(pieces)[:-1]
        assert len(sent) < 25
        expected = "".join(f"{count} " for count in range(1000))
        assert text_of(parse_event(each.data) for each in sent) == expected


# Errors ------------------------------------------------------------------------------------------


async def test_an_error_is_told_and_raised() -> None:
    """The last frame says what happened, and is followed by the error, not by ``[DONE]``."""
    problem = StreamTruncatedError("cut")
    source = rx.concat(rx.from_iterable(TEXT.events[:3]), rx.throw(problem))
    pieces, error = await pieces_of(event_frames(source))
    assert error is problem
    last = events_in(pieces)[-1]
    assert (last.event, last.id) == ("error", ":error")
    assert json.loads(last.data) == {
        "type": "error",
        "error": "StreamTruncatedError",
        "message": "cut",
    }
    assert b"[DONE]" not in b"".join(pieces)


async def test_the_id_of_an_error() -> None:
    """In a journal's stream the error frame has the id of the last entry, and says that it is."""
    journal = await journal_of(TEXT.events[:5], StreamTruncatedError("cut"))
    pieces, error = await pieces_of(event_frames(follow(journal, ID)))
    assert isinstance(error, StreamTruncatedError)
    *_, before, last = events_in(pieces)
    assert (before.id, last.id) == ("5", "5:error")


async def test_what_an_error_does_not_tell() -> None:
    """The status and the body of an upstream answer are shown, its headers are not."""
    headers = {"set-cookie": "secret-1", "x-debug-trace-id": "secret-2"}
    problem = UnauthorizedError(401, {"message": "no"}, headers, 7.0)
    pieces, _ = await pieces_of(event_frames(rx.throw(problem)))
    told = json.loads(events_in(pieces)[-1].data)
    assert told["status_code"] == 401
    assert told["body"] == {"message": "no"}
    assert told["retry_after"] == 7.0
    assert "headers" not in told
    assert b"secret-1" not in b"".join(pieces)


HUGE = 3_000_000 * "y"
UNREADABLE: list[Any] = [
    pytest.param(math.nan, 1.0, id="NaN"),
    pytest.param({"x": [-math.inf]}, 1.0, id="-Infinity within"),
    pytest.param(HUGE, 1.0, id="3 MB"),
    pytest.param([HUGE], 1.0, id="3 MB in a list"),
    pytest.param({"message": HUGE}, 1.0, id="3 MB of message"),
    pytest.param(10**5000, 1.0, id="many digits"),
    pytest.param("short", math.nan, id="retry after NaN"),
    pytest.param("short", math.inf, id="retry after Infinity"),
]


@pytest.mark.parametrize(("body", "retry_after"), UNREADABLE)
async def test_an_error_that_a_browser_could_not_read(body: Any, retry_after: float) -> None:
    """What is no finite JSON, or megabytes of it, is left out or cut; the rest is told."""
    problem = ServiceUnavailableError(503, body, None, retry_after)
    pieces, error = await pieces_of(event_frames(rx.throw(problem)))
    assert error is problem
    last = events_in(pieces)[-1]
    told = json.loads(last.data, parse_constant=lambda name: pytest.fail(f"it says {name}"))
    assert (told["error"], told["status_code"]) == ("ServiceUnavailableError", 503)
    assert told["message"].startswith("the server answered 503")
    assert told["retry_after"] == (retry_after if math.isfinite(retry_after) else None)
    assert (told["body"] == body) is (body == "short")
    assert len(last.data) < 5_000


async def test_an_event_that_cannot_be_written() -> None:
    """It is an error like any other, after what came before."""
    odd = parse_event({"type": "content-delta"}).model_copy(update={"index": object()})
    source = rx.from_iterable([TEXT.events[0], odd])
    pieces, error = await pieces_of(event_frames(source))
    assert error is not None
    assert [each.event for each in events_in(pieces)] == ["message-start", "error"]


# Leaving -----------------------------------------------------------------------------------------


async def test_closing_disposes_at_once() -> None:
    """When `aclose` returns, the source has no subscriber."""
    feed = Feed()
    frames = event_frames(feed.source, heartbeat=0.01)
    await next_of(frames)
    assert len(feed.subject.observers) == 1
    await frames.aclose()
    assert feed.subject.observers == []


async def test_cancelling_who_waits_disposes() -> None:
    """A task that is cancelled while it waits for a piece leaves nothing behind."""
    feed = Feed()
    waiting = asyncio.ensure_future(anext(event_frames(feed.source, heartbeat=LONG)))
    await feed.listening()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert feed.subject.observers == []


async def test_a_raising_server_disposes() -> None:
    """An error in the body of the loop gives the source up."""
    feed = Feed()
    with pytest.raises(Boom):
        async with aclosing(event_frames(feed.source, heartbeat=0.01)) as frames:
            async for _ in frames:
                raise Boom
    assert feed.subject.observers == []


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("events", {}),
        (None, {}),
        (TEXT.events, {}),
        (rx.empty(), {"heartbeat": 0}),
        (rx.empty(), {"heartbeat": -1.0}),
        (rx.empty(), {"heartbeat": float("nan")}),
        (rx.empty(), {"heartbeat": float("inf")}),
        (rx.empty(), {"heartbeat": "1"}),
    ],
)
def test_wrong_arguments(source: Any, options: Any) -> None:
    """They are refused at the call."""
    with pytest.raises(ConfigurationError):
        event_frames(source, **options)


async def test_what_is_no_event_is_refused() -> None:
    """A value that is neither an event nor an entry is an error, which says so."""
    source: Any = rx.just("text")
    pieces, error = await pieces_of(event_frames(source))
    assert isinstance(error, ConfigurationError)
    assert len(pieces) == 1
    assert ANSWER.encode() not in pieces[0]


# Going on ----------------------------------------------------------------------------------------


async def test_where_a_source_is_resumed() -> None:
    """At the beginning without an id, after the entry with one, and not after it has failed."""
    journal = await journal_of(TEXT.events)
    source = follow(journal, ID)
    assert resumed(source, "") is source
    later = resumed(source, "4")
    assert later is not None
    pieces, _ = await pieces_of(event_frames(later))
    first = events_in(pieces)[0]
    assert int(first.id) > 4
    rest = [parse_event(each.data) for each in events_in(pieces)[:-1]]
    assert text_of([*TEXT.events[:4], *rest]) == ANSWER
    for told_of_failure in ("4:error", ":error"):
        assert resumed(source, told_of_failure) is None


def test_a_source_without_ids_is_not_resumed() -> None:
    """Any id but that of an error frame is refused; without one it is the source itself."""
    source: rx.Observable[Any] = rx.from_iterable(TEXT.events)
    assert resumed(source, "") is source
    for told_of_failure in ("4:error", ":error"):
        assert resumed(source, told_of_failure) is None
    for place in ("4", "x", "0:error"):
        with pytest.raises(ConfigurationError, match=place):
            resumed(source, place)
