"""The events of one response body, and how the body ended."""

from __future__ import annotations

import aiohttp
from pydantic import ValidationError

from rxcohere.errors import EventDecodeError, GenerationError, StreamError, StreamTruncatedError
from rxcohere.events import ChatEvent, MessageEnd, parse_event, validate_event_json
from rxcohere.folds import ResponseFold
from rxcohere.response import ChatResponse, generation_failed
from rxcohere.sse import SSEDecoder
from rxcohere.transport.answer import BROKEN, body_failure, closing_of, wake_when_lost

_DONE = b"[DONE]"

_BATCH = 32
"""Events that are made at a time. An event is a dozen objects that the garbage collector counts,
and it looks at everything there is whenever a few thousand have come to stay; parsing a whole chunk
of 500 at once takes four times as long as parsing it in pieces that are let go."""


_FRAMING = len(b"data: ")
"""Bytes by which what a decoder holds of an event may exceed its data."""


class EventReader:
    """Reads events until the message has ended or the body has.

    Every event that arrived whole comes out before an error does.

    Args:
        response: accepted, its body not read yet.
        max_event_bytes: the most that one event may take.
    """

    __slots__ = (
        "_closed",
        "_content",
        "_decoder",
        "_end",
        "_fold",
        "_frames",
        "_max_event_bytes",
        "_position",
        "close",
        "ended",
    )

    def __init__(self, response: aiohttp.ClientResponse, max_event_bytes: int) -> None:
        self._content = response.content
        self._closed = closing_of(response)
        self.close = wake_when_lost(self._content, self._closed)
        """To be called when no more is read."""
        self._max_event_bytes = max_event_bytes
        self._decoder = SSEDecoder()
        self._frames: list[bytes] = []
        self._position = 0
        self._fold = ResponseFold()
        self._end: StreamError | None = None
        self.ended = False
        """``message-end`` came."""

    async def read(self) -> list[ChatEvent]:
        """The next events, at least one; an empty list after ``message-end``.

        Raises:
            StreamError: the one verdict, when everything before it has been read.
        """
        while not self.ended:
            if self._position < len(self._frames):
                if events := self._take():
                    return events
            elif self._end is not None:
                break
            else:
                try:
                    chunk = await self._content.readany()
                except BROKEN as error:
                    self._break_off(error)
                else:
                    if chunk:
                        self._cut(chunk)
                    else:
                        self._finish()
        if self._end is not None:
            self._end.partial = self.partial()
            raise self._end
        return []

    def partial(self) -> ChatResponse | None:
        """The response as far as it came."""
        return self._fold.response()

    def _finish(self) -> None:
        """The body ended in good order, and too early."""
        inside = ", inside an event" if self._decoder.pending else ""
        problem = f"the body ended before message-end{inside}"
        self._end = body_failure(problem, None, self._closed)

    def _break_off(self, error: Exception) -> None:
        """What arrived before the connection failed is all there is."""
        self._cut(self._received())
        if self._end is None:
            problem = "the body broke off before message-end"
            self._end = body_failure(problem, error, self._closed)

    def _received(self) -> bytes:
        """What arrived before the connection failed and was not read.

        aiohttp raises the failure first and would drop it. This is the one private call we make;
        without it, as in some later version, a slow reader would lose what it has not read.
        """
        take = getattr(self._content, "_read_nowait", None)
        return take(-1) if take is not None else b""

    def _cut(self, chunk: bytes) -> None:
        """Cuts a chunk into frames, up to one that is too large."""
        decoder = self._decoder
        limit = self._max_event_bytes
        # No event of this chunk can be larger than what is held of it and the chunk together.
        may_be_large = decoder.pending + len(chunk) > limit
        self._frames = decoder.feed_data(chunk)
        self._position = 0
        if self._frames and self._frames[-1] == _DONE:
            self._frames.pop()
            self._end = _done_early()  # unless message-end is among the frames before it
        if may_be_large:
            for number, data in enumerate(self._frames):
                if len(data) > limit:
                    del self._frames[number:]
                    self._refuse_large(data)
                    return
            if decoder.pending > limit + _FRAMING and self._end is None:
                self._refuse_large(decoder.pending_data)

    def _refuse_large(self, data: bytes) -> None:
        self._end = EventDecodeError(
            f"an event is larger than {self._max_event_bytes} bytes; "
            "max_event_bytes of the client sets the limit",
            data[:1000],
        )

    def _take(self) -> list[ChatEvent]:
        """The events of the next frames, up to the last one of the message."""
        position = self._position
        self._position = position + _BATCH
        frames = self._frames[position : position + _BATCH]
        try:
            events = list(map(validate_event_json, frames))
        except ValidationError:
            events = self._events_until_error(frames)
        fold = self._fold
        for event in events:
            fold.add(event)
        return self._close_message(events) if fold.ended else events

    def _events_until_error(self, frames: list[bytes]) -> list[ChatEvent]:
        events: list[ChatEvent] = []
        for data in frames:
            if not data.strip():
                continue  # a keep-alive of some gateways; Cohere sends none
            try:
                if data == _DONE:
                    raise _done_early()
                events.append(parse_event(data))
            except StreamError as error:
                self._end = error
                self._frames = []
                break
        return events

    def _close_message(self, events: list[ChatEvent]) -> list[ChatEvent]:
        """Ends at ``message-end``, which gets the whole response; what follows it is not ours."""
        position, end = next(
            (i, event) for i, event in enumerate(events) if type(event) is MessageEnd
        )
        self.ended = True
        self._end = None
        if generation_failed(end.finish_reason):
            self._end = GenerationError(str(end.finish_reason), end.error, end.error_type)
        return [*events[:position], end.with_response(self._fold.response())]


def _done_early() -> StreamTruncatedError:
    return StreamTruncatedError("[DONE] came before message-end")
