"""All that can be made of events, made and read: what must never fail, whatever came.

It stands on nothing but the library, so that the coverage-guided fuzzer can use it too.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

from rxcohere import (
    ChatEvent,
    ChatResponse,
    Citation,
    CitedText,
    EventDecodeError,
    TextContent,
    ThinkingContent,
    ToolArgumentsError,
    ToolCall,
    ToolCallProgress,
    compact,
    merge_events,
    parse_event,
)
from rxcohere.folds import (
    AccumulatedTextFold,
    CitationFold,
    CitedTextFold,
    CollectedTextFold,
    Compactor,
    Fold,
    LiveCitedTextFold,
    LiveResponseFold,
    ResponseFold,
    TextDeltaFold,
    ThinkingDeltaFold,
    ToolCallFold,
    ToolCallProgressFold,
    ToolPlanDeltaFold,
)
from rxcohere.response import ToolCallFunction
from rxcohere.sse import SSEDecoder

FOLDS: list[Callable[[], Fold[ChatEvent, Any]]] = [
    AccumulatedTextFold,
    CitationFold,
    CitedTextFold,
    CollectedTextFold,
    LiveCitedTextFold,
    LiveResponseFold,
    ResponseFold,
    TextDeltaFold,
    ThinkingDeltaFold,
    ToolCallFold,
    ToolCallProgressFold,
    ToolPlanDeltaFold,
]


def parsed_as_far_as_possible(data: Sequence[bytes]) -> list[ChatEvent]:
    """The events of those that hold one; of the others, nothing but the documented error comes."""
    events: list[ChatEvent] = []
    for each in data:
        with suppress(EventDecodeError):
            events.append(parse_event(each))
    return events


def read_body(body: bytes) -> None:
    """Reads a body in two ways, parses its data and makes all of the events that can be made."""
    decoder = SSEDecoder()
    events = decoder.feed(body)
    pieces = SSEDecoder()
    middle = len(body) // 2
    data = pieces.feed_data(body[:middle]) + pieces.feed_data(body[middle:])
    assert data == [event.data for event in events]
    assert pieces.pending == decoder.pending
    read_events(parsed_as_far_as_possible(data))


def read_events(events: list[ChatEvent]) -> None:
    """Every fold over the events, and everything that can be read of what comes out."""
    for event in events:
        repr(event)
        event.model_dump_json(exclude_unset=True)
        for name in ("text", "thinking", "tool_call", "arguments", "citation", "finish_reason"):
            getattr(event, name, None)
    for make in FOLDS:
        fold = make()
        values = [value for event in events for value in fold.push(event)]
        values += fold.finish()
        for value in values:
            read_value(value)
    merged = compact(events)
    assert len(merged) <= len(events)
    assert compact(merged) == merged
    compactor = Compactor(events)
    assert len(compactor) == len(merged)
    assert compactor.events() == compactor.drain() == merged
    for first, second in pairwise(events):
        merge_events(first, second)


def read_value(value: Any) -> None:
    """What a fold gave out, down to its last property."""
    repr(value)
    match value:
        case ChatResponse():
            read_response(value)
            read_response(value.normalized())
        case CitedText():
            assert value.text == "".join(segment.text for segment in value.segments())
            assert len(value.sources) <= sum(len(c.sources or ()) for c in value.citations)
        case Citation():
            with suppress(ValueError):  # it has no offsets
                value.utf16_range("a😀b")
        case ToolCall():
            read_call(value)
            read_call(value.normalized())
        case ToolCallProgress():
            assert len(value.arguments) == value.length
            assert isinstance(value.parsed, dict)
        case str():
            value.encode()


def read_response(response: ChatResponse) -> None:
    """The response, its shortcuts, and its JSON, which is read back as the same."""
    assert response.text + response.thinking == "".join(
        getattr(block, kind)
        for kind, blocks in (("text", TextContent), ("thinking", ThinkingContent))
        for block in response.message.content or ()
        if isinstance(block, blocks)
    )
    for call in response.tool_calls:
        read_call(call)
    text = response.model_dump_json(exclude_unset=True)
    again = ChatResponse.model_validate_json(text)
    assert again.model_dump_json(exclude_unset=True) == text


def read_call(call: ToolCall) -> None:
    """The call, and its arguments, which need not be an object."""
    function = call.function or ToolCallFunction()
    assert (call.name, call.arguments) == (function.name or "", function.arguments or "")
    with suppress(ToolArgumentsError):
        assert isinstance(call.parsed, dict)
