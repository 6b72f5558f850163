"""The event algebra: adjacent deltas of one block merge into one event that says the same.

Two laws hold, and the tests check them on random streams. Folding a compacted stream gives the same
`ChatResponse`, `CitedText` and `ToolCall`s as folding the stream. Merging is associative: whether
two events merge depends only on a key that merging preserves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from rxcohere.events import (
    ChatEvent,
    ContentDelta,
    ToolCallDelta,
    ToolPlanDelta,
    parse_event,
)
from rxcohere.folds.fold import TextBuffer
from rxcohere.response import WireModel

Key: TypeAlias = tuple[str, int, str]
"""Wire type, index, and the key of the fragment."""


def _plain(*objects: WireModel) -> bool:
    """Whether the objects hold nothing but the keys we know."""
    return not any(each.__pydantic_extra__ for each in objects)


def fragment_of(event: ChatEvent) -> tuple[Key, str] | None:
    """What the event merges with, and its fragment; None for an event that stands alone.

    Anything beyond the fragment makes an event stand alone: unknown keys, and log probabilities, of
    which the reply keeps one item for each delta.
    """
    if type(event) is not ContentDelta:
        return _tool_fragment(event)
    # Nearly all events come this way; `_plain` would cost half as much again.
    if (
        (delta := event.delta) is None
        or (message := delta.message) is None
        or (content := message.content) is None
        or event.logprobs is not None
        or content.type is not None
        or event.__pydantic_extra__
        or delta.__pydantic_extra__
        or message.__pydantic_extra__
        or content.__pydantic_extra__
    ):
        return None
    text, thinking = content.text, content.thinking
    if thinking is None and text is not None:
        return ("content-delta", event.index, "text"), text
    if text is None and thinking is not None:
        return ("content-delta", event.index, "thinking"), thinking
    return None


def _tool_fragment(event: ChatEvent) -> tuple[Key, str] | None:
    if type(event) is ToolCallDelta:
        return _arguments_fragment(event)
    if type(event) is ToolPlanDelta:
        return _plan_fragment(event)
    return None


def _arguments_fragment(event: ToolCallDelta) -> tuple[Key, str] | None:
    delta = event.delta
    message = None if delta is None else delta.message
    call = None if message is None else message.tool_calls
    function = None if call is None else call.function
    if delta is None or message is None or call is None or function is None:
        return None
    if call.id is not None or call.type is not None or function.name is not None:
        return None
    if function.arguments is None or not _plain(event, delta, message, call, function):
        return None
    return (event.type, event.index, "arguments"), function.arguments


def _plan_fragment(event: ToolPlanDelta) -> tuple[Key, str] | None:
    delta = event.delta
    message = None if delta is None else delta.message
    if delta is None or message is None or message.tool_plan is None:
        return None
    if not _plain(event, delta, message):
        return None
    return (event.type, 0, "tool_plan"), message.tool_plan


def _merged(key: Key, text: str) -> ChatEvent:
    kind, index, part = key
    message: dict[str, Any]
    match part:
        case "arguments":
            message = {"tool_calls": {"function": {"arguments": text}}}
        case "tool_plan":
            return parse_event({"type": kind, "delta": {"message": {"tool_plan": text}}})
        case _:
            message = {"content": {part: text}}
    return parse_event({"type": kind, "index": index, "delta": {"message": message}})


class Compactor:
    """A list of events that merges what it can at its end.

    Adding an event takes constant time; the fragments of a run are joined once, when somebody
    reads. What was read never changes.
    """

    __slots__ = ("_events", "_key", "_last", "_run")

    def __init__(self, events: Iterable[ChatEvent] = ()) -> None:
        self._events: list[ChatEvent] = []  # all events before the run at the end
        self._key: Key | None = None  # what merges into the run
        self._last: ChatEvent | None = None  # the run as one event; None when it has grown since
        self._run = TextBuffer()
        for event in events:
            self.push(event)

    def __len__(self) -> int:
        """How many events it holds, merged."""
        return len(self._events) + (self._key is not None)

    def push(self, event: ChatEvent) -> int | None:
        """Adds an event at the end.

        Returns:
            How many characters it brought; None if it is of a kind that stands alone.
        """
        return self.add(event, fragment_of(event))

    def add(self, event: ChatEvent, mergeable: tuple[Key, str] | None) -> int | None:
        """The same, given what `fragment_of` it was: its extra keys may have been changed since."""
        if mergeable is None:
            self._seal()
            self._events.append(event)
            return None
        key, fragment = mergeable
        if key == self._key:
            self._last = None
        else:
            self._seal()
            self._key = key
            self._last = event
            self._run = TextBuffer()
        self._run.append(fragment)
        return len(fragment)

    def lengthen(self, fragment: str) -> None:
        """Adds a fragment to the delta at the end, which the last event must have been.

        Raises:
            ValueError: the last event stands alone, or there is none.
        """
        if not fragment:
            return
        if self._key is None:
            raise ValueError("expected a delta at the end, but the last event stands alone")
        self._last = None
        self._run.append(fragment)

    def events(self) -> list[ChatEvent]:
        """The events so far, adjacent mergeable ones merged. The list is the caller's own."""
        if self._key is None:
            return list(self._events)
        return [*self._events, self._run_event(self._key)]

    def drain(self) -> list[ChatEvent]:
        """The events so far, which are then no longer held."""
        self._seal()
        events, self._events = self._events, []
        return events

    def _run_event(self, key: Key) -> ChatEvent:
        if self._last is None:
            self._last = _merged(key, self._run.read())
        return self._last

    def _seal(self) -> None:
        if self._key is not None:
            self._events.append(self._run_event(self._key))
            self._key = None


def compact(events: Iterable[ChatEvent]) -> list[ChatEvent]:
    """The shortest list of events that says the same: adjacent mergeable ones merged, in order."""
    return Compactor(events).events()


def merge_events(first: ChatEvent, second: ChatEvent) -> ChatEvent | None:
    """The one event that says what ``first`` and then ``second`` said; None if they do not merge.

    Only deltas of the same type, index and content key merge, and only if neither carries log
    probabilities or keys this version does not know.
    """
    merged = compact((first, second))
    return merged[0] if len(merged) == 1 else None
