"""Random legal streams through a real client, in bytes cut anywhere, added up the plain way."""

from typing import Any, NamedTuple

from fuzz.amounts import fuzzed
from fuzz.plain_reply import (
    citations_of,
    cited_characters_of,
    completed_calls_of,
    fails,
    reply_of,
    text_of,
)
from fuzz.wire import Draw, cut, frames_of
from hypothesis import strategies as st
from reference_decoder import BOM
from samples import JSON, streams
from subscribers import ASK, Subscriber, served

from rxcohere import ChatEvent, CitedText, GenerationError
from rxcohere.testing import DONE, Transcript


class Play(NamedTuple):
    """A stream, and the pieces in which a server writes it."""

    sent: list[JSON]
    pieces: list[bytes]

    @property
    def events(self) -> list[JSON]:
        """What is read of it. Unknown events may follow its end, where nobody reads any more."""
        [end] = [n for n, event in enumerate(self.sent) if event["type"] == "message-end"]
        return self.sent[: end + 1]

    @property
    def transcript(self) -> Transcript:
        return Transcript("random", tuple(filter(None, self.pieces)))


@st.composite
def plays(draw: Draw) -> Play:
    """Legal streams in any framing, cut anywhere."""
    sent = draw(streams()).events
    mark = draw(st.sampled_from([b"", b"", BOM]))
    done = draw(st.sampled_from([DONE, DONE, b"", DONE.replace(b"\n", b"\r\n")]))
    return Play(sent, cut(draw, mark + b"".join(frames_of(draw, sent)) + done))


def as_json(value: Any) -> JSON:
    return value.model_dump(mode="json", exclude_unset=True)


def check_verdict(subscriber: Subscriber, events: list[JSON]) -> None:
    """It ended once, as ``message-end`` says."""
    assert subscriber.breaches == []
    if fails(events):
        assert type(subscriber.error) is GenerationError
        assert as_json(subscriber.error.partial) == reply_of(events)
    else:
        assert subscriber.completed


@fuzzed(few=25, many=2_000, play=plays())
async def test_every_view_adds_up(play: Play) -> None:
    """Events, text, thinking, calls, citations and response are what the JSON objects say."""
    events = play.events
    async with served(play.transcript) as (server, co):
        stream = co.chat_stream(**ASK)
        all_of_it = await Subscriber().to(stream).end()
        assert [as_json(event) for event in all_of_it.values] == events
        check_verdict(all_of_it, events)

        texts = await Subscriber().to(stream.text()).end()
        assert "".join(texts.values) == text_of(events)
        check_verdict(texts, events)

        thoughts = await Subscriber().to(stream.thinking()).end()
        assert "".join(thoughts.values) == text_of(events, "thinking")

        calls = await Subscriber().to(stream.tool_calls()).end()
        assert [as_json(call) for call in calls.values] == completed_calls_of(events)
        check_verdict(calls, events)

        cited = await Subscriber().to(stream.citations()).end()
        assert [as_json(citation) for citation in cited.values] == citations_of(events)

        responses = await Subscriber().to(stream.response()).end()
        assert [as_json(response) for response in responses.values] == [reply_of(events)]
        check_verdict(responses, events)
        assert len(server.requests) == 6


@fuzzed(few=25, many=2_000, play=plays())
async def test_cited_text_adds_up(play: Play) -> None:
    """In the end each code point has its citations; on the way the text grew by each fragment."""
    events = play.events
    async with served(play.transcript) as (_, co):
        subscriber = await Subscriber().to(co.chat_stream(**ASK).cited_text()).end()
    check_verdict(subscriber, events)
    snapshots: list[CitedText] = subscriber.values
    assert "".join(each.delta for each in snapshots) == text_of(events)
    arrived = [as_json(each.citation) for each in snapshots if each.citation is not None]
    assert arrived == citations_of(events)
    if snapshots:
        last = snapshots[-1]
        characters = [
            (character, [as_json(citation) for citation in segment.citations])
            for segment in last.segments()
            for character in segment.text
        ]
        assert characters == cited_characters_of(events)
    for number, snapshot in enumerate(snapshots):
        assert len(snapshot.text) == sum(len(each.delta) for each in snapshots[: number + 1])
        assert "".join(segment.text for segment in snapshot.segments()) == snapshot.text


@fuzzed(few=25, many=2_000, play=plays())
async def test_pulling_adds_up(play: Play) -> None:
    """``async for`` and ``await`` bring the same, and raise what a subscription ends with."""
    events = play.events
    pulled: list[ChatEvent] = []
    failure: Exception | None = None
    async with served(play.transcript) as (_, co):
        stream = co.chat_stream(**ASK)
        try:
            async for event in stream:
                pulled.append(event)  # noqa: PERF401 - what came before an error is to be kept
        except GenerationError as error:
            failure = error
        assert [as_json(event) for event in pulled] == events
        assert (failure is not None) == fails(events)
        try:
            response = await stream.response()
        except GenerationError as error:
            assert fails(events)
            response = error.partial
        assert as_json(response) == reply_of(events)


@fuzzed(few=20, many=2_000, play=plays(), joins=st.lists(st.integers(0, 25), max_size=4))
async def test_sharing_adds_up(play: Play, joins: list[int]) -> None:
    """Whoever joins, at any event or after the end, has the same reply from the one request."""
    events = play.events
    latecomers: list[Subscriber] = []
    async with served(play.transcript) as (server, co):
        shared = co.chat_stream(**ASK).share_response()

        def let_in(_: ChatEvent) -> None:
            now = [join for join in joins if join == len(first.values)]
            latecomers.extend(Subscriber().to(shared) for _ in now)

        first = Subscriber(let_in).to(shared)
        await first.end()
        while len(latecomers) < len(joins):
            latecomers.append(Subscriber().to(shared))
        for each in latecomers:
            await each.end()
        assert len(server.requests) == 1
    assert [as_json(event) for event in first.values] == events
    check_verdict(first, events)
    for each in latecomers:
        heard = [as_json(event) for event in each.values]
        assert reply_of(heard) == reply_of(events)
        assert completed_calls_of(heard) == completed_calls_of(events)
        assert cited_characters_of(heard) == cited_characters_of(events)
        assert len(heard) <= len(events)
        check_verdict(each, events)
