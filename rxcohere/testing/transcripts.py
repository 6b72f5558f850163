"""Transcripts: whole bodies of chat streams, kept as plain ``.sse`` files and cut into frames.

A frame is one server-sent event with the blank line that ends it. The shipped transcripts are
invented, and have the frames, the key order and the fragment sizes of the real wire.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from rxcohere.errors import ConfigurationError
from rxcohere.events import ChatEvent, MessageEnd, parse_event
from rxcohere.folds import ResponseFold
from rxcohere.sse import ServerSentEvent, SSEDecoder, encode

DONE = encode(b"[DONE]")
"""The frame that ends every stream of the wire."""

_IS_DONE = re.compile(rb"\s*data: ?\[DONE\]\s*\Z").match
_BLANK_LINES = re.compile(rb"\r\n\r\n|\n\n|\r\r").finditer
_DATA = resources.files("rxcohere.testing") / "data"


class EventModel(Protocol):
    """What is needed of an event to write it down: any pydantic model with a ``type`` will do."""

    @property
    def type(self) -> str:
        """The wire type."""
        ...

    def model_dump_json(self, *, exclude_unset: bool = ...) -> str:
        """The event as JSON."""
        ...


def encode_event(event: EventModel | Mapping[str, Any]) -> bytes:
    """The frame of one event: its ``event:`` line, its ``data:`` line and a blank line."""
    if isinstance(event, Mapping):
        data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        return encode(data, event=str(event["type"]))
    return encode(event.model_dump_json(exclude_unset=True), event=event.type)


def read_frame(frame: bytes) -> ServerSentEvent | None:
    """The server-sent event in a frame; None for a comment, or for a frame cut short."""
    return next(iter(SSEDecoder().feed(frame)), None)


def is_done(frame: bytes) -> bool:
    """Whether a frame is ``[DONE]``, whatever its line ends."""
    return _IS_DONE(frame) is not None


def transcript_names() -> tuple[str, ...]:
    """The names of the shipped transcripts, in alphabetical order."""
    files = (entry.name for entry in _DATA.iterdir())
    return tuple(sorted(name.removesuffix(".sse") for name in files if name.endswith(".sse")))


@dataclass(frozen=True)
class Transcript:
    """The body of one stream.

    Attributes:
        name: what it is called in messages.
        frames: its frames, each with the blank line that ends it; joined they are the body.
    """

    name: str
    frames: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Transcript:
        """The shipped transcript of that name (see `transcript_names`), or the one in that file.

        Raises:
            ConfigurationError: there is neither.
        """
        if isinstance(source, str) and source in transcript_names():
            return cls.from_bytes((_DATA / f"{source}.sse").read_bytes(), name=source)
        path = Path(source)
        try:
            return cls.from_bytes(path.read_bytes(), name=path.stem)
        except OSError as error:
            shipped = ", ".join(transcript_names())
            raise ConfigurationError(
                f"expected a readable file or one of the shipped transcripts {shipped}; "
                f"got {str(source)!r}: {error}"
            ) from error

    @classmethod
    def from_bytes(cls, body: bytes, *, name: str = "bytes") -> Transcript:
        """The transcript with exactly this body, cut after its blank lines."""
        ends = [0, *(blank.end() for blank in _BLANK_LINES(body)), len(body)]
        frames = (body[start:end] for start, end in pairwise(ends))
        return cls(name, tuple(filter(None, frames)))

    @classmethod
    def of(
        cls, events: Iterable[EventModel | Mapping[str, Any]], *, name: str = "events"
    ) -> Transcript:
        """The transcript of these events, given as models or as JSON objects, and of ``[DONE]``."""
        return cls(name, (*map(encode_event, events), DONE))

    @property
    def body(self) -> bytes:
        """The frames, joined."""
        return b"".join(self.frames)

    @property
    def events(self) -> list[ChatEvent]:
        """The events, parsed, without ``[DONE]``.

        Raises:
            EventDecodeError: a frame holds no event.
        """
        frames = (read_frame(frame) for frame in self.frames if not is_done(frame))
        return [parse_event(frame.data) for frame in frames if frame is not None]

    def reply(self) -> tuple[int, dict[str, Any]]:
        """The status and the JSON that the non-streaming endpoint would have answered.

        That is 200 and the folded reply, or 422 with ``id``, ``message`` and ``error_type`` where
        the stream ends in ``ERROR``; 500 for a transcript without ``message-end``.

        Raises:
            EventDecodeError: a frame holds no event.
        """
        fold = ResponseFold()
        end: MessageEnd | None = None
        for event in self.events:
            fold.push(event)
            if isinstance(event, MessageEnd):
                end = event
        response = fold.response()
        if end is None or response is None:
            return 500, {"message": f"transcript {self.name!r} has no message-end"}
        if end.finish_reason == "ERROR":
            failure = {"id": response.id, "message": end.error, "error_type": end.error_type}
            return 422, {key: value for key, value in failure.items() if value is not None}
        return 200, response.normalized().model_dump(mode="json", exclude_unset=True)


Playable: TypeAlias = Transcript | str | os.PathLike[str] | bytes
"""A transcript, the name of a shipped one, the path of a file, or a whole body."""


def transcript(playable: Playable) -> Transcript:
    """The transcript that this stands for.

    Raises:
        ConfigurationError: no such name or file, or something else altogether.
    """
    match playable:
        case Transcript():
            return playable
        case bytes():
            return Transcript.from_bytes(playable)
        case str() | os.PathLike():
            return Transcript.load(playable)
        case _:
            raise ConfigurationError(
                f"expected a transcript, its name, a path or bytes, got {type(playable).__name__}"
            )
