"""The reply: what the non-streaming endpoint returns, and what a stream adds up to.

These models are shared by the events, which carry pieces of them, and by the request, which sends a
reply back as history. All are frozen, keep keys they do not know, and require nothing: the API
grows, and a partial reply is a reply too. ``model_dump(exclude_unset=True)`` is the JSON they came
from.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rxcohere.errors import ToolArgumentsError
from rxcohere.surrogates import escape_lone_surrogates


class WireModel(BaseModel):
    """A JSON object of Cohere's wire: frozen, and unknown keys are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class TaggedModel(WireModel):
    """A JSON object whose ``type`` or ``role`` has a default, and is written even so."""

    def model_post_init(self, context: Any, /) -> None:
        """Counts the tag among what was set."""
        self.__pydantic_fields_set__.update({"role", "type"} & type(self).model_fields.keys())


class Source(WireModel):
    """Where a citation comes from: a document of the request, or the output of a tool."""

    type: str | None = None
    """``document`` or ``tool``."""
    id: str | None = None
    document: dict[str, Any] | None = None
    """The fields of the document's ``data``, and its ``id``."""
    tool_output: dict[str, Any] | None = None
    """The fields of the tool's result."""


class Citation(WireModel):
    """A span of the reply and what supports it.

    ``start`` and ``end`` (exclusive) count Unicode code points in the text of one content block, so
    ``block_text[start:end] == citation.text`` in Python.
    """

    start: int | None = None
    end: int | None = None
    text: str | None = None
    sources: list[Source] | None = None
    content_index: int | None = None
    """The content block that is cited. Absent on the wire where it is block 0."""
    type: str | None = None
    """``TEXT_CONTENT``, ``THINKING_CONTENT`` or ``PLAN``; older models send none."""

    def utf16_range(self, text: str) -> tuple[int, int]:
        """The span in UTF-16 code units, as JavaScript's strings count.

        Args:
            text: the text of the cited content block, at least as far as ``end``.

        Raises:
            ValueError: the citation has no offsets.
        """
        if self.start is None or self.end is None:
            raise ValueError("this citation has no offsets")
        start = _utf16_length(text[: self.start])
        return start, start + _utf16_length(text[self.start : self.end])


def _utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


class ToolCallFunction(WireModel):
    """The function a tool call names, and its arguments."""

    name: str | None = None
    arguments: str | None = None
    """JSON text, as the model wrote it; in an event, a fragment of it."""


class ToolCall(WireModel):
    """A call of a tool that the model asks for."""

    id: str | None = None
    type: str | None = None
    function: ToolCallFunction | None = None

    @property
    def name(self) -> str:
        """The name of the tool, "" where the wire had none."""
        return "" if self.function is None else self.function.name or ""

    @property
    def arguments(self) -> str:
        """The arguments as streamed: JSON text, "" for a call without arguments."""
        return "" if self.function is None else self.function.arguments or ""

    @property
    def parsed(self) -> dict[str, Any]:
        """The arguments as a JSON object; ``{}`` for a call without arguments.

        A stream sends no arguments at all where the non-streaming reply has ``{}``; ``null`` is
        read the same way.

        Raises:
            ToolArgumentsError: they are not one JSON object, as when the reply was cut off.
        """
        arguments = self.arguments
        if not arguments.strip():
            return {}
        try:
            value: object = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise ToolArgumentsError(
                f"the arguments of tool call {self.name!r} are not JSON: {error}", arguments
            ) from error
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise ToolArgumentsError(
                f"the arguments of tool call {self.name!r} should be a JSON object, "
                f"but are {type(value).__name__}",
                arguments,
            )
        return cast("dict[str, Any]", value)

    def normalized(self) -> ToolCall:
        """The same call with its arguments as the non-streaming reply writes them.

        That is compact JSON with sorted keys, ``{}`` for none; text that is not a JSON object stays
        as it is. Lone surrogates stay escaped, as text cannot have them.
        """
        try:
            text = json.dumps(
                self.parsed, separators=(",", ":"), sort_keys=True, ensure_ascii=False
            )
        except ToolArgumentsError:
            return self
        arguments = {"arguments": escape_lone_surrogates(text)}
        function = (self.function or ToolCallFunction()).model_copy(update=arguments)
        return self.model_copy(update={"function": function})


class TextContent(TaggedModel):
    """A content block of the answer's text."""

    type: Literal["text"] = "text"
    text: str = ""


class ThinkingContent(TaggedModel):
    """A content block of the model's reasoning."""

    type: Literal["thinking"] = "thinking"
    thinking: str = ""


def _reject_known_content(kind: str) -> str:
    if kind in ("text", "thinking"):
        raise ValueError(f"this is not the shape of a {kind} block")
    return kind


class UnknownContent(WireModel):
    """A content block of a type this version does not know; its keys are kept."""

    type: Annotated[str, AfterValidator(_reject_known_content)]


Content: TypeAlias = Annotated[
    Annotated[TextContent | ThinkingContent, Field(discriminator="type")] | UnknownContent,
    Field(union_mode="left_to_right"),
]
"""One content block of a reply."""


class AssistantMessage(WireModel):
    """The message of a reply. What the model did not produce is absent."""

    role: str | None = None
    content: list[Content] | None = None
    tool_plan: str | None = None
    tool_calls: list[ToolCall] | None = None
    citations: list[Citation] | None = None


class BilledUnits(WireModel):
    """What is charged."""

    input_tokens: int | float | None = None
    output_tokens: int | float | None = None
    search_units: int | float | None = None
    classifications: int | float | None = None


class TokenCounts(WireModel):
    """What was processed, the tokens of the prompt template included."""

    input_tokens: int | float | None = None
    output_tokens: int | float | None = None


class Usage(WireModel):
    """The numbers as the server sent them; none is ever guessed."""

    billed_units: BilledUnits | None = None
    tokens: TokenCounts | None = None
    cached_tokens: int | float | None = None


class LogprobItem(WireModel):
    """The log probabilities of one delta's tokens."""

    text: str | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None


def generation_failed(finish_reason: str | None) -> bool:
    """Whether a reply that ended so is no answer. Older servers write reasons in lower case."""
    return (finish_reason or "").upper() in ("ERROR", "TIMEOUT")


class ChatResponse(WireModel):
    """A whole reply, or a partial one: then ``finish_reason`` is None."""

    id: str | None = None
    message: AssistantMessage = AssistantMessage()
    finish_reason: str | None = None
    """``COMPLETE STOP_SEQUENCE MAX_TOKENS TOOL_CALL ERROR TIMEOUT``."""
    usage: Usage | None = None
    logprobs: list[LogprobItem] | None = None

    @property
    def text(self) -> str:
        """The text of all text blocks, joined."""
        blocks = self.message.content or []
        return "".join(block.text for block in blocks if isinstance(block, TextContent))

    @property
    def thinking(self) -> str:
        """The text of all thinking blocks, joined."""
        blocks = self.message.content or []
        return "".join(block.thinking for block in blocks if isinstance(block, ThinkingContent))

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The tool calls, in the order of their index."""
        return list(self.message.tool_calls or [])

    @property
    def citations(self) -> list[Citation]:
        """The citations, in the order they arrived."""
        return list(self.message.citations or [])

    def normalized(self) -> ChatResponse:
        """The same reply with tool arguments as the non-streaming endpoint writes them.

        A stream carries the model's own text of the arguments, the non-streaming reply a compact
        one with sorted keys. This is also the form to send back as an assistant message.
        """
        if not self.message.tool_calls:
            return self
        calls = [call.normalized() for call in self.message.tool_calls]
        message = self.message.model_copy(update={"tool_calls": calls})
        return self.model_copy(update={"message": message})
