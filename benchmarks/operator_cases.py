"""The cases of ``long_streams.py``: each operator, with the streams that could be dear to it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from hot_source import ignore
from reactivex import Observable
from reactivex.scheduler import VirtualTimeScheduler
from streams import (
    Stream,
    cited,
    cited_at_once,
    in_turn,
    interleaved,
    logprobs,
    numbers,
    one_string,
    overlapping,
    plan,
    short_calls,
    text,
    thinking,
)

from rxcohere import ChatEvent, ContentDelta
from rxcohere import operators as rxc

Read: TypeAlias = Callable[[Any], object]
"""What a subscriber does with a value."""

MIB = 1 << 20


# What is done with the values --------------------------------------------------------------------


def fail(error: Exception) -> None:
    raise error


def keeping_last() -> Read:
    last: list[object] = []

    def read(value: object) -> None:
        last[:] = [value]

    return read


def parsing() -> Read:
    return lambda progress: progress.parsed


def reading_text() -> Read:
    return lambda cited_text: cited_text.text


# The cases ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        operator: the operator's name, in `rxcohere.operators`.
        what: what comes, and what is done with the values, in words.
        stream: what comes.
        apply: subscribes to the source through the operator.
        limit: the most events.
        copies: the reader pays for copies, by contract.
    """

    operator: str
    what: str
    stream: Stream
    apply: Callable[[Observable[ChatEvent]], object]
    limit: float = math.inf
    copies: bool = False


def case(
    operator: Callable[..., Any],
    what: str,
    stream: Stream,
    read: Callable[[], Read] = lambda: ignore,
    *,
    limit: float = math.inf,
    copies: bool = False,
    subscribers: int = 1,
    **options: Any,
) -> Case:
    """The case of an operator of `rxcohere.operators`."""
    arguments = (ContentDelta,) if operator is rxc.events_of else ()

    def apply(source: Observable[ChatEvent]) -> object:
        applied = source.pipe(operator(*arguments, **options))
        return [applied.subscribe(read(), fail) for _ in range(subscribers)]

    return Case(operator.__name__, what, stream, apply, limit, copies)


def cases() -> Iterator[Case]:
    """Those of one stream stand together: the events of one are made for all of them."""
    # A clock that stands still: one window, which only max_chars empties.
    window: dict[str, Any] = {"seconds": 1.0, "scheduler": VirtualTimeScheduler()}
    yield case(rxc.events_of, "text", text)
    yield case(rxc.text_deltas, "text", text)
    yield case(rxc.accumulate_text, "text", text)
    yield case(rxc.collect_text, "text", text)
    yield case(rxc.attach_citations, "text", text)
    yield case(rxc.collect_cited_text, "text", text)
    yield case(rxc.accumulate_response, "text", text)
    yield case(rxc.collect_response, "text", text)
    yield case(rxc.coalesce_deltas, "text, 256 characters a window", text, max_chars=256, **window)
    yield case(rxc.coalesce_deltas, "text, all in one window", text, **window)
    yield case(rxc.share_response, "text, 1 subscriber", text)
    yield case(rxc.share_response, "text, 10 subscribers", text, subscribers=10)
    yield case(rxc.thinking_deltas, "thinking", thinking)
    yield case(rxc.collect_response, "thinking", thinking)
    yield case(rxc.share_response, "thinking", thinking)
    yield case(rxc.tool_plan_deltas, "tool plan", plan)
    yield case(rxc.collect_response, "tool plan", plan)
    yield from tool_call_cases()
    yield from citation_cases()
    yield case(rxc.collect_response, "text with logprobs", logprobs)
    yield case(rxc.share_response, "text with logprobs", logprobs)
    yield from copying_cases()


def tool_call_cases() -> Iterator[Case]:
    small = MIB // 4  # fragments of 4 characters
    yield case(rxc.assemble_tool_calls, "a call of 1 MiB", one_string, limit=small)
    yield case(rxc.track_tool_calls, "a call of 1 MiB", one_string, limit=small)
    yield case(rxc.track_tool_calls, "a call of 1 MiB, parsed", one_string, parsing, limit=small)
    yield case(rxc.collect_response, "a call of 1 MiB", one_string, limit=small)
    yield case(rxc.accumulate_response, "a call of 1 MiB", one_string, limit=small)
    yield case(rxc.assemble_tool_calls, "calls of 1 MiB in turn", in_turn)
    yield case(rxc.track_tool_calls, "calls of 1 MiB in turn", in_turn)
    yield case(rxc.track_tool_calls, "calls of 1 MiB in turn, parsed", in_turn, parsing)
    yield case(rxc.collect_response, "calls of 1 MiB in turn", in_turn)
    yield case(rxc.share_response, "calls of 1 MiB in turn", in_turn)
    yield case(rxc.assemble_tool_calls, "100 calls, interleaved", interleaved)
    yield case(rxc.track_tool_calls, "100 calls, interleaved", interleaved)
    yield case(rxc.track_tool_calls, "100 calls, interleaved, parsed", interleaved, parsing)
    yield case(rxc.collect_response, "100 calls, interleaved", interleaved)
    yield case(rxc.share_response, "100 calls, interleaved", interleaved)


def citation_cases() -> Iterator[Case]:
    few = 10_000
    yield case(rxc.citations, "a citation in 100 events", cited)
    yield case(rxc.attach_citations, "a citation in 100 events", cited)
    yield case(rxc.attach_citations, "a citation in 100, text read", cited, reading_text)
    yield case(rxc.collect_cited_text, "a citation in 100 events", cited)
    yield case(rxc.collect_response, "a citation in 100 events", cited)
    yield case(rxc.share_response, "a citation in 100 events", cited)
    yield case(rxc.attach_citations, "the same, 25 overlapping", overlapping)
    yield case(rxc.attach_citations, "citations after the text", cited_at_once, limit=few)
    yield case(rxc.collect_cited_text, "citations after the text", cited_at_once, limit=few)


def copying_cases() -> Iterator[Case]:
    copying = partial(case, copies=True)
    respond = rxc.accumulate_response
    yield copying(rxc.accumulate_text, "text, the last kept", text, keeping_last, limit=300_000)
    yield copying(respond, "text, the last kept", text, keeping_last, limit=100_000)
    yield copying(respond, "a citation in 100 events", cited, limit=100_000)
    yield copying(respond, "text with logprobs", logprobs, limit=20_000)
    yield copying(respond, "calls of 50 fragments", short_calls, limit=5_000)
    yield copying(rxc.track_tool_calls, "one array, parsed", numbers, parsing, limit=30_000)


def missing() -> list[str]:
    """The operators that have no case."""
    operators = [name for name in rxc.__all__ if inspect.isfunction(getattr(rxc, name))]
    return sorted(set(operators) - {each.operator for each in cases()})
