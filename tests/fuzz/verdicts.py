"""What has to come of a body, judged frame by frame without the client."""

import json
import math
import re
from typing import Any, Literal, NamedTuple

from fuzz.broken_streams import LIMIT
from reference_decoder import read
from samples import JSON

from rxcohere import (
    EventDecodeError,
    GenerationError,
    StreamError,
    StreamTruncatedError,
    parse_event,
)


def says_the_same(sent: Any, got: Any) -> bool:
    """Whether an event has what the JSON had; numbers may be written in another way."""
    if isinstance(sent, dict) and isinstance(got, dict):
        alike = sent.keys() == got.keys()
        return alike and all(says_the_same(sent[key], got[key]) for key in sent)
    if isinstance(sent, list) and isinstance(got, list):
        return len(sent) == len(got) and all(map(says_the_same, sent, got))
    if sent == got:
        return True
    try:
        return float(sent) == float(got) or (math.isnan(float(sent)) and math.isnan(float(got)))
    except (TypeError, ValueError, OverflowError):
        return False


def json_of(data: bytes) -> JSON:
    """The object in the data of an event, with U+FFFD for all that is no Unicode."""
    text = json.dumps(json.loads(data.decode("utf-8", "replace")), ensure_ascii=False)
    value: JSON = json.loads(re.sub("[\ud800-\udfff]", "\ufffd", text))
    return value


class Verdict(NamedTuple):
    """The events of a body, and what comes after them."""

    data: list[bytes]
    """Of each event."""
    error: type[StreamError] | Literal["silent"] | None
    """None for a message that is complete, "silent" where the body says nothing of its end."""
    refused: bytes = b""
    """The data of an event that cannot be read, as far as it came."""


def judged(body: bytes) -> Verdict:
    """The verdict on the first so many bytes of a body; an event has at most `LIMIT` bytes."""
    reading = read(body)
    good: list[bytes] = []
    for event in reading.events:
        data = event.data
        if data == b"[DONE]":
            return Verdict(good, StreamTruncatedError)
        if not data.strip() and len(data) <= LIMIT:
            continue  # a keep-alive of some gateways
        try:
            parsed = parse_event(data if len(data) <= LIMIT else b"too large")
        except EventDecodeError:
            return Verdict(good, EventDecodeError, data)
        good.append(data)
        if parsed.type == "message-end":
            delta = json_of(data).get("delta") or {}
            failed = str(delta.get("finish_reason")).upper() in ("ERROR", "TIMEOUT")
            return Verdict(good, GenerationError if failed else None)
    if reading.held > LIMIT + len(b"data: "):
        unfinished = read(body + b"\n\n").events[len(reading.events) :]
        return Verdict(good, EventDecodeError, b"".join(event.data for event in unfinished))
    return Verdict(good, "silent")
