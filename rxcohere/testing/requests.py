"""Requests as the replay server sees them: recorded, checked, and matched with a transcript."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import web

_FIELDS = frozenset(
    {
        "stream",
        "model",
        "messages",
        "tools",
        "strict_tools",
        "documents",
        "citation_options",
        "response_format",
        "safety_mode",
        "max_tokens",
        "stop_sequences",
        "temperature",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "k",
        "p",
        "logprobs",
        "tool_choice",
        "thinking",
        "priority",
    }
)
_DOCS = "https://docs.cohere.com/reference/chat"


@dataclass(frozen=True)
class RecordedRequest:
    """A request that came in.

    Attributes:
        method: the HTTP method.
        path: the path, unquoted.
        headers: the headers; their names do not depend on case.
        query: the query parameters.
        body: the body as it came.
        json: the body as a JSON value; None where it is none.
        peer: address and port of the client: what came over one connection has the same.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    query: Mapping[str, str]
    body: bytes = field(repr=False)
    json: Any
    peer: tuple[Any, ...] = ()

    @property
    def streamed(self) -> bool:
        """Whether it asks for a stream."""
        value: object = self.json
        return isinstance(value, dict) and cast("dict[str, Any]", value).get("stream") is True


async def read_request(request: web.Request) -> RecordedRequest:
    """The request with its whole body."""
    body = await request.read()
    try:
        value: Any = json.loads(body)
    except ValueError:
        value = None
    peer = () if request.transport is None else request.transport.get_extra_info("peername")
    return RecordedRequest(
        request.method, request.path, request.headers, request.query, body, value, peer
    )


def rejection(request: RecordedRequest) -> tuple[int, str] | None:
    """The status and the message that refuse the request; None if it is a good one.

    Of the API's own checks these are: the path, the method, a JSON object, the required fields, and
    no unknown field at the top level. No key is asked for.
    """
    if not request.path.endswith("/v2/chat"):
        return 404, f"expected the path /v2/chat, got {request.path}"
    if request.method != "POST":
        return 405, f"expected POST, got {request.method}"
    value: object = request.json
    if not isinstance(value, dict):
        return 400, "invalid request: the body is not a JSON object"
    body = cast("dict[str, Any]", value)
    for name in body:
        if name not in _FIELDS:
            return 422, (
                f"unknown field: parameter '{name}' is not a valid field. "
                f"For proper usage, please refer to {_DOCS}"
            )
    if not isinstance(body.get("model"), str):
        return 400, "invalid request: model must be a string"
    messages: object = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return 400, "invalid request: messages must be a list of at least one message"
    return None


def suitable_transcript(request: RecordedRequest) -> str:
    """The name of the shipped transcript that answers what the request asks for."""
    body = cast("dict[str, Any]", request.json)
    messages: list[Any] = body["messages"]
    if any(
        isinstance(m, dict) and cast("dict[str, Any]", m).get("role") == "tool" for m in messages
    ):
        return "tool-answer"
    if body.get("tools"):
        return "tools"
    if body.get("documents"):
        return "rag"
    thinking: Any = body.get("thinking")
    if isinstance(thinking, dict) and cast("dict[str, Any]", thinking).get("type") != "disabled":
        return "reasoning"
    if body.get("logprobs"):
        return "logprobs"
    return "text"
