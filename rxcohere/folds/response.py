"""The fold that rebuilds the reply: what the non-streaming endpoint would have returned."""

from __future__ import annotations

from typing import Any

from rxcohere.deltas import ContentFragment
from rxcohere.events import (
    ChatEvent,
    CitationGeneration,
    CitationStart,
    ContentDelta,
    ContentStart,
    MessageEnd,
    MessageStart,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    ToolPlanDelta,
)
from rxcohere.folds.fold import TextBuffer
from rxcohere.folds.tool_calls import ToolCallBuilder
from rxcohere.response import (
    AssistantMessage,
    ChatResponse,
    Citation,
    Content,
    LogprobItem,
    TextContent,
    ThinkingContent,
    ToolCall,
    UnknownContent,
)


class _Block:
    """A content block under way."""

    __slots__ = ("extra", "index", "kind", "text")

    def __init__(self, index: int, kind: str, extra: dict[str, Any]) -> None:
        self.index = index
        self.kind = kind
        self.extra = extra
        self.text = TextBuffer()

    def build(self) -> Content:
        match self.kind:
            case "text":
                return TextContent(text=self.text.read(), **self.extra)
            case "thinking":
                return ThinkingContent(thinking=self.text.read(), **self.extra)
            case _:
                return UnknownContent(type=self.kind, **self.extra)


_NO_BLOCK = _Block(-1, "", {})  # nothing is of its kind, so nothing is ever added to it


class ResponseFold:
    """The `ChatResponse`, once, at the end; `response()` gives it as far as it is at any time.

    It is built from the deltas alone, so what stayed empty is absent, as in the non-streaming
    reply; content and tool calls stand in the order of their index, citations in that of their
    arrival. Tool arguments stay as streamed (`ChatResponse.normalized` gives the other form).

    Attributes:
        ended: ``message-end`` has come; what follows it says nothing about the response.
    """

    __slots__ = (
        "_blocks",
        "_calls",
        "_citations",
        "_current",
        "_end",
        "_id",
        "_latest_block",
        "_latest_call",
        "_logprobs",
        "_plan",
        "_role",
        "_started",
        "ended",
    )

    def __init__(self) -> None:
        self._started = False
        self._id: str | None = None
        self._role: str | None = None
        self._blocks: list[_Block] = []
        self._current: dict[tuple[int, str], _Block] = {}
        self._latest_block = _NO_BLOCK  # the one that something was added to
        self._plan = TextBuffer()
        self._calls: list[ToolCallBuilder] = []
        self._latest_call: dict[int, ToolCallBuilder] = {}
        self._citations: list[Citation] = []
        self._logprobs: list[LogprobItem] = []
        self._end: MessageEnd | None = None
        self.ended = False

    def push(self, event: ChatEvent) -> tuple[ChatResponse, ...]:
        """Nothing yet."""
        self.add(event)
        return ()

    def finish(self) -> tuple[ChatResponse, ...]:
        """The response; nothing if no event of a message came."""
        response = self.response()
        return () if response is None else (response,)

    def add(self, event: ChatEvent) -> bool:
        """Takes one event in, and tells whether it says anything about the response."""
        if self.ended:
            return False
        # Most frequent first, and by exact type: `isinstance` on pydantic models is slow to say no.
        if type(event) is ContentDelta:
            # Written out, not through `event.content`: this runs once for each token.
            delta = event.delta
            if delta is not None and delta.message is not None:
                content = delta.message.content
                if content is not None:
                    if (text := content.text) is not None:
                        self._block(event.index, "text").append(text)
                    if (thinking := content.thinking) is not None:
                        self._block(event.index, "thinking").append(thinking)
            if event.logprobs is not None:
                self._logprobs.append(event.logprobs)
        elif type(event) is ToolCallDelta:
            call = self._latest_call.get(event.index) or self._open_call(event.index, None)
            if not call.ended:
                call.arguments.append(event.arguments)
        elif type(event) is ToolPlanDelta:
            self._plan.append(event.text)
        elif type(event) is CitationStart:
            if event.citation is not None:
                self._citations.append(event.citation)
        elif type(event) is ContentStart:
            self._open_block(event.index, event.content)
        elif type(event) is ToolCallStart:
            self._open_call(event.index, event.tool_call)
        elif type(event) is ToolCallEnd:
            if event.index in self._latest_call:
                self._latest_call[event.index].end()
            return False  # it only keeps later fragments out
        elif type(event) is MessageStart:
            self._id = event.id
            message = None if event.delta is None else event.delta.message
            self._role = None if message is None else message.role
        elif type(event) is MessageEnd:
            self._end = event
            self.ended = True
        elif type(event) is CitationGeneration:
            self._citations.extend(event.citations or ())
        else:
            return False
        self._started = True
        return True

    def _block(self, index: int, kind: str) -> TextBuffer:
        block = self._latest_block  # nearly always the one
        if block.index != index or block.kind != kind:
            found = self._current.get((index, kind))
            block = self._latest_block = found or self._add_block(index, kind, {})
        return block.text

    def _open_block(self, index: int, content: ContentFragment | None) -> None:
        # A start always begins a block of its own: streams without any index exist.
        if content is None:
            return
        kind = content.type or ("text" if content.thinking is None else "thinking")
        extra = content.model_dump(exclude_unset=True, exclude_none=True, exclude={"type"})
        text = extra.pop(kind, None) if kind in ("text", "thinking") else None
        self._add_block(index, kind, extra).text.append(text or "")

    def _add_block(self, index: int, kind: str, extra: dict[str, Any]) -> _Block:
        block = self._current[index, kind] = self._latest_block = _Block(index, kind, extra)
        self._blocks.append(block)
        return block

    def _open_call(self, index: int, head: ToolCall | None) -> ToolCallBuilder:
        call = self._latest_call[index] = ToolCallBuilder(index, head)
        self._calls.append(call)
        return call

    def response(self) -> ChatResponse | None:
        """The response as far as it came; None before ``message-start``."""
        if not self._started:
            return None
        # Only what is known is set, so that a dump of what was set equals the non-streaming reply.
        known: dict[str, Any] = {}
        if self._id is not None:
            known["id"] = self._id
        known["message"] = self._message()
        if self._end is not None:
            if self._end.finish_reason is not None:
                known["finish_reason"] = self._end.finish_reason
            if self._end.usage is not None:
                known["usage"] = self._end.usage
        if self._logprobs:
            known["logprobs"] = list(self._logprobs)
        return ChatResponse.model_construct(**known)

    def _message(self) -> AssistantMessage:
        known: dict[str, Any] = {}
        if self._role is not None:
            known["role"] = self._role
        blocks = [b for b in self._blocks if b.text.read() or b.kind not in ("text", "thinking")]
        if blocks:
            known["content"] = [b.build() for b in sorted(blocks, key=lambda b: b.index)]
        if plan := self._plan.read():
            known["tool_plan"] = plan
        if self._calls:
            known["tool_calls"] = [c.build() for c in sorted(self._calls, key=lambda c: c.index)]
        if self._citations:
            known["citations"] = list(self._citations)
        return AssistantMessage.model_construct(**known)


class LiveResponseFold:
    """The `ChatResponse` as far as it came, after every event that adds to it."""

    __slots__ = ("_fold",)

    def __init__(self) -> None:
        self._fold = ResponseFold()

    def push(self, event: ChatEvent) -> tuple[ChatResponse, ...]:
        """The response with this event in it."""
        return self._fold.finish() if self._fold.add(event) else ()

    def finish(self) -> tuple[ChatResponse, ...]:
        """Nothing."""
        return ()
