"""Streams that no server should send: legal ones, broken in one or several ways."""

import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

from fuzz.wire import Draw, framed
from hypothesis import strategies as st
from samples import JSON, content_start, message_end, message_start, streams, text_delta

LIMIT = 2_000
"""The most bytes of data that an event may have, where there are huge events."""

HUGE = [LIMIT // 4, LIMIT // 2, LIMIT * 2, LIMIT * 5]
"""Sizes of data that are far from the limit."""

KEYS = [
    "type",
    "index",
    "delta",
    "message",
    "content",
    "text",
    "thinking",
    "tool_calls",
    "function",
    "arguments",
    "name",
    "id",
    "citations",
    "start",
    "end",
    "sources",
    "document",
    "content_index",
    "logprobs",
    "usage",
    "finish_reason",
    "tool_plan",
    "model_extra",
    "self",
]

TYPES = [
    "message-start",
    "content-start",
    "content-delta",
    "content-end",
    "tool-plan-delta",
    "tool-call-start",
    "tool-call-delta",
    "tool-call-end",
    "citation-start",
    "citation-end",
    "citation-generation",
    "message-end",
    "debug",
    "keep-warm",
]

_NUMBERS = [0, 1, -1, 7, 10**30, 1.0, 1.5, -0.0, 1e300]
_STRINGS = [
    "",
    "0",
    "-1",
    "1.0",
    "x",
    "text",
    "thinking",
    "ERROR",
    "timeout",
    "\u2028",
    "\x00",
    "😀",
]

SCALARS = st.sampled_from([None, True, False, *_NUMBERS, *_STRINGS])

ODD: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda value: (
        st.lists(value, max_size=3) | st.dictionaries(st.sampled_from(KEYS), value, max_size=3)
    ),
    max_leaves=5,
)

NOT_EVENTS = [
    b"",
    b"   ",
    b"null",
    b"[]",
    b"17",
    b'"content-delta"',
    b"{}",
    b'{"message": "boom"}',
    b'{"type": null}',
    b'{"type": ["message-end"]}',
    b'{"type": "message-end", ',
    b'{"type": "content-delta", "index": 0} trailing',
    b'{"type": "content-delta", "delta": {"message": {"content": {"text": "\\ud83d"}}}}',
    b'{"type": "content-delta", "delta": {"message": {"content": {"text": "\xff\xc3"}}}}',
    b'{"type": "content-delta", "type": "content-end", "index": NaN}',
    b'{"type": "message-end", "delta": {"usage": {"cached_tokens": 1e999}}}',
    b'{"type": "x", "deep": ' + b"[" * 150 + b"]" * 150 + b"}",
    b'{"type": "x", "deep": ' + b"[" * 1_900,
    b'{"type": "x", "digits": ' + b"9" * 5000 + b"}",
    b"[DONE]",
    b" [DONE]",
    b"[DONE] ",
    b"[done]",
    b"[DONE]\n[DONE]",
]


def paths(value: Any, *above: Any) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    for key in keys:
        yield (*above, key)
        yield from paths(value[key], *above, key)


def parent_of(event: JSON, path: tuple[Any, ...]) -> Any:
    value: Any = event
    for key in path[:-1]:
        value = value[key]
    return value


def some_path(draw: Draw, event: JSON) -> tuple[Any, ...]:
    return draw(st.sampled_from(list(paths(event))))


# The ways to break a list of events; each changes the list.


def leave_out(draw: Draw, events: list[JSON], at: int) -> None:
    del events[at]


def double(draw: Draw, events: list[JSON], at: int) -> None:
    events.insert(draw(st.integers(0, len(events))), deepcopy(events[at]))


def move(draw: Draw, events: list[JSON], at: int) -> None:
    events.insert(draw(st.integers(0, len(events) - 1)), events.pop(at))


def break_off(draw: Draw, events: list[JSON], at: int) -> None:
    del events[at + 1 :]


def misnumber(draw: Draw, events: list[JSON], at: int) -> None:
    events[at]["index"] = draw(st.integers(-2, 3) | SCALARS)


def rename_type(draw: Draw, events: list[JSON], at: int) -> None:
    events[at]["type"] = draw(st.sampled_from(TYPES) | ODD)


def replace_value(draw: Draw, events: list[JSON], at: int) -> None:
    path = some_path(draw, events[at])
    parent_of(events[at], path)[path[-1]] = draw(ODD)


def remove_value(draw: Draw, events: list[JSON], at: int) -> None:
    path = some_path(draw, events[at])
    del parent_of(events[at], path)[path[-1]]


def add_value(draw: Draw, events: list[JSON], at: int) -> None:
    path = some_path(draw, events[at])
    parent = parent_of(events[at], path)
    if isinstance(parent, dict):
        parent[draw(st.sampled_from(KEYS))] = draw(ODD)
    else:
        parent.append(draw(ODD))


def go_on(draw: Draw, events: list[JSON], at: int) -> None:
    more = [message_start("again"), content_start(), text_delta("more"), message_end()]
    events.extend(more[draw(st.integers(0, 3)) :])


BREAKS: list[Callable[[Draw, list[JSON], int], None]] = [
    leave_out,
    double,
    move,
    break_off,
    misnumber,
    rename_type,
    replace_value,
    replace_value,
    remove_value,
    add_value,
    go_on,
]


@st.composite
def broken_events(draw: Draw) -> list[JSON]:
    """The events of a legal stream after up to four accidents; they may have no ``type``."""
    events: list[JSON] = deepcopy(draw(streams()).events)
    for accident in draw(st.lists(st.sampled_from(BREAKS), max_size=4)):
        if events and (at := draw(st.integers(0, len(events) - 1))) < len(events) and events[at]:
            accident(draw, events, at)
    return events


@st.composite
def broken_data(draw: Draw, sizes: Sequence[int] = HUGE) -> list[bytes]:
    """The data of each frame of a broken stream; some of it may be no JSON, or huge, or the end."""
    data = [json.dumps(event).encode() for event in draw(broken_events())]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["rubbish", "half", "huge"])):
            case "rubbish":
                data.insert(at, draw(st.sampled_from(NOT_EVENTS) | st.binary(max_size=20)))
            case "half" if at < len(data):
                data[at] = data[at][: draw(st.integers(0, len(data[at])))]
            case "huge":
                size = draw(st.sampled_from(sizes)) - len(json.dumps(text_delta("")))
                data.insert(at, json.dumps(text_delta("x" * size)).encode())
    return [each.replace(b"\r", b" ") for each in data]


@st.composite
def broken_bodies(draw: Draw, sizes: Sequence[int] = HUGE) -> bytes:
    """The frames of a broken stream."""
    data = draw(broken_data(sizes))
    if draw(st.booleans()):
        data.append(b"[DONE]")
    return b"".join(framed(draw, each, "content-delta") for each in data)
