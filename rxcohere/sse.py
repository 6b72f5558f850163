"""Server-sent events: bytes in, events out, and back. No I/O and no JSON.

The rules are those of the WHATWG HTML standard, section "Server-sent events", to the letter, with
one difference of form: an event's data stays bytes, because JSON parsers read bytes and decoding
it first would cost a copy.
"""

import re
from typing import NamedTuple

__all__ = ["SSEDecoder", "ServerSentEvent", "comment", "encode"]

_BOM = b"\xef\xbb\xbf"
_CR = 13  # as a number, which is found in bytes six times as fast as bytes of one
_DEFAULT_TYPE = "message"

# More digits than this are no waiting time, and int() refuses long strings of them; 640 is the
# lowest limit that sys.set_int_max_str_digits() can be set to.
_MAX_RETRY_DIGITS = 640

# The common frame, `event: NAME` and one non-empty `data: …`, or that data line alone, in text
# whose lines end with LF. Whatever is no such frame is swallowed to the end by the second
# alternative, so findall() cannot skip over bytes: its matches touch each other, and the last
# one has empty data if and only if something else is in the text.
_FRAMES_DATA = re.compile(rb"(?:event: .*\n)?data: (.+)\n\n|(?s:.+)").findall
_FRAMES_NAME_AND_DATA = re.compile(rb"(?:event: (.*)\n)?data: (.+)\n\n|(?s:.+)").findall


class ServerSentEvent(NamedTuple):
    """One event of a stream.

    Attributes:
        event: The event type, `"message"` where the stream gave none.
        data: The data lines as they came, joined with LF. Invalid UTF-8 is not replaced: a
            reader that wants text decodes with `errors="replace"`, as the standard asks.
        id: The last event id, which persists from earlier events; `""` where none was set.
        retry: The reconnection time in milliseconds if this event carried a valid one.
    """

    event: str = _DEFAULT_TYPE
    data: bytes = b""
    id: str = ""
    retry: int | None = None


class SSEDecoder:
    """Turns the chunks of one `text/event-stream` body into events.

    The events do not depend on how the body is cut into chunks, and each comes out of the call
    that brought the end of its blank line. The time taken is linear in the bytes fed, whatever
    the chunks. Nothing limits the size of an event; a caller who needs a limit reads `pending`
    after each chunk.

    Attributes:
        last_event_id: The last event id as of the last blank line, `""` at first.
        pending: The number of bytes held for the unfinished event, its unfinished line and the
            data lines so far with their line ends; 0 where there is none. To be read only.
        retry: The last valid reconnection time in milliseconds, `None` at first.
    """

    __slots__ = (
        "_after_cr",
        "_at_rest",
        "_block_retry",
        "_closed",
        "_data",
        "_data_size",
        "_head",
        "_id",
        "_line",
        "_plain",
        "_type",
        "last_event_id",
        "pending",
        "retry",
    )

    def __init__(self) -> None:
        self.last_event_id = ""
        self.retry: int | None = None
        self._closed = False
        # What may yet turn out to be a byte order mark; None once that is settled.
        self._head: bytes | None = b""
        # The last chunk ended with CR: an LF at the start of the next belongs to it.
        self._after_cr = False
        # Nothing of the above: a chunk without CR can be taken as it is.
        self._plain = False
        self._start_block()
        # Committed to last_event_id by a blank line only, so an unfinished block changes nothing.
        self._id = ""
        self._line = bytearray()

    def _start_block(self) -> None:
        self._at_rest = True
        self.pending = 0
        self._type = ""
        self._data: list[bytes] = []
        self._data_size = 0
        self._block_retry: int | None = None

    @property
    def pending_data(self) -> bytes:
        """The data of the unfinished event so far, its unfinished line included."""
        name, colon, value = bytes(self._line).partition(b":")
        data = [value.removeprefix(b" ")] if name == b"data" and colon else []
        return b"\n".join([*self._data, *data])

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that end in this chunk, in order; an empty chunk changes nothing.

        Raises:
            ValueError: The decoder was closed.
        """
        text = chunk if self._plain and _CR not in chunk else self._normalise(chunk)
        events: list[ServerSentEvent] = []
        size = len(text)
        end = text.rfind(b"\n\n") + 2  # no frame ends beyond it
        pos = 0
        while pos < size:
            if self._at_rest and pos < end:
                frames: list[tuple[bytes, bytes]] = _FRAMES_NAME_AND_DATA(text, pos, end)
                whole = bool(frames[-1][1])
                if not whole:
                    frames.pop()
                last_id = self.last_event_id
                events += [
                    ServerSentEvent(str(name, "utf-8", "replace") or _DEFAULT_TYPE, data, last_id)
                    for name, data in frames
                ]
                pos = end if whole else _skip_blocks(text, pos, len(frames))
            if pos < size:
                pos, event = self._read_block(text, pos)
                if event is not None:
                    events.append(event)
        return events

    def feed_data(self, chunk: bytes) -> list[bytes]:
        """The data of the events that end in this chunk: `feed`, for who needs neither type nor id.

        Several times as fast. Calls of both may be mixed on one stream.

        Raises:
            ValueError: The decoder was closed.
        """
        text = chunk if self._plain and _CR not in chunk else self._normalise(chunk)
        found: list[bytes] = []
        pos = 0
        if self._at_rest and text.endswith(b"\n\n"):  # as where each chunk is one event
            found = _FRAMES_DATA(text)
            if found[-1]:
                return found
            found.pop()
            pos = _skip_blocks(text, 0, len(found))
        size = len(text)
        end = text.rfind(b"\n\n") + 2
        while pos < size:
            if self._at_rest and pos < end:
                frames: list[bytes] = _FRAMES_DATA(text, pos, end)
                whole = bool(frames[-1])
                if not whole:
                    frames.pop()
                found += frames
                pos = end if whole else _skip_blocks(text, pos, len(frames))
            if pos < size:
                pos, event = self._read_block(text, pos)
                if event is not None:
                    found.append(event.data)
        return found

    def close(self) -> list[ServerSentEvent]:
        """The events that the end of input completes: none; discards an unfinished event.

        A CR ends its line when it arrives, not when the next byte shows that no LF follows, so an
        event whose blank line is a CR at the very end has come out of `feed` already. To tell
        whether something is lost, read `pending` before. Closing again does nothing.
        """
        self._closed = True
        self._plain = False
        self._head = None
        self._line.clear()
        self._start_block()
        return []

    def _normalise(self, chunk: bytes) -> bytes:
        """The chunk without byte order mark, each of its line ends (CRLF, CR, LF) made an LF."""
        if self._closed:
            raise ValueError("expected no more input after close(): use a new SSEDecoder")
        if self._head is not None:
            chunk = self._head + chunk
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._head = chunk
                self.pending = len(chunk)
                return b""
            self._head = None
            self.pending = 0
            chunk = chunk.removeprefix(_BOM)
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if _CR in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._plain = not self._after_cr
        return chunk

    def _read_block(self, text: bytes, pos: int) -> tuple[int, ServerSentEvent | None]:
        """Reads line by line through the next blank line or to the end of the text.

        Returns:
            The position after what was read, and the event if the blank line dispatched one.
        """
        self._at_rest = False
        while (line_end := text.find(b"\n", pos)) >= 0:
            line = text[pos:line_end]
            pos = line_end + 1
            if self._line:
                self._line += line
                line = bytes(self._line)
                self._line.clear()
            if not line:
                return pos, self._dispatch()
            self._read_field(line)
        self._line += text[pos:]
        self.pending = len(self._line) + self._data_size
        return len(text), None

    def _read_field(self, line: bytes) -> None:
        # A comment has an empty field name, which is an unknown one.
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_size += len(value) + 1
        elif name == b"event":
            self._type = str(value, "utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = str(value, "utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
            self.retry = self._block_retry = int(value)

    def _dispatch(self) -> ServerSentEvent | None:
        self.last_event_id = self._id
        event = None
        if self._data:
            event = ServerSentEvent(
                self._type or _DEFAULT_TYPE, b"\n".join(self._data), self._id, self._block_retry
            )
        self._start_block()
        return event


def _skip_blocks(text: bytes, pos: int, count: int) -> int:
    """The position after as many blank lines."""
    for _ in range(count):
        pos = text.index(b"\n\n", pos) + 2
    return pos


def encode(
    data: bytes | str, *, event: str | None = None, id: str | None = None, retry: int | None = None
) -> bytes:
    """One frame with its closing blank line.

    Data of several lines (ended by LF, CRLF or CR) becomes several `data` lines, so decoding gives
    it back with each line end as LF. Text is sent as UTF-8.

    Args:
        data: What the event carries; may be empty.
        event: The event type; `None` or `""` leaves the default type, `"message"`.
        id: The event id, which the reader keeps for later events too; `""` clears it.
        retry: The reconnection time in milliseconds.

    Raises:
        ValueError: `event` or `id` has a CR, an LF or a NUL, or `retry` is negative.
    """
    frame: list[bytes] = []
    for field, value in (("event", event), ("id", id)):
        if value is not None:
            if any(char in value for char in "\r\n\0"):
                raise ValueError(f"expected {field} without CR, LF and NUL, got {value!r}")
            frame.append(f"{field}: {value}".encode())
    if retry is not None:
        if retry < 0:
            raise ValueError(f"expected retry in milliseconds, 0 or more, got {retry}")
        frame.append(b"retry: %d" % retry)
    frame += [b"data: " + line for line in _split_lines(data)]
    return b"\n".join(frame) + b"\n\n"


def comment(text: str = "") -> bytes:
    """A comment, which readers ignore: a heartbeat that keeps an idle connection open."""
    lines = [b": " + line if line else b":" for line in _split_lines(text)]
    return b"\n".join(lines) + b"\n\n"


def _split_lines(text: bytes | str) -> list[bytes]:
    # Not splitlines(), which splits text at U+2028, U+0085, VT, FF and others as well.
    raw = text.encode() if isinstance(text, str) else text
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
