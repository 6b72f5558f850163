"""The ``delta`` objects of the events, level by level as the wire nests them.

The same key holds an array in ``message-start`` and one object in the deltas, so the levels are not
shared between the two.
"""

from __future__ import annotations

from typing import Any

from rxcohere.response import Citation, ToolCall, Usage, WireModel


class StartedMessage(WireModel):
    """The message as ``message-start`` announces it: its arrays are arrays here, and empty."""

    role: str | None = None
    content: list[Any] | None = None
    tool_plan: str | None = None
    tool_calls: list[Any] | None = None
    citations: list[Any] | None = None


class StartedMessageDelta(WireModel):
    """``delta`` of `MessageStart`."""

    message: StartedMessage | None = None


class ContentFragment(WireModel):
    """A piece of a content block: ``type`` only where the block starts, then text or thinking."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None


class ContentMessage(WireModel):
    """``delta.message`` of `ContentStart` and `ContentDelta`."""

    content: ContentFragment | None = None


class ContentMessageDelta(WireModel):
    """``delta`` of `ContentStart` and `ContentDelta`."""

    message: ContentMessage | None = None


class ToolPlanMessage(WireModel):
    """``delta.message`` of `ToolPlanDelta`."""

    tool_plan: str | None = None


class ToolPlanMessageDelta(WireModel):
    """``delta`` of `ToolPlanDelta`."""

    message: ToolPlanMessage | None = None


class ToolCallMessage(WireModel):
    """``delta.message`` of tool-call events: ``tool_calls`` is one object, despite its plural."""

    tool_calls: ToolCall | None = None


class ToolCallMessageDelta(WireModel):
    """``delta`` of `ToolCallStart` and `ToolCallDelta`."""

    message: ToolCallMessage | None = None


class CitationMessage(WireModel):
    """``delta.message`` of `CitationStart`: ``citations`` is one object, despite its plural."""

    citations: Citation | None = None


class CitationMessageDelta(WireModel):
    """``delta`` of `CitationStart`."""

    message: CitationMessage | None = None


class MessageEndDelta(WireModel):
    """``delta`` of `MessageEnd`. ``error`` and ``error_type`` come only with a failure."""

    finish_reason: str | None = None
    usage: Usage | None = None
    error: str | None = None
    error_type: str | None = None
