"""The shape that all folds share, and the buffer that most of them keep their text in."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Protocol, TypeVar

In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class Fold(Protocol[In_contra, Out_co]):
    """Events in, values out; one instance for one stream."""

    def push(self, event: In_contra, /) -> Sequence[Out_co]:
        """The values that this event makes known, in order."""
        ...

    def finish(self) -> Sequence[Out_co]:
        """The values that are known only when the stream has completed."""
        ...


class TextBuffer:
    """A text that grows at its end: appending takes constant time, and so does reading on average.

    What came since somebody read is kept in a writer, as characters of four bytes; a small string
    for each fragment would take four times that. A text that is read after every fragment grows in
    place as long as the reader lets go of the earlier one.
    """

    __slots__ = ("_text", "_writer", "append")

    def __init__(self, text: str = "") -> None:
        self._text = text
        self._writer = _writer()
        self.append = self._writer.write
        """Adds a fragment at the end. It is the writer's own method: one call less an event."""

    def read(self) -> str:
        """The text so far."""
        if self._writer.tell():
            # CPython extends a string in place while one local name is all that refers to it;
            # hence the detour around the attribute.
            text = self._text
            self._text = ""
            text += self._writer.getvalue()
            self._text = text
            self._writer = _writer()
            self.append = self._writer.write
        return self._text


def _writer() -> StringIO:
    """A writer that keeps characters: until it is first read, CPython's keeps the strings."""
    writer = StringIO()
    writer.readline()
    return writer
