"""A `Verdict` in JSON: the same error comes back, with all that it says."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import Sample, parsed, streams, text_stream
from subscribers import Boom

from rxcohere import errors
from rxcohere.bridges.journal import Verdict
from rxcohere.errors import RxCohereError, StreamError
from rxcohere.events import ChatEvent
from rxcohere.folds import ResponseFold
from rxcohere.response import ChatResponse

STATUSES = (400, 401, 402, 403, 404, 418, 422, 429, 498, 499, 500, 501, 503, 504)
HEADERS = {"X-Debug-Trace-Id": "trace-7", "Retry-After": "7"}
MESSAGE = "it broke:\n«off» — 🐧"

API_ERRORS = [
    errors.api_error(status, {"message": MESSAGE, "data": [1, None]}, HEADERS, 7.5)
    for status in STATUSES
]
WITH_FIELDS: list[RxCohereError] = [
    errors.ToolArgumentsError(MESSAGE, '{"city": "Os'),
    errors.UnexpectedContentError(MESSAGE, "text/html", "<html>\n"),
    errors.EventDecodeError(MESSAGE, b"\xff\x00\xe2\x82 no text"),
    errors.StreamTimeoutError(MESSAGE, "first_event"),
    errors.GenerationError("ERROR", MESSAGE, "INVALID_TOOL_GENERATION"),
    errors.GenerationError("TIMEOUT"),
]
PLAIN = [
    kind(MESSAGE)
    for kind in (
        RxCohereError,
        errors.ConfigurationError,
        errors.BlockingCallError,
        errors.StreamExistsError,
        errors.StreamNotFoundError,
        StreamError,
        errors.ConnectionFailedError,
        errors.StreamTruncatedError,
        errors.StreamCancelledError,
        errors.StreamAbandonedError,
        errors.JournalError,
        errors.BufferOverflowError,
    )
]
ALL = [*API_ERRORS, *WITH_FIELDS, *PLAIN]


def response_of(events: list[ChatEvent]) -> ChatResponse | None:
    fold = ResponseFold()
    for event in events:
        fold.add(event)
    return fold.response()


def travelled(error: Exception | None) -> Any:
    """What becomes of an error in one line of UTF-8."""
    told = Verdict.of(error).to_json()
    assert "\n" not in told
    return Verdict.from_json(told.encode()).error


def name_of(error: Exception) -> str:
    return type(error).__name__


def subclasses_of(kind: type[Any]) -> set[type[Any]]:
    return {kind}.union(*(subclasses_of(each) for each in kind.__subclasses__()))


def test_every_error_is_among_those_that_are_tried() -> None:
    """A new class of error in the package needs a sample here."""
    ours = {kind for kind in subclasses_of(RxCohereError) if kind.__module__ == errors.__name__}
    assert {type(error) for error in ALL} == ours


def test_a_complete_stream() -> None:
    """No error stays none, as text and as bytes."""
    told = Verdict().to_json()
    assert Verdict.from_json(told) == Verdict.from_json(told.encode()) == Verdict()
    assert Verdict.of(None) == Verdict()


@pytest.mark.parametrize("error", ALL, ids=name_of)
def test_an_error_comes_back(error: RxCohereError) -> None:
    """It is of the same class, says the same, and has the same fields."""
    back = travelled(error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


@pytest.mark.parametrize(
    "body", [None, "", "<html>", {}, [], {"a": {"b": [1.5, True, None]}}, 7, "\x00\u2028"]
)
def test_an_api_error_comes_back_with_any_body(body: object) -> None:
    """Also without headers; the request id is read from those that there are."""
    back = travelled(errors.api_error(500, body))
    assert (back.body, back.headers, back.request_id, back.retry_after) == (body, {}, None, None)
    assert travelled(errors.api_error(429, body, HEADERS, 0.0)).request_id == "trace-7"


@pytest.mark.parametrize("body", [b"\xff<html>", {1}, Decimal("1.5")], ids=str)
def test_a_body_that_is_no_json_comes_back_as_text(body: object) -> None:
    """As a stream may have it that is none of Cohere's."""
    assert travelled(errors.api_error(500, body)).body == str(body)


def test_a_body_with_half_a_character_can_be_written() -> None:
    """JSON may escape one half of a surrogate pair, which no encoding of text takes."""
    body = json.loads('{"message": "cut off: \\ud83d"}')
    assert travelled(errors.api_error(422, body)).status_code == 422


@pytest.mark.parametrize(
    "error", [error for error in ALL if isinstance(error, StreamError)], ids=name_of
)
def test_the_partial_response_comes_back(error: StreamError) -> None:
    """What had come of the answer is part of each `StreamError`."""
    told = json.loads(Verdict(error).to_json())
    partial = response_of(parsed(text_stream("Emperor", " penguins")[:-2]))
    assert partial is not None
    told["partial"] = partial.model_dump(mode="json", exclude_unset=True)
    back: Any = Verdict.from_json(json.dumps(told)).error
    assert type(back) is type(error)
    assert back.partial == partial
    assert travelled(back).partial == partial


@settings(deadline=None)
@given(sample=streams(), data=st.data())
def test_any_partial_response_comes_back(sample: Sample, data: st.DataObject) -> None:
    """Wherever the stream broke off."""
    events = parsed(sample.events)[: data.draw(st.integers(0, len(sample.events)))]
    error = errors.StreamTruncatedError("too short")
    error.partial = response_of(events)
    back = travelled(error)
    assert back.partial == error.partial
    if error.partial is not None:
        dumped = error.partial.model_dump(exclude_unset=True)
        assert back.partial.model_dump(exclude_unset=True) == dumped


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_come_back(raw: bytes) -> None:
    """The data of an event that could not be read may be no text at all."""
    assert travelled(errors.EventDecodeError("not JSON", raw)).raw == raw


def test_a_foreign_error_is_told_by_its_text() -> None:
    """Its class is one that the reader need not have."""
    foreign = Boom("no more ice")
    verdict = Verdict.of(foreign)
    assert type(verdict.error) is RxCohereError
    assert verdict.error.__cause__ is foreign
    back = travelled(foreign)
    assert type(back) is RxCohereError
    assert str(back) == str(verdict.error)
    assert "Boom: no more ice" in str(back)


@pytest.mark.parametrize("name", ["ThawedError", "api_error", "Mapping", "annotations", ""])
def test_an_error_of_a_class_that_there_is_not(name: str) -> None:
    """It becomes a `StreamError` with the message and what had come, whatever the name means."""
    partial = response_of(parsed(text_stream("Emperor")[:3]))
    assert partial is not None
    dumped = partial.model_dump(mode="json", exclude_unset=True)
    told = json.dumps({"error": name, "message": MESSAGE, "more": 1, "partial": dumped})
    back = Verdict.from_json(told).error
    assert type(back) is StreamError
    assert (str(back), back.partial) == (MESSAGE, partial)
