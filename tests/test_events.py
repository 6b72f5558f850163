"""Events: what the wire says is what the model says, and what it does not know is kept."""

import copy
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from pydantic import TypeAdapter, ValidationError
from samples import (
    citation,
    citation_start,
    content_start,
    document,
    frames_of,
    message_end,
    message_start,
    streams,
    text_delta,
    thinking_delta,
    tool_call_delta,
    tool_call_start,
    tool_plan_delta,
    usage,
)

from rxcohere import events as module
from rxcohere.errors import EventDecodeError
from rxcohere.events import (
    ChatEvent,
    CitationGeneration,
    CitationStart,
    ContentDelta,
    ContentStart,
    Debug,
    KnownEvent,
    MessageEnd,
    MessageStart,
    ToolCallDelta,
    ToolCallStart,
    ToolPlanDelta,
    UnknownEvent,
    parse_event,
)
from rxcohere.response import ChatResponse

TYPES = {
    "message-start": "MessageStart",
    "content-start": "ContentStart",
    "content-delta": "ContentDelta",
    "content-end": "ContentEnd",
    "tool-plan-delta": "ToolPlanDelta",
    "tool-call-start": "ToolCallStart",
    "tool-call-delta": "ToolCallDelta",
    "tool-call-end": "ToolCallEnd",
    "citation-start": "CitationStart",
    "citation-end": "CitationEnd",
    "citation-generation": "CitationGeneration",
    "message-end": "MessageEnd",
    "debug": "Debug",
}

INDEXED = set(TYPES) - {
    "message-start",
    "tool-plan-delta",
    "citation-generation",
    "message-end",
    "debug",
}

WRONG = [
    b"",
    b"not json",
    b"[DONE]",
    b"null",
    b"[]",
    b'"text"',
    b"{}",
    b'{"index":0}',
    b'{"type":null}',
    b'{"type":7}',
    b'{"type":["content-delta"]}',
    b'{"type":"content-delta"} {}',
    b'{"type":"content-delta"',
    b'{"type":"content-delta","index":"first"}',
    b'{"type":"content-delta","index":1.5}',
    b'{"type":"content-delta","delta":[]}',
    b'{"type":"content-delta","delta":{"message":"text"}}',
    b'{"type":"content-delta","delta":{"message":{"content":[]}}}',
    b'{"type":"content-delta","delta":{"message":{"content":{"text":7}}}}',
    b'{"type":"content-delta","logprobs":[]}',
    b'{"type":"tool-plan-delta","delta":{"message":{"tool_plan":{}}}}',
    b'{"type":"tool-call-start","delta":{"message":{"tool_calls":"call"}}}',
    b'{"type":"tool-call-delta","delta":{"message":{"tool_calls":{"function":"f"}}}}',
    b'{"type":"citation-start","delta":{"message":{"citations":{"start":"a"}}}}',
    b'{"type":"citation-generation","citations":{}}',
    b'{"type":"message-start","id":7}',
    b'{"type":"message-end","delta":{"finish_reason":7}}',
    b'{"type":"message-end","delta":{"usage":"much"}}',
    b'{"type":"debug","prompt":7}',
    b'\xff{"type":"debug"}',
]


def test_every_wire_type_has_its_class() -> None:
    """The union holds one class for each wire type, named as the type is in CamelCase."""
    classes = {get_args(c.model_fields["type"].annotation)[0]: c for c in get_args(KnownEvent)}
    assert {kind: c.__name__ for kind, c in classes.items()} == TYPES
    for kind, name in TYPES.items():
        assert name == "".join(part.capitalize() for part in kind.split("-"))
        assert getattr(module, name) is classes[kind]


def test_recorded_streams_round_trip(recorded: Path) -> None:
    """What the API really sent is read as known events and written back key for key."""
    for frame in frames_of(recorded):
        event = parse_event(frame)
        assert not isinstance(event, UnknownEvent)
        assert event.model_dump(exclude_unset=True) == json.loads(frame)
        assert json.loads(event.model_dump_json(exclude_unset=True)) == json.loads(frame)
        assert parse_event(frame.encode()) == parse_event(json.loads(frame)) == event


@settings(deadline=None)
@given(streams())
def test_random_streams_round_trip(sample: Any) -> None:
    """Any legal event is written back as it came, from text and from objects."""
    for wire in sample.events:
        event = parse_event(json.dumps(wire))
        assert event.model_dump(exclude_unset=True) == wire
        assert parse_event(wire) == event
        assert isinstance(event, UnknownEvent) == (wire["type"] not in TYPES)


@pytest.mark.parametrize("kind", TYPES)
def test_only_the_type_is_required(kind: str) -> None:
    """An event with nothing but its type is read, and its short properties read as nothing."""
    event: Any = parse_event({"type": kind})
    assert type(event).__name__ == TYPES[kind]
    assert event.model_dump(exclude_unset=True) == {"type": kind}
    for name in ("text", "thinking", "arguments"):
        assert getattr(event, name, "") == ""
    for name in (
        "tool_call",
        "citation",
        "finish_reason",
        "usage",
        "error",
        "error_type",
        "content",
    ):
        assert getattr(event, name, None) is None


@pytest.mark.parametrize("kind", sorted(INDEXED))
def test_an_absent_index_reads_as_zero(kind: str) -> None:
    """Streams without any index exist; the events are those of index 0, and written without."""
    event: Any = parse_event({"type": kind})
    assert event.index == 0
    assert "index" not in event.model_dump(exclude_unset=True)
    assert event == parse_event({"type": kind, "index": 0})


WITH_DELTA = set(TYPES) - {
    "content-end",
    "tool-call-end",
    "citation-end",
    "citation-generation",
    "debug",
}


@pytest.mark.parametrize("kind", sorted(WITH_DELTA))
@pytest.mark.parametrize("delta", [None, {"message": None}, {"message": {}}])
def test_null_reads_as_absent(kind: str, delta: Any) -> None:
    """A null delta, and a null message in it, are no error and read as nothing."""
    event: Any = parse_event({"type": kind, "delta": delta})
    for name in ("text", "thinking", "arguments"):
        assert getattr(event, name, "") == ""
    for name in ("tool_call", "citation", "finish_reason", "usage", "error", "content"):
        assert getattr(event, name, None) is None


@pytest.mark.parametrize("kind", TYPES)
def test_unknown_keys_are_kept(kind: str) -> None:
    """Keys that the API adds tomorrow are kept at the top, and can be read as attributes."""
    wire = {"type": kind, "x_new": {"a": [1, None]}, "response": 1, "raw": 2}
    event: Any = parse_event(wire)
    assert event.model_dump(exclude_unset=True) == wire
    assert event.x_new == {"a": [1, None]}


@pytest.mark.parametrize(
    "wire",
    [
        {"type": "content-delta", "delta": {"x": 1, "message": {"y": 2, "content": {"z": 3}}}},
        {"type": "tool-call-delta", "delta": {"message": {"tool_calls": {"function": {"z": 3}}}}},
        {"type": "citation-start", "delta": {"message": {"citations": {"sources": [{"z": 3}]}}}},
        {"type": "message-start", "delta": {"message": {"role": "assistant", "language": "en"}}},
        {"type": "message-end", "delta": {"z": 3, "usage": {"tokens": {"image_tokens": 9}}}},
        {"type": "content-delta", "logprobs": {"token_ids": [1], "top": []}},
    ],
)
def test_unknown_keys_are_kept_deep_down(wire: dict[str, Any]) -> None:
    """Unknown keys are kept at every level of a delta."""
    assert parse_event(wire).model_dump(exclude_unset=True) == wire


def test_unknown_type() -> None:
    """An event of a type that is not known keeps everything, as attributes and as `raw`."""
    wire = {"type": "progress-report", "index": 3, "delta": {"share": 0.5}}
    event = parse_event(wire)
    assert isinstance(event, UnknownEvent)
    assert event.raw == wire
    assert event.model_dump() == wire
    assert event.model_extra == {"index": 3, "delta": {"share": 0.5}}


@pytest.mark.parametrize("kind", ["", "Content-Delta", "content_delta", "text-generation"])
def test_types_are_compared_exactly(kind: str) -> None:
    """A type that only resembles a known one is unknown, not guessed."""
    assert isinstance(parse_event({"type": kind}), UnknownEvent)


@pytest.mark.parametrize("data", WRONG)
def test_wrong_shapes(data: bytes) -> None:
    """What is no event, or not of its type's shape, is an error that holds it whole."""
    for given_as in (data, data.decode("utf-8", "surrogateescape")):
        if isinstance(given_as, str) and data.startswith(b"\xff"):
            continue
        with pytest.raises(EventDecodeError) as caught:
            parse_event(given_as)
        assert caught.value.raw == data
        assert isinstance(caught.value.__cause__, ValidationError)


def test_a_known_type_of_a_wrong_shape_is_not_an_unknown_event() -> None:
    """A broken event of a known type is refused, not let through as an unknown one."""
    with pytest.raises(EventDecodeError, match=r"content-delta\.delta"):
        parse_event({"type": "content-delta", "delta": "text"})
    with pytest.raises(ValidationError):
        UnknownEvent(type="content-delta")


def test_a_decode_error_says_where() -> None:
    """The error names the path of the wrong value and shows how the event begins."""
    data = b'{"type":"content-delta","delta":{"message":{"content":{"text":7}}}}'
    with pytest.raises(EventDecodeError, match=r"delta\.message\.content\.text") as caught:
        parse_event(data)
    assert '{"type":"content-delta"' in str(caught.value)


def test_a_decode_error_of_a_large_event_is_short() -> None:
    """The error's text shows only the beginning, while `raw` has all of it."""
    data = b'{"type":"debug","prompt":[' + b"1," * 50_000 + b"1]}"
    with pytest.raises(EventDecodeError) as caught:
        parse_event(data)
    assert len(str(caught.value)) < 500
    assert caught.value.raw == data


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    """Escaped or raw, it is no Unicode; like invalid UTF-8 it does not end a stream."""
    for data in (b'{"type":"debug","prompt":"a\\ud83d!"}', '{"type":"debug","prompt":"a\ud83d!"}'):
        event = parse_event(data)
        assert isinstance(event, Debug)
        assert event.prompt == "a\ufffd!"  # one, or citations after it would be off


def test_any_mapping_is_read() -> None:
    """An object may be any mapping, not only a dict, and stays as it was."""
    wire = text_delta("a", 1)
    before = copy.deepcopy(wire)
    proxy: Mapping[str, Any] = MappingProxyType(wire)
    assert parse_event(proxy) == parse_event(wire)
    assert wire == before


def test_type_adapter() -> None:
    """`ChatEvent` works with pydantic: reading, writing, and passing events through."""
    adapter: TypeAdapter[Any] = TypeAdapter(list[ChatEvent])
    wire = [message_start(), text_delta("a"), {"type": "later", "x": 1}, message_end()]
    events = adapter.validate_python(wire)
    kinds = [MessageStart, ContentDelta, UnknownEvent, MessageEnd]
    assert [type(event) for event in events] == kinds
    assert adapter.dump_python(events, exclude_unset=True) == wire
    assert adapter.validate_json(adapter.dump_json(events, exclude_unset=True)) == events
    assert adapter.validate_python(events) == events
    with pytest.raises(ValidationError):
        adapter.validate_python([{"type": "content-delta", "index": "first"}])


@pytest.mark.parametrize("kind", [*TYPES, "progress-report"])
def test_events_are_frozen(kind: str) -> None:
    """An event that several subscribers hold cannot be changed by one of them."""
    event: Any = parse_event({"type": kind, "index": 1})
    with pytest.raises(ValidationError):
        event.type = "other"
    with pytest.raises(ValidationError):
        event.index = 2
    with pytest.raises(ValidationError):
        event.new = 2


def test_text_and_thinking_of_content() -> None:
    """A delta's properties tell text from thinking by the key."""
    text, thinking = parse_event(text_delta("a")), parse_event(thinking_delta("b"))
    assert isinstance(text, ContentDelta)
    assert isinstance(thinking, ContentDelta)
    assert (text.text, text.thinking) == ("a", "")
    assert (thinking.text, thinking.thinking) == ("", "b")
    start = parse_event(content_start(1, "thinking"))
    assert isinstance(start, ContentStart)
    assert start.content is not None
    assert (start.index, start.content.type, start.content.thinking) == (1, "thinking", "")


def test_wire_paths_work() -> None:
    """Attribute paths are the wire's, as with the SDK's events."""
    event: Any = parse_event(text_delta("a"))
    assert event.delta.message.content.text == "a"
    event = parse_event(tool_call_start(0, "look_up"))
    assert event.delta.message.tool_calls.function.name == "look_up"
    event = parse_event(message_start("r"))
    assert (event.id, event.delta.message.content) == ("r", [])


def test_short_properties_of_tool_events() -> None:
    """Plan, call and arguments are one attribute away."""
    plan = parse_event(tool_plan_delta("I will"))
    start = parse_event(tool_call_start(2, "look_up"))
    delta = parse_event(tool_call_delta('{"a', 2))
    assert isinstance(plan, ToolPlanDelta)
    assert isinstance(start, ToolCallStart)
    assert isinstance(delta, ToolCallDelta)
    assert plan.text == "I will"
    assert start.tool_call is not None
    assert (start.index, start.tool_call.id, start.tool_call.name) == (2, "look_up_2", "look_up")
    assert (delta.index, delta.arguments) == (2, '{"a')


def test_short_properties_of_citations() -> None:
    """Both forms of citation give whole citations."""
    wire = citation(0, 4, "Pier", document("doc:0"))
    start = parse_event(citation_start(wire, 3))
    older = parse_event({"type": "citation-generation", "citations": [wire, wire]})
    assert isinstance(start, CitationStart)
    assert isinstance(older, CitationGeneration)
    assert start.citation is not None
    assert start.citation.model_dump(exclude_unset=True) == wire
    assert older.citations == [start.citation, start.citation]


def test_short_properties_of_the_end() -> None:
    """Finish reason, usage and error are one attribute away."""
    end = parse_event(message_end("ERROR", error="no tool fits", error_type="HALLUCINATED"))
    assert isinstance(end, MessageEnd)
    assert (end.finish_reason, end.error) == ("ERROR", "no tool fits")
    assert end.error_type == "HALLUCINATED"
    assert end.usage is not None
    assert end.usage.model_dump(exclude_unset=True) == usage()


def test_debug() -> None:
    """The prompt of a debug event can be read."""
    event = parse_event({"type": "debug", "prompt": "<|START|>"})
    assert isinstance(event, Debug)
    assert event.prompt == "<|START|>"


# MessageEnd.response -----------------------------------------------------------------------------


def end_event() -> MessageEnd:
    event = parse_event(message_end())
    assert isinstance(event, MessageEnd)
    return event


def test_a_parsed_end_has_no_response() -> None:
    """An event that was only parsed carries no response, and asking changes nothing."""
    plain, asked = end_event(), end_event()
    assert asked.response is None
    assert asked == plain
    assert asked.model_dump() == plain.model_dump()


def test_the_response_is_no_part_of_the_json() -> None:
    """An end with its response writes, shows its fields and compares as it does without."""
    plain = end_event()
    end = plain.with_response(ChatResponse(id="r"))
    assert end.response == ChatResponse(id="r")
    assert plain.response is None
    assert end == plain
    assert plain == end
    assert end == end_event().with_response(ChatResponse(id="other"))
    assert end.model_dump() == plain.model_dump()
    assert end.model_dump(exclude_unset=True) == message_end()
    assert json.loads(end.model_dump_json(exclude_unset=True)) == message_end()
    assert "response" not in MessageEnd.model_fields


def test_the_response_travels_with_the_event() -> None:
    """Copying and pickling keep the response."""
    end = end_event().with_response(ChatResponse(id="r"))
    again: Any
    for again in (
        copy.copy(end),
        copy.deepcopy(end),
        end.model_copy(),
        end.model_copy(deep=True),
        pickle.loads(pickle.dumps(end)),
    ):
        assert again == end
        assert again.response == ChatResponse(id="r")


def test_with_response_replaces_one() -> None:
    """A second response takes the place of the first, on a new event."""
    first = end_event().with_response(ChatResponse(id="1"))
    second = first.with_response(ChatResponse(id="2"))
    assert first.response == ChatResponse(id="1")
    assert second.response == ChatResponse(id="2")
    assert second.with_response(None).response is None


def test_the_response_survives_a_type_adapter() -> None:
    """Passing an end through validation as an event does not drop its response."""
    adapter: TypeAdapter[Any] = TypeAdapter(ChatEvent)
    end = end_event().with_response(ChatResponse(id="r"))
    assert adapter.validate_python(end).response == ChatResponse(id="r")
