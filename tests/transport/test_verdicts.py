"""Each way a stream can fail, played over a socket: one verdict, what was received, and goodbye."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rxcohere import (
    ApiError,
    ChatEvent,
    CohereClient,
    ConnectionFailedError,
    ContentDelta,
    EventDecodeError,
    GenerationError,
    MessageEnd,
    Retry,
    StreamError,
    StreamTimeoutError,
    StreamTruncatedError,
    Timeouts,
    UnexpectedContentError,
    errors,
)
from rxcohere.testing import (
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
    ReplayServer,
    Stall,
    Status,
    Transcript,
)

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
ONCE = Retry(attempts=1)
TEXT = Transcript.load("text")
EVENTS = [json.loads(frame.split(b"data: ")[1]) for frame in TEXT.frames[:-1]]


def text_of(events: Sequence[dict[str, Any]]) -> str:
    """The text that these events bring, worked out without the library."""
    contents = [e["delta"]["message"]["content"] for e in events if e["type"] == "content-delta"]
    return "".join(content["text"] for content in contents)


class Outcome:
    """What one subscriber got."""

    def __init__(self) -> None:
        self.events: list[ChatEvent] = []
        self.terminals: list[Exception | None] = []
        self.ended = asyncio.Event()

    def on_error(self, error: Exception) -> None:
        self.terminals.append(error)
        self.ended.set()

    def on_completed(self) -> None:
        self.terminals.append(None)
        self.ended.set()

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, ContentDelta))

    @property
    def verdict(self) -> Exception | None:
        (verdict,) = self.terminals
        return verdict


@asynccontextmanager
async def served(
    *faults: Fault, transcript: Any = TEXT, timeouts: Timeouts = Timeouts(), **options: Any
) -> AsyncIterator[tuple[ReplayServer, CohereClient]]:
    retry = options.pop("retry", ONCE)
    client = {k: options.pop(k) for k in ("max_event_bytes",) if k in options}
    async with (
        ReplayServer(transcript, faults=faults, **options) as server,
        CohereClient("key", base_url=server.url, timeouts=timeouts, retry=retry, **client) as co,
    ):
        yield server, co


async def play(
    *faults: Fault, transcript: Any = TEXT, timeouts: Timeouts = Timeouts(), **options: Any
) -> Outcome:
    """Subscribes to one stream; its connection has to go before the client closes."""
    outcome = Outcome()
    async with served(*faults, transcript=transcript, timeouts=timeouts, **options) as (server, co):
        co.chat_stream(**ASK).subscribe(
            outcome.events.append, outcome.on_error, outcome.on_completed
        )
        async with asyncio.timeout(20):
            await outcome.ended.wait()
        await server.until(lambda s: s.open == 0)
    assert len(outcome.terminals) == 1
    return outcome


FRAMINGS = ("chunked", "close", "content-length")


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("chunking", ["whole", "event", "byte", "random"])
async def test_a_whole_stream_completes(framing: str, chunking: str) -> None:
    """Every event arrives, then completion, however the body is framed and cut."""
    outcome = await play(framing=framing, chunking=chunking)
    assert outcome.verdict is None
    assert [e.model_dump(exclude_unset=True) for e in outcome.events] == EVENTS


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_clean_end_before_message_end_is_truncation(framing: str) -> None:
    """A body that ends in good order, but without message-end, is no success."""
    outcome = await play(Cut(after_events=9, how="eof"), framing=framing)
    assert isinstance(outcome.verdict, StreamTruncatedError)
    assert [e.model_dump(exclude_unset=True) for e in outcome.events] == EVENTS[:9]
    assert outcome.verdict.partial is not None
    assert outcome.verdict.partial.text == text_of(EVENTS[:9]) == outcome.text
    assert outcome.verdict.partial.finish_reason is None


async def test_an_end_before_any_event_has_no_partial() -> None:
    """Before message-start there is nothing to keep."""
    outcome = await play(Cut(after_events=0, how="eof"))
    assert isinstance(outcome.verdict, StreamTruncatedError)
    assert outcome.verdict.partial is None
    assert outcome.events == []


async def test_done_before_message_end_is_truncation() -> None:
    """[DONE] does not stand in for message-end."""
    outcome = await play(DoneEarly(after_events=7))
    assert isinstance(outcome.verdict, StreamTruncatedError)
    assert "[DONE]" in str(outcome.verdict)
    assert outcome.text == text_of(EVENTS[:7])


@pytest.mark.parametrize("chunking", ["whole", "event", "byte"])
async def test_done_in_the_midst_of_a_stream_ends_it(chunking: str) -> None:
    """Whatever follows it, and however little of that has come: what was before it is delivered."""
    frames = (*TEXT.frames[:7], TEXT.frames[-1], *TEXT.frames[7:])
    outcome = await play(transcript=Transcript("early", frames), chunking=chunking)
    assert isinstance(outcome.verdict, StreamTruncatedError)
    assert "[DONE]" in str(outcome.verdict)
    assert [e.model_dump(exclude_unset=True) for e in outcome.events] == EVENTS[:7]


@pytest.mark.parametrize("chunking", ["whole", "event"])
async def test_frames_of_nothing_but_blanks_are_passed_over(chunking: str) -> None:
    """Some gateways keep a connection alive with them."""
    blank = b"data:   \n\n"
    frames = (blank, *TEXT.frames[:7], blank, blank, *TEXT.frames[7:])
    outcome = await play(transcript=Transcript("blanks", frames), chunking=chunking)
    assert outcome.verdict is None
    assert [e.model_dump(exclude_unset=True) for e in outcome.events] == EVENTS


async def test_the_limit_of_an_event_is_none_for_what_comes_at_once() -> None:
    """A body that comes in one piece may be much larger than any one event of it may be."""
    limit = max(map(len, TEXT.frames))
    assert limit * 3 < len(TEXT.body)
    outcome = await play(chunking="whole", max_event_bytes=limit)
    assert outcome.verdict is None
    assert [e.model_dump(exclude_unset=True) for e in outcome.events] == EVENTS


async def test_a_missing_done_after_message_end_is_success() -> None:
    """message-end is what ends a stream."""
    assert (await play(DropDone())).verdict is None


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("chunking", ["whole", "event"])
async def test_a_cut_inside_an_event_delivers_all_whole_ones(
    framing: str, how: str, chunking: str
) -> None:
    """Whatever arrived whole comes out before the error, and the torn event does not."""
    cut = sum(map(len, TEXT.frames[:12])) + 25
    fault = Cut(after_bytes=cut, how=how)  # type: ignore[arg-type]
    outcome = await play(fault, framing=framing, chunking=chunking)
    assert [e.model_dump(exclude_unset=True) for e in outcome.events] == EVENTS[:12]
    expected = StreamTruncatedError if how == "close" else ConnectionFailedError
    assert isinstance(outcome.verdict, expected)
    assert outcome.verdict.partial is not None
    assert outcome.verdict.partial.text == text_of(EVENTS[:12])


async def test_a_slow_reader_gets_what_was_received_before_the_cut() -> None:
    """aiohttp would drop events that wait in its buffer when the body breaks off; we do not."""
    async with served(Cut(after_events=12, how="close"), chunking="whole") as (server, co):
        got: list[ChatEvent] = []
        with pytest.raises(StreamTruncatedError):
            async for event in co.chat_stream(**ASK):
                if not got:  # stop reading until the server is long gone
                    await server.until(lambda s: s.cut == 1)
                got.append(event)
        assert [e.model_dump(exclude_unset=True) for e in got] == EVENTS[:12]


async def test_a_slow_reader_of_a_large_body_loses_nothing_at_the_cut() -> None:
    """The same when the rest of the body came while the reader was busy with its first events."""
    deltas = [
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": f"{n} "}}}}
        for n in range(900)
    ]
    transcript = Transcript.of([*EVENTS[:2], *deltas])
    async with served(Cut(after_events=902), transcript=transcript, chunking=4096) as (server, co):
        count = 0
        with pytest.raises(StreamTruncatedError) as caught:
            async for _ in co.chat_stream(**ASK):
                count += 1
                if count == 1:
                    await server.until(lambda s: s.cut == 1)
        assert count == 902
        assert caught.value.partial is not None
        assert caught.value.partial.text == text_of(deltas)


async def test_a_connection_refused_names_its_cause() -> None:
    """Nobody listens: ConnectionFailedError, the cause chained."""
    async with ReplayServer() as server:
        url = server.url
    async with CohereClient("key", base_url=url, retry=ONCE) as co:
        with pytest.raises(ConnectionFailedError) as caught:
            await co.chat_stream(**ASK)
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_connection_closed_without_an_answer_fails() -> None:
    """The server hangs up before the status line."""
    outcome = await play(HangUp())
    assert isinstance(outcome.verdict, ConnectionFailedError)


async def test_no_headers_in_time_is_a_first_event_timeout() -> None:
    """first_event counts from the request, so it covers the wait for the status line."""
    outcome = await play(DelayHeaders(), timeouts=Timeouts(first_event=0.1))
    assert isinstance(outcome.verdict, StreamTimeoutError)
    assert outcome.verdict.phase == "first_event"
    assert outcome.verdict.partial is None


async def test_a_cancellation_at_the_moment_of_a_timeout_is_one() -> None:
    """The task that was told to end does, and a timeout of its own is its own."""
    limits = Timeouts(first_event=1)
    async with (
        ReplayServer(faults=[DelayHeaders(), DelayHeaders()]) as server,
        CohereClient("key", base_url=server.url, timeouts=limits, retry=ONCE) as co,
    ):
        for own in (None, 1):
            asking = asyncio.create_task(asyncio.wait_for(co.chat_stream(**ASK).response(), own))
            await server.until(lambda s: s.open == 1)
            if own is None:
                asyncio.get_running_loop().call_later(0.9, asking.cancel)
            time.sleep(1)  # noqa: ASYNC251 - which keeps the loop busy until both are due
            await asyncio.wait([asking])
            await server.until(lambda s: s.open == 0)
            if own is None:
                assert asking.cancelled()
            else:
                assert type(asking.exception()) is TimeoutError


async def test_a_stall_before_the_first_event_is_a_first_event_timeout() -> None:
    """The head came, and then nothing."""
    outcome = await play(Stall(after_events=0), timeouts=Timeouts(first_event=0.1))
    assert isinstance(outcome.verdict, StreamTimeoutError)
    assert outcome.verdict.phase == "first_event"


async def test_keep_alives_alone_are_a_first_event_timeout() -> None:
    """Comments are no events."""
    outcome = await play(KeepAlives(interval=0.01), timeouts=Timeouts(first_event=0.1))
    assert isinstance(outcome.verdict, StreamTimeoutError)
    assert outcome.verdict.phase == "first_event"


@pytest.mark.parametrize("fault", [Stall(after_events=6), KeepAlives(after_events=6)])
async def test_silence_after_events_is_an_idle_timeout(fault: Fault) -> None:
    """Nothing, or only comments, after some events: idle, with what was received."""
    outcome = await play(fault, timeouts=Timeouts(idle=0.5))
    assert isinstance(outcome.verdict, StreamTimeoutError)
    assert isinstance(outcome.verdict, TimeoutError)
    assert outcome.verdict.phase == "idle"
    assert outcome.verdict.partial is not None
    assert outcome.verdict.partial.text == text_of(EVENTS[:6])


async def test_total_limits_the_whole_stream() -> None:
    """total ends a stream that is neither idle nor at its end."""
    outcome = await play(timeouts=Timeouts(total=1.0), pace=0.05)
    assert isinstance(outcome.verdict, StreamTimeoutError)
    assert outcome.verdict.phase == "total"
    assert outcome.text


async def test_total_limits_retries_too() -> None:
    """The waits between attempts count."""
    fault = Status(503, headers={"retry-after": "30"})
    outcome = await play(fault, timeouts=Timeouts(total=0.1), retry=Retry())
    assert isinstance(outcome.verdict, StreamTimeoutError)
    assert outcome.verdict.phase == "total"


async def test_the_consumers_time_is_not_idle() -> None:
    """A consumer that takes longer than the idle limit between events loses nothing."""
    async with served(timeouts=Timeouts(idle=0.5), chunking="whole") as (_, co):
        count = 0
        async for _event in co.chat_stream(**ASK):
            count += 1
            if count in (1, 33):  # once inside a batch and once between two
                await asyncio.sleep(0.8)  # what is tested is the passing of time
        assert count == len(EVENTS)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"type":"content-delta","index":0,"del', "JSON"),
        (b'{"message":"boom"}', "type"),
        (b'{"type":7}', "type"),
        (b"[1,2]", "object"),
        (b'{"type":"content-delta","delta":{"message":{"content":[]}}}', "content"),
        (b'{"type":"content-delta","index":"first"}', "index"),
    ],
)
async def test_a_bad_event_is_a_verdict_not_a_hole(data: bytes, why: str) -> None:
    """What cannot be read ends the stream, with the event as it came."""
    outcome = await play(Corrupt(event=8, data=data))
    assert isinstance(outcome.verdict, EventDecodeError)
    assert outcome.verdict.raw == data
    assert why in str(outcome.verdict)
    assert [e.model_dump(exclude_unset=True) for e in outcome.events] == EVENTS[:8]
    assert outcome.verdict.partial is not None
    assert outcome.verdict.partial.text == text_of(EVENTS[:8])


async def test_a_bad_first_event_is_not_retried() -> None:
    """Another request would not be read any better."""
    async with served(Corrupt(event=0), retry=Retry(attempts=3)) as (server, co):
        with pytest.raises(EventDecodeError):
            await co.chat_stream(**ASK)
        assert len(server.requests) == 1


async def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    """As the standard of server-sent events asks; the stream goes on."""
    data = b'{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"\xff!"}}}}'
    outcome = await play(Corrupt(event=5, data=data))
    assert outcome.verdict is None
    assert "\ufffd!" in outcome.text


async def test_an_unknown_event_passes_through() -> None:
    """A type of tomorrow is delivered, and the stream goes on."""
    outcome = await play(Corrupt(event=5, data=b'{"type":"from-tomorrow","x":[1]}'))
    assert outcome.verdict is None
    assert outcome.events[5].model_dump() == {"type": "from-tomorrow", "x": [1]}


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html; charset=utf-8", "<html>Bad gateway</html>"),
        ("application/json", None),
        ("application/stream+json", None),
        ("text/plain", "upstream connect error"),
    ],
)
async def test_another_content_type_is_named(content_type: str, body: str | None) -> None:
    """A proxy's page, or JSON lines, are no event stream even with status 200."""
    outcome = await play(ContentType(content_type, body=body))
    assert isinstance(outcome.verdict, UnexpectedContentError)
    assert outcome.verdict.content_type == content_type.partition(";")[0]
    assert outcome.verdict.content_type in str(outcome.verdict)
    assert outcome.verdict.body.startswith((body or '{"')[:10])
    assert outcome.events == []


STATUSES = {
    400: errors.BadRequestError,
    401: errors.UnauthorizedError,
    402: errors.PaymentRequiredError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    422: errors.UnprocessableEntityError,
    429: errors.TooManyRequestsError,
    498: errors.InvalidTokenError,
    499: errors.ClientClosedRequestError,
    500: errors.InternalServerError,
    501: errors.NotImplementedError,
    503: errors.ServiceUnavailableError,
    504: errors.GatewayTimeoutError,
    301: ApiError,
    418: ApiError,
    502: ApiError,
}


@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
async def test_each_status_has_its_error(status: int, kind: type[ApiError]) -> None:
    """The status decides the class; body, headers and request id are kept."""
    headers = {"retry-after": "7", "location": "http://127.0.0.1:1/elsewhere"}
    outcome = await play(Status(status, body={"message": "so it is"}, headers=headers))
    error = outcome.verdict
    assert type(error) is kind
    assert error.status_code == status
    assert error.body == {"message": "so it is"}
    assert error.retry_after == 7.0
    assert error.headers["retry-after"] == "7"
    assert error.request_id is not None
    assert error.request_id in str(error)
    assert "so it is" in str(error)


async def test_an_error_body_that_is_not_json_is_kept_as_text() -> None:
    """A gateway's page."""
    outcome = await play(Status(502, body="<h1>Bad Gateway</h1>"))
    assert isinstance(outcome.verdict, ApiError)
    assert outcome.verdict.body == "<h1>Bad Gateway</h1>"


async def test_an_event_over_the_limit_is_refused_before_it_is_complete() -> None:
    """What came before it is delivered."""
    large = b'{"type":"debug","prompt":"' + b"x" * 50_000 + b'"}'
    outcome = await play(Corrupt(event=4, data=large), max_event_bytes=20_000)
    assert isinstance(outcome.verdict, EventDecodeError)
    assert "20000 bytes" in str(outcome.verdict)
    assert [e.model_dump(exclude_unset=True) for e in outcome.events] == EVENTS[:4]


async def test_a_line_without_end_is_refused_at_the_limit() -> None:
    """Also a comment that never ends, of which no event would ever come."""

    class Flood(Fault):
        def apply(self, reply: Any) -> Any:
            from dataclasses import replace

            return replace(reply, frames=(*reply.frames[:4], b":" + b"x" * 60_000), ending="stall")

    outcome = await play(Flood(), max_event_bytes=20_000)
    assert isinstance(outcome.verdict, EventDecodeError)
    assert len(outcome.events) == 4


async def test_an_event_of_a_megabyte_is_fine() -> None:
    """Line-wise readers break at 64 or 512 KiB; citations repeat whole documents."""
    large = {"type": "debug", "prompt": "x" * 1_000_000}
    outcome = await play(Corrupt(event=4, data=json.dumps(large).encode()), chunking=65_536)
    assert outcome.verdict is None
    assert outcome.events[4].model_dump(exclude_unset=True) == large


@pytest.mark.parametrize("after", ["done", "message-end"])
async def test_a_lingering_socket_does_not_delay_the_verdict(after: Any) -> None:
    """message-end completes the stream at once; a connection without its rest is closed."""
    outcome = await play(Linger(after=after))
    assert outcome.verdict is None
    assert isinstance(outcome.events[-1], MessageEnd)


async def test_a_connection_whose_body_is_all_there_is_used_again() -> None:
    """Two streams, one after the other, over one connection."""
    async with served(chunking="whole") as (server, co):
        for _ in range(2):
            await co.chat_stream(**ASK)
        ports = {request.peer for request in server.requests}
    assert len(ports) == 1


async def test_a_failed_generation_delivers_message_end_and_then_the_error() -> None:
    """Nothing that the last event says is lost."""
    outcome = await play(transcript="error")
    end, error = outcome.events[-1], outcome.verdict
    assert isinstance(end, MessageEnd)
    assert isinstance(error, GenerationError)
    assert error.finish_reason == end.finish_reason == "ERROR"
    assert error.error == end.error
    assert error.error_type == end.error_type
    assert error.partial is not None
    assert error.partial == end.response
    assert error.partial.message.tool_plan


@pytest.mark.parametrize("reason", ["TIMEOUT", "error"])
async def test_timeout_and_older_spellings_fail_too(reason: str) -> None:
    """TIMEOUT is a failure; older servers write reasons in lower case."""
    end = {"type": "message-end", "delta": {"finish_reason": reason}}
    outcome = await play(transcript=Transcript.of([*EVENTS[:5], end]))
    assert isinstance(outcome.verdict, GenerationError)
    assert outcome.verdict.finish_reason == reason


async def test_what_follows_message_end_does_not_count() -> None:
    """Neither events nor rubbish after the end change what was said."""
    delta = {"type": "content-delta", "delta": {"message": {"content": {"text": "late"}}}}
    transcript = Transcript.from_bytes(
        Transcript.of([*EVENTS, delta]).body.replace(b"data: [DONE]", b"data: {rubbish")
    )
    outcome = await play(transcript=transcript, chunking="whole")
    assert outcome.verdict is None
    assert [e.model_dump(exclude_unset=True) for e in outcome.events] == EVENTS
    end = outcome.events[-1]
    assert isinstance(end, MessageEnd)
    assert end.response is not None
    assert end.response.text == text_of(EVENTS)


async def test_a_stream_error_reaches_iteration_too() -> None:
    """async for gives the same events and raises the same verdict."""
    async with served(Cut(after_events=6)) as (_, co):
        got: list[ChatEvent] = []
        with pytest.raises(StreamError) as caught:
            async for event in co.chat_stream(**ASK):
                got.append(event)  # noqa: PERF401  # the events before the error count
    assert [e.model_dump(exclude_unset=True) for e in got] == EVENTS[:6]
    assert type(caught.value) is StreamTruncatedError
