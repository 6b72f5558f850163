"""The cases: each operator, with the streams that might cost it more and more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from long_streams.streams import (
    Stream,
    calls_in_turn,
    citations_alone,
    cited,
    interleaved_calls,
    logprobs,
    one_call,
    plan,
    text,
    thinking,
)
from reactivex.scheduler import VirtualTimeScheduler

from rxcohere import ChatEvent, ContentDelta
from rxcohere import operators as rxc
from rxcohere.folds import CitedText, ToolCallProgress


def nothing(_: object) -> None:
    pass


@dataclass(frozen=True)
class Case:
    """An operator and a stream.

    Attributes:
        operator: its name.
        stream: what goes in.
        make: makes the operator.
        room: how many bytes may be kept for each character of the stream: 4 while nobody reads the
            text, and what a writer keeps to spare; 0 where nothing may be kept.
        read: what the subscriber does with a value.
        subscribers: how many there are.
        late: next to nothing comes before completion.
    """

    operator: str
    stream: Stream
    make: Callable[[], rxc.Operator[ChatEvent, Any]]
    room: int = 6
    read: Callable[[Any], object] = nothing
    subscribers: int = 1
    late: bool = False

    def __str__(self) -> str:
        read = "" if self.read is nothing else f"-{self.read.__name__}"
        many = "" if self.subscribers == 1 else f"-{self.subscribers}"
        return f"{self.operator}-{self.stream.__name__}{read}{many}"


def parsed(progress: ToolCallProgress) -> object:
    return progress.parsed


def all_of_it(cited_text: CitedText) -> object:
    return cited_text.text, cited_text.delta, cited_text.citation


def coalesce(max_chars: int | None = None) -> rxc.Operator[ChatEvent, ChatEvent]:
    # Its clock stands still: the window never closes by itself.
    return rxc.coalesce_deltas(1.0, max_chars, scheduler=VirtualTimeScheduler())


CASES = [
    Case("events_of", text, lambda: rxc.events_of(ContentDelta), 0),
    Case("text_deltas", text, rxc.text_deltas, 0),
    Case("thinking_deltas", thinking, rxc.thinking_deltas, 0),
    Case("tool_plan_deltas", plan, rxc.tool_plan_deltas, 0),
    Case("citations", cited, rxc.citations, 0),
    Case("accumulate_text", text, rxc.accumulate_text),
    Case("collect_text", text, rxc.collect_text, late=True),
    Case("assemble_tool_calls", one_call, rxc.assemble_tool_calls, late=True),
    Case("assemble_tool_calls", calls_in_turn, rxc.assemble_tool_calls, 0),
    Case("assemble_tool_calls", interleaved_calls, rxc.assemble_tool_calls, late=True),
    Case("track_tool_calls", one_call, rxc.track_tool_calls),
    Case("track_tool_calls", one_call, rxc.track_tool_calls, read=parsed),
    Case("track_tool_calls", calls_in_turn, rxc.track_tool_calls, 0, parsed),
    Case("track_tool_calls", interleaved_calls, rxc.track_tool_calls, read=parsed),
    Case("attach_citations", text, rxc.attach_citations),
    Case("attach_citations", cited, rxc.attach_citations),
    Case("attach_citations", cited, rxc.attach_citations, read=all_of_it),
    Case("attach_citations", citations_alone, rxc.attach_citations),
    Case("collect_cited_text", cited, rxc.collect_cited_text, late=True),
    Case("accumulate_response", text, rxc.accumulate_response),
    Case("accumulate_response", thinking, rxc.accumulate_response),
    Case("accumulate_response", one_call, rxc.accumulate_response),
    Case("collect_response", text, rxc.collect_response, late=True),
    Case("collect_response", plan, rxc.collect_response, late=True),
    Case("collect_response", interleaved_calls, rxc.collect_response, late=True),
    Case("collect_response", cited, rxc.collect_response, late=True),
    Case("collect_response", logprobs, rxc.collect_response, late=True),
    Case("coalesce_deltas", text, coalesce, late=True),
    Case("coalesce_deltas", text, lambda: coalesce(400), 0),
    Case("share_response", text, rxc.share_response),
    Case("share_response", text, rxc.share_response, subscribers=10),
    Case("share_response", calls_in_turn, rxc.share_response, 40),  # some events for each call
    Case("share_response", cited, rxc.share_response),
    Case("share_response", logprobs, rxc.share_response),
]
