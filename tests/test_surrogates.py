"""Lone surrogates: found anywhere in an object, replaced in text, escaped in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from rxcohere import ToolCall, UnknownEvent, parse_event
from rxcohere.surrogates import (
    escape_lone_surrogates,
    has_lone_surrogates,
    replace_lone_surrogates,
)

LONE = "\ud83d"


@pytest.mark.parametrize(
    "data",
    [LONE, f"é{LONE}", [LONE], (LONE,), {"a": LONE}, {LONE: 1}, {"a": [{"b": ("c", LONE)}]}],
)
def test_they_are_found_wherever_they_are(data: Any) -> None:
    """In texts, keys, lists and tuples, however deep."""
    assert has_lone_surrogates(data)
    assert not has_lone_surrogates(json.loads(json.dumps(data).replace("\\ud83d", "é")))


def test_an_object_in_many_places_is_looked_at_once() -> None:
    """So that one that holds itself, or one in 2**60 places, takes no longer."""
    data: dict[str, Any] = {"text": "x"}
    data["self"] = data
    for _ in range(60):
        data = {"left": data, "right": data}
    assert not has_lone_surrogates(data)


class Deep(Mapping[str, Any]):
    """A mapping that makes what it holds anew for whoever asks."""

    def __init__(self, depth: int) -> None:
        self._depth = depth

    def __getitem__(self, key: str) -> Any:
        if key == "text":
            return "x" if self._depth else LONE
        return [Deep(self._depth - 1)]

    def __iter__(self) -> Iterator[str]:
        return iter(["text", "more"] if self._depth else ["text"])

    def __len__(self) -> int:
        return 2 if self._depth else 1


def test_an_object_that_is_made_while_one_looks_is_looked_at() -> None:
    """Although it may be where another one was, which nobody keeps."""
    assert all(has_lone_surrogates(Deep(depth)) for depth in range(30))


def test_whole_characters_stay() -> None:
    """Of a text with both, only the half is replaced, or escaped."""
    assert replace_lone_surrogates(f"🎉{LONE}é") == "🎉\ufffdé"
    assert escape_lone_surrogates(f'"🎉{LONE}é"') == '"🎉\\ud83dé"'


@pytest.mark.parametrize("kind", ["content-delta", "keep-warm"])
@pytest.mark.parametrize("shape", [dict, MappingProxyType])
def test_an_event_made_of_an_object_has_none(kind: str, shape: Any) -> None:
    """It has U+FFFD for it, as an event made of JSON does; a tuple counts as a list."""
    sent = {"type": kind, "delta": {"message": {"content": {"text": LONE}}}, "more": (LONE, 1)}
    event = parse_event(shape(sent))
    assert event == parse_event(json.dumps(sent))
    assert LONE not in event.model_dump_json()


def test_an_object_that_is_no_json_stays_as_it_is() -> None:
    """There is no telling what it means."""
    event = parse_event({"type": "x", "text": LONE, "what": {1, 2}})
    assert isinstance(event, UnknownEvent)
    assert event.raw == {"type": "x", "text": LONE, "what": {1, 2}}


def test_normal_arguments_have_them_escaped() -> None:
    """As the model wrote them, so that they can be sent back."""
    call = ToolCall.model_validate({"function": {"name": "f", "arguments": '{"a": "\\ud83d"}'}})
    normal = call.normalized()
    assert normal.arguments == '{"a":"\\ud83d"}'
    assert normal.parsed == {"a": LONE}
    assert ToolCall.model_validate_json(normal.model_dump_json()) == normal
