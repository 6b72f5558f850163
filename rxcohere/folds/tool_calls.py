"""Folds of tool calls: each call when it is complete, and its arguments while they form.

A stream numbers its calls by ``index``. They come one after another today, but nothing promises
that, so fragments are told apart by index alone, in any interleaving. A second start with an index
begins a new call: streams without any index exist. A fragment that comes after the end of its call
is dropped: a call that was given out is complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, cast

from rxcohere.events import ChatEvent, MessageEnd, ToolCallDelta, ToolCallEnd, ToolCallStart
from rxcohere.folds.fold import TextBuffer
from rxcohere.folds.partial_json import PartialJSON
from rxcohere.response import ToolCall, ToolCallFunction, generation_failed

_PARSERS = 4
"""Readers at different places of the same arguments, each of which has a parser of its own."""


class ToolCallBuilder:
    """One call under way: its head as it started, and the arguments that followed."""

    __slots__ = ("_whole", "arguments", "head", "index")

    def __init__(self, index: int, head: ToolCall | None) -> None:
        self.index = index
        self.head = head or ToolCall()
        self.arguments = TextBuffer(self.head.arguments)
        self._whole: ToolCall | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing is added any more."""
        return self._whole is not None

    def end(self) -> None:
        """Makes the call what it is now: `build` gives the same from now on."""
        self._whole = self.build()

    def build(self) -> ToolCall:
        """The call as far as it came."""
        if self._whole is not None:
            return self._whole
        function = self.head.function or ToolCallFunction()
        if text := self.arguments.read():
            function = function.model_copy(update={"arguments": text})
        elif self.head.function is None:
            return self.head
        return self.head.model_copy(update={"function": function})


class ToolCallFold:
    """Each tool call when it is complete.

    A call is complete at its ``tool-call-end``, when another call starts with its index, or, for a
    stream that leaves ends out, at ``message-end`` or the end of the stream, in order of index. A
    call still open when the reply was cut off (``MAX_TOKENS``, ``ERROR``, ``TIMEOUT``) is not
    complete and does not come out; the response keeps what there was of it.
    """

    __slots__ = ("_ended", "_open")

    def __init__(self) -> None:
        self._open: dict[int, ToolCallBuilder] = {}
        self._ended: set[int] = set()

    def push(self, event: ChatEvent) -> tuple[ToolCall, ...]:
        """The calls that this event completes."""
        if type(event) is ToolCallDelta:
            call = self._open.get(event.index)
            if call is None and event.index not in self._ended:
                call = self._open[event.index] = ToolCallBuilder(event.index, None)
            if call is not None:
                call.arguments.append(event.arguments)
            return ()
        if type(event) is ToolCallStart:
            unfinished = self._open.pop(event.index, None)
            self._open[event.index] = ToolCallBuilder(event.index, event.tool_call)
            return (unfinished.build(),) if unfinished else ()
        if type(event) is ToolCallEnd:
            call = self._open.pop(event.index, None)
            if call is None:
                return ()
            self._ended.add(event.index)
            return (call.build(),)
        if type(event) is MessageEnd:
            reason = event.finish_reason or ""
            if generation_failed(reason) or reason.upper() == "MAX_TOKENS":
                self._open.clear()
            return self.finish()
        return ()

    def finish(self) -> tuple[ToolCall, ...]:
        """The calls whose end never came."""
        calls = tuple(call.build() for _, call in sorted(self._open.items()))
        self._open.clear()
        return calls


@dataclass(frozen=True, slots=True)
class ToolCallProgress:
    """A tool call as far as it has been streamed.

    Attributes:
        index: which of the message's calls this is.
        id: the call's id, None if it has none.
        name: the tool's name.
        delta: the fragment that just came.
        length: how many characters of arguments have come.
    """

    index: int
    id: str | None
    name: str
    delta: str
    length: int
    _arguments: _GrowingArguments = field(repr=False, compare=False)

    @property
    def arguments(self) -> str:
        """The JSON text so far."""
        return self._arguments.text(self.length)

    @property
    def parsed(self) -> dict[str, Any]:
        """The arguments so far as an object: what is unfinished is there as far as it goes.

        An unfinished string has its beginning; a key without a value is left out. Read it, do not
        change it: parts that are finished are shared with later progress. An array or object that
        is still open is copied, so that reading takes time for each of its items.
        """
        return self._arguments.parsed(self.length)


class _GrowingArguments:
    """The arguments of one call, shared by all its progress objects, which only ever grow.

    They are parsed as far as somebody reads, so whoever reads each progress in turn, at once or a
    while later, has each character parsed once; a few may do so, one later than the other.
    """

    __slots__ = ("_length", "_parsers", "_text")

    def __init__(self) -> None:
        self._text = TextBuffer()
        self._length = 0
        self._parsers: list[tuple[int, PartialJSON]] = []  # and how many characters each was fed

    def append(self, fragment: str) -> int:
        self._text.append(fragment)
        self._length += len(fragment)
        return self._length

    def text(self, length: int) -> str:
        text = self._text.read()
        return text if length == len(text) else text[:length]

    def parsed(self, length: int) -> dict[str, Any]:
        fed, parser = max(
            (each for each in self._parsers if each[0] <= length),
            key=itemgetter(0),
            default=(0, None),
        )
        if parser is None:
            parser = PartialJSON()
            del self._parsers[: 1 - _PARSERS]
        else:
            self._parsers.remove((fed, parser))
        self._parsers.append((length, parser))
        parser.feed(self._text.read()[fed:length])
        value = parser.value
        return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


class ToolCallProgressFold:
    """The progress of a tool call, after every fragment of its arguments up to its end."""

    __slots__ = ("_ended", "_open")

    def __init__(self) -> None:
        self._ended: set[int] = set()
        self._open: dict[int, tuple[str | None, str, _GrowingArguments]] = {}

    def push(self, event: ChatEvent) -> tuple[ToolCallProgress, ...]:
        """The progress that this event makes."""
        if type(event) is ToolCallDelta:
            if event.index in self._ended:
                return ()
            if event.index not in self._open:
                self._open[event.index] = (None, "", _GrowingArguments())
            return self._progress(event.index, event.arguments)
        if type(event) is ToolCallStart:
            head = event.tool_call or ToolCall()
            self._ended.discard(event.index)
            self._open[event.index] = (head.id, head.name, _GrowingArguments())
            return self._progress(event.index, head.arguments) if head.arguments else ()
        if type(event) is ToolCallEnd and self._open.pop(event.index, None) is not None:
            self._ended.add(event.index)
        return ()

    def _progress(self, index: int, delta: str) -> tuple[ToolCallProgress]:
        call_id, name, arguments = self._open[index]
        length = arguments.append(delta)
        return (ToolCallProgress(index, call_id, name, delta, length, arguments),)

    def finish(self) -> tuple[ToolCallProgress, ...]:
        """Nothing."""
        return ()
