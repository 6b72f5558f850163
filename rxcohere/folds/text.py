"""Folds of plain text: fragments as they arrive, and the text they add up to."""

from __future__ import annotations

from rxcohere.events import ChatEvent, ContentDelta, ContentStart, ToolPlanDelta
from rxcohere.folds.fold import TextBuffer


class TextDeltaFold:
    """The fragments of the answer's text; empty ones are left out.

    Args:
        index: only the content block with this index; None for all.
    """

    __slots__ = ("_index",)

    def __init__(self, index: int | None = None) -> None:
        self._index = index

    def push(self, event: ChatEvent) -> tuple[str, ...]:
        """The fragment that the event carries, if it does."""
        if type(event) is ContentDelta or type(event) is ContentStart:
            # Written out, not through `event.text`: this runs once for each token.
            delta = event.delta
            if delta is not None and delta.message is not None:
                content = delta.message.content
                if (
                    content is not None
                    and (text := content.text)
                    and (self._index is None or event.index == self._index)
                ):
                    return (text,)
        return ()

    def finish(self) -> tuple[str, ...]:
        """Nothing."""
        return ()


class ThinkingDeltaFold:
    """The fragments of the model's thinking; empty ones are left out."""

    __slots__ = ()

    def push(self, event: ChatEvent) -> tuple[str, ...]:
        """The fragment that the event carries, if it does."""
        if (
            (type(event) is ContentDelta or type(event) is ContentStart)
            and (content := event.content) is not None
            and (thinking := content.thinking)
        ):
            return (thinking,)
        return ()

    def finish(self) -> tuple[str, ...]:
        """Nothing."""
        return ()


class ToolPlanDeltaFold:
    """The fragments of the tool plan; empty ones are left out."""

    __slots__ = ()

    def push(self, event: ChatEvent) -> tuple[str, ...]:
        """The fragment that the event carries, if it does."""
        if type(event) is ToolPlanDelta and (text := event.text):
            return (text,)
        return ()

    def finish(self) -> tuple[str, ...]:
        """Nothing."""
        return ()


class AccumulatedTextFold:
    """The answer's text so far, each time it grows."""

    __slots__ = ("_deltas", "_text")

    def __init__(self) -> None:
        self._deltas = TextDeltaFold()
        self._text = TextBuffer()

    def push(self, event: ChatEvent) -> tuple[str, ...]:
        """The text with this event's fragment at its end, if the event carries one."""
        fragments = self._deltas.push(event)
        if not fragments:
            return ()
        self._text.append(fragments[0])
        return (self._text.read(),)

    def finish(self) -> tuple[str, ...]:
        """Nothing."""
        return ()


class CollectedTextFold:
    """The answer's whole text, once, at the end; "" where there is none."""

    __slots__ = ("_deltas", "_text")

    def __init__(self) -> None:
        self._deltas = TextDeltaFold()
        self._text = TextBuffer()

    def push(self, event: ChatEvent) -> tuple[str, ...]:
        """Nothing yet."""
        for fragment in self._deltas.push(event):
            self._text.append(fragment)
        return ()

    def finish(self) -> tuple[str, ...]:
        """The text."""
        return (self._text.read(),)
