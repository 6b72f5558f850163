"""Arguments of a megabyte and citations in their thousands: linear, and right at the end."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable

import pytest
import samples
from long_streams.amounts import WINDOW
from long_streams.cases import Case
from long_streams.costs import Run
from long_streams.counting import counting_steps
from long_streams.streams import cited, one_call

from rxcohere import ChatEvent
from rxcohere import operators as rxc
from rxcohere.folds import CitedText, CitedTextFold, ToolCallProgress

MIB = 1 << 20


def test_arguments_of_1_mib_are_parsed_as_they_come() -> None:
    """Each of 16,384 reads takes as many steps; the last one has all of it."""
    words = "".join(f"{n:7} " for n in range(MIB // 8))
    whole = json.dumps({"words": words})
    fragments = [whole[start : start + 64] for start in range(0, len(whole), 64)]
    events = samples.parsed(map(samples.tool_call_delta, fragments))
    last: list[ToolCallProgress] = []

    def read(progress: ToolCallProgress) -> None:
        last[:] = [progress]
        assert progress.parsed is not None

    run = Run(Case("track_tool_calls", one_call, rxc.track_tool_calls, read=read))
    run.push(events[:WINDOW])
    early = run.steps(events[WINDOW : 2 * WINDOW])
    run.push(events[2 * WINDOW : -WINDOW])
    assert run.steps(events[-WINDOW:]) <= early * 1.01
    assert last[0].arguments == whole
    assert last[0].parsed == {"words": words}


def places(count: int, arrangement: str) -> Iterable[tuple[int, int]]:
    """Where so many citations start and end, in a text of eight characters for each."""
    for n in range(count):
        match arrangement:
            case "side by side":
                yield 8 * n, 8 * n + 5
            case "overlapping":
                yield 8 * n, min(8 * n + 100, 8 * count)
            case _:
                yield 8 * (count - 1 - n), 8 * (count - n)


def cited_answer(count: int, arrangement: str, live: bool) -> list[ChatEvent]:
    """A text with so many citations, each after its eight characters or all after the text."""
    words = [samples.text_delta(f"{n:7} ") for n in range(count)]
    cites = [
        samples.citation_start(samples.citation(start, end, "x"), n)
        for n, (start, end) in enumerate(places(count, arrangement))
    ]
    pairs = zip(words, cites, strict=True)
    return samples.parsed(itertools.chain(*pairs) if live else words + cites)


arrangements = pytest.mark.parametrize(
    ("arrangement", "live"), [("side by side", True), ("overlapping", True), ("backwards", False)]
)


@arrangements
def test_10_000_citations_find_their_places(arrangement: str, live: bool) -> None:
    """Each costs the same when it comes, and the segments are the text with what covers it."""
    events = cited_answer(10_000, arrangement, live)
    last: list[CitedText] = []
    run = Run(Case("attach_citations", cited, rxc.attach_citations, read=last.append))
    run.push(events[:10_000])
    before = run.steps(events[10_000 : 10_000 + WINDOW])
    run.push(events[10_000 + WINDOW : -WINDOW])
    assert run.steps(events[-WINDOW:]) <= before * 1.01
    answer = last[-1]
    segments = answer.segments()
    assert "".join(segment.text for segment in segments) == answer.text
    assert len(answer.citations) == 10_000
    covered = sum(len(segment.citations) * len(segment.text) for segment in segments)
    assert covered == sum(end - start for start, end in places(10_000, arrangement))


@arrangements
def test_reading_segments_takes_the_same_steps_for_each_citation(
    arrangement: str, live: bool
) -> None:
    """Four times as many citations take four times the steps."""
    reading: list[int] = []
    for count in (500, 2_000):
        fold = CitedTextFold()
        [answer] = samples.run(fold, cited_answer(count, arrangement, live))
        with counting_steps() as steps:
            answer.segments()
        reading.append(steps[0])
    assert reading[1] <= reading[0] * 4.1
