"""What a journal holds: the events of a stream with their ids, and how the stream ended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rxcohere import errors
from rxcohere.errors import ApiError, RxCohereError, StreamError
from rxcohere.events import ChatEvent
from rxcohere.folds import Compactor
from rxcohere.response import ChatResponse

_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """An event of a stream, and the place in the journal after which one goes on from it.

    Attributes:
        id: the number, from 1 on, of the last event that this one says; what ``after`` of `follow`
            takes.
        event: what happened.
    """

    id: str
    event: ChatEvent

    @staticmethod
    def number_of(entry_id: str) -> int | None:
        """The number that an id is; None if it is none."""
        return int(entry_id) if _NUMBER.fullmatch(entry_id) else None


class EntryCompactor:
    """A list of entries that merges what it can at its end; see `Compactor`."""

    def __init__(self) -> None:
        self._events = Compactor()
        self._ids: list[str] = []

    def __len__(self) -> int:
        """How many entries it holds, merged."""
        return len(self._ids)

    def push(self, entry: JournalEntry) -> None:
        """Adds an entry at the end."""
        self._events.push(entry.event)
        if len(self._events) > len(self._ids):
            self._ids.append(entry.id)
        else:
            self._ids[-1] = entry.id  # it was merged into the one before

    def drain(self) -> list[JournalEntry]:
        """The entries so far, which are then no longer held."""
        ids, self._ids = self._ids, []
        return [JournalEntry(*pair) for pair in zip(ids, self._events.drain(), strict=True)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a stream ended, in a form that travels.

    Attributes:
        error: what it failed with; None if it is complete.
    """

    error: RxCohereError | None = None

    @classmethod
    def of(cls, error: Exception | None) -> Verdict:
        """The verdict on a stream that ended like this; a foreign error is told by its text."""
        if error is None or isinstance(error, RxCohereError):
            return cls(error)
        foreign = RxCohereError(f"the producer failed: {type(error).__name__}: {error}")
        foreign.__cause__ = error
        return cls(foreign)

    def to_json(self) -> str:
        """One line of JSON."""
        if self.error is None:
            return '{"completed":true}'
        name, told = type(self.error).__name__, _fields_of(self.error)
        partial = getattr(self.error, "partial", None)
        if partial is not None:
            told["partial"] = partial.model_dump(mode="json", exclude_unset=True)
        return json.dumps({"error": name, **told}, default=str)

    @classmethod
    def from_json(cls, text: str | bytes) -> Verdict:
        """The verdict that was written, its error an instance of the same class.

        An error of a class that this version does not know becomes the nearest one that it does.
        """
        told: dict[str, Any] = json.loads(text)
        if told.get("completed"):
            return cls()
        error = _error_of(told)
        if isinstance(error, StreamError) and told.get("partial") is not None:
            error.partial = ChatResponse.model_validate(told["partial"])
        return cls(error)


@dataclass(frozen=True, slots=True)
class JournalPage:
    """What a journal has of a stream after some place.

    Attributes:
        events: what happened, in order. Others may have been given the same list.
        verdict: how it ended, if that comes right after them.
    """

    events: Sequence[ChatEvent] = ()
    verdict: Verdict | None = None


def _fields_of(error: RxCohereError) -> dict[str, Any]:
    match error:
        case ApiError():
            body = error.body
            if not isinstance(body, (dict, list, str, int, float, bool, type(None))):
                body = str(body)
            return {
                "status_code": error.status_code,
                "body": body,
                "headers": error.headers,
                "retry_after": error.retry_after,
            }
        case errors.GenerationError():
            return {
                "finish_reason": error.finish_reason,
                "reason": error.error,
                "error_type": error.error_type,
            }
        case errors.StreamTimeoutError():
            return {"message": str(error), "phase": error.phase}
        case errors.UnexpectedContentError():
            return {
                "message": str(error),
                "content_type": error.content_type,
                "body": error.body,
            }
        case errors.ToolArgumentsError():
            return {"message": str(error), "arguments": error.raw}
        case errors.EventDecodeError():
            # Bytes that may be no text at all; each has a character of its own here.
            return {"message": str(error), "raw": error.raw.decode("latin-1")}
        case _:
            return {"message": str(error)}


def _error_of(told: dict[str, Any]) -> RxCohereError:
    if "status_code" in told:
        return errors.api_error(
            told["status_code"], told.get("body"), told.get("headers"), told.get("retry_after")
        )
    name, message = told["error"], told.get("message", "")
    made: dict[str, Callable[[], RxCohereError]] = {
        "GenerationError": lambda: errors.GenerationError(
            told.get("finish_reason", "ERROR"), told.get("reason"), told.get("error_type")
        ),
        "StreamTimeoutError": lambda: errors.StreamTimeoutError(message, told["phase"]),
        "UnexpectedContentError": lambda: errors.UnexpectedContentError(
            message, told.get("content_type", ""), told.get("body", "")
        ),
        "ToolArgumentsError": lambda: errors.ToolArgumentsError(message, told.get("arguments", "")),
        "EventDecodeError": lambda: errors.EventDecodeError(
            message, told.get("raw", "").encode("latin-1")
        ),
    }
    if name in made:
        return made[name]()
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, RxCohereError):
        return kind(message)
    return StreamError(message)
