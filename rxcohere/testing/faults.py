"""Faults: what goes wrong with a reply, one small dataclass for each.

They are given to `ReplayServer` as a list and applied in that order. Those that concern the body
leave a reply alone that an earlier fault has turned into an HTTP error, and are not used up by it.
Those that concern events leave a non-streaming reply alone.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Literal

from rxcohere.errors import ConfigurationError
from rxcohere.sse import encode
from rxcohere.testing.reply import Reply
from rxcohere.testing.transcripts import DONE, is_done, read_frame


@dataclass(frozen=True, kw_only=True)
class Fault(ABC):
    """Something that goes wrong. Subclasses rewrite the reply in `apply`.

    Attributes:
        times: how many requests it applies to; None for all.

    Raises:
        ConfigurationError: a number is out of its range.
    """

    times: int | None = None

    def __post_init__(self) -> None:
        if self.times is not None and self.times < 1:
            raise ConfigurationError(f"expected times to be None or 1 and more, got {self.times}")

    def applies_to(self, reply: Reply) -> bool:
        """Whether the fault can befall this reply; by default, any that is still a success."""
        return reply.head and reply.status == HTTPStatus.OK

    @abstractmethod
    def apply(self, reply: Reply) -> Reply:
        """The reply with the fault in it."""


@dataclass(frozen=True, kw_only=True)
class _StreamFault(Fault):
    """A fault that only a stream can have."""

    def applies_to(self, reply: Reply) -> bool:
        return super().applies_to(reply) and reply.streamed


def _not_negative(name: str, value: float | None) -> None:
    if value is not None and not value >= 0:
        raise ConfigurationError(f"expected {name} to be 0 or more, got {value}")


@dataclass(frozen=True)
class Status(Fault):
    """An answer with another status, and no stream.

    Attributes:
        status: the HTTP status.
        body: a JSON object, or text; None gives an object with the status's name as ``message``.
        headers: further headers; a ``content-type`` replaces the default one.
    """

    status: int
    body: dict[str, Any] | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def apply(self, reply: Reply) -> Reply:
        """The status and its body instead of the reply."""
        if isinstance(self.body, str):
            content_type, text = "text/plain; charset=utf-8", self.body
        else:
            body = {"message": _phrase(self.status)} if self.body is None else self.body
            content_type, text = "application/json", json.dumps(body, ensure_ascii=False)
        return replace(
            reply,
            status=self.status,
            headers={**reply.headers, **self.headers},
            content_type=content_type,
            frames=(text.encode(),),
            streamed=False,
            ending="eof",
        )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower()
    except ValueError:
        return f"status {status}"


@dataclass(frozen=True)
class HangUp(Fault):
    """The connection is closed without an answer, once the request has been read."""

    def apply(self, reply: Reply) -> Reply:
        """No reply."""
        return replace(reply, head=False, frames=(), ending="close")


@dataclass(frozen=True)
class DelayHeaders(Fault):
    """Silence before the status line.

    Attributes:
        seconds: how long; for ever by default.
    """

    seconds: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_negative("seconds", self.seconds)

    def applies_to(self, reply: Reply) -> bool:
        """Any reply, errors included."""
        return reply.head

    def apply(self, reply: Reply) -> Reply:
        """The same, later."""
        return replace(reply, delay=reply.delay + self.seconds)


@dataclass(frozen=True)
class Cut(Fault):
    """The body ends early, after a number of frames or a number of bytes; give one of them.

    Attributes:
        after_events: how many whole frames are sent.
        after_bytes: how many bytes of the body are sent.
        how: ``eof`` ends the body properly, so that only its content shows that something is
            missing; ``close`` closes the connection in mid-body; ``reset`` resets it.
    """

    after_events: int | None = None
    after_bytes: int | None = None
    how: Literal["eof", "close", "reset"] = "close"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.after_events is None) == (self.after_bytes is None):
            raise ConfigurationError("expected one of after_events and after_bytes")
        _not_negative("after_events", self.after_events)
        _not_negative("after_bytes", self.after_bytes)

    def apply(self, reply: Reply) -> Reply:
        """The beginning of the reply."""
        frames = reply.frames[: self.after_events]
        if self.after_bytes is not None:
            frames = _first_bytes(reply.frames, self.after_bytes)
        return replace(reply, frames=frames, ending=self.how)


def _first_bytes(frames: tuple[bytes, ...], count: int) -> tuple[bytes, ...]:
    kept: list[bytes] = []
    for frame in frames:
        if count <= 0:
            break
        kept.append(frame[:count])
        count -= len(frame)
    return tuple(kept)


@dataclass(frozen=True)
class Stall(Fault):
    """The body falls silent, and the connection stays open until the client leaves.

    Attributes:
        after_events: how many frames are sent.
    """

    after_events: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_negative("after_events", self.after_events)

    def apply(self, reply: Reply) -> Reply:
        """The beginning of the reply, and silence."""
        return replace(reply, frames=reply.frames[: self.after_events], ending="stall")


@dataclass(frozen=True)
class KeepAlives(_StreamFault):
    """Nothing but comments comes any more, until the client leaves.

    Attributes:
        after_events: how many frames are sent before.
        interval: seconds between two comments.
    """

    after_events: int = 0
    interval: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_negative("after_events", self.after_events)
        _not_negative("interval", self.interval)

    def apply(self, reply: Reply) -> Reply:
        """The beginning of the reply, and comments."""
        frames = reply.frames[: self.after_events]
        return replace(reply, frames=frames, ending="keep-alives", interval=self.interval)


@dataclass(frozen=True)
class Corrupt(_StreamFault):
    """One frame has other data than it should.

    Attributes:
        event: which frame, counted from 0.
        data: what it has instead; by default JSON that breaks off.
    """

    event: int
    data: bytes = b'{"type":"content-delta","index":0,"delta":{"mess'

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_negative("event", self.event)

    def apply(self, reply: Reply) -> Reply:
        """The reply with one frame replaced; its ``event:`` line stays."""
        frames = list(reply.frames)
        if self.event < len(frames):
            frame = frames[self.event]
            read = read_frame(frame)
            name = read.event if read is not None and frame.startswith(b"event:") else None
            frames[self.event] = encode(self.data, event=name)
        return replace(reply, frames=tuple(frames))


@dataclass(frozen=True)
class ContentType(Fault):
    """Status 200, but another content type.

    Attributes:
        value: the header as it is sent.
        body: another body. By default it stays the same; but for a JSON type the stream becomes
            bare lines of JSON, which the API answers with when asked for ``application/json``.
    """

    value: str
    body: str | bytes | None = None

    def apply(self, reply: Reply) -> Reply:
        """The reply under the other content type."""
        frames = reply.frames
        if self.body is not None:
            frames = (self.body.encode() if isinstance(self.body, str) else self.body,)
        elif reply.streamed and "json" in self.value:
            events = (read_frame(frame) for frame in frames if not is_done(frame))
            frames = tuple(event.data + b"\n" for event in events if event is not None)
        return replace(reply, frames=frames, content_type=self.value)


@dataclass(frozen=True)
class Linger(_StreamFault):
    """Everything is sent, but the body does not end: the connection stays open.

    Attributes:
        after: the last frame that is sent.
    """

    after: Literal["done", "message-end"] = "done"

    def apply(self, reply: Reply) -> Reply:
        """The reply up to that frame, and silence."""
        frames = reply.frames
        if self.after == "message-end":
            frames = tuple(frame for frame in frames if not is_done(frame))
        return replace(reply, frames=frames, ending="stall")


@dataclass(frozen=True)
class DropDone(_StreamFault):
    """``[DONE]`` is missing; the body ends properly."""

    def apply(self, reply: Reply) -> Reply:
        """The reply without that frame."""
        return replace(reply, frames=tuple(frame for frame in reply.frames if not is_done(frame)))


@dataclass(frozen=True)
class DoneEarly(_StreamFault):
    """``[DONE]`` comes early, and the body ends properly.

    Attributes:
        after_events: how many frames are sent before it.
    """

    after_events: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_negative("after_events", self.after_events)

    def apply(self, reply: Reply) -> Reply:
        """The beginning of the reply, and ``[DONE]``."""
        return replace(reply, frames=(*reply.frames[: self.after_events], DONE))
