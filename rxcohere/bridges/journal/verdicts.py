"""How a stream ended, in a form that travels from one process to another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rxcohere import errors
from rxcohere.errors import ApiError, RxCohereError, StreamError
from rxcohere.response import ChatResponse


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

    @classmethod
    def of_abandoned(cls) -> Verdict:
        """That on a stream whose producer died, as far as anybody can tell."""
        return cls(errors.StreamAbandonedError("the producer of the stream let its lease run out"))

    def to_json(self) -> str:
        """One line of JSON."""
        if self.error is None:
            return '{"completed":true}'
        told = describe(self.error)
        partial = getattr(self.error, "partial", None)
        if partial is not None:
            told["partial"] = partial.model_dump(mode="json", exclude_unset=True)
        return json.dumps(told, default=str)

    @classmethod
    def from_json(cls, text: str | bytes) -> Verdict:
        """The verdict that was written, its error an instance of the same class.

        An error of a class that this version does not know becomes a `StreamError`.

        Raises:
            JournalError: this is no verdict.
        """
        try:
            told: dict[str, Any] = json.loads(text)
            if told.get("completed"):
                return cls()
            error = _error_of(told)
            if isinstance(error, StreamError) and told.get("partial") is not None:
                error.partial = ChatResponse.model_validate(told["partial"])
        except Exception as problem:
            raise errors.JournalError(f"the journal has no verdict in {text!r:.200}") from problem
        return cls(error)


def describe(error: RxCohereError) -> dict[str, Any]:
    """What an error says, but for what was received: its class in ``error``, and its fields."""
    return {"error": type(error).__name__, **_fields_of(error)}


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
        "StreamTimeoutError": lambda: errors.StreamTimeoutError(
            message, told.get("phase", "total")
        ),
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
