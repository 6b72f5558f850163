"""The streams whose events are made here, not read from a server: each gives its n-th event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeAlias

from serving import text_of

from rxcohere import ChatEvent, parse_event

Part: TypeAlias = tuple[str, str, int]
"""What an event is made of: kind, fragment and index."""
Stream: TypeAlias = Callable[[int], Part]
"""The events of a stream by their number."""

FRAGMENTS = 8_192  # in a call of 1 MiB, of 128 characters each


# The streams -------------------------------------------------------------------------------------


def text(n: int) -> Part:
    return "text", text_of(n), 0


def two_texts(n: int) -> Part:
    """Blocks that take turns, so that no event merges with the one before."""
    return "text", text_of(n), n % 2


def thinking(n: int) -> Part:
    return "thinking", text_of(n), 0


def plan(n: int) -> Part:
    return "plan", text_of(n), 0


def one_string(n: int) -> Part:
    return "arguments", f"a{n % 900 + 100}" if n else '{"text":"', 0


def numbers(n: int) -> Part:
    return "arguments", f"{n % 900 + 100}," if n else '{"numbers":[', 0


def in_turn(n: int) -> Part:
    call, at = divmod(n, FRAGMENTS + 2)
    if at == 0:
        return "call", '{"text":"', call
    return ("arguments", "ab" * 64, call) if at <= FRAGMENTS else ("end of call", "", call)


def interleaved(n: int) -> Part:
    return "arguments", f"a{n // 100 % 10:0104d}" if n >= 100 else '{"text":"', n % 100


def short_calls(n: int) -> Part:
    """A call of fifty fragments after the other."""
    call, at = divmod(n, 52)
    if at in (0, 51):
        return ("end of call" if at else "call"), "", call
    return "arguments", "abcd", call


def cited(n: int) -> Part:
    """Each hundredth event cites the last fifty or so characters."""
    return ("citation", f"{max(0, n * 4 - 50)} {n * 4}", n) if n % 100 == 99 else text(n)


def overlapping(n: int) -> Part:
    """Each hundredth event cites the last ten thousand characters, as 25 others do."""
    return ("citation", f"{max(0, n * 4 - 10_000)} {n * 4}", n) if n % 100 == 99 else text(n)


def cited_at_once(n: int) -> Part:
    """Nothing but citations, as if all came after the text."""
    return ("citation", f"{n * 4} {n * 4 + 3}", n) if n else text(n)


def logprobs(n: int) -> Part:
    return "logprobs", text_of(n), 0


def kib_of_text(stream: Stream, count: int) -> float:
    """How many KiB of characters so many events bring."""
    parts = (stream(n) for n in range(count))
    return sum(len(fragment) for kind, fragment, _ in parts if kind != "citation") / 1024


# Their events ------------------------------------------------------------------------------------


def make(kind: str, fragment: str, index: int) -> ChatEvent:
    """The event of one part."""
    event: dict[str, Any] = {"type": "content-delta", "index": index}
    message: dict[str, Any] = {}
    function: dict[str, Any] = {"arguments": fragment}
    match kind:
        case "text" | "thinking":
            message["content"] = {kind: fragment}
        case "logprobs":
            message["content"] = {"text": fragment}
            event["logprobs"] = {"text": fragment, "token_ids": [index], "logprobs": [-0.5]}
        case "plan":
            event["type"] = "tool-plan-delta"
            message["tool_plan"] = fragment
        case "call":
            event["type"] = "tool-call-start"
            function["name"] = "look_up"
            call = {"id": f"call_{index}", "type": "function", "function": function}
            message["tool_calls"] = call
        case "arguments":
            event["type"] = "tool-call-delta"
            message["tool_calls"] = {"function": function}
        case "citation":
            event["type"] = "citation-start"
            start, end = map(int, fragment.split())
            source = {"type": "document", "id": f"doc:{index % 50}", "document": {"title": "Birds"}}
            message["citations"] = {"start": start, "end": end, "text": "x", "sources": [source]}
        case _:
            return parse_event({"type": "tool-call-end", "index": index})
    return parse_event({**event, "delta": {"message": message}})


make_once = cache(make)


def beginning() -> list[ChatEvent]:
    """What comes before the first delta of an answer of text."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": [],
        "tool_plan": "",
        "tool_calls": [],
    }
    content = {"message": {"content": {"type": "text", "text": ""}}}
    return [
        parse_event({"id": "benchmark", "type": "message-start", "delta": {"message": message}}),
        parse_event({"type": "content-start", "index": 0, "delta": content}),
    ]


def new_events(stream: Stream, count: int) -> Iterator[ChatEvent]:
    """Each a new one, made when it is asked for, as memory is measured with."""
    return (make(*stream(n)) for n in range(count))


def timed_events(stream: Stream, count: int) -> list[ChatEvent]:
    """The same ones over and over: a list of new ones would measure the garbage collector."""
    return [make_once(*stream(n)) for n in range(count)]
