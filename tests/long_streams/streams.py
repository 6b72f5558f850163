"""Streams without end, as the events by their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import samples
from long_streams.amounts import CYCLE

from rxcohere import ChatEvent, parse_event

Stream = Callable[[int], ChatEvent]


def text(n: int) -> ChatEvent:
    return parse_event(samples.text_delta(f"{n:04x}"))


def thinking(n: int) -> ChatEvent:
    return parse_event(samples.thinking_delta(f"{n:04x}"))


def plan(n: int) -> ChatEvent:
    return parse_event(samples.tool_plan_delta(f"{n:04x}"))


def one_call(n: int) -> ChatEvent:
    return parse_event(samples.tool_call_delta(f"{n:04x}" if n else '{"text":"'))


def calls_in_turn(n: int) -> ChatEvent:
    """Calls of 48 fragments, all of one index: a start begins a call of its own."""
    match n % 50:
        case 0:
            return parse_event(samples.tool_call_start(arguments='{"text":"'))
        case 49:
            return parse_event(samples.tool_call_end())
        case at:
            return parse_event(samples.tool_call_delta(f"{at:3} "))


def interleaved_calls(n: int) -> ChatEvent:
    """A hundred calls, of 1 MiB each after a million events."""
    fragment = f"{n % 16:104} " if n >= 100 else '{"text":"'
    return parse_event(samples.tool_call_delta(fragment, n % 100))


def escaped(n: int) -> ChatEvent:
    """A call whose fragments take a step each, as an escape does not simply go with the rest."""
    return parse_event(samples.tool_call_delta(r"a\n" if n else '{"text":"'))


def cited(n: int) -> ChatEvent:
    """Text, and with each tenth event a citation that overlaps the one before."""
    return citation(n, 50) if n % 10 == 9 else text(n)


def citations_alone(n: int) -> ChatEvent:
    return citation(n, 2)


def citation(n: int, length: int) -> ChatEvent:
    source = samples.document(f"doc:{n % 20}", title="Birds")
    return parse_event(
        samples.citation_start(samples.citation(3 * n, 3 * n + length, "text", source))
    )


def logprobs(n: int) -> ChatEvent:
    item = {"text": "abc ", "token_ids": [n % 100], "logprobs": [-0.5]}
    return parse_event({**samples.text_delta("abc "), "logprobs": item})


@cache
def old_events(stream: Stream) -> tuple[list[ChatEvent], list[ChatEvent]]:
    """The first cycle of a stream, and one like all further ones."""
    return [stream(n) for n in range(CYCLE)], [stream(n) for n in range(CYCLE, 2 * CYCLE)]


def again(stream: Stream, start: int, count: int) -> Iterable[ChatEvent]:
    """Events of a stream, but not new ones."""
    first, further = old_events(stream)
    for n in range(start, start + count):
        yield first[n] if n < CYCLE else further[n % CYCLE]
