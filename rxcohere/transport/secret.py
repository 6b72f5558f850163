"""The API key: it goes into a header, and into nothing that is said about the request."""

from __future__ import annotations

import re
from typing import Any

from rxcohere.errors import ConfigurationError, EventDecodeError, GenerationError
from rxcohere.options import is_header_text

_UNMISTAKABLE = 8  # characters of a key that is no part of another word by accident
_TELLING = 4  # as many characters of a key tell nothing yet


class Secret:
    """A key whose repr does not show it, so that no traceback with locals does.

    Args:
        key: "" for none.

    Raises:
        ConfigurationError: it cannot stand in a header.
    """

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = key if is_header_text(key) else None
        del key  # a traceback shows what a frame knows
        if self._key is None:
            raise ConfigurationError(
                "api_key should be a string without line breaks and other control characters"
            )

    def __repr__(self) -> str:
        return "Secret(***)" if self._key else "Secret()"

    def headers(self) -> dict[str, str]:
        """The header that carries the key; none for no key."""
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def blot_out(self, text: bytes) -> bytes:
        """The text without the key, also where it is cut off at the end.

        A very short key, as in tests, is only blotted out where it stands as a word of its own.
        """
        if not self._key:
            return text
        word = self._key.encode()
        text = self._without(word, text)
        for length in range(len(word) - 1, _TELLING, -1):
            if text.endswith(word[:length]):
                return text[:-length] + b"***"
        return text

    def _without(self, word: bytes, text: bytes) -> bytes:
        if len(word) >= _UNMISTAKABLE:
            return text.replace(word, b"***")
        return re.sub(rb"(?<!\w)%b(?!\w)" % re.escape(word), b"***", text)

    def blot_out_str(self, text: str) -> str:
        """The same for a string."""
        raw = text.encode("utf-8", "surrogateescape")
        return self.blot_out(raw).decode("utf-8", "surrogateescape")

    def blot_out_json(self, value: Any) -> Any:
        """What JSON was parsed to, without the key, which may have been escaped in the JSON."""
        kind = type(value)  # pyright: ignore[reportUnknownVariableType] - of what a parser makes
        if kind is str and self._key:
            raw = value.encode("utf-8", "surrogatepass")
            return self._without(self._key.encode(), raw).decode("utf-8", "surrogatepass")
        if kind is list:
            return [self.blot_out_json(each) for each in value]
        if kind is dict:
            return {self.blot_out_json(k): self.blot_out_json(v) for k, v in value.items()}
        return value

    def blot_out_failure(self, error: GenerationError) -> GenerationError:
        """The error, or one without the key if the server's words for it hold it."""
        told = (error.finish_reason, error.error, error.error_type)
        blotted = [self.blot_out_json(each) for each in told]
        return error if blotted == list(told) else GenerationError(*blotted)

    def blot_out_event(self, error: EventDecodeError) -> EventDecodeError:
        """The error, or one without the key if the event that could not be read holds it."""
        if not self._key or self._key.encode() not in error.raw:
            return error
        return EventDecodeError(self.blot_out_str(str(error)), self.blot_out(error.raw))
