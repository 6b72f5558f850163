"""The fold that rebuilds the reply: the same object as the non-streaming endpoint returns."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from samples import (
    JSON,
    Sample,
    citation,
    citation_start,
    content_end,
    content_start,
    document,
    frames_of,
    message_end,
    message_start,
    parsed,
    recorded_file,
    run,
    streams,
    text_delta,
    text_stream,
    thinking_delta,
    tool_call_delta,
    tool_call_start,
    tool_plan_delta,
    tool_stream,
    usage,
)

from rxcohere.events import parse_event
from rxcohere.folds import LiveResponseFold, ResponseFold
from rxcohere.response import ChatResponse

TWINS = {
    "wire-tool-call-command-r.sse": "nonstream-tool-call-command-r.json",
    "wire-tool-call-no-arguments.sse": "nonstream-tool-call-no-arguments.json",
}
"""A recorded stream, and a recorded reply of the same kind (another run of the model)."""


def fold(events: list[JSON]) -> ChatResponse:
    (response,) = run(ResponseFold(), parsed(events))
    assert isinstance(response, ChatResponse)
    return response


def reply(events: list[JSON]) -> JSON:
    return fold(events).model_dump(exclude_unset=True)


# The whole reply ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(streams())
def test_random_streams_fold_to_the_non_streaming_reply(sample: Sample) -> None:
    """Any legal stream adds up to the reply that the other endpoint would have given."""
    response = fold(sample.events)
    assert response.normalized().model_dump(exclude_unset=True) == sample.reply
    assert response.normalized() == ChatResponse.model_validate(sample.reply)
    assert response.text == sample.text
    written = json.loads(response.normalized().model_dump_json(exclude_unset=True))
    assert written == sample.reply


@settings(deadline=None)
@given(streams())
def test_arguments_stay_as_streamed(sample: Sample) -> None:
    """The fold itself leaves arguments as the model wrote them."""
    streamed = {call_id: arguments for call_id, _, arguments in sample.tool_calls}
    assert {c.id: c.arguments for c in fold(sample.events).tool_calls} == streamed


def shape(value: Any) -> Any:
    """What keys exist at which level, and of which type the values are."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


@pytest.mark.parametrize(("stream", "twin"), TWINS.items())
def test_recorded_twins_agree(stream: str, twin: str) -> None:
    """A recorded stream adds up to the shape of its recorded non-streaming twin."""
    events = [parse_event(frame) for frame in frames_of(recorded_file(stream))]
    (response,) = run(ResponseFold(), events)
    wire = json.loads(recorded_file(twin).read_text("utf-8"))
    ours = response.normalized().model_dump(exclude_unset=True)
    assert shape(ours) == shape(wire)
    (our_call,), (wire_call,) = ours["message"]["tool_calls"], wire["message"]["tool_calls"]
    assert our_call["function"] == wire_call["function"]
    assert (ours["finish_reason"], ours["message"]["role"]) == ("TOOL_CALL", "assistant")


def test_recorded_streams_fold(recorded: Path) -> None:
    """Of real streams, nothing is lost: id, texts, calls, citations, end and usage are there."""
    frames = [json.loads(frame) for frame in frames_of(recorded)]
    response = fold(frames)
    assert response.id == frames[0]["id"]
    assert response.finish_reason == frames[-1]["delta"]["finish_reason"]
    ours = response.model_dump(exclude_unset=True)
    assert ours["usage"] == frames[-1]["delta"]["usage"]

    def pieces(kind: str, *path: str) -> list[Any]:
        found: list[Any] = []
        for frame in frames:
            value: Any = frame if frame["type"] == kind else None
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                found.append(value)
        return found

    content = ("delta", "message", "content")
    assert response.text == "".join(pieces("content-delta", *content, "text"))
    assert response.thinking == "".join(pieces("content-delta", *content, "thinking"))
    plan = "".join(pieces("tool-plan-delta", "delta", "message", "tool_plan"))
    assert (response.message.tool_plan or "") == plan
    assert ours["message"].get("citations", []) == pieces(
        "citation-start", "delta", "message", "citations"
    )
    arguments = pieces("tool-call-delta", "delta", "message", "tool_calls", "function", "arguments")
    assert "".join(c.arguments for c in response.tool_calls) == "".join(arguments)


# Field by field ----------------------------------------------------------------------------------


def test_a_text_reply() -> None:
    """A reply of text alone has nothing but its text: what stayed empty is absent."""
    assert reply(text_stream("High", " tide 😀")) == {
        "id": "reply-1",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "High tide 😀"}]},
        "finish_reason": "COMPLETE",
        "usage": usage(),
    }


def test_a_tool_reply() -> None:
    """A reply of tool calls has the plan and the calls, and no content."""
    events = tool_stream(("tides", ['{"pier": ', "2}"]), ("now", []))
    assert fold(events).normalized().model_dump(exclude_unset=True)["message"] == {
        "role": "assistant",
        "tool_plan": "I will look.",
        "tool_calls": [
            {
                "id": "tides_0",
                "type": "function",
                "function": {"name": "tides", "arguments": '{"pier":2}'},
            },
            {"id": "now_1", "type": "function", "function": {"name": "now", "arguments": "{}"}},
        ],
    }


def test_no_event_no_reply() -> None:
    """A stream that never began gives nothing."""
    assert run(ResponseFold(), []) == []
    assert run(ResponseFold(), parsed([{"type": "keep-warm"}, {"type": "debug"}])) == []
    assert ResponseFold().response() is None


def test_a_partial_reply() -> None:
    """A stream that broke off gives what there was, without a finish reason and usage."""
    fold = ResponseFold()
    for event in parsed(text_stream("High", " tide"))[:4]:
        assert list(fold.push(event)) == []
    assert not fold.ended
    response = fold.response()
    assert response is not None
    assert response.model_dump(exclude_unset=True) == {
        "id": "reply-1",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "High tide"}]},
    }


def test_content_stands_in_the_order_of_its_index() -> None:
    """Blocks are ordered by index, whatever order and interleaving they come in."""
    events = [
        message_start(),
        content_start(1),
        text_delta("second", 1),
        content_start(0, "thinking"),
        thinking_delta("fir", 0),
        text_delta(" block", 1),
        thinking_delta("st", 0),
    ]
    assert reply(events)["message"]["content"] == [
        {"type": "thinking", "thinking": "first"},
        {"type": "text", "text": "second block"},
    ]


def test_tool_calls_stand_in_the_order_of_their_index() -> None:
    """Calls are ordered by index, and interleaved fragments find their call."""
    events = [
        message_start(),
        tool_call_start(1, "b"),
        tool_call_start(0, "a"),
        tool_call_delta("{", 1),
        tool_call_delta("[", 0),
        tool_call_delta("}", 1),
        tool_call_delta("]", 0),
    ]
    calls = fold(events).tool_calls
    assert [(c.name, c.arguments) for c in calls] == [("a", "[]"), ("b", "{}")]


def test_streams_without_any_index() -> None:
    """Without indexes, each start begins a block or call of its own, in order of arrival."""
    events = [
        message_start(),
        content_start(0, "thinking"),
        thinking_delta("Hm"),
        content_end(),
        content_start(),
        text_delta("one"),
        content_end(),
        content_start(),
        text_delta("two"),
        content_end(),
        tool_call_start(0, "a"),
        tool_call_delta("{}"),
        tool_call_start(0, "b"),
        message_end(),
    ]
    for event in events:
        event.pop("index", None)
    message = reply(events)["message"]
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hm"},
        {"type": "text", "text": "one"},
        {"type": "text", "text": "two"},
    ]
    assert [c["function"] for c in message["tool_calls"]] == [
        {"name": "a", "arguments": "{}"},
        {"name": "b", "arguments": ""},
    ]


def test_deltas_without_their_start_are_kept() -> None:
    """Text, thinking and arguments whose start never came are not lost."""
    events = [
        message_start(),
        thinking_delta("Hm", 0),
        text_delta("High", 1),
        text_delta(" tide", 1),
        tool_call_delta("{}", 0),
    ]
    message = reply(events)["message"]
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hm"},
        {"type": "text", "text": "High tide"},
    ]
    assert message["tool_calls"] == [{"function": {"arguments": "{}"}}]


def test_deltas_without_their_start_find_their_block() -> None:
    """By index and kind, also when they come by turns."""
    events = [
        message_start(),
        text_delta("a", 1),
        thinking_delta("b", 1),
        text_delta("c", 2),
        text_delta("d", 1),
        thinking_delta("e", 2),
        thinking_delta("f", 1),
    ]
    assert reply(events)["message"]["content"] == [
        {"type": "text", "text": "ad"},
        {"type": "thinking", "thinking": "bf"},
        {"type": "text", "text": "c"},
        {"type": "thinking", "thinking": "e"},
    ]


def test_calls_without_their_start_have_their_place() -> None:
    """They are ordered by index, as those that were started are."""
    events = [message_start(), tool_call_delta("[]", 1), tool_call_start(0, "a")]
    assert [(c.name, c.arguments) for c in fold(events).tool_calls] == [("a", ""), ("", "[]")]


@pytest.mark.parametrize("kind", ["text", "thinking"])
def test_a_start_may_leave_its_type_out(kind: str) -> None:
    """What it has a key of tells; what it says besides, and what it begins with, is kept."""
    content = {kind: "High", "x_new": {"a": None}}
    start = {"type": "content-start", "index": 0, "delta": {"message": {"content": content}}}
    make = text_delta if kind == "text" else thinking_delta
    (block,) = reply([message_start(), start, make(" tide")])["message"]["content"]
    assert block == {"type": kind, kind: "High tide", "x_new": {"a": None}}


def test_a_message_that_says_little_of_itself() -> None:
    """What it does not say is absent, and None to read."""
    bare = {"type": "message-start", "delta": {"message": {}}}
    response = fold([bare, text_delta("High")])
    assert response.id is None
    assert response.message.role is None
    assert response.model_dump(exclude_unset=True) == {
        "message": {"content": [{"type": "text", "text": "High"}]}
    }
    assert fold([text_delta("High")]) == response


def test_blocks_that_stayed_empty_are_left_out() -> None:
    """A block without text, and a plan and citations that never came, are absent."""
    events = [
        message_start(),
        content_start(),
        text_delta(""),
        content_end(),
        tool_plan_delta(""),
        {"type": "citation-generation", "citations": []},
        message_end(),
    ]
    assert reply(events)["message"] == {"role": "assistant"}


@pytest.mark.parametrize(
    "audio",
    [
        {"type": "audio", "url": "u", "x": [1]},
        {"type": "audio"},
        {"type": "audio", "audio": {"id": "1"}},
        {"type": "audio", "audio": "UklGRg=="},
    ],
    ids=["other keys", "bare", "object under its type", "text under its type"],
)
def test_a_block_of_a_new_type_is_kept(audio: JSON) -> None:
    """A content block of an unknown type stays in the reply with what its start said."""
    start = {"type": "content-start", "index": 0, "delta": {"message": {"content": audio}}}
    events = [message_start(), start, content_start(1), text_delta("High", 1)]
    assert reply(events)["message"]["content"] == [audio, {"type": "text", "text": "High"}]


def test_citations_stand_in_order_of_arrival() -> None:
    """Citations of both forms are listed as they came, not by offset or index."""
    late, early = citation(5, 9, "late", document("d", x=1)), citation(0, 4, "early")
    events = [
        message_start(),
        citation_start(late, 1),
        {"type": "citation-generation", "citations": [early, late]},
        citation_start(early, 0),
    ]
    assert reply(events)["message"]["citations"] == [late, early, late, early]


def test_log_probabilities_are_one_item_a_delta() -> None:
    """Each delta's log probabilities are an item of their own, in order."""
    items = [{"token_ids": [n], "text": "a", "logprobs": [-0.5 * n], "x": n} for n in range(3)]
    events = [message_start(), *({**text_delta("a"), "logprobs": item} for item in items)]
    assert reply(events)["logprobs"] == items
    assert "logprobs" not in reply(text_stream("a"))


@pytest.mark.parametrize(
    "numbers",
    [{}, {"cached_tokens": 0}, {"tokens": {"input_tokens": 3, "image_tokens": 9}, "x": 1.5}],
)
def test_usage_is_as_it_came(numbers: JSON) -> None:
    """Usage is what the server counted: never guessed, unknown keys kept, empty stays empty."""
    assert reply([message_start(), message_end(usage=numbers)])["usage"] == numbers


def test_usage_that_did_not_come_is_absent() -> None:
    """Without usage in ``message-end``, the reply has none."""
    end = {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}
    assert "usage" not in reply([message_start(), end])


def test_an_error_end() -> None:
    """The reply of a failed generation has the finish reason and what there was before it."""
    end = message_end("ERROR", usage={}, error="no tool fits", error_type="HALLUCINATED")
    assert reply([message_start(), tool_plan_delta("I will"), end]) == {
        "id": "reply-1",
        "message": {"role": "assistant", "tool_plan": "I will"},
        "finish_reason": "ERROR",
        "usage": {},
    }


def test_unknown_keys_are_kept() -> None:
    """Keys from tomorrow in blocks, calls, citations and usage reach the reply."""
    start, call = content_start(), tool_call_start(0, "a")
    start["delta"]["message"]["content"]["x_language"] = "en"
    call["delta"]["message"]["tool_calls"]["x_group"] = 1
    call["delta"]["message"]["tool_calls"]["function"]["x_strict"] = True
    cited = citation(0, 1, "a", x_score=0.5)
    end = message_end(usage={"x_units": 2})
    out = reply([message_start(), start, text_delta("a"), citation_start(cited), call, end])
    assert out["message"]["content"][0]["x_language"] == "en"
    assert out["message"]["tool_calls"][0]["x_group"] == 1
    assert out["message"]["tool_calls"][0]["function"]["x_strict"] is True
    assert out["message"]["citations"] == [cited]
    assert out["usage"] == {"x_units": 2}


@pytest.mark.parametrize(
    "kind",
    [
        "message-start",
        "content-start",
        "content-delta",
        "content-end",
        "tool-plan-delta",
        "tool-call-start",
        "tool-call-delta",
        "tool-call-end",
        "citation-start",
        "citation-end",
        "citation-generation",
        "message-end",
    ],
)
def test_bare_events_are_no_error(kind: str) -> None:
    """An event that has nothing but its type adds nothing and breaks nothing."""
    events = [message_start(), {"type": kind}, text_delta("a")]
    if kind == "message-start":
        events = [{"type": kind}, *events]
    response = fold(events)
    assert response.text == ("" if kind == "message-end" else "a")


@pytest.mark.parametrize("delta", [{}, {"message": {}}, {"message": {"content": None}}], ids=str)
def test_log_probabilities_without_content_are_kept(delta: JSON) -> None:
    """A delta that brings log probabilities and no text adds them, and no block."""
    logprobs = {"token_ids": [7], "text": "a", "logprobs": [-0.5]}
    bare = {"type": "content-delta", "index": 3, "delta": delta, "logprobs": logprobs}
    out = reply([message_start(), text_delta("a"), bare, message_end()])
    assert out["message"]["content"] == [{"type": "text", "text": "a"}]
    assert out["logprobs"] == [logprobs]


def test_arguments_after_the_end_of_their_call_do_not_count() -> None:
    """A fragment that comes late changes no call, and begins none."""
    events = tool_stream(("tides", ['{"pier": 2}']))
    late = [*events[:-1], tool_call_delta("rubbish", 0), events[-1]]
    assert reply(late) == reply(events)


def test_nothing_counts_after_the_end() -> None:
    """What follows ``message-end`` does not change the reply."""
    events = text_stream("High")
    after = [text_delta(" tide"), message_start("other"), message_end("ERROR")]
    assert reply([*events, *after]) == reply(events)


def test_a_fold_knows_whether_the_message_ended() -> None:
    """`ended` becomes true with ``message-end`` and stays so."""
    fold = ResponseFold()
    ended: list[bool] = []
    for event in parsed([*text_stream("a"), {"type": "keep-warm"}]):
        fold.push(event)
        ended.append(fold.ended)
    assert ended == [False, False, False, False, True, True]


# Live --------------------------------------------------------------------------------------------


def test_live_responses_grow() -> None:
    """After each event that adds something, the reply so far; other events bring nothing."""
    events = [*text_stream("High", " tide"), {"type": "keep-warm"}]
    events.insert(3, {"type": "keep-warm"})
    live = run(LiveResponseFold(), parsed(events))
    assert [r.text for r in live] == ["", "", "High", "High tide", "High tide"]
    assert [r.finish_reason for r in live] == [None, None, None, None, "COMPLETE"]


@settings(deadline=None)
@given(streams())
def test_live_values_never_change(sample: Sample) -> None:
    """A response that was kept says at the end what it said when it came; the last is the reply."""
    live = LiveResponseFold()
    kept: list[tuple[ChatResponse, JSON, ChatResponse]] = []
    for event in parsed(sample.events):
        kept.extend(
            (r, r.model_dump(exclude_unset=True), r.model_copy(deep=True)) for r in live.push(event)
        )
    assert list(live.finish()) == []
    assert all(r.model_dump(exclude_unset=True) == said for r, said, _ in kept)
    assert all(r == copied for r, _, copied in kept)
    assert kept[-1][0] == fold(sample.events)


@settings(deadline=None)
@given(streams())
def test_reading_on_the_way_changes_nothing(sample: Sample) -> None:
    """A fold that was read after every event ends as one that never was."""
    watched = ResponseFold()
    for event in parsed(sample.events):
        watched.push(event)
        watched.response()
    assert watched.response() == fold(sample.events)
