"""What the properties found, each in its smallest form."""

import json

import pytest
from fuzz.readings import read_call, read_events

from rxcohere import ToolCall, parse_event

HALF = "\ud83d"
"""Half of a surrogate pair, which is no character."""


@pytest.mark.nightly
def test_arguments_with_half_a_character() -> None:
    """What a model has escaped stays escaped in the normal form, or it could not be sent back."""
    function = {"name": "f", "arguments": '{"a": "\\ud83d"}'}
    call = ToolCall.model_validate({"function": function})
    assert call.parsed == {"a": HALF}
    normal = call.normalized()
    read_call(normal)
    assert normal.parsed == call.parsed
    assert ToolCall.model_validate_json(normal.model_dump_json()) == normal


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["content-delta", "keep-warm"])
def test_an_object_with_half_a_character(kind: str) -> None:
    """It becomes U+FFFD, as it does in an event's text."""
    sent = {"type": kind, "delta": {"message": {"content": {"text": HALF}}}}
    event = parse_event(sent)
    assert event == parse_event(json.dumps(sent))
    read_events([event])
