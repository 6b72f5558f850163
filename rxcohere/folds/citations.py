"""Folds that keep citations with the text they cite.

Offsets count code points in the text of one content block. A citation may come in the middle of the
text, after it, late, or overlap another; it may also cite thinking or the tool plan, and then it
has no place in the answer's text.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rxcohere.deltas import ContentFragment
from rxcohere.events import (
    ChatEvent,
    CitationGeneration,
    CitationStart,
    ContentDelta,
    ContentStart,
)
from rxcohere.folds.fold import TextBuffer
from rxcohere.response import Citation, Source


class CitationFold:
    """Each citation as it arrives."""

    __slots__ = ()

    def push(self, event: ChatEvent) -> Sequence[Citation]:
        """The citations that the event carries."""
        if type(event) is CitationStart:
            return (event.citation,) if event.citation else ()
        if type(event) is CitationGeneration:
            return event.citations or ()
        return ()

    def finish(self) -> Sequence[Citation]:
        """Nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the answer's text, all of which the same citations support.

    Attributes:
        text: the stretch.
        citations: what supports it, in order of arrival; empty for text that nothing supports.
    """

    text: str
    citations: tuple[Citation, ...] = ()


class _CitedBlock:
    """The text of one content block, which only ever grows."""

    __slots__ = ("index", "length", "text")

    def __init__(self, index: int) -> None:
        self.index = index
        self.length = 0
        self.text = TextBuffer()

    def append(self, fragment: str) -> None:
        self.text.append(fragment)
        self.length += len(fragment)


class CitedText:
    """The answer's text at one moment, and the citations that had arrived by then.

    It stays as it was when it came out, and costs nothing until it is read. Two are equal when what
    came, the text, its segments and the citations are.

    Attributes:
        delta: the fragment of text that just came, "" when it was a citation.
        citation: the citation that just came, None when it was text.
    """

    __slots__ = ("_blocks", "_citations", "_count", "_thinking_first", "citation", "delta")

    def __init__(
        self,
        delta: str,
        citation: Citation | None,
        blocks: tuple[tuple[_CitedBlock, int], ...],
        citations: list[Citation],
        thinking_first: bool,
    ) -> None:
        self.delta = delta
        self.citation = citation
        self._blocks = blocks
        self._citations = citations  # append-only, shared; `_count` of them are ours
        self._count = len(citations)
        self._thinking_first = thinking_first

    @property
    def text(self) -> str:
        """The text so far: that of all text blocks, joined."""
        return "".join(text for _, text in self._texts())

    @property
    def citations(self) -> list[Citation]:
        """All citations so far in order of arrival, also those of thinking and of the tool plan."""
        return self._citations[: self._count]

    @property
    def sources(self) -> list[Source]:
        """The sources of all citations, each once: the first of each id, in order of arrival.

        A source without an id is told apart by its content.
        """
        unique: dict[object, Source] = {}
        for citation in self.citations:
            for source in citation.sources or ():
                unique.setdefault(source.id or source.model_dump_json(), source)
        return list(unique.values())

    def segments(self) -> list[Segment]:
        """The whole text in stretches, each with the citations that support all of it.

        Where citations overlap, the stretch in common has both. Offsets beyond the text so far are
        cut to it. Joining the segments' texts gives `text`.
        """
        segments: list[Segment] = []
        for block, text in self._texts():
            segments.extend(_split(text, self._spans(block, len(text))))
        return segments

    def _texts(self) -> Iterable[tuple[_CitedBlock, str]]:
        for block, length in self._blocks:
            text = block.text.read()
            yield block, text if length == len(text) else text[:length]

    def _spans(self, block: _CitedBlock, length: int) -> list[tuple[int, int, Citation]]:
        """The citations of a block with their ends cut to its length, empty ones left out."""
        spans: list[tuple[int, int, Citation]] = []
        for citation in self.citations:
            if citation.start is None or citation.end is None or not self._cites(citation, block):
                continue
            start, end = max(citation.start, 0), min(citation.end, length)
            if start < end:
                spans.append((start, end, citation))
        return spans

    def _cites(self, citation: Citation, block: _CitedBlock) -> bool:
        if citation.type in ("THINKING_CONTENT", "PLAN"):
            return False
        if citation.content_index is not None:
            return citation.content_index == block.index
        # An absent index is block 0. Where that holds thinking, a citation of text cannot mean it.
        return block.index == 0 or (self._thinking_first and block is self._blocks[0][0])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CitedText):
            return NotImplemented
        return (
            self.delta == other.delta
            and self.citation == other.citation
            and self.citations == other.citations
            and self.segments() == other.segments()
        )

    __hash__ = None  # type: ignore[assignment]  # compared by content, which may hold JSON objects

    def __repr__(self) -> str:
        return f"CitedText(text={self.text!r}, citations={self.citations!r})"


def _split(text: str, spans: list[tuple[int, int, Citation]]) -> Iterable[Segment]:
    """The segments of one block: it is cut wherever a citation starts or ends."""
    starts: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for number, (start, end, _) in enumerate(spans):
        starts.setdefault(start, []).append(number)
        ends.setdefault(end, []).append(number)
    cuts = sorted({0, len(text), *starts, *ends})
    active: dict[int, None] = {}
    for left, right in pairwise(cuts):
        for number in ends.get(left, ()):
            del active[number]
        active.update(dict.fromkeys(starts.get(left, ())))
        yield Segment(text[left:right], tuple(spans[number][2] for number in sorted(active)))


class LiveCitedTextFold:
    """The `CitedText` after every fragment of text and every citation."""

    __slots__ = ("_arrivals", "_blocks", "_citations", "_current", "_thinking_first")

    def __init__(self) -> None:
        self._arrivals = CitationFold()
        self._blocks: list[_CitedBlock] = []
        self._current: dict[int, _CitedBlock] = {}
        self._citations: list[Citation] = []
        self._thinking_first = False

    def push(self, event: ChatEvent) -> Sequence[CitedText]:
        """The text and citations with this event in them, if it adds to them."""
        return [self.snapshot(delta, citation) for delta, citation in self.add(event)]

    def add(self, event: ChatEvent) -> Iterable[tuple[str, Citation | None]]:
        """Takes the event in, piece by piece: what each piece is, text or citation."""
        if type(event) is ContentDelta:
            yield from self._text(event.index, event.content)
        elif type(event) is ContentStart:
            self._current.pop(event.index, None)  # a start always begins a block of its own
            yield from self._text(event.index, event.content)
        else:
            for citation in self._arrivals.push(event):
                self._citations.append(citation)
                yield "", citation

    def finish(self) -> Sequence[CitedText]:
        """Nothing."""
        return ()

    def snapshot(self, delta: str = "", citation: Citation | None = None) -> CitedText:
        """The text and citations so far."""
        blocks = tuple((block, block.length) for block in self._blocks)
        return CitedText(delta, citation, blocks, self._citations, self._thinking_first)

    def _text(
        self, index: int, content: ContentFragment | None
    ) -> Iterable[tuple[str, Citation | None]]:
        if content is None:
            return ()
        if (content.thinking is not None or content.type == "thinking") and not self._blocks:
            self._thinking_first = True
        fragment = content.text
        if not fragment:
            return ()
        block = self._current.get(index)
        if block is None:
            block = self._current[index] = _CitedBlock(index)
            insort(self._blocks, block, key=lambda each: each.index)
        block.append(fragment)
        return ((fragment, None),)


class CitedTextFold:
    """The `CitedText` of the whole answer, once, at the end."""

    __slots__ = ("_live",)

    def __init__(self) -> None:
        self._live = LiveCitedTextFold()

    def push(self, event: ChatEvent) -> tuple[CitedText, ...]:
        """Nothing yet."""
        for _ in self._live.add(event):
            pass
        return ()

    def finish(self) -> tuple[CitedText, ...]:
        """The text and all its citations."""
        return (self._live.snapshot(),)
