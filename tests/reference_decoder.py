"""Server-sent events read slowly, for the decoder to be compared with.

The steps are those of the WHATWG HTML standard, "Interpreting an event stream", one line at a time
over a whole body, with nothing done to make them fast.
"""

import re
from typing import NamedTuple

from rxcohere.sse import ServerSentEvent

BOM = b"\xef\xbb\xbf"

MOST_DIGITS = 640
"""Of a reconnection time. The standard sets no limit, but Python cannot make a number of any."""


class Reading(NamedTuple):
    """What a body, or the beginning of one, comes to."""

    events: list[ServerSentEvent]
    last_event_id: str
    """As of the last blank line."""
    retry: int | None
    """The last valid one, in milliseconds."""
    held: int
    """The bytes of the unfinished line, and of the unfinished event's data with its line ends."""


def read(body: bytes) -> Reading:
    """The events of a body, and what a reader knows at its end."""
    *lines, unfinished = re.split(rb"\r\n|\r|\n", body.removeprefix(BOM))
    events: list[ServerSentEvent] = []
    committed_id, last_id, event_type, data = "", "", "", b""
    reconnection_time: int | None = None
    retry: int | None = None
    for line in lines:
        if line == b"":
            committed_id = last_id
            if data:
                events.append(ServerSentEvent(event_type or "message", data[:-1], last_id, retry))
            event_type, data, retry = "", b"", None
            continue
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"event":
            event_type = value.decode("utf-8", "replace")
        elif field == b"data":
            data += value + b"\n"
        elif field == b"id" and 0 not in value:
            last_id = value.decode("utf-8", "replace")
        elif field == b"retry" and re.fullmatch(rb"[0-9]{1,%d}" % MOST_DIGITS, value):
            reconnection_time = retry = int(value)
    return Reading(events, committed_id, reconnection_time, len(unfinished) + len(data))


def reference(body: bytes) -> list[ServerSentEvent]:
    """The events of a body."""
    return read(body).events
