"""How a request is made: what the options accept, what they refuse, and how they combine."""

import copy
import dataclasses
import math
import pickle
from types import MappingProxyType
from typing import Any

import pytest

from rxcohere.errors import ConfigurationError
from rxcohere.options import RequestOptions, Retry, Timeouts, check_header

NO_NUMBERS: list[Any] = [math.nan, math.inf, -math.inf, -0.1, True, "5", [1]]
NO_COUNTS: list[Any] = [-1, 1.0, True, "2", math.nan]


def test_defaults_of_timeouts() -> None:
    """A stream may take as long as it likes, but not be silent for more than two minutes."""
    assert Timeouts() == Timeouts(connect=10, first_event=120, idle=120, total=None)


@pytest.mark.parametrize("name", ["connect", "first_event", "idle", "total"])
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_limit_that_is_no_number_of_seconds(name: str, value: Any) -> None:
    """A limit that is not a finite number above 0 is refused by name."""
    with pytest.raises(ConfigurationError, match=rf"timeouts\.{name}\b"):
        Timeouts(**{name: value})


@pytest.mark.parametrize("name", ["connect", "first_event", "idle", "total"])
@pytest.mark.parametrize("value", [None, 1, 0.25, 86_400])
def test_a_limit_that_is_fine(name: str, value: Any) -> None:
    """None, fractions and long times are limits."""
    assert getattr(Timeouts(**{name: value}), name) == value


def test_defaults_of_retry() -> None:
    """Three requests in all, at most a minute apart."""
    assert Retry() == Retry(attempts=3, max_wait=60)


@pytest.mark.parametrize("value", [0, None, *NO_COUNTS])
def test_attempts_that_are_no_count(value: Any) -> None:
    """At least one request is made, and their number is whole."""
    with pytest.raises(ConfigurationError, match=r"retry\.attempts"):
        Retry(attempts=value)


@pytest.mark.parametrize("value", [None, *NO_NUMBERS])
def test_a_wait_that_is_no_number(value: Any) -> None:
    """The longest wait is a finite number of seconds."""
    with pytest.raises(ConfigurationError, match=r"retry\.max_wait"):
        Retry(max_wait=value)


@pytest.mark.parametrize("value", [Timeouts(), Retry(), RequestOptions()])
def test_options_are_values(value: Any) -> None:
    """Options cannot be changed, compare by content, and survive copies."""
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, 1)
    assert copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value


# RequestOptions ----------------------------------------------------------------------------------


def test_no_options_change_nothing() -> None:
    """Without options, a call has the limits and retries of its client."""
    timeouts, retry = Timeouts(connect=1, idle=2), Retry(attempts=7)
    for options in (RequestOptions(), RequestOptions.of(None), RequestOptions.of({})):
        assert options.timeouts_over(timeouts) == timeouts
        assert options.retry_over(retry) == retry
        assert not options.additional_headers
        assert not options.additional_query_parameters
        assert not options.additional_body_parameters


GIVEN: dict[str, Any] = {
    "timeouts": Timeouts(total=9),
    "max_retries": 0,
    "additional_headers": {"X-Team": "tides"},
    "additional_query_parameters": {"a": 1},
    "additional_body_parameters": {"raw_prompting": True},
}


def test_options_as_a_mapping() -> None:
    """Options come as such or as any mapping of their names."""
    options = RequestOptions(**GIVEN)
    assert RequestOptions.of(options) is options
    assert RequestOptions.of(GIVEN) == options
    assert RequestOptions.of(MappingProxyType(GIVEN)) == options


@pytest.mark.parametrize("name", ["timeout_in_seconds", *GIVEN])
def test_none_in_a_mapping_is_as_if_left_out(name: str) -> None:
    """An option that is None is not given."""
    assert RequestOptions.of({name: None}) == RequestOptions()


def test_an_unknown_option_is_named() -> None:
    """A misspelt option is refused with its name and those that there are."""
    with pytest.raises(ConfigurationError, match=r"max_retires.*max_retries"):
        RequestOptions.of({"max_retires": 2})


@pytest.mark.parametrize("options", [5, "max_retries", ["max_retries"], Timeouts()])
def test_options_of_a_wrong_type(options: Any) -> None:
    """What is no mapping is refused as ``request_options``."""
    with pytest.raises(ConfigurationError, match="request_options"):
        RequestOptions.of(options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("timeout_in_seconds", value) for value in NO_NUMBERS),
        *(("max_retries", value) for value in NO_COUNTS),
        ("timeouts", 5),
        ("timeouts", {"connect": 5}),
        ("additional_headers", [("X-Team", "tides")]),
        ("additional_headers", "X-Team: tides"),
        ("additional_headers", {"X-Team": 5}),
        ("additional_headers", {5: "tides"}),
        ("additional_headers", {"X-Team": "a\r\nX-Other: b"}),
        ("additional_headers", {"X-Team\nX-Other": "b"}),
        ("additional_headers", {"X-Team": "snow ☃"}),
        ("additional_headers", {"Content-Length": "5"}),
        ("additional_headers", {"transfer-encoding": "chunked"}),
        ("additional_query_parameters", "a=1"),
        ("additional_body_parameters", [1]),
    ],
)
def test_an_option_of_a_wrong_type_is_named(name: str, value: Any) -> None:
    """An option of the wrong type or with an impossible value is refused by name, either way."""
    with pytest.raises(ConfigurationError, match=rf"request_options\.{name}\b"):
        RequestOptions(**{name: value})
    with pytest.raises(ConfigurationError, match=rf"request_options\.{name}\b"):
        RequestOptions.of({name: value})


def test_one_limit_for_each_wait() -> None:
    """``timeout_in_seconds`` limits each wait, as in the SDK, and not the whole stream."""
    options = RequestOptions(timeout_in_seconds=5)
    limited = options.timeouts_over(Timeouts(connect=1, first_event=None, idle=90, total=600))
    assert limited == Timeouts(connect=5, first_event=5, idle=5, total=600)


@pytest.mark.parametrize("zero", [0, 0.0])
def test_a_limit_of_zero_is_refused(zero: float) -> None:
    """Zero means at once to one clock and never to another, so it has to be said otherwise."""
    for name in ("connect", "first_event", "idle", "total"):
        with pytest.raises(
            ConfigurationError, match=rf"timeouts\.{name} should be seconds above 0"
        ):
            Timeouts(**{name: zero})
    with pytest.raises(ConfigurationError, match="timeout_in_seconds should be seconds above 0"):
        RequestOptions(timeout_in_seconds=zero)


def test_limits_one_by_one_replace_the_clients() -> None:
    """``timeouts`` are taken whole, not mixed with those of the client."""
    options = RequestOptions(timeouts=Timeouts(idle=3))
    assert options.timeouts_over(Timeouts(connect=1, total=9)) == Timeouts(idle=3)


def test_both_kinds_of_limit_contradict() -> None:
    """Only one of the two ways to give limits can be meant."""
    with pytest.raises(ConfigurationError, match=r"timeout_in_seconds.*timeouts"):
        RequestOptions(timeout_in_seconds=5, timeouts=Timeouts())


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (5, 6)])
def test_retries_are_one_less_than_attempts(retries: int, attempts: int) -> None:
    """``max_retries`` does not count the first request; the longest wait stays the client's."""
    retry = RequestOptions(max_retries=retries).retry_over(Retry(attempts=3, max_wait=7))
    assert retry == Retry(attempts=attempts, max_wait=7)


# Headers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "tides", "grün", "a b; c=d", "\xff"])
def test_header_text_that_is_fine(value: str) -> None:
    """Printable Latin-1 can stand in a header."""
    check_header("client_name", value)


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\x7fb", "€", "😀", None, 5, b"bytes"])
def test_header_text_that_is_not(value: object) -> None:
    """Line breaks, controls, other characters and other types are refused by name."""
    with pytest.raises(ConfigurationError, match="client_name"):
        check_header("client_name", value)
