"""The partial JSON parser, held against pydantic's and the standard library's."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import NoReturn, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from rxcohere.folds.partial_json import MAX_DEPTH, MAX_NUMBER_LENGTH, PartialJSON

_relaxed = settings(deadline=None)


def parsed(fragments: Iterable[str]) -> PartialJSON:
    parser = PartialJSON()
    for fragment in fragments:
        parser.feed(fragment)
    return parser


def state(parser: PartialJSON) -> tuple[str, bool, bool, bool]:
    """All that a parser shows; the repr keeps 1, 1.0 and True apart."""
    return repr(parser.value), parser.started, parser.complete, parser.broken


def prefixes(text: str) -> Iterator[str]:
    return (text[:end] for end in range(len(text) + 1))


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=refuse_constant)
    except ValueError:
        return False
    return True


def is_json_prefix(text: str) -> bool:
    """Whether a strict parser only misses the end."""
    try:
        from_json(text, allow_inf_nan=False)
    except ValueError as error:
        return str(error).startswith("EOF while parsing")
    return True


# Texts, not values: writers differ in escapes, white space, number forms and repeated keys.
spaces = st.text(" \t\n\r", max_size=2)
plain_characters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\')
escapes = st.from_regex(
    r'\\(["\\/bfnrt]|u00[0-9a-fA-F]{2}|u20AC|ud83c\\udf08|uD834\\uDD1E)', fullmatch=True
)
strings = st.lists(plain_characters | escapes, max_size=6).map(lambda parts: f'"{"".join(parts)}"')
numbers = st.from_regex(
    r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
)
scalars = strings | numbers | st.sampled_from(["true", "false", "null"])


def spaced(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(spaces, texts, spaces).map("".join)


def containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    keys = strings | st.sampled_from(['"a"', '"b"'])
    members = st.tuples(spaced(keys), spaced(inner)).map(":".join)
    arrays = st.lists(spaced(inner), min_size=1, max_size=4).map(
        lambda items: f"[{','.join(items)}]"
    )
    objects = st.lists(members, min_size=1, max_size=4).map(lambda items: f"{{{','.join(items)}}}")
    return arrays | objects | st.sampled_from(["[]", "{}", "[ ]", "{ }"])


json_texts = spaced(st.recursive(scalars, containers, max_leaves=12))
json_like_texts = st.lists(
    st.sampled_from(
        [*'[]{},:"-+.01eE \n\\/u', "true", "nul", '"a":', '"a"', "\\u0041", "12", "\x01"]
    ),
    max_size=14,
).map("".join)


@st.composite
def cut_texts(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> tuple[str, list[str]]:
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return text, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@_relaxed
@given(json_texts)
def test_every_prefix_has_the_value_that_pydantic_gives_it(text: str) -> None:
    """Each prefix of a JSON text, fed whole or by characters, is what the oracle makes of it."""
    growing = PartialJSON()
    for prefix in prefixes(text):
        growing.feed(prefix[-1:])
        try:
            expected: object = from_json(prefix, allow_partial="trailing-strings")
        except ValueError:
            expected = None  # a top-level scalar without a value yet
        assert repr(growing.value) == repr(expected)
        assert state(parsed([prefix])) == state(growing)
        assert not growing.broken


@_relaxed
@given(json_texts)
def test_a_whole_text_has_the_value_of_json_loads(text: str) -> None:
    """A whole text is complete; its value, order of keys included, is the standard library's."""
    parser = parsed([text])
    assert parser.complete
    assert repr(parser.value) == repr(json.loads(text))


@_relaxed
@given(cut_texts(json_texts | json_like_texts))
@example(('["\\ud83c\\udf08"]', ['["\\', "u", "d8", "3c", "\\", "ud", "f08", '"]']))
@example(('["\\ud83cx', ['["\\ud83c', "x"]))
def test_the_cut_makes_no_difference(cut: tuple[str, list[str]]) -> None:
    """A text, sound or not, says the same in fragments, in one piece and by characters."""
    text, fragments = cut
    whole = state(parsed([text]))
    assert state(parsed(fragments)) == whole
    assert state(parsed(text)) == whole


@_relaxed
@given(json_like_texts)
def test_complete_and_broken_are_as_strict_as_the_whole_parsers(text: str) -> None:
    """Complete means that json.loads accepts, broken that a strict parser fails before the end."""
    parser = parsed([text])
    assert parser.complete == is_json(text)
    assert parser.broken != is_json_prefix(text)


@_relaxed
@given(json_like_texts | st.text())
def test_a_break_keeps_the_value_and_ends_the_reading(text: str) -> None:
    """Text that cannot be JSON raises nothing: the value before the wrong character stays."""
    parser = PartialJSON()
    before: object = None
    for char in text:
        parser.feed(char)
        if parser.broken:
            break
        before = parser.value
    for more in ("", "1", '"]}', text):
        if parser.broken:
            parser.feed(more)
            assert state(parser)[2:] == (False, True)
            assert repr(parser.value) == repr(before)


@_relaxed
@given(cut_texts(json_texts))
def test_what_was_read_never_changes(cut: tuple[str, list[str]]) -> None:
    """A value that was given out stays as it was, whatever comes later."""
    _, fragments = cut
    parser = PartialJSON()
    seen: list[tuple[object, object]] = []
    for fragment in fragments:
        parser.feed(fragment)
        seen.append((parser.value, deepcopy(parser.value)))
    assert [repr(value) for value, _ in seen] == [repr(copied) for _, copied in seen]


def test_reading_twice_gives_the_same_object() -> None:
    """Without a fragment in between, the value is not made anew; an empty fragment is none."""
    parser = parsed(['{"a": [1, {"b": "te'])
    value = parser.value
    parser.feed("")
    assert parser.value is value
    parser.feed("xt")
    assert value == {"a": [1, {"b": "te"}]}
    assert parser.value == {"a": [1, {"b": "text"}]}


def test_finished_parts_are_shared_between_values() -> None:
    """Only the containers on the way to the end of the text are copied at a read."""
    parser = parsed(['{"done": [1, 2], "open": [[3], '])
    earlier = cast("dict[str, list[object]]", parser.value)
    parser.feed("4")
    later = cast("dict[str, list[object]]", parser.value)
    assert later["done"] is earlier["done"]
    assert later["open"] is not earlier["open"]
    assert later["open"][0] is earlier["open"][0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, False, False)),
        (" \n", (None, False, False)),
        ("nul", (None, True, False)),
        ("null", (None, True, True)),
        ("null ", (None, True, True)),
        ("-", (None, True, False)),
        ("1", (1, True, True)),
        ("1.", (None, True, False)),
        ("[1", ([1], True, False)),
        ('{"a":1} ', ({"a": 1}, True, True)),
    ],
)
def test_started_and_complete_tell_null_from_nothing(
    text: str, expected: tuple[object, bool, bool]
) -> None:
    """A None that means null is told from one that means that nothing has come."""
    parser = parsed([text])
    assert (parser.value, parser.started, parser.complete) == expected
    assert not parser.broken


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('["a\nb"]', ["a"]),
        ('["a\x1f"]', ["a"]),
        ('["a\\q"]', ["a"]),
        ('["a\\u00g0"]', ["a"]),
        ('["\\u 041"]', [""]),
        ("[01]", [0]),
        ("[1.x", []),
        ("[+1]", []),
        ("[1,]", [1]),
        ('{"a":1,}', {"a": 1}),
        ('{"a" 1}', {}),
        ("{1:2}", {}),
        ("[1}", [1]),
        ("[truX", []),
        ("[truex", [True]),
        ("[NaN]", []),
        ("[-Infinity]", []),
        ("[1] x", [1]),
        ("[]]", []),
        ("\ufeff[]", None),
        ("\xa0[]", None),
        ("\f[]", None),
        ("[\u0661]", []),
    ],
)
def test_what_cannot_be_json_breaks(text: str, value: object) -> None:
    """Where json.loads would fail (and at NaN and Infinity), the value up to there stays."""
    parser = parsed([text])
    assert parser.broken
    assert repr(parser.value) == repr(value)


@pytest.mark.parametrize(
    "text",
    [
        '["\\ud83c"]',
        '["\\udf08"]',
        '["\\ud83cx"]',
        '["\\ud83c\\n"]',
        '["\\ud83c\\u0041"]',
        '["\\ud83c\\ud83c\\udf08"]',
        '["\\udf08\\ud83c"]',
        '{"\\ud83c": 1}',
        '["\ud83c\\udf08"]',
    ],
)
def test_a_lone_surrogate_is_kept_as_json_loads_keeps_it(text: str) -> None:
    """Half a surrogate pair does not break the text, however it is cut."""
    for fragments in ([text], list(text)):
        parser = parsed(fragments)
        assert parser.complete
        assert parser.value == json.loads(text)


CORNERS = ["d7ff", "d800", "dbff", "dc00", "dfff", "e000"]


@pytest.mark.parametrize("first", CORNERS)
@pytest.mark.parametrize("second", CORNERS)
def test_code_units_at_the_corners(first: str, second: str) -> None:
    """The first and last halves make pairs, their neighbours do not, however the text is cut."""
    text = f'"\\u{first}\\u{second}"'
    for fragments in ([text], text, [text[:7], text[7:]], [text[:9], text[9:]]):
        assert parsed(fragments).value == json.loads(text)


def test_a_high_surrogate_is_withheld_until_its_fate_is_known() -> None:
    """No value shows half of a character that the next fragment completes."""
    parser = PartialJSON()
    shown: list[object] = []
    for char in '"a\\ud83c\\udf08':
        parser.feed(char)
        shown.append(parser.value)
    assert shown == [""] + ["a"] * 12 + ["a🌈"]


def test_a_repeated_key_counts_from_where_its_value_shows() -> None:
    """The earlier value stands until the later one begins."""
    text = '{"a":1,"a":-2}'
    shown = [parsed([prefix]).value for prefix in prefixes(text)]
    assert shown[text.index("1") + 1 :] == [{"a": 1}] * 7 + [{"a": -2}] * 2


def test_depth_has_a_limit() -> None:
    """Nesting up to the limit is read; one level more breaks, and a flood of it does no harm."""
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parsed([deepest]).value == json.loads(deepest)
    beyond = parsed(["[" * (MAX_DEPTH + 1)])
    assert beyond.broken
    assert repr(beyond.value) == deepest
    assert repr(parsed(['{"a":[' * 100_000]).value) == "{'a': [" * (MAX_DEPTH // 2) + "]}" * (
        MAX_DEPTH // 2
    )


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_number_has_a_longest_length(size: int) -> None:
    """Digits up to the limit are a number, however they come; one more breaks and keeps it."""
    digits = "9" * (MAX_NUMBER_LENGTH + 1)
    longest, beyond = PartialJSON(), PartialJSON()
    for start in range(0, MAX_NUMBER_LENGTH, size):
        longest.feed(digits[start : min(start + size, MAX_NUMBER_LENGTH)])
    for start in range(0, len(digits), size):
        beyond.feed(digits[start : start + size])
    assert longest.complete
    assert beyond.broken
    assert longest.value == beyond.value == int(digits[1:])


def test_a_lower_limit_of_the_process_holds() -> None:
    """Where the application allows only shorter integers, a longer one breaks, raising nothing."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        parser = parsed(["[1, ", "9" * 641, "]"])
        assert parser.broken
        assert parser.value == [1, int("9" * 640)]
    finally:
        sys.set_int_max_str_digits(before)


def test_a_long_argument_is_read_at_every_fragment() -> None:
    """1 MiB in fragments of four characters, with a look at each, arrives whole."""
    text = json.dumps({"path": "a.py", "code": "line 🌈 é\n" * 105_000}, ensure_ascii=False)
    assert len(text) > 1 << 20
    parser = PartialJSON()
    length = 0
    for start in range(0, len(text), 4):
        parser.feed(text[start : start + 4])
        # Not bound to a name: the value is dropped before the next read, as the string needs.
        grown = len(cast("dict[str, str]", parser.value).get("code", ""))
        assert length <= grown <= length + 4
        length = grown
    assert parser.complete
    assert parser.value == json.loads(text)


@pytest.mark.skipif(
    sys.implementation.name != "cpython" or sys.gettrace() is not None,
    reason="strings grow in place on CPython only, and not while code is traced",
)
def test_a_read_does_not_copy_a_long_string() -> None:
    """Once the earlier value is dropped, an open string grows where it is."""
    parser = parsed(['{"a": {"b": ["', "x" * (1 << 20)])
    for _ in range(200):  # CPython specializes the code that runs often
        parser.feed("warm")
        assert parser.value is not None
    tracemalloc.start()
    try:
        for _ in range(10):
            parser.feed("more")
            assert parser.value is not None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * (1 << 20)  # the string that has grown; never two of them
