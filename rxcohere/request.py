"""The request of ``/v2/chat``: its parameters, checked at the call and sent as they were given.

Shapes and types are checked here; numeric limits and what a model supports are the server's to
judge. Keys this version does not know are refused at the top level, where they are most likely
misspelt, and passed on inside messages, tools and documents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Required, TypeAlias, TypedDict, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)
from pydantic_core import ErrorDetails

from rxcohere.errors import ConfigurationError
from rxcohere.options import RequestOptions, Retry, Timeouts
from rxcohere.response import (
    AssistantMessage,
    Citation,
    Content,
    TaggedModel,
    TextContent,
    ToolCall,
    WireModel,
)

__all__ = [
    "ChatParameters",
    "ChatRequest",
    "CitationOptions",
    "Document",
    "DocumentContent",
    "ImageContent",
    "ImageUrl",
    "Message",
    "RequestOptions",
    "ResponseFormat",
    "Retry",
    "SystemMessage",
    "Thinking",
    "Timeouts",
    "Tool",
    "ToolFunction",
    "ToolMessage",
    "UserMessage",
]


class ImageUrl(WireModel):
    """An image by its http(s) URL or as a base64 data URI."""

    url: StrictStr
    detail: str | None = None
    """``auto`` (the server's default), ``low`` or ``high``."""


class ImageContent(TaggedModel):
    """An image in a user's message."""

    type: Literal["image_url"] = "image_url"
    image_url: ImageUrl


class Document(WireModel):
    """A document that the answer may cite. Keys and values of ``data`` reach the model."""

    data: dict[str, Any] | StrictStr
    id: str | None = None


class DocumentContent(TaggedModel):
    """A document in a tool's message."""

    type: Literal["document"] = "document"
    document: Document


class SystemMessage(TaggedModel):
    """Instructions; the first message."""

    role: Literal["system"] = "system"
    content: StrictStr | list[TextContent]


class UserMessage(TaggedModel):
    """What the user says: text, or blocks of text and images."""

    role: Literal["user"] = "user"
    content: StrictStr | list[Annotated[TextContent | ImageContent, Field(discriminator="type")]]


class ToolMessage(TaggedModel):
    """The result of one tool call: text, or blocks of text and documents."""

    role: Literal["tool"] = "tool"
    tool_call_id: StrictStr
    content: StrictStr | list[Annotated[TextContent | DocumentContent, Field(discriminator="type")]]


class _AssistantTurn(WireModel):
    """An assistant's message as a request may have it: content may be plain text, or null."""

    role: Literal["assistant"]
    content: StrictStr | list[Content] | None = None
    tool_plan: str | None = None
    tool_calls: list[ToolCall] | None = None
    citations: list[Citation] | None = None


class ToolFunction(WireModel):
    """The function a tool offers; ``parameters`` is a JSON Schema of type object."""

    name: StrictStr
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(TaggedModel):
    """A tool the model may call."""

    type: Literal["function"] = "function"
    function: ToolFunction


class CitationOptions(WireModel):
    """``mode`` is one of ``ENABLED DISABLED FAST ACCURATE OFF``."""

    mode: str | None = None


class ResponseFormat(WireModel):
    """``text``, or ``json_object`` with or without a schema."""

    type: str
    json_schema: dict[str, Any] | None = None


class Thinking(WireModel):
    """Whether, and for how many tokens at most, the model reasons before it answers."""

    type: str | None = None
    """``enabled`` or ``disabled``."""
    token_budget: StrictInt | None = None


Message: TypeAlias = (
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | Mapping[str, Any]
)
"""A message as a caller may give it; the ``message`` of a reply is one too."""


class ChatParameters(TypedDict, total=False):
    """The arguments of `CohereClient.chat` and `CohereClient.chat_stream`, all by keyword."""

    model: Required[str]
    messages: Required[Sequence[Message]]
    tools: Sequence[Tool | Mapping[str, Any]] | None
    strict_tools: bool | None
    documents: Sequence[str | Document | Mapping[str, Any]] | None
    citation_options: CitationOptions | Mapping[str, Any] | None
    response_format: ResponseFormat | Mapping[str, Any] | None
    safety_mode: Literal["CONTEXTUAL", "STRICT", "OFF"] | None
    max_tokens: int | None
    stop_sequences: Sequence[str] | None
    temperature: float | None
    seed: int | None
    frequency_penalty: float | None
    presence_penalty: float | None
    k: int | None
    p: float | None
    logprobs: bool | None
    tool_choice: Literal["REQUIRED", "NONE"] | None
    thinking: Thinking | Mapping[str, Any] | None
    priority: int | None
    request_options: RequestOptions | Mapping[str, Any] | None


class ChatRequest(BaseModel):
    """The body of a request, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: StrictStr
    messages: list[
        Annotated[
            SystemMessage | UserMessage | _AssistantTurn | ToolMessage, Field(discriminator="role")
        ]
    ]
    tools: list[Tool] | None = None
    strict_tools: StrictBool | None = None
    documents: list[StrictStr | Document] | None = None
    citation_options: CitationOptions | None = None
    response_format: ResponseFormat | None = None
    safety_mode: str | None = None
    max_tokens: StrictInt | None = None
    stop_sequences: list[StrictStr] | None = None
    temperature: StrictFloat | None = None
    seed: StrictInt | None = None
    frequency_penalty: StrictFloat | None = None
    presence_penalty: StrictFloat | None = None
    k: StrictInt | None = None
    p: StrictFloat | None = None
    logprobs: StrictBool | None = None
    tool_choice: str | None = None
    thinking: Thinking | None = None
    priority: StrictInt | None = None

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> ChatRequest:
        """The request with these parameters; those that are None are left out.

        Raises:
            ConfigurationError: a parameter is unknown, missing, or of the wrong shape; it is named.
        """
        try:
            given = {name: _plain(value) for name, value in parameters.items() if value is not None}
        except RecursionError as error:
            problem = "the request is nested too deeply, or contains itself"
            raise ConfigurationError(problem) from error
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigurationError(_explain(error, given)) from None

    def body(self, stream: bool, additional: Mapping[str, Any] | None = None) -> bytes:
        """The JSON to send.

        Args:
            stream: whether events are asked for, or one reply.
            additional: merged in last.

        Raises:
            ConfigurationError: something in it is not JSON.
        """
        content = {"stream": stream, **self.model_dump(exclude_unset=True), **(additional or {})}
        try:
            return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"the request cannot be written as JSON: {error}") from error


def _plain(value: object) -> object:
    """The value with models, mappings and tuples turned into what JSON has, at any depth."""
    if isinstance(value, AssistantMessage):  # whose role is absent in one made by hand
        return {"role": "assistant", **value.model_dump(exclude_unset=True)}
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, object]", value)
        return {key: _plain(item) for key, item in mapping.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("Sequence[object]", value)]
    return value


def _explain(error: ValidationError, given: Mapping[str, Any]) -> str:
    """One sentence about the deepest error: in a union, that is the branch that was meant."""
    located = [
        (_path(detail, given), detail)
        for detail in error.errors(include_url=False, include_input=False)
    ]
    path, detail = max(located, key=lambda item: len(item[0]))
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]
    match detail["type"]:
        case "extra_forbidden":
            known = ", ".join((*ChatRequest.model_fields, "request_options"))
            return f"{text} is not a parameter of chat; there are {known}"
        case "union_tag_not_found" | "union_tag_invalid":
            expected = detail.get("ctx", {}).get("expected_tags")
            return f"{text} should be one of {expected or 'those the API knows'}"
        case _:
            return f"{text}: {detail['msg']}"


def _path(detail: ErrorDetails, given: Mapping[str, Any]) -> list[str | int]:
    """Where the error is in what was given; the names of union branches are no part of that."""
    path: list[str | int] = []
    value: Any = given
    for step in detail["loc"]:
        inside = isinstance(value, list) if isinstance(step, int) else isinstance(value, dict)
        if inside and (isinstance(step, int) or step in value):
            path.append(step)
            value = value[step]
    if detail["type"] == "missing":
        path.append(detail["loc"][-1])
    elif detail["type"].startswith("union_tag"):
        path.append(str(detail.get("ctx", {}).get("discriminator", "type")).strip("'"))
    return path
