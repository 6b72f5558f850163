"""The operators that pick parts of the stream: what each takes, and what it leaves."""

from typing import Any

import pytest
from reactivex import Observable
from reactivex.testing import ReactiveTest, TestScheduler
from samples import (
    JSON,
    citation,
    citation_end,
    citation_start,
    content_end,
    content_start,
    document,
    message_end,
    message_start,
    parsed,
    text_delta,
    text_stream,
    thinking_delta,
    tool_call_delta,
    tool_call_start,
    tool_plan_delta,
)

from rxcohere import (
    ChatEvent,
    CitationStart,
    ConfigurationError,
    ContentDelta,
    ContentStart,
    Debug,
    MessageEnd,
    MessageStart,
    ToolCallStart,
    UnknownEvent,
)
from rxcohere import operators as rxc
from rxcohere.response import WireModel


def timed(operator: Any, events: list[Any]) -> list[tuple[int, Any]]:
    """What comes out, and when, of a hot source with these events at 210, 220 and so on."""
    scheduler = TestScheduler()
    source = [ReactiveTest.on_next(210 + 10 * n, event) for n, event in enumerate(events)]
    hot: Observable[Any] = scheduler.create_hot_observable(source)
    observer = scheduler.start(lambda: hot.pipe(operator))
    return [(int(each.time), each.value.value) for each in observer.messages]


def only_text(*fragments: Any) -> list[ChatEvent]:
    return parsed(text_delta(*fragment) for fragment in fragments)


def test_events_of_one_type() -> None:
    """Events of the type come as they are, at the moment they arrive; no other comes."""
    events = parsed(text_stream("a", "b"))
    out = timed(rxc.events_of(ContentDelta), events)
    assert [time for time, _ in out] == [230, 240]
    assert out[0][1] is events[2]
    assert out[1][1] is events[3]


def test_events_of_several_types() -> None:
    """With several types, the events of each come in the order of the stream."""
    events = parsed([*text_stream("a"), tool_call_start(), {"type": "debug", "prompt": "p"}])
    wanted = (Debug, MessageEnd, MessageStart, ContentStart, ToolCallStart)
    out = timed(rxc.events_of(*wanted), events)
    assert [(time, type(event)) for time, event in out] == [
        (210, MessageStart),
        (220, ContentStart),
        (250, MessageEnd),
        (260, ToolCallStart),
        (270, Debug),
    ]


def test_events_of_an_unknown_type() -> None:
    """Events that this version does not know can be asked for like any other."""
    events = parsed([message_start(), {"type": "keep-warm", "seconds": 3}, text_delta("a")])
    [(time, event)] = timed(rxc.events_of(UnknownEvent), events)
    assert time == 220
    assert event.raw == {"type": "keep-warm", "seconds": 3}


def test_events_of_a_base_class() -> None:
    """A class stands for its subclasses too, as with isinstance, however often they come."""
    events = parsed([*text_stream("a", "b"), {"type": "keep-warm"}])
    out = timed(rxc.events_of(WireModel), [events[0], "no event", *events[1:], object()])
    assert [event for _, event in out] == events


def test_events_of_a_subclass() -> None:
    """A subclass stands for itself alone: the events of its base class do not come."""

    class SpokenDelta(ContentDelta):
        pass

    plain = only_text(["a"])[0]
    spoken = SpokenDelta.model_validate(text_delta("b"))
    assert timed(rxc.events_of(SpokenDelta), [plain, spoken, plain]) == [(220, spoken)]
    assert len(timed(rxc.events_of(ContentDelta), [plain, spoken, plain])) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("content-delta",),
        (None,),
        (ContentDelta, "message-end"),
        (ChatEvent,),
        ((ContentDelta, MessageEnd),),
        (ContentDelta | MessageEnd,),
    ],
    ids=str,
)
def test_events_of_needs_classes(wrong: Any) -> None:
    """Without a class, or with something else, it says so at the call."""
    with pytest.raises(ConfigurationError, match="events_of"):
        rxc.events_of(*wrong)


def test_text_as_it_arrives() -> None:
    """Fragments come at the moment they arrive, whatever character they end in."""
    events = only_text(["a \n"], ["\u200d"], [" "], ["é\u0301"])
    assert timed(rxc.text_deltas(), events) == [
        (210, "a \n"),
        (220, "\u200d"),
        (230, " "),
        (240, "é\u0301"),
    ]


def test_text_leaves_out_what_is_no_text() -> None:
    """Empty fragments, thinking, plans, arguments and cited text are not the answer's text."""
    events = parsed(
        [
            message_start(),
            content_start(),
            text_delta(""),
            thinking_delta("Hm"),
            tool_plan_delta("I will"),
            tool_call_start(0, "look_up", '{"a"'),
            tool_call_delta(":1}"),
            citation_start(citation(0, 1, "T")),
            {"type": "content-delta"},
            {"type": "content-delta", "delta": {"message": {}}},
            {"type": "content-delta", "delta": {"message": {"content": {"text": None}}}},
            message_end(),
        ]
    )
    assert timed(rxc.text_deltas(), events) == []


def test_text_that_opens_a_block() -> None:
    """Text that already comes with the start of a block is text too."""
    start: JSON = content_start()
    start["delta"]["message"]["content"]["text"] = "The "
    assert timed(rxc.text_deltas(), parsed([start, text_delta("end")])) == [
        (210, "The "),
        (220, "end"),
    ]


def test_text_of_one_block() -> None:
    """An index picks a block, an absent one on the wire being 0; None takes every block."""
    bare = text_delta("c")
    del bare["index"]
    events = parsed([text_delta("a", 0), text_delta("b", 1), bare, text_delta("d", 2)])
    assert timed(rxc.text_deltas(), events) == [(210, "a"), (220, "b"), (230, "c"), (240, "d")]
    assert timed(rxc.text_deltas(index=0), events) == [(210, "a"), (230, "c")]
    assert timed(rxc.text_deltas(1), events) == [(220, "b")]
    assert timed(rxc.text_deltas(3), events) == []


@pytest.mark.parametrize("wrong", [-1, "0", 1.0, ContentDelta, True], ids=str)
def test_text_needs_an_index(wrong: Any) -> None:
    """Anything but None or a whole number from 0 is refused at the call; a bool is no number."""
    with pytest.raises(ConfigurationError, match="text_deltas"):
        rxc.text_deltas(wrong)


def test_thinking_as_it_arrives() -> None:
    """The fragments of thinking come as they arrive, without empty ones and without the text."""
    start: JSON = content_start(0, "thinking")
    start["delta"]["message"]["content"]["thinking"] = "So, "
    events = parsed(
        [start, thinking_delta("h"), thinking_delta(""), text_delta("4", 1), thinking_delta("m")]
    )
    assert timed(rxc.thinking_deltas(), events) == [(210, "So, "), (220, "h"), (250, "m")]


def test_the_plan_as_it_arrives() -> None:
    """The fragments of the plan come as they arrive, without empty ones and nothing else."""
    events = parsed(
        [
            message_start(),
            tool_plan_delta("I"),
            tool_plan_delta(""),
            tool_plan_delta(" will"),
            {"type": "tool-plan-delta"},
            text_delta("no plan"),
            thinking_delta("no plan"),
        ]
    )
    assert timed(rxc.tool_plan_deltas(), events) == [(220, "I"), (240, " will")]


def test_citations_as_they_arrive() -> None:
    """Citations come whole, between pieces of text or after them; their ends bring nothing."""
    first = citation(0, 3, "The", document("doc:0", title="Tides"))
    second = citation(4, 7, "end", {"type": "tool", "id": "look_up:0", "tool_output": {"a": "1"}})
    events = parsed(
        [
            text_delta("The end"),
            citation_start(first),
            citation_end(),
            content_end(),
            citation_start(second, 1),
            {"type": "citation-start", "index": 2},
            message_end(),
        ]
    )
    out = timed(rxc.citations(), events)
    assert [(time, cited.model_dump(exclude_unset=True)) for time, cited in out] == [
        (220, first),
        (250, second),
    ]
    event = events[1]
    assert isinstance(event, CitationStart)
    assert out[0][1] is event.citation


def test_citations_of_the_older_form() -> None:
    """An event of the older form holds several citations; they come one after another."""
    cited = [citation(0, 1, "a"), citation(2, 3, "b")]
    events = parsed([{"type": "citation-generation", "citations": cited}, message_end()])
    out = timed(rxc.citations(), events)
    assert [(time, each.text) for time, each in out] == [(210, "a"), (210, "b")]
    assert timed(rxc.citations(), parsed([{"type": "citation-generation"}])) == []
