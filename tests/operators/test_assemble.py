"""The operators that put the pieces together: when each speaks, and what it then says."""

import json
from pathlib import Path
from typing import Any

import pytest
from reactivex import Observable
from reactivex.testing import ReactiveTest, Recorded, TestScheduler
from reactivex.testing.subscription import Subscription
from samples import (
    JSON,
    citation,
    citation_end,
    citation_start,
    content_end,
    content_start,
    document,
    frames_of,
    message_end,
    message_start,
    parsed,
    text_delta,
    text_stream,
    thinking_delta,
    tool_call_delta,
    tool_call_end,
    tool_call_start,
    tool_plan_delta,
    tool_stream,
    usage,
)

from rxcohere import ChatEvent, ChatResponse, StreamTruncatedError, ToolArgumentsError, parse_event
from rxcohere import operators as rxc
from rxcohere.operators._lift import lift

END = 500


def observed(
    operator: Any, events: list[ChatEvent], end: Recorded[Any] | None = None
) -> list[Recorded[Any]]:
    """What comes out of a hot source with these events at 210, 220 and so on, and then an end."""
    scheduler = TestScheduler()
    source = [ReactiveTest.on_next(210 + 10 * n, event) for n, event in enumerate(events)]
    end = ReactiveTest.on_completed(END) if end is None else end
    hot: Observable[Any] = scheduler.create_hot_observable([*source, end])
    return scheduler.start(lambda: hot.pipe(operator)).messages


def timed(operator: Any, events: list[JSON]) -> list[tuple[int, Any]]:
    """The values of a stream that completes, and when they came."""
    *values, last = observed(operator, parsed(events))
    assert (last.time, last.value.kind) == (END, "C")
    return [(int(each.time), each.value.value) for each in values]


# Text --------------------------------------------------------------------------------------------


def test_text_accumulates() -> None:
    """Each fragment brings the text so far; what is empty or no text brings nothing."""
    events = [
        message_start(),
        thinking_delta("Hm"),
        content_start(1),
        text_delta("a", 1),
        text_delta("", 1),
        tool_plan_delta("I will"),
        text_delta("b", 1),
        text_delta("c", 2),
    ]
    assert timed(rxc.accumulate_text(), events) == [(240, "a"), (270, "ab"), (280, "abc")]


def test_text_is_collected_at_completion() -> None:
    """The text comes once, with completion and not with message-end, of all blocks together."""
    events = [*text_stream("The ", "penguins"), content_start(1), text_delta("!", 1)]
    assert timed(rxc.collect_text(), events) == [(END, "The penguins!")]


def test_text_of_a_reply_without_text() -> None:
    """A reply without text has the text "", which is said."""
    assert timed(rxc.collect_text(), tool_stream(("look_up", ["{}"]))) == [(END, "")]


@pytest.mark.parametrize(
    "make",
    [rxc.collect_text, rxc.collect_cited_text, rxc.collect_response],
    ids=lambda make: make.__name__,
)
def test_nothing_is_collected_from_half_a_stream(make: Any) -> None:
    """Where the stream fails, what came so far is not passed off as the whole."""
    failure = StreamTruncatedError("cut")
    events = parsed(text_stream("The ", "penguins"))
    [only] = observed(make(), events, ReactiveTest.on_error(300, failure))
    assert (only.time, only.value.kind) == (300, "E")
    assert only.value.exception is failure


# Tool calls --------------------------------------------------------------------------------------


def test_calls_come_when_they_end() -> None:
    """Calls are told apart by index, in any interleaving, and come in the order of their ends."""
    events = [
        tool_call_start(0, "first"),
        tool_call_start(1, "second"),
        tool_call_delta('{"a"', 1),
        tool_call_delta('{"b": ', 0),
        tool_call_delta(': "x"}', 1),
        tool_call_end(1),
        tool_call_delta("2}", 0),
        tool_call_end(0),
    ]
    out = timed(rxc.assemble_tool_calls(), events)
    assert [(time, call.name, call.arguments, call.parsed) for time, call in out] == [
        (260, "second", '{"a": "x"}', {"a": "x"}),
        (280, "first", '{"b": 2}', {"b": 2}),
    ]
    assert [call.id for _, call in out] == ["second_1", "first_0"]


def test_a_call_without_arguments() -> None:
    """No fragment at all is a call too, with an empty object."""
    [(time, call)] = timed(rxc.assemble_tool_calls(), tool_stream(("count", [])))
    assert time == 250
    assert (call.arguments, call.parsed) == ("", {})


def test_arguments_stay_as_streamed() -> None:
    """The text of the arguments is the model's own, to the last space."""
    fragments = ["{\n    ", '"b"', ":1,", ' "a":\t"é"}', "\n"]
    [(_, call)] = timed(rxc.assemble_tool_calls(), tool_stream(("count", fragments)))
    assert call.arguments == "".join(fragments)
    assert call.parsed == {"b": 1, "a": "é"}


def test_arguments_that_are_no_object() -> None:
    """Broken arguments come out as they are and fail where they are read, not in the stream."""
    out = timed(rxc.assemble_tool_calls(), tool_stream(("a", ['{"x']), ("b", ["{}"])))
    assert [call.name for _, call in out] == ["a", "b"]
    with pytest.raises(ToolArgumentsError, match="not JSON") as caught:
        _ = out[0][1].parsed
    assert caught.value.raw == '{"x'
    assert out[1][1].parsed == {}


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ([message_end("TOOL_CALL")], [(250, "first"), (250, "second")]),
        ([], [(END, "first"), (END, "second")]),
        ([message_end("MAX_TOKENS")], []),
        ([message_end("ERROR", error="no", error_type="HALLUCINATED")], []),
        ([message_end("TIMEOUT")], []),
    ],
    ids=["message-end", "completion", "MAX_TOKENS", "ERROR", "TIMEOUT"],
)
def test_calls_whose_end_is_left_out(end: list[JSON], expected: list[tuple[int, str]]) -> None:
    """They come when the reply ends, in order of index; where it was cut off, half calls do not."""
    events = [
        tool_call_start(1, "second"),
        tool_call_start(0, "first"),
        tool_call_delta("{}", 0),
        tool_call_delta("{}", 1),
        *end,
    ]
    out = timed(rxc.assemble_tool_calls(), events)
    assert [(time, call.name) for time, call in out] == expected


def test_calls_of_a_stream_that_fails() -> None:
    """Calls that were complete stay; one that was open does not come with the error."""
    failure = StreamTruncatedError("cut")
    events = parsed([*tool_stream(("done", ["{}"]), ("open", ["{"]))[:-2]])
    *values, last = observed(rxc.assemble_tool_calls(), events, ReactiveTest.on_error(END, failure))
    assert [(each.time, each.value.value.name) for each in values] == [(260, "done")]
    assert last.value.exception is failure


def test_progress_after_every_fragment() -> None:
    """Each fragment brings the arguments so far, parsed as far as they are certain."""
    fragments = ['{"city"', ': "Lis', 'bon", "da', 'ys": 1', "2}"]
    out = timed(rxc.track_tool_calls(), tool_stream(("get_weather", fragments)))
    assert [(time, progress.delta) for time, progress in out] == [
        (250 + 10 * n, fragment) for n, fragment in enumerate(fragments)
    ]
    progress = [each for _, each in out]
    assert [each.arguments for each in progress] == [
        "".join(fragments[: n + 1]) for n in range(len(fragments))
    ]
    assert [each.parsed for each in progress] == [
        {},
        {"city": "Lis"},
        {"city": "Lisbon"},
        {"city": "Lisbon", "days": 1},
        {"city": "Lisbon", "days": 12},
    ]
    assert {(each.index, each.id, each.name) for each in progress} == {
        (0, "get_weather_0", "get_weather")
    }
    assert [each.length for each in progress] == [len(each.arguments) for each in progress]


def test_progress_of_interleaved_calls() -> None:
    """The progress of each call is its own."""
    events = [
        tool_call_start(0, "first", '{"a":'),
        tool_call_start(1, "second"),
        tool_call_delta('{"b": tru', 1),
        tool_call_delta(" 1", 0),
        tool_call_delta("e}", 1),
        tool_call_delta("}", 0),
    ]
    out = timed(rxc.track_tool_calls(), events)
    assert [(time, each.index, each.name, each.parsed) for time, each in out] == [
        (210, 0, "first", {}),
        (230, 1, "second", {}),
        (240, 0, "first", {"a": 1}),
        (250, 1, "second", {"b": True}),
        (260, 0, "first", {"a": 1}),
    ]


# Citations ---------------------------------------------------------------------------------------


def cited_stream() -> list[JSON]:
    """Text with citations inside it, after it, late, and one over the other."""
    return [
        message_start(),  # at 210
        content_start(),
        text_delta("Emperor "),  # 230
        text_delta("penguins"),  # 240
        citation_start(citation(0, 7, "Emperor", document("a", title="Birds"))),  # 250
        citation_end(),
        text_delta(" dive"),  # 270
        content_end(),
        citation_start(citation(0, 16, "Emperor penguins", document("b"), document("a")), 1),  # 290
        citation_end(1),
        message_end(),  # 310
    ]


def test_text_with_its_citations() -> None:
    """Each fragment and each citation brings all there is; a late one finds its place."""
    out = timed(rxc.attach_citations(), cited_stream())
    assert [(time, each.delta, each.citation and each.citation.text) for time, each in out] == [
        (230, "Emperor ", None),
        (240, "penguins", None),
        (250, "", "Emperor"),
        (270, " dive", None),
        (290, "", "Emperor penguins"),
    ]
    segments = [[(s.text, len(s.citations)) for s in each.segments()] for _, each in out]
    assert segments == [
        [("Emperor ", 0)],
        [("Emperor penguins", 0)],
        [("Emperor", 1), (" penguins", 0)],
        [("Emperor", 1), (" penguins dive", 0)],
        [("Emperor", 2), (" penguins", 1), (" dive", 0)],
    ]
    assert [source.id for source in out[-1][1].sources] == ["a", "b"]


def test_cited_text_is_collected_at_completion() -> None:
    """The whole text with all its citations comes once, with completion."""
    [(time, cited)] = timed(rxc.collect_cited_text(), cited_stream())
    assert time == END
    assert cited.text == "Emperor penguins dive"
    assert [each.text for each in cited.citations] == ["Emperor", "Emperor penguins"]
    assert (cited.delta, cited.citation) == ("", None)
    last = timed(rxc.attach_citations(), cited_stream())[-1][1]
    assert cited.segments() == last.segments()


# The response ------------------------------------------------------------------------------------


def test_the_response_as_the_other_endpoint_gives_it() -> None:
    """It comes once, with completion, and has just the keys of the non-streaming reply."""
    cited = citation(0, 3, "The", document("a"))
    events = [
        message_start("reply-9"),
        content_start(0, "thinking"),
        thinking_delta("Hm"),
        content_end(),
        content_start(1),
        text_delta("The ", 1),
        text_delta("end", 1),
        citation_start(cited),
        citation_end(),
        content_end(1),
        message_end("STOP_SEQUENCE"),
    ]
    [(time, response)] = timed(rxc.collect_response(), events)
    assert time == END
    assert response.model_dump(exclude_unset=True) == {
        "id": "reply-9",
        "message": {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm"},
                {"type": "text", "text": "The end"},
            ],
            "citations": [cited],
        },
        "finish_reason": "STOP_SEQUENCE",
        "usage": usage(),
    }


def test_no_response_without_a_message() -> None:
    """A stream that never says anything of a message has no response to collect."""
    events: list[JSON] = [{"type": "keep-warm"}, {"type": "debug", "prompt": "p"}]
    assert timed(rxc.collect_response(), events) == []
    assert timed(rxc.accumulate_response(), events) == []


def test_the_response_of_a_stream_that_only_stops() -> None:
    """Completion without message-end is for the source to judge; the response has no reason."""
    [(_, response)] = timed(rxc.collect_response(), text_stream("a", "b")[:-1])
    assert response.text == "ab"
    assert response.finish_reason is None
    assert response.usage is None


def test_the_response_grows() -> None:
    """Every event that adds to the response brings it out, from the first to message-end."""
    out = timed(rxc.accumulate_response(), text_stream("a", "b"))
    assert [(time, each.text, each.finish_reason) for time, each in out] == [
        (210, "", None),
        (220, "", None),
        (230, "a", None),
        (240, "ab", None),
        (260, "ab", "COMPLETE"),
    ]
    assert all(isinstance(each, ChatResponse) for _, each in out)


def test_nothing_follows_the_end_of_a_message() -> None:
    """What comes after message-end is no part of the response."""
    events = [*text_stream("a"), text_delta("!"), message_end("ERROR")]
    [(_, collected)] = timed(rxc.collect_response(), events)
    assert (collected.text, collected.finish_reason) == ("a", "COMPLETE")
    assert timed(rxc.accumulate_response(), events)[-1] == (250, collected)


def test_recorded_streams(recorded: Path) -> None:
    """On real streams the operators agree with one another and with a plain join of the frames."""
    frames = frames_of(recorded)
    events = [parse_event(frame) for frame in frames]
    objects = [json.loads(frame) for frame in frames]
    fragments = [
        event["delta"]["message"]["content"].get("text", "")
        for event in objects
        if event["type"] == "content-delta"
    ]

    def last(operator: Any) -> Any:
        scheduler = TestScheduler()
        source = [ReactiveTest.on_next(201 + n, event) for n, event in enumerate(events)]
        end = ReactiveTest.on_completed(300 + len(events))
        hot: Observable[Any] = scheduler.create_hot_observable([*source, end])
        *values, _ = scheduler.start(lambda: hot.pipe(operator), disposed=10_000).messages
        return values[-1].value.value

    response = last(rxc.collect_response())
    assert last(rxc.collect_text()) == "".join(fragments) == response.text
    assert last(rxc.accumulate_response()) == response
    cited = last(rxc.collect_cited_text())
    assert cited.text == response.text
    assert cited.citations == response.citations
    assert response.finish_reason == objects[-1]["delta"]["finish_reason"]


# Folds that fail ---------------------------------------------------------------------------------


class BrokenFold:
    """Doubles numbers, and fails at the event or at the end where it is told to."""

    def __init__(self, fails_at: int | None) -> None:
        self.fails_at = fails_at

    def push(self, event: int) -> tuple[int, ...]:
        if event == self.fails_at:
            raise ValueError("no such number")
        return (2 * event, 2 * event + 1)

    def finish(self) -> tuple[int, ...]:
        if self.fails_at is None:
            raise ValueError("no such end")
        return ()


def test_a_fold_that_fails() -> None:
    """The error goes to the subscriber, after what came before it, and the source is left."""
    scheduler = TestScheduler()
    numbers = [ReactiveTest.on_next(200 + 10 * n, n) for n in range(1, 5)]
    hot = scheduler.create_hot_observable(numbers)
    seen = scheduler.start(lambda: hot.pipe(lift(lambda: BrokenFold(3)))).messages
    assert [(each.time, each.value.value) for each in seen[:-1]] == [
        (210, 2),
        (210, 3),
        (220, 4),
        (220, 5),
    ]
    assert seen[-1].time == 230
    assert isinstance(seen[-1].value.exception, ValueError)
    assert hot.subscriptions == [Subscription(200, 230)]


def test_a_fold_that_fails_at_the_end() -> None:
    """An error at completion takes the place of completion."""
    scheduler = TestScheduler()
    hot = scheduler.create_hot_observable([ReactiveTest.on_completed(250)])
    [only] = scheduler.start(lambda: hot.pipe(lift(lambda: BrokenFold(None)))).messages
    assert (only.time, str(only.value.exception)) == (250, "no such end")
    assert hot.subscriptions == [Subscription(200, 250)]
