"""Random illegal streams: one verdict each, the right one, and nothing that was not sent."""

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import reactivex as rx
from fuzz.amounts import fuzzed
from fuzz.broken_streams import LIMIT, ODD, broken_bodies, broken_data
from fuzz.readings import parsed_as_far_as_possible, read_events, read_value
from fuzz.verdicts import json_of, judged, says_the_same
from fuzz.wire import Draw, cut
from hypothesis import strategies as st
from reactivex import Observable
from reactivex.testing import TestScheduler
from subscribers import ASK, LIMITS, Subscriber, client_of

from rxcohere import (
    ApiError,
    ChatEvent,
    ChatStream,
    ConnectionFailedError,
    StreamError,
    StreamTimeoutError,
    StreamTruncatedError,
    Timeouts,
    UnexpectedContentError,
    UnknownEvent,
)
from rxcohere import operators as rxc
from rxcohere.sse import comment
from rxcohere.testing import (
    ContentType,
    Cut,
    DelayHeaders,
    Fault,
    HangUp,
    KeepAlives,
    Linger,
    ReplayServer,
    Stall,
    Status,
    Transcript,
)

SHORT = Timeouts(connect=10, first_event=0.05, idle=0.05)
"""For a server that falls silent."""

WAYS = ["subscribe", "async for", "share", "text", "await"]


@dataclass
class Outcome:
    """What a consumer was given, and how it ended."""

    values: list[Any]
    error: Exception | None


async def consumed(stream: ChatStream, way: str) -> Outcome:
    """The outcome for a consumer that takes the stream in this way."""
    if way == "async for":
        values: list[ChatEvent] = []
        try:
            async with aclosing(aiter(stream)) as events:
                async for event in events:
                    values.append(event)  # noqa: PERF401 - what came before an error is to be kept
        except Exception as error:
            return Outcome(values, error)
        return Outcome(values, None)
    if way == "await":
        try:
            return Outcome([await stream], None)
        except Exception as error:
            return Outcome([], error)
    source: Observable[Any] = stream
    if way == "share":
        source = stream.share_response()
    if way == "text":
        source = stream.text()
    subscriber = await Subscriber().to(source).end()
    assert subscriber.breaches == []
    assert subscriber.completed == (subscriber.error is None)
    return Outcome(subscriber.values, subscriber.error)


@dataclass
class Play:
    """What a server sends before it ends or breaks off, and how it does that."""

    pieces: list[bytes]
    ending: Fault | None
    framing: Literal["chunked", "close", "content-length"]

    @property
    def sent(self) -> bytes:
        """The bytes of the body that go out."""
        match self.ending:
            case Cut(after_bytes=int(count)):
                return b"".join(self.pieces)[:count]
            case Stall(after_events=count):
                return b"".join(self.pieces[:count])
            case KeepAlives(after_events=count):
                # The comments may be the end of what a piece has broken off.
                return b"".join(self.pieces[:count]) + comment("keep-alive") * 2
        return b"".join(self.pieces)

    @property
    def falls_silent(self) -> bool:
        return isinstance(self.ending, Stall | KeepAlives | Linger)

    @property
    def resets(self) -> bool:
        return isinstance(self.ending, Cut) and self.ending.how == "reset"

    def verdict(self, of_what_is_sent: type[StreamError] | str | None) -> Any:
        """The error that the client ends with, given the verdict on what is sent."""
        if of_what_is_sent != "silent":
            return of_what_is_sent
        if self.falls_silent:
            return StreamTimeoutError
        return ConnectionFailedError if self.resets else StreamTruncatedError


@st.composite
def plays(draw: Draw) -> Play:
    """Broken streams, cut anywhere, that end or break off in some way."""
    pieces = [piece for piece in cut(draw, draw(broken_bodies())) if piece]
    size = sum(map(len, pieces))
    framing = draw(st.sampled_from(["chunked", "chunked", "close", "content-length"]))
    match draw(st.integers(0, 9)):
        case 0 | 1 | 2:
            how = draw(st.sampled_from(["eof", "close", "reset"]))
            return Play(pieces, Cut(after_bytes=draw(st.integers(0, size)), how=how), framing)
        case 3:
            after = draw(st.integers(0, len(pieces)))
            ending = draw(st.sampled_from([Stall(after), KeepAlives(after), Linger()]))
            return Play(pieces, ending, framing)
    return Play(pieces, None, framing)


@fuzzed(few=80, many=8_000, play=plays(), way=st.sampled_from(WAYS))
async def test_one_verdict(play: Play, way: str) -> None:
    """The events before the fault come out, all and no others, and then the verdict on it."""
    want, verdict, _ = judged(play.sent)
    transcript = Transcript("broken", tuple(play.pieces))
    faults = [] if play.ending is None else [play.ending]
    timeouts = SHORT if play.falls_silent and verdict == "silent" else LIMITS
    async with (
        ReplayServer(transcript, faults=faults, framing=play.framing) as server,
        client_of(server, timeouts=timeouts, max_event_bytes=LIMIT) as co,
    ):
        outcome = await consumed(co.chat_stream(**ASK), way)
        await server.until(lambda s: s.open == 0)
        in_time = not isinstance(outcome.error, StreamTimeoutError)
        assert len(server.requests) in ({1} if in_time else {0, 1})
    assert (None if outcome.error is None else type(outcome.error)) == play.verdict(verdict)
    if way in ("subscribe", "async for", "share"):
        sent = [json_of(data) for data in want]
        got = [event.model_dump(exclude_unset=True) for event in outcome.values]
        assert all(map(says_the_same, sent, got))
        # A limit of time may come before all that was sent has been read.
        assert len(got) == len(sent) or (not in_time and len(got) < len(sent))
    if way == "await" and outcome.error is None:
        assert says_the_same(json_of(want[-1]), outcome.values[0].model_dump(exclude_unset=True))


_BODIES = st.dictionaries(st.sampled_from(["message", "data", "id"]), ODD) | st.text(max_size=5)
_STATUSES = st.integers(200, 599).filter(lambda n: n not in (204, 304))  # which have no body
_HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "content-type", "x-debug-trace-id"]),
    st.sampled_from(["0", "-1", "1e9", "soon", "NaN", "text/event-stream", "é", "9" * 400]),
)
EARLY_FAULTS: st.SearchStrategy[Fault] = st.one_of(
    st.builds(Status, _STATUSES, st.none() | _BODIES, _HEADERS),
    st.builds(HangUp),
    st.builds(DelayHeaders),
    st.builds(
        ContentType,
        st.sampled_from(["", ";", "text/event-stream;charset=x", "TEXT/Event-Stream", "text/html"]),
    ),
)


@fuzzed(few=40, many=3_000, fault=EARLY_FAULTS, way=st.sampled_from(WAYS))
async def test_a_refusal(fault: Fault, way: str) -> None:
    """A status, a content type or a hang-up before the stream is one typed error, or a stream."""
    timeouts = SHORT if isinstance(fault, DelayHeaders) else LIMITS
    async with (
        ReplayServer("text", faults=[fault]) as server,
        client_of(server, timeouts=timeouts) as co,
    ):
        outcome = await consumed(co.chat_stream(**ASK), way)
        await server.until(lambda s: s.open == 0)
    match fault:
        case Status(status=status) if status >= 300:
            assert isinstance(outcome.error, ApiError)
            assert outcome.error.status_code == status
        case Status():
            assert isinstance(outcome.error, UnexpectedContentError | StreamError)
        case HangUp():
            assert isinstance(outcome.error, ConnectionFailedError)
        case DelayHeaders():
            assert isinstance(outcome.error, StreamTimeoutError)
            assert outcome.error.phase == "first_event"
        case ContentType(value=value) if value.lower().startswith("text/event-stream"):
            assert outcome.error is None
            assert outcome.values
        case _:
            assert isinstance(outcome.error, UnexpectedContentError)
    if outcome.error is not None:
        assert outcome.values == []
        assert str(outcome.error)


# Without a client --------------------------------------------------------------------------------


@fuzzed(few=80, many=15_000, data=broken_data())
def test_folds_take_anything(data: list[bytes]) -> None:
    """Folds, and whatever can be read of what they give, raise nothing that is not documented."""
    read_events(parsed_as_far_as_possible(data))


OPERATORS = [
    getattr(rxc, name)
    for name in sorted(set(rxc.__all__) - {"Operator", "coalesce_deltas", "events_of"})
]
OPERATORS.append(lambda: rxc.events_of(UnknownEvent))
OPERATORS.append(lambda: rxc.coalesce_deltas(1, max_chars=3, scheduler=TestScheduler()))


@fuzzed(few=40, many=8_000, data=broken_data())
def test_operators_take_anything(data: list[bytes]) -> None:
    """Every operator gives what can be read to its end, and completes."""
    events = parsed_as_far_as_possible(data)
    for make in OPERATORS:
        subscriber = Subscriber().to(rx.from_iterable(events).pipe(make()))
        assert subscriber.breaches == []
        assert subscriber.completed
        for value in subscriber.values:
            read_value(value)
