"""The request: what may be given, what is sent of it, and what is refused at the call."""

import copy
import json
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_type_hints

import pytest
from samples import parsed, run, text_stream, tool_stream

from rxcohere.errors import ConfigurationError
from rxcohere.folds import ResponseFold
from rxcohere.request import (
    ChatParameters,
    ChatRequest,
    CitationOptions,
    Document,
    DocumentContent,
    ImageContent,
    ImageUrl,
    ResponseFormat,
    SystemMessage,
    Thinking,
    Tool,
    ToolFunction,
    ToolMessage,
    UserMessage,
)
from rxcohere.response import (
    AssistantMessage,
    Citation,
    TextContent,
    ThinkingContent,
    ToolCall,
    ToolCallFunction,
)

HELLO: dict[str, Any] = {"role": "user", "content": "Hello"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"pier": {"type": "integer", "description": "Its number 😀"}},
    "required": ["pier"],
}
CALL: dict[str, Any] = {
    "id": "tides_1",
    "type": "function",
    "function": {"name": "tides", "arguments": '{"pier":2}'},
}
CITED: dict[str, Any] = {
    "start": 0,
    "end": 4,
    "text": "High",
    "sources": [{"type": "document", "id": "doc:0", "document": {"id": "doc:0", "title": "T"}}],
    "content_index": 0,
    "type": "TEXT_CONTENT",
}


def body(parameters: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    text = ChatRequest.of({"model": "m", "messages": [HELLO], **parameters}).body(True, **more)
    sent: dict[str, Any] = json.loads(text)
    return sent


def refusal(parameters: Mapping[str, Any]) -> str:
    """What the error says, wherever on the way to the bytes it is raised."""
    with pytest.raises(ConfigurationError) as caught:
        ChatRequest.of({"model": "m", "messages": [HELLO], **parameters}).body(True)
    return str(caught.value)


PARAMETERS: list[tuple[str, Any, Any]] = [
    # name, as JSON, as our models (or another type that says the same)
    ("model", "command-a-03-2025", "command-a-03-2025"),
    (
        "tools",
        [
            {
                "type": "function",
                "function": {"name": "tides", "description": "When", "parameters": SCHEMA},
            },
            {"type": "function", "function": {"name": "now"}},
        ],
        (
            Tool(function=ToolFunction(name="tides", description="When", parameters=SCHEMA)),
            Tool(function=ToolFunction(name="now")),
        ),
    ),
    ("strict_tools", True, True),
    (
        "documents",
        ["A pier.", {"data": {"title": "T", "depth": 7.5}, "id": "d1"}, {"data": "plain"}],
        ("A pier.", Document(data={"title": "T", "depth": 7.5}, id="d1"), Document(data="plain")),
    ),
    ("citation_options", {"mode": "fast"}, CitationOptions(mode="fast")),
    (
        "response_format",
        {"type": "json_object", "json_schema": SCHEMA},
        ResponseFormat(type="json_object", json_schema=SCHEMA),
    ),
    ("safety_mode", "OFF", "OFF"),
    ("max_tokens", 1, 1),
    ("stop_sequences", ["\n", "END"], ("\n", "END")),
    ("temperature", 0, 0.0),
    ("temperature", 0.3, 0.3),
    ("seed", 2**64 - 1, 2**64 - 1),
    ("frequency_penalty", 0.5, 0.5),
    ("presence_penalty", 1, 1.0),
    ("k", 0, 0),
    ("p", 0.75, 0.75),
    ("logprobs", False, False),
    ("tool_choice", "REQUIRED", "REQUIRED"),
    (
        "thinking",
        {"type": "enabled", "token_budget": 500},
        Thinking(type="enabled", token_budget=500),
    ),
    ("thinking", {"token_budget": 500}, Thinking(token_budget=500)),
    ("priority", 999, 999),
]

MESSAGES: list[tuple[dict[str, Any], Any]] = [
    ({"role": "system", "content": "Be brief."}, SystemMessage(content="Be brief.")),
    (
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        SystemMessage(content=[TextContent(type="text", text="Be brief.")]),
    ),
    ({"role": "user", "content": ""}, UserMessage(content="")),
    (
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://a.b/c.png", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
            ],
        },
        UserMessage(
            content=[
                TextContent(type="text", text="What is this?"),
                ImageContent(image_url=ImageUrl(url="https://a.b/c.png", detail="low")),
                ImageContent(image_url=ImageUrl(url="data:image/png;base64,AA==")),
            ]
        ),
    ),
    (
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm"},
                {"type": "text", "text": "High tide"},
            ],
            "tool_plan": "I will look.",
            "tool_calls": [CALL],
            "citations": [CITED],
        },
        AssistantMessage(
            role="assistant",
            content=[
                ThinkingContent(type="thinking", thinking="Hm"),
                TextContent(type="text", text="High tide"),
            ],
            tool_plan="I will look.",
            tool_calls=[
                ToolCall(
                    id="tides_1",
                    type="function",
                    function=ToolCallFunction(name="tides", arguments='{"pier":2}'),
                )
            ],
            citations=[Citation.model_validate(CITED)],
        ),
    ),
    (
        {"role": "tool", "tool_call_id": "tides_1", "content": "noon"},
        ToolMessage(tool_call_id="tides_1", content="noon"),
    ),
    (
        {
            "role": "tool",
            "tool_call_id": "tides_1",
            "content": [
                {"type": "text", "text": "noon"},
                {"type": "document", "document": {"data": {"tide": "high"}, "id": "1"}},
                {"type": "document", "document": {"data": '{"tide": "low"}'}},
            ],
        },
        ToolMessage(
            tool_call_id="tides_1",
            content=[
                TextContent(type="text", text="noon"),
                DocumentContent(document=Document(data={"tide": "high"}, id="1")),
                DocumentContent(document=Document(data='{"tide": "low"}')),
            ],
        ),
    ),
]


def test_the_table_has_every_parameter() -> None:
    """The tests below try every parameter that the client takes."""
    tried = {name for name, _, _ in PARAMETERS} | {"messages"}
    assert tried == set(get_type_hints(ChatParameters)) - {"request_options"}
    assert tried == set(ChatRequest.model_fields)


@pytest.mark.parametrize(("name", "wire", "model"), PARAMETERS)
def test_parameters_are_sent_as_given(name: str, wire: Any, model: Any) -> None:
    """Each parameter, as JSON or as our models, is sent as given and nothing is added to it."""
    expected = {"stream": True, "model": "m", "messages": [HELLO], name: wire}
    assert body({name: wire}) == expected
    assert body({name: model}) == expected


def test_all_parameters_together() -> None:
    """All parameters at once are all sent."""
    together = {name: wire for name, wire, _ in PARAMETERS}
    assert body(together) == {"stream": True, "messages": [HELLO], **together}


@pytest.mark.parametrize(("wire", "model"), MESSAGES)
def test_messages_are_sent_as_given(wire: dict[str, Any], model: Any) -> None:
    """Each kind of message, as JSON or as our model, is sent key for key."""
    assert body({"messages": [wire, HELLO]})["messages"] == [wire, HELLO]
    assert body({"messages": (model, HELLO)})["messages"] == [wire, HELLO]


@pytest.mark.parametrize("content", [None, "Plain text.", []])
def test_assistant_content_may_be_null_or_text(content: Any) -> None:
    """An assistant's content that is null, text or empty is sent as such."""
    message = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    assert body({"messages": [message]})["messages"] == [message]


def test_models_and_dicts_mix_at_any_depth() -> None:
    """A model inside a dict inside a tuple is written as JSON."""
    parameters = {
        "messages": [{"role": "user", "content": (TextContent(type="text", text="a"),)}],
        "tools": ({"type": "function", "function": ToolFunction(name="f")},),
        "documents": [{"data": {"nested": (TextContent(type="text", text="b"), 1)}}],
    }
    sent = body(parameters)
    assert sent["messages"] == [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    assert sent["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert sent["documents"] == [{"data": {"nested": [{"type": "text", "text": "b"}, 1]}}]


def test_mappings_and_sequences_of_other_types() -> None:
    """Any mapping and any sequence will do, not only dict and list."""
    frozen = MappingProxyType({"role": "user", "content": "Hello"})
    assert body({"messages": (frozen,)})["messages"] == [HELLO]
    assert body({"messages": deque([frozen])})["messages"] == [HELLO]


def test_unknown_keys_inside_are_passed_on() -> None:
    """Below the top level, keys that we do not know are sent."""
    parameters = {
        "messages": [{"role": "user", "content": "a", "x_cache": True}],
        "tools": [{"type": "function", "function": {"name": "f", "x_strict": True}, "x_kind": 1}],
        "documents": [{"data": {}, "x_rank": 2}],
        "thinking": {"type": "enabled", "x_effort": "high"},
    }
    assert {name: body(parameters)[name] for name in parameters} == parameters


@pytest.mark.parametrize("name", sorted(set(ChatRequest.model_fields) - {"model", "messages"}))
def test_none_is_left_out(name: str) -> None:
    """A parameter that is None is not sent, not even as null."""
    assert body({name: None}) == body({})


@pytest.mark.parametrize("name", ["model", "messages"])
def test_required_parameters(name: str) -> None:
    """Without model or messages, or with None, there is no request."""
    given = {"model": "m", "messages": [HELLO]}
    with pytest.raises(ConfigurationError, match=rf"^{name}\b"):
        ChatRequest.of({key: value for key, value in given.items() if key != name})
    with pytest.raises(ConfigurationError, match=rf"^{name}\b"):
        ChatRequest.of({**given, name: None})


@pytest.mark.parametrize("stream", [True, False])
def test_stream_is_said_either_way(stream: bool) -> None:
    """The body says whether events are asked for."""
    request = ChatRequest.of({"model": "m", "messages": [HELLO]})
    assert json.loads(request.body(stream))["stream"] is stream


def test_text_is_sent_as_utf_8() -> None:
    """Text is not escaped into ASCII: it arrives as UTF-8, characters beyond U+FFFF too."""
    request = ChatRequest.of({"model": "m", "messages": [{"role": "user", "content": "é😀\u2028"}]})
    assert "é😀\u2028".encode() in request.body(True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("k", 501), ("p", 7.0), ("temperature", -1.0), ("max_tokens", 0), ("safety_mode", "LOOSE")],
)
def test_limits_are_the_servers_to_judge(name: str, value: Any) -> None:
    """A value beyond today's limits or names is sent: they are the server's."""
    assert body({name: value})[name] == value


# What is refused ---------------------------------------------------------------------------------

FUNCTION = {"type": "function", "function": {"name": "f"}}

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    # what is wrong, the parameters, the beginning of the error: where it is
    ("wrong role", {"messages": [HELLO, {"role": "bot", "content": "a"}]}, "messages[1].role"),
    ("no role", {"messages": [{"content": "a"}]}, "messages[0].role"),
    ("role of a wrong type", {"messages": [{"role": 5, "content": "a"}]}, "messages[0].role"),
    ("messages as text", {"messages": "Hello"}, "messages"),
    ("one message, no list", {"messages": HELLO}, "messages"),
    ("messages of text", {"messages": ["Hello"]}, "messages[0]"),
    ("message is None", {"messages": [None]}, "messages[0]"),
    ("no content", {"messages": [HELLO, {"role": "user"}]}, "messages[1].content"),
    ("content of a number", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ("null content", {"messages": [{"role": "system", "content": None}]}, "messages[0].content"),
    (
        "unknown block",
        {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
        "messages[0].content[0].type",
    ),
    (
        "block without a type",
        {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
        "messages[0].content[0].type",
    ),
    (
        "image in a system message",
        {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
    ),
    (
        "block of a wrong shape",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
        "messages[0].content[0].text",
    ),
    (
        "image without a URL",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    (
        "image that is text",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}]},
        "messages[0].content[0].image_url",
    ),
    (
        "tool message without its call",
        {"messages": [{"role": "tool", "content": "a"}]},
        "messages[0].tool_call_id",
    ),
    (
        "tool document without data",
        {
            "messages": [
                {
                    "role": "tool",
                    "tool_call_id": "1",
                    "content": [{"type": "document", "document": {}}],
                }
            ]
        },
        "messages[0].content[0].document.data",
    ),
    (
        "tool calls that are none",
        {"messages": [{"role": "assistant", "tool_calls": "f()"}]},
        "messages[0].tool_calls",
    ),
    (
        "arguments that are an object",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
    ("misspelt", {"temprature": 1}, "temprature"),
    ("ours to say", {"stream": False}, "stream"),
    ("model as a number", {"model": 5}, "model"),
    ("tools as text", {"tools": "f"}, "tools"),
    ("one tool, no list", {"tools": FUNCTION}, "tools"),
    ("a tool that is text", {"tools": [FUNCTION, "f"]}, "tools[1]"),
    ("tool without a function", {"tools": [{"type": "function"}]}, "tools[0].function"),
    (
        "tool without a name",
        {"tools": [FUNCTION, {"type": "function", "function": {"description": "?"}}]},
        "tools[1].function.name",
    ),
    (
        "tool of another type",
        {"tools": [{"type": "tool", "function": {"name": "f"}}]},
        "tools[0].type",
    ),
    (
        "schema as text",
        {"tools": [{"function": {"name": "f", "parameters": "{}"}}]},
        "tools[0].function.parameters",
    ),
    ("documents as text", {"documents": "a"}, "documents"),
    ("a document that is a number", {"documents": ["a", 5]}, "documents[1]"),
    ("document without data", {"documents": [{"id": "1"}]}, "documents[0].data"),
    ("data as a list", {"documents": [{"data": [1]}]}, "documents[0].data"),
    ("strict_tools as text", {"strict_tools": "true"}, "strict_tools"),
    ("strict_tools as 1", {"strict_tools": 1}, "strict_tools"),
    ("mode as a number", {"citation_options": {"mode": 5}}, "citation_options.mode"),
    ("citation options as text", {"citation_options": "fast"}, "citation_options"),
    ("format without a type", {"response_format": {}}, "response_format.type"),
    ("format as text", {"response_format": "json_object"}, "response_format"),
    (
        "schema as a list",
        {"response_format": {"type": "json_object", "json_schema": []}},
        "response_format.json_schema",
    ),
    ("safety mode as False", {"safety_mode": False}, "safety_mode"),
    ("max_tokens as text", {"max_tokens": "5"}, "max_tokens"),
    ("max_tokens as a float", {"max_tokens": 5.0}, "max_tokens"),
    ("max_tokens as True", {"max_tokens": True}, "max_tokens"),
    ("stop sequences as text", {"stop_sequences": "END"}, "stop_sequences"),
    ("a stop sequence of a number", {"stop_sequences": ["a", 5]}, "stop_sequences[1]"),
    ("stop sequences as a set", {"stop_sequences": {5}}, "stop_sequences"),
    ("temperature as text", {"temperature": "0.3"}, "temperature"),
    ("temperature as True", {"temperature": True}, "temperature"),
    ("temperature NaN", {"temperature": float("nan")}, "temperature"),
    ("p infinite", {"p": float("inf")}, "p"),
    ("seed as a float", {"seed": 1.5}, "seed"),
    ("k as text", {"k": "many"}, "k"),
    ("penalty as text", {"frequency_penalty": "0"}, "frequency_penalty"),
    ("other penalty as text", {"presence_penalty": "0"}, "presence_penalty"),
    ("logprobs as 1", {"logprobs": 1}, "logprobs"),
    ("tool choice as an object", {"tool_choice": {"name": "f"}}, "tool_choice"),
    ("thinking as a bool", {"thinking": True}, "thinking"),
    ("budget as text", {"thinking": {"token_budget": "500"}}, "thinking.token_budget"),
    ("priority as a float", {"priority": 0.5}, "priority"),
]


@pytest.mark.parametrize(
    ("parameters", "place"),
    [pytest.param(parameters, place, id=what) for what, parameters, place in REFUSED],
)
def test_what_is_wrong_is_named(parameters: dict[str, Any], place: str) -> None:
    """A wrong value is refused at the call, and the error begins with the path to it."""
    text = refusal(parameters)
    assert text.startswith(place)
    assert text[len(place)] in ": "


def test_an_unknown_parameter_is_answered_with_those_there_are() -> None:
    """Who misspells a parameter is shown the right name."""
    assert "temperature" in refusal({"temprature": 1})


def test_a_wrong_role_is_answered_with_those_there_are() -> None:
    """Who misspells a role is shown the four."""
    text = refusal({"messages": [{"role": "bot", "content": "a"}]})
    for role in ("system", "user", "assistant", "tool"):
        assert role in text


def test_items_of_an_iterator_that_are_wrong() -> None:
    """What is wrong in messages that can be read only once is a `ConfigurationError` too."""
    with pytest.raises(ConfigurationError, match="messages"):
        ChatRequest.of({"model": "m", "messages": iter([{"role": "bot"}])})


NO_JSON: list[Any] = [
    float("nan"),
    float("-inf"),
    {1, 2},
    b"bytes",
    object(),
    "half a pair: \ud83d",
    {"deep": [{"\udc00": 1}]},
]


@pytest.mark.parametrize("value", NO_JSON, ids=repr)
def test_what_json_cannot_say(value: Any) -> None:
    """NaN, sets, bytes, objects and lone surrogates are refused before anything is sent."""
    assert refusal({"documents": [{"data": {"a": value}}]})
    assert refusal({"messages": [{"role": "user", "content": "a", "x_more": [value]}]})
    request = ChatRequest.of({"model": "m", "messages": [HELLO]})
    with pytest.raises(ConfigurationError):
        request.body(True, {"x_more": value})


@pytest.mark.parametrize("name", ["model", "safety_mode"])
def test_lone_surrogates_in_plain_text(name: str) -> None:
    """Half a surrogate pair has no UTF-8, wherever it stands."""
    assert refusal({name: "half a pair: \ud83d"})
    assert refusal({"messages": [{"role": "user", "content": "\udc00"}]})
    assert refusal({"stop_sequences": ["\ud83d"]})


def test_data_that_contains_itself() -> None:
    """A document that contains itself is a `ConfigurationError`, not a `RecursionError`."""
    data: dict[str, Any] = {}
    data["self"] = data
    assert refusal({"documents": [{"data": data}]})
    with pytest.raises(ConfigurationError):
        ChatRequest.of({"model": "m", "messages": [HELLO]}).body(True, {"x_more": data})


def test_data_that_is_too_deep() -> None:
    """Nesting beyond what Python can walk is a `ConfigurationError`."""
    deep: Any = []
    for _ in range(20_000):
        deep = [deep]
    with pytest.raises(ConfigurationError):
        ChatRequest.of({"model": "m", "messages": [HELLO], "documents": [{"data": {"a": deep}}]})


# Whose objects they are --------------------------------------------------------------------------


def wreck(value: Any) -> None:
    """Empties every list and dict in the value, the innermost first."""
    if isinstance(value, dict):
        for item in value.values():
            wreck(item)
        value.clear()
    elif isinstance(value, list):
        for item in value:
            wreck(item)
        value.clear()


def test_changes_afterwards_change_nothing() -> None:
    """What the caller does to the dicts after the call does not reach the request."""
    given = copy.deepcopy({name: wire for name, wire, _ in PARAMETERS})
    given["messages"] = [copy.deepcopy(wire) for wire, _ in MESSAGES]
    request = ChatRequest.of(given)
    before = request.body(True)
    wreck(given)
    assert request.body(True) == before


def test_changes_of_a_models_inner_dict_change_nothing() -> None:
    """The dicts inside our own models are copied too."""
    schema, data = copy.deepcopy(SCHEMA), {"deep": [{"a": 1}]}
    parameters: dict[str, Any] = {
        "tools": [Tool(function=ToolFunction(name="f", parameters=schema))],
        "documents": [Document(data=data)],
    }
    request = ChatRequest.of({"model": "m", "messages": [HELLO], **parameters})
    before = request.body(True)
    wreck(schema)
    wreck(data)
    for tool in parameters["tools"]:
        wreck(tool.function.parameters)
    for document in parameters["documents"]:
        wreck(document.data)
    assert request.body(True) == before


def test_the_callers_objects_stay_as_they_are() -> None:
    """Making a request and its body changes nothing that was given."""
    given = {name: wire for name, wire, _ in PARAMETERS}
    given["messages"] = [wire for wire, _ in MESSAGES]
    before = copy.deepcopy(given)
    ChatRequest.of(given).body(True, {"k": 9})
    assert given == before


def test_a_request_can_be_written_twice() -> None:
    """Two subscriptions send the same body."""
    request = ChatRequest.of({"model": "m", "messages": [HELLO]})
    assert request.body(True) == request.body(True)


# Additional body parameters ----------------------------------------------------------------------


def test_additional_parameters_are_sent() -> None:
    """Anything may be added to the body, nulls too."""
    sent = body({}, additional={"raw_prompting": True, "x": {"y": [None]}, "z": None})
    assert sent == {**body({}), "raw_prompting": True, "x": {"y": [None]}, "z": None}


def test_additional_parameters_replace_ours() -> None:
    """What is added wins over what the parameters say."""
    sent = body({"k": 1}, additional={"k": 2, "model": "other", "stream": False})
    assert (sent["k"], sent["model"], sent["stream"]) == (2, "other", False)


# A reply as history ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stream",
    [
        text_stream("High", " tide 😀"),
        tool_stream(("tides", ['{"pier"', ": 2}"]), ("now", [])),
    ],
    ids=["text", "tools"],
)
def test_a_reply_goes_back_as_a_message(stream: list[dict[str, Any]]) -> None:
    """The message of a streamed reply is sent back as it was, with no key added."""
    (response,) = run(ResponseFold(), parsed(stream))
    for reply in (response, response.normalized()):
        wire = reply.message.model_dump(exclude_unset=True)
        assert body({"messages": [HELLO, reply.message]})["messages"] == [HELLO, wire]
        assert wire["role"] == "assistant"


def test_a_reply_with_everything_goes_back() -> None:
    """Thinking, citations and keys from tomorrow survive the way back."""
    wire = {**MESSAGES[4][0], "x_message": 1}
    message = AssistantMessage.model_validate(wire)
    assert body({"messages": [message]})["messages"] == [wire]
