"""The key: sent in one header, and shown nowhere."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from rxcohere import ConfigurationError, EventDecodeError, GenerationError
from rxcohere.transport import Secret

KEY = "secret-key-1234567"


def test_it_goes_into_one_header() -> None:
    """An empty key sends none."""
    assert Secret(KEY).headers() == {"Authorization": f"Bearer {KEY}"}
    assert Secret("").headers() == {}


def test_its_repr_hides_it() -> None:
    """Whatever shows the objects of a frame shows no key."""
    assert KEY not in repr(Secret(KEY))
    assert repr(Secret(KEY)) != repr(Secret(""))


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}€", f"{KEY}\0", KEY.encode(), 7])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: Any) -> None:
    """Neither the error nor a traceback that captures locals repeats it."""
    with pytest.raises(ConfigurationError, match="api_key should be a string") as caught:
        Secret(key)
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    inside = [line for line in frames.format() if "test_secret.py" not in line]
    assert KEY not in "".join(inside)


@pytest.mark.parametrize(
    ("text", "blotted"),
    [
        (f"invalid token {KEY}.", "invalid token ***."),
        (f"{KEY} {KEY}", "*** ***"),
        (f"Bearer%20{KEY}\\n", "Bearer%20***\\n"),
        ("cut off at secret-key-12", "cut off at ***"),
        ("a secret", "a ***"),
        ("se", "se"),
    ],
)
def test_it_is_blotted_out_wherever_it_stands(text: str, blotted: str) -> None:
    """Whole, also inside a longer word, or at the end as far as it goes."""
    assert Secret(KEY).blot_out_str(text) == blotted
    assert Secret(KEY).blot_out(text.encode()) == blotted.encode()
    assert Secret("").blot_out_str(text) == text


def test_a_short_key_is_blotted_out_as_a_word_only() -> None:
    """Or a key such as "test" would garble every message that has the word in it."""
    assert Secret("test").blot_out_str("test, tested, latest") == "***, tested, latest"


def test_an_event_that_repeats_the_key_loses_it() -> None:
    """Its raw data and its message; an event without the key stays the same object."""
    raw = f'{{"type":5,"k":"{KEY}"}}'.encode()
    error = Secret(KEY).blot_out_event(EventDecodeError(f"it begins {raw!r}", raw))
    assert KEY not in str(error)
    assert KEY.encode() not in error.raw
    other = EventDecodeError("no", b"{")
    assert Secret(KEY).blot_out_event(other) is other


def test_a_failure_that_repeats_the_key_loses_it() -> None:
    """In all that the server says of it; one without the key stays the same object."""
    hidden = Secret(KEY).blot_out_failure(GenerationError("ERROR", f"bad {KEY}", KEY))
    assert str(hidden) == "the generation ended with ERROR (***): bad ***"
    other = GenerationError("ERROR", "no", None)
    assert Secret(KEY).blot_out_failure(other) is other


def test_json_that_repeats_the_key_loses_it() -> None:
    """In keys and values, however deep; halves of characters stay, and so does all else."""
    said = {"a": [f"bad {KEY}", 1, None, {KEY: "\ud83d"}], "b": "secret-key"}
    assert Secret(KEY).blot_out_json(said) == {
        "a": ["bad ***", 1, None, {"***": "\ud83d"}],
        "b": "secret-key",
    }
    assert Secret("").blot_out_json(said) == said
