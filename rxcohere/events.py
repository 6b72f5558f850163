"""The events of a V2 chat stream, one frozen model per wire type, and their parser.

The class is the wire type in CamelCase, the attribute paths are the wire's
(``event.delta.message.content.text``), and short properties spare the digging (``event.text``).
Only ``type`` is required, unknown keys are kept, and a type this version does not know is an
`UnknownEvent`. ``model_dump(exclude_unset=True)`` of an event is the JSON it came from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from rxcohere.deltas import (
    CitationMessageDelta,
    ContentFragment,
    ContentMessageDelta,
    MessageEndDelta,
    StartedMessageDelta,
    ToolCallMessageDelta,
    ToolPlanMessageDelta,
)
from rxcohere.errors import EventDecodeError
from rxcohere.response import ChatResponse, Citation, LogprobItem, ToolCall, Usage, WireModel
from rxcohere.surrogates import has_lone_surrogates, replace_lone_surrogates


class MessageStart(WireModel):
    """The first event: the reply's id."""

    type: Literal["message-start"]
    id: str | None = None
    delta: StartedMessageDelta | None = None


class ContentStart(WireModel):
    """A content block begins."""

    type: Literal["content-start"]
    index: int = 0
    delta: ContentMessageDelta | None = None

    @property
    def content(self) -> ContentFragment | None:
        """``delta.message.content``: the block's type and its (so far always empty) beginning."""
        message = None if self.delta is None else self.delta.message
        return None if message is None else message.content


class ContentDelta(WireModel):
    """A piece of a content block's text or thinking."""

    type: Literal["content-delta"]
    index: int = 0
    delta: ContentMessageDelta | None = None
    logprobs: LogprobItem | None = None

    @property
    def content(self) -> ContentFragment | None:
        """``delta.message.content``."""
        message = None if self.delta is None else self.delta.message
        return None if message is None else message.content

    @property
    def text(self) -> str:
        """The piece of the answer's text, "" for a piece of thinking."""
        content = self.content
        return "" if content is None else content.text or ""

    @property
    def thinking(self) -> str:
        """The piece of thinking, "" for a piece of text."""
        content = self.content
        return "" if content is None else content.thinking or ""


class ContentEnd(WireModel):
    """A content block is complete."""

    type: Literal["content-end"]
    index: int = 0


class ToolPlanDelta(WireModel):
    """A piece of the plan that precedes tool calls. It has no index."""

    type: Literal["tool-plan-delta"]
    delta: ToolPlanMessageDelta | None = None

    @property
    def text(self) -> str:
        """The piece of the plan."""
        message = None if self.delta is None else self.delta.message
        return "" if message is None else message.tool_plan or ""


class ToolCallStart(WireModel):
    """A tool call begins: its id and the tool's name. ``index`` counts tool calls alone."""

    type: Literal["tool-call-start"]
    index: int = 0
    delta: ToolCallMessageDelta | None = None

    @property
    def tool_call(self) -> ToolCall | None:
        """The call, its arguments still to come."""
        message = None if self.delta is None else self.delta.message
        return None if message is None else message.tool_calls


class ToolCallDelta(WireModel):
    """A piece of a tool call's arguments."""

    type: Literal["tool-call-delta"]
    index: int = 0
    delta: ToolCallMessageDelta | None = None

    @property
    def arguments(self) -> str:
        """The piece of JSON text."""
        message = None if self.delta is None else self.delta.message
        call = None if message is None else message.tool_calls
        return "" if call is None else call.arguments


class ToolCallEnd(WireModel):
    """The tool call's arguments are complete."""

    type: Literal["tool-call-end"]
    index: int = 0


class CitationStart(WireModel):
    """A citation, whole. ``index`` counts citations, not content blocks."""

    type: Literal["citation-start"]
    index: int = 0
    delta: CitationMessageDelta | None = None

    @property
    def citation(self) -> Citation | None:
        """The citation."""
        message = None if self.delta is None else self.delta.message
        return None if message is None else message.citations


class CitationEnd(WireModel):
    """Follows its `CitationStart` and carries nothing."""

    type: Literal["citation-end"]
    index: int = 0


class CitationGeneration(WireModel):
    """Citations in the older form: several in one event."""

    type: Literal["citation-generation"]
    citations: list[Citation] | None = None


class MessageEnd(WireModel):
    """The last event: why the reply ended and what it used."""

    type: Literal["message-end"]
    id: str | None = None
    delta: MessageEndDelta | None = None

    @property
    def finish_reason(self) -> str | None:
        """``COMPLETE STOP_SEQUENCE MAX_TOKENS TOOL_CALL ERROR TIMEOUT``."""
        return None if self.delta is None else self.delta.finish_reason

    @property
    def usage(self) -> Usage | None:
        """What the reply used, as the server counts."""
        return None if self.delta is None else self.delta.usage

    @property
    def error(self) -> str | None:
        """What went wrong, with finish reason ERROR or TIMEOUT."""
        return None if self.delta is None else self.delta.error

    @property
    def error_type(self) -> str | None:
        """The server's name for what went wrong."""
        return None if self.delta is None else self.delta.error_type

    @cached_property
    def response(self) -> ChatResponse | None:
        """The whole reply that the stream added up to.

        It is set on the events of a live stream, is no part of the JSON, and does not count when
        events are compared. An event that was only parsed has None.
        """
        return None

    def with_response(self, response: ChatResponse | None) -> MessageEnd:
        """The same event, carrying the whole reply."""
        end = self.model_copy()
        # A cached property's value lives beside the fields and is left out of dumps and comparison.
        vars(end)["response"] = response
        return end


class Debug(WireModel):
    """The prompt as the model saw it."""

    type: Literal["debug"]
    prompt: str | None = None


def _reject_known_type(kind: str) -> str:
    if kind in _KNOWN_TYPES:
        raise ValueError(f"this is not the shape of a {kind} event")
    return kind


class UnknownEvent(WireModel):
    """An event of a type this version does not know."""

    type: Annotated[str, AfterValidator(_reject_known_type)]

    @property
    def raw(self) -> dict[str, Any]:
        """The JSON object that came."""
        return {"type": self.type, **(self.model_extra or {})}


KnownEvent: TypeAlias = (
    MessageStart
    | ContentStart
    | ContentDelta
    | ContentEnd
    | ToolPlanDelta
    | ToolCallStart
    | ToolCallDelta
    | ToolCallEnd
    | CitationStart
    | CitationEnd
    | CitationGeneration
    | MessageEnd
    | Debug
)

ChatEvent: TypeAlias = Annotated[
    Annotated[KnownEvent, Field(discriminator="type")] | UnknownEvent,
    Field(union_mode="left_to_right"),
]
"""Any event of the stream: told apart by ``type``, with `UnknownEvent` as the fallback."""

EVENT_TYPES: tuple[type[ChatEvent], ...] = (*get_args(KnownEvent), UnknownEvent)
"""The classes of all events."""

_KNOWN_TYPES: frozenset[str] = frozenset(
    get_args(model.model_fields["type"].annotation)[0] for model in get_args(KnownEvent)
)

_adapter: TypeAdapter[ChatEvent] = TypeAdapter(ChatEvent)

validate_event_json: Callable[[bytes], ChatEvent] = _adapter.validator.validate_json
"""The event that JSON text holds; pydantic's own error if it holds none. For hot loops."""


def parse_event(data: bytes | str | Mapping[str, Any]) -> ChatEvent:
    """The event that the data of one frame holds.

    Args:
        data: the JSON text, or the object it was parsed to. Bytes that are not UTF-8 become U+FFFD,
            as the standard of server-sent events has it, and so do lone surrogates.

    Raises:
        EventDecodeError: it is not JSON, has no ``type``, or not the shape its type has.
    """
    try:
        if isinstance(data, Mapping):
            if has_lone_surrogates(data):
                with suppress(TypeError, ValueError, RecursionError):  # it is no JSON
                    return _adapter.validate_json(_repaired(json.dumps(data, default=dict)))
            return _adapter.validate_python(data)
        return _adapter.validate_json(data)
    except ValidationError as error:
        if not isinstance(data, Mapping):
            with suppress(ValueError, RecursionError):
                return _adapter.validate_json(_repaired(data))
        raise _decode_error(data, error) from error


def _repaired(data: bytes | str) -> str:
    """The JSON text with U+FFFD for what is no Unicode: bad UTF-8, lone surrogates."""
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    text = json.dumps(json.loads(text), ensure_ascii=False)
    return replace_lone_surrogates(text)


def _decode_error(
    data: bytes | str | Mapping[str, Any], error: ValidationError
) -> EventDecodeError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    match first["type"]:
        case "union_tag_not_found":
            problem = "it has no 'type'"
        case "union_tag_invalid":
            problem = "its 'type' is not a string"
        case _:
            problem = first["msg"]
    # The first step of the path names the union, the second the event's type.
    if path := ".".join(str(step) for step in first["loc"][1:]):
        problem += f" (at {path})"
    raw = data if isinstance(data, bytes) else str(data).encode("utf-8", "surrogatepass")
    excerpt = raw[:120].decode("utf-8", "replace")
    return EventDecodeError(f"an event could not be read: {problem}; it begins {excerpt!r}", raw)
