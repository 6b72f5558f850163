"""A stream as the bytes of a ``text/event-stream`` body, in the frames that Cohere sends."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from rxcohere.bridges.journal import JournalEntry
from rxcohere.bridges.web.failures import error_object
from rxcohere.bridges.web.pulling import Pulled, Source, Value, check_arguments, open_batches
from rxcohere.sse import comment, encode

DONE = encode(b"[DONE]")
HEARTBEAT = comment("heartbeat")

_ERROR = "error"
"""The type of the frame that tells how a stream failed; nothing else may have it."""

FAILED = ":error"
"""Ends the id of an error frame. A client that gives it back has heard all there is."""


def frame_of(value: Value) -> bytes:
    """The frame of one event, with an id if it is an entry of a journal."""
    entry_id, event = (value.id, value.event) if isinstance(value, JournalEntry) else (None, value)
    data = event.model_dump_json(exclude_unset=True)
    # An unknown event may have any type. The line is a courtesy: the data has the type as well.
    untold = event.type == _ERROR or any(char in event.type for char in "\r\n\0")
    kind = None if untold else event.type
    return encode(data, event=kind, id=entry_id)


class Frames:
    """The frames of a source, those that are at hand together.

    Args:
        source: what to send; subscribed to at once.
        heartbeat: seconds of silence after which a comment comes.

    Attributes:
        began: an event has come.
        ended: the last frame has come.
    """

    def __init__(self, source: Source, heartbeat: float) -> None:
        self.began = False
        self.ended = False
        self._last_id = ""
        self._values = Pulled(open_batches(source), heartbeat)

    async def next(self) -> bytes:
        """What to send next, empty after the end.

        Raises:
            Exception: what the source ended with.
        """
        if self.ended:
            return b""
        batch = await self._values.next_batch()
        if batch is None:
            return HEARTBEAT
        if not batch:
            self.ended = True
            return DONE
        chunk = b"".join(map(frame_of, batch))
        self.began = True
        last = batch[-1]
        if isinstance(last, JournalEntry):
            self._last_id = last.id
        return chunk

    def error_frame(self, error: Exception) -> bytes:
        """The frame that tells of an error, after what has come so far."""
        data = json.dumps(error_object(error), separators=(",", ":"))
        return encode(data, event=_ERROR, id=self._last_id + FAILED)

    async def aclose(self) -> None:
        """Disposes of the subscription."""
        await self._values.aclose()


def event_frames(source: Source, *, heartbeat: float = 15.0) -> AsyncGenerator[bytes, None]:
    """The body of a ``text/event-stream`` answer, piece by piece, for any web server.

    Each event is a frame as Cohere sends it; the entries of a journal have their id in it. At the
    end comes ``data: [DONE]``; after an error, a frame with ``event: error`` whose data is a JSON
    object with ``type`` "error", the class in ``error``, a ``message`` and fields such as
    ``status_code``. Then the error is raised, so that the server breaks the connection off, and the
    body looks complete to nobody. An error frame has the id ``<id of the last entry>:error``,
    ``:error`` before the first and without a journal: a server that is asked to go on after that
    should answer 204, or browsers keep on asking.

    The source is subscribed to when the first piece is asked for. What `follow` returns is read
    from its journal when a piece is asked for, and as much as there is; any other source is not
    slowed, and what waits is merged. Best used within ``contextlib.aclosing``: closing it disposes
    of the subscription at once.

    Args:
        source: the events of a stream, or the entries of one in a journal.
        heartbeat: seconds, 15 by default; a comment is sent when nothing else was for as long.

    Raises:
        ConfigurationError: at the call, if an argument is wrong.
        Exception: while iterating, what the source ended with.
    """
    check_arguments(source, heartbeat)
    return _pieces(source, heartbeat)


async def _pieces(source: Source, heartbeat: float) -> AsyncGenerator[bytes, None]:
    async with aclosing(Frames(source, heartbeat)) as frames:
        while True:
            try:
                chunk = await frames.next()
            except Exception as error:
                failure = error
                break
            if not chunk:
                return
            yield chunk
        yield frames.error_frame(failure)
        raise failure
