"""The reply's models: tolerant in reading, exact in writing, and never changed."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from samples import STREAMS, citation, document, usage

from rxcohere.errors import ToolArgumentsError
from rxcohere.response import (
    AssistantMessage,
    ChatResponse,
    Citation,
    TextContent,
    ThinkingContent,
    ToolCall,
    ToolCallFunction,
    UnknownContent,
    Usage,
)

REPLY: dict[str, Any] = {
    "id": "reply-1",
    "message": {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "The pier 😀…"},
            {"type": "text", "text": "Pier two"},
            {"type": "text", "text": ", at noon."},
        ],
        "tool_calls": [
            {
                "id": "look_up_0",
                "type": "function",
                "function": {"name": "look_up", "arguments": '{"pier":2}'},
            }
        ],
        "citations": [
            citation(0, 8, "Pier two", document("doc:0", title="Tides"), content_index=1)
        ],
    },
    "finish_reason": "COMPLETE",
    "usage": {**usage(), "cached_tokens": 16},
    "logprobs": [{"token_ids": [1, 2], "text": "Pier", "logprobs": [-0.5, -1]}],
}


def call(arguments: str | None) -> ToolCall:
    return ToolCall(
        id="1", type="function", function=ToolCallFunction(name="f", arguments=arguments)
    )


def nonstream_replies() -> list[Any]:
    paths = sorted(STREAMS.glob("nonstream-*.json"))
    if paths:
        return [pytest.param(path, id=path.stem) for path in paths]
    reason = "the folder of recorded streams, shared/streams, is not here"
    return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def test_round_trip() -> None:
    """A dump of what was set is the JSON that was read."""
    assert ChatResponse.model_validate(REPLY).model_dump(exclude_unset=True) == REPLY
    text = ChatResponse.model_validate_json(json.dumps(REPLY)).model_dump_json(exclude_unset=True)
    assert json.loads(text) == REPLY


@pytest.mark.parametrize("path", nonstream_replies())
def test_recorded_replies_round_trip(path: Path) -> None:
    """Replies that the API really sent are written back key for key."""
    wire = json.loads(path.read_text("utf-8"))
    reply = ChatResponse.model_validate(wire)
    assert reply.model_dump(exclude_unset=True) == wire
    assert not any(isinstance(block, UnknownContent) for block in reply.message.content or [])


@pytest.mark.parametrize("path", nonstream_replies())
def test_recorded_replies_are_normal_already(path: Path) -> None:
    """Arguments of a recorded non-streaming reply are in the form that `normalized` writes."""
    reply = ChatResponse.model_validate_json(path.read_bytes())
    assert reply.normalized() == reply


def test_unknown_keys_are_kept_at_every_level() -> None:
    """Keys that the API adds tomorrow are read, kept and written."""
    wire = {
        "id": "r",
        "x_top": {"a": [1]},
        "message": {
            "role": "assistant",
            "x_message": 1,
            "content": [{"type": "text", "text": "t", "x_block": True}],
            "citations": [{"start": 0, "x_cited": 0.5, "sources": [{"type": "web", "x_url": "u"}]}],
            "tool_calls": [{"id": "1", "x_call": 1, "function": {"name": "f", "x_function": 2}}],
        },
        "usage": {"x_usage": 1, "tokens": {"image_tokens": 9}, "billed_units": {"x_unit": 1}},
        "logprobs": [{"token_ids": [1], "x_top": []}],
    }
    assert ChatResponse.model_validate(wire).model_dump(exclude_unset=True) == wire


def test_nothing_is_required() -> None:
    """An empty object is a reply, of which nothing is known."""
    reply = ChatResponse.model_validate({})
    assert (reply.text, reply.thinking, reply.tool_calls, reply.citations) == ("", "", [], [])
    assert reply.finish_reason is None
    assert reply.usage is None
    assert reply.model_dump(exclude_unset=True) == {}


def test_a_content_block_of_a_new_type_is_kept() -> None:
    """A block of an unknown type is an `UnknownContent` with all its keys."""
    wire = {"content": [{"type": "audio", "audio": {"id": 1}}, {"type": "text", "text": "a"}]}
    message = AssistantMessage.model_validate(wire)
    assert [type(block) for block in message.content or []] == [UnknownContent, TextContent]
    assert message.model_dump(exclude_unset=True) == wire


@pytest.mark.parametrize(
    "block", [{"type": "text", "text": 5}, {"type": "thinking", "thinking": []}]
)
def test_a_known_block_of_a_wrong_shape_is_refused(block: object) -> None:
    """A block of a known type and a wrong shape does not pass as an unknown one."""
    with pytest.raises(ValidationError):
        AssistantMessage.model_validate({"content": [block]})


def test_a_block_may_lack_its_text() -> None:
    """Only the type of a block is required."""
    message = AssistantMessage.model_validate({"content": [{"type": "text"}, {"type": "thinking"}]})
    assert message.content == [TextContent(type="text"), ThinkingContent(type="thinking")]


def test_models_are_frozen() -> None:
    """A reply cannot be changed under somebody else who holds it."""
    reply: Any = ChatResponse.model_validate(REPLY)
    with pytest.raises(ValidationError):
        reply.id = "other"
    with pytest.raises(ValidationError):
        reply.message.role = "user"


def test_numbers_stay_as_they_came() -> None:
    """Whole numbers stay whole, others stay floats, and zero is not nothing."""
    wire = {"billed_units": {"input_tokens": 3, "output_tokens": 2.5}, "cached_tokens": 0}
    dumped = Usage.model_validate(wire).model_dump(exclude_unset=True)
    assert dumped == wire
    assert type(dumped["billed_units"]["input_tokens"]) is int
    assert type(dumped["billed_units"]["output_tokens"]) is float


def test_text_and_thinking_join_their_own_blocks() -> None:
    """The shortcuts join the blocks of one kind, and only those."""
    reply = ChatResponse.model_validate(REPLY)
    assert reply.text == "Pier two, at noon."
    assert reply.thinking == "The pier 😀…"
    assert [c.name for c in reply.tool_calls] == ["look_up"]
    assert [c.text for c in reply.citations] == ["Pier two"]


def test_shortcut_lists_are_the_readers_own() -> None:
    """Changing a list that a shortcut gave does not change the reply."""
    reply = ChatResponse.model_validate(REPLY)
    reply.tool_calls.clear()
    reply.citations.clear()
    assert len(reply.tool_calls) == len(reply.citations) == 1


def test_copies_are_equal() -> None:
    """A reply survives pickling and deep copying, unset fields included."""
    reply = ChatResponse.model_validate(REPLY)
    for again in (pickle.loads(pickle.dumps(reply)), copy.deepcopy(reply)):
        assert again == reply
        assert again.model_dump(exclude_unset=True) == REPLY


# Tool calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ('{\n    "b": 1,\n    "a": [null, "é😀"]\n}', {"b": 1, "a": [None, "é😀"]}),
        ("{}", {}),
        ("", {}),
        (" \n", {}),
        ("null", {}),
        (None, {}),
    ],
)
def test_parsed_arguments(arguments: str | None, value: object) -> None:
    """Arguments are read as an object; none at all and null are an empty one."""
    assert call(arguments).parsed == value


@pytest.mark.parametrize(
    "arguments", ['{"a": 1', "{'a': 1}", "[1]", '"text"', "7", "{} {}", "[" * 9999]
)
def test_arguments_that_are_no_object(arguments: str) -> None:
    """Arguments that are not one JSON object raise an error that holds them and names the tool."""
    with pytest.raises(ToolArgumentsError, match="'f'") as caught:
        _ = call(arguments).parsed
    assert caught.value.raw == arguments


@pytest.mark.parametrize(
    ("arguments", "normal"),
    [
        ('{\n    "name": "Erik",\n    "age": 27\n}', '{"age":27,"name":"Erik"}'),
        ('{"x": 2, "y": {"b": 1.50, "a": "\\u00e9"}}', '{"x":2,"y":{"a":"é","b":1.5}}'),
        ("", "{}"),
        (None, "{}"),
        ('{"cut": "of', '{"cut": "of'),
        ("[1, 2]", "[1, 2]"),
    ],
)
def test_normalized_arguments(arguments: str | None, normal: str) -> None:
    """Normal arguments are compact with sorted keys; what is no object stays as it is."""
    assert call(arguments).normalized().arguments == normal


def test_a_call_without_a_function() -> None:
    """The shortcuts of a call that has nothing read as empty, and its normal form has ``{}``."""
    empty = ToolCall()
    assert (empty.name, empty.arguments, empty.parsed) == ("", "", {})
    assert empty.normalized().arguments == "{}"


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    ),
    st.sampled_from([None, 2]),
)
def test_normal_form_keeps_the_value(value: dict[str, Any], indent: int | None) -> None:
    """However arguments are spelt, the normal form means the same, and is its own normal form."""
    streamed = call(json.dumps(value, indent=indent))
    normal = streamed.normalized()
    assert normal.parsed == streamed.parsed == value
    assert normal.normalized() == normal
    assert normal.id == streamed.id


def test_normalizing_leaves_the_reply_alone() -> None:
    """`normalized` gives a new reply, keeps unknown keys, and the first stays as it was."""
    function = {"name": "f", "arguments": '{"b": 1, "a": 2}', "x_function": 1}
    wire = {"id": "r", "x_top": 1, "message": {"tool_calls": [{"function": function, "x_call": 2}]}}
    reply = ChatResponse.model_validate(wire)
    before = copy.deepcopy(reply)
    normal = reply.normalized().model_dump(exclude_unset=True)
    assert reply == before
    new_call = {"function": {**function, "arguments": '{"a":2,"b":1}'}, "x_call": 2}
    assert normal == {"id": "r", "x_top": 1, "message": {"tool_calls": [new_call]}}


def test_a_reply_without_calls_is_normal() -> None:
    """Where there is nothing to normalize, the reply is as it was."""
    reply = ChatResponse.model_validate({"id": "r", "message": {"role": "assistant"}})
    assert reply.normalized().model_dump(exclude_unset=True) == reply.model_dump(exclude_unset=True)


# Offsets -----------------------------------------------------------------------------------------


def test_utf16_range_counts_surrogate_pairs() -> None:
    """A character beyond U+FFFF counts two, before the citation and inside it."""
    text = "hi 😀 é foo🌈!"
    start = text.index("foo🌈")
    assert Citation(start=start, end=start + 4).utf16_range(text) == (start + 1, start + 6)
    assert Citation(start=0, end=2).utf16_range(text) == (0, 2)


@settings(deadline=None)
@given(
    st.text("aé\u0301😀🌈\ud800\n"),
    st.text("aé😀\udc00", min_size=1),
    st.text("b🌈"),
    st.booleans(),
)
def test_utf16_range_cuts_what_python_cuts(head: str, cited: str, tail: str, cut: bool) -> None:
    """Cutting UTF-16 code units by the range gives the text that code points give."""
    text = head + cited + ("" if cut else tail)
    start, end = Citation(start=len(head), end=len(head) + len(cited)).utf16_range(text)
    units = text.encode("utf-16-le", "surrogatepass")
    assert units[2 * start : 2 * end] == cited.encode("utf-16-le", "surrogatepass")


@pytest.mark.parametrize("lacking", [Citation(), Citation(start=1), Citation(end=1)])
def test_utf16_range_needs_offsets(lacking: Citation) -> None:
    """A citation without offsets has no range, and says so."""
    with pytest.raises(ValueError, match="offsets"):
        lacking.utf16_range("text")
