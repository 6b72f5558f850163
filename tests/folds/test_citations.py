"""Citations with the text they cite: where each stands, whenever it came."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import (
    JSON,
    Sample,
    citation,
    citation_end,
    citation_start,
    content_end,
    content_start,
    document,
    frames_of,
    message_end,
    message_start,
    parsed,
    run,
    streams,
    text_delta,
    thinking_delta,
    tool_call_delta,
    tool_plan_delta,
)

from rxcohere.events import parse_event
from rxcohere.folds import (
    CitationFold,
    CitedText,
    CitedTextFold,
    LiveCitedTextFold,
    ResponseFold,
    Segment,
)
from rxcohere.response import Citation


def cited_text(events: list[JSON]) -> CitedText:
    (out,) = run(CitedTextFold(), parsed(events))
    assert isinstance(out, CitedText)
    return out


def told(cited: CitedText) -> list[tuple[str, list[str | None]]]:
    """The segments, each citation by the text that it says it cites."""
    return [(s.text, [c.text for c in s.citations]) for s in cited.segments()]


def answer(text: str, *cited: JSON, index: int = 0) -> list[JSON]:
    """A stream of one block: all of its text, then its citations."""
    pairs = [e for n, c in enumerate(cited) for e in (citation_start(c, n), citation_end(n))]
    return [
        message_start(),
        content_start(index),
        text_delta(text, index),
        *pairs,
        content_end(index),
        message_end(),
    ]


TIDE = citation(0, 9, "High tide", document("doc:0", title="Tides"))
NOON = citation(13, 17, "noon", document("doc:1"), document("doc:0", title="Tides"))


# Citations as they arrive ------------------------------------------------------------------------


def test_citations_as_they_arrive() -> None:
    """Each citation comes out at its start, whole; its end brings nothing."""
    fold = CitationFold()
    events = parsed(
        [text_delta("a"), citation_start(TIDE), citation_end(), citation_start(NOON, 1)]
    )
    out = [[c.model_dump(exclude_unset=True) for c in fold.push(event)] for event in events]
    assert out == [[], [TIDE], [], [NOON]]
    assert list(fold.finish()) == []


def test_the_older_form_of_citations() -> None:
    """``citation-generation`` brings several at once."""
    events = parsed([{"type": "citation-generation", "citations": [TIDE, NOON]}])
    assert [c.text for c in run(CitationFold(), events)] == ["High tide", "noon"]
    assert [c.citation for c in run(LiveCitedTextFold(), events)] == run(CitationFold(), events)


@pytest.mark.parametrize("fold", [CitationFold, LiveCitedTextFold])
def test_bare_events_bring_no_citations(fold: type) -> None:
    """Citation and content events that have nothing but their type bring nothing."""
    kinds = ["citation-start", "citation-end", "citation-generation", "content-start"]
    assert run(fold(), parsed({"type": kind} for kind in [*kinds, "content-delta"])) == []


# Segments ----------------------------------------------------------------------------------------


def test_segments_of_a_cited_text() -> None:
    """The text comes in stretches: cited, not cited, cited, not cited."""
    cited = cited_text(answer("High tide is noon.", TIDE, NOON))
    assert told(cited) == [
        ("High tide", ["High tide"]),
        (" is ", []),
        ("noon", ["noon"]),
        (".", []),
    ]
    assert cited.text == "High tide is noon."
    assert [c.text for c in cited.citations] == ["High tide", "noon"]


def test_segments_without_citations() -> None:
    """A text that nothing supports is one segment; no text is none."""
    assert cited_text(answer("High tide")).segments() == [Segment("High tide")]
    assert cited_text([message_start(), message_end()]).segments() == []
    assert cited_text([]).text == ""


@pytest.mark.parametrize("when", [2, 3, 4, 5, 6])
def test_inline_after_and_late_citations_say_the_same(when: int) -> None:
    """Wherever in the stream a citation comes, the finished text is cited the same."""
    events = [
        message_start(),
        content_start(),
        text_delta("High"),
        text_delta(" tide is"),
        text_delta(" noon."),
        content_end(),
        message_end(),
    ]
    events.insert(when, citation_start(TIDE))
    assert told(cited_text(events)) == [("High tide", ["High tide"]), (" is noon.", [])]


def test_overlapping_citations() -> None:
    """A stretch that two citations share has both, in order of arrival."""
    first, second = citation(3, 8, "later"), citation(0, 5, "earlier")
    inner = citation(4, 5, "inner")
    assert told(cited_text(answer("0123456789", first, second, inner))) == [
        ("012", ["earlier"]),
        ("3", ["later", "earlier"]),
        ("4", ["later", "earlier", "inner"]),
        ("567", ["later"]),
        ("89", []),
    ]


def test_two_citations_of_one_span() -> None:
    """Two citations of the same span make one segment with both."""
    assert told(cited_text(answer("abc", citation(0, 3, "x"), citation(0, 3, "y")))) == [
        ("abc", ["x", "y"])
    ]


def test_adjacent_citations() -> None:
    """Where one citation ends and the next starts, no empty segment stands between."""
    assert told(cited_text(answer("abcd", citation(0, 2, "x"), citation(2, 4, "y")))) == [
        ("ab", ["x"]),
        ("cd", ["y"]),
    ]


@pytest.mark.parametrize(
    ("start", "end", "segments"),
    [
        (2, 99, [("ab", []), ("cd", ["x"])]),
        (-3, 2, [("ab", ["x"]), ("cd", [])]),
        (-3, 99, [("abcd", ["x"])]),
        (4, 9, [("abcd", [])]),
        (50, 60, [("abcd", [])]),
        (3, 1, [("abcd", [])]),
        (2, 2, [("abcd", [])]),
        (None, 2, [("abcd", [])]),
        (0, None, [("abcd", [])]),
    ],
)
def test_offsets_out_of_range(start: Any, end: Any, segments: list[Any]) -> None:
    """Offsets are cut to the text; a citation that then covers nothing is listed, not placed."""
    cited = cited_text(answer("abcd", citation(start, end, "x")))
    assert told(cited) == segments
    assert [c.text for c in cited.citations] == ["x"]


def test_an_early_citation_grows_with_the_text() -> None:
    """A citation that comes before its text covers as much of it as is there."""
    events = [citation_start(citation(1, 4, "bcd")), *map(text_delta, ("ab", "c", "de"))]
    live = run(LiveCitedTextFold(), parsed(events))
    assert [told(cited) for cited in live] == [
        [],
        [("a", []), ("b", ["bcd"])],
        [("a", []), ("bc", ["bcd"])],
        [("a", []), ("bcd", ["bcd"]), ("e", [])],
    ]


def test_offsets_count_code_points() -> None:
    """Characters beyond U+FFFF and combining ones count one each, as they do in Python."""
    text = "é😀e\u0301🌈 tide"
    start = text.index("tide")
    cited = cited_text(
        answer(text, citation(1, 5, "😀e\u0301🌈"), citation(start, start + 4, "tide"))
    )
    assert told(cited) == [
        ("é", []),
        ("😀e\u0301🌈", ["😀e\u0301🌈"]),
        (" ", []),
        ("tide", ["tide"]),
    ]


def test_utf16_ranges_for_a_browser() -> None:
    """The range of a citation cuts the same text out of a string that counts UTF-16."""
    text = "😀 High 🌈 tide"
    start = text.index("High")
    cited = cited_text(answer(text, citation(start, start + 6, "High 🌈")))
    (found,) = cited.citations
    first, last = found.utf16_range(cited.text)
    assert (first, last) == (3, 10)
    assert text.encode("utf-16-le")[2 * first : 2 * last].decode("utf-16-le") == "High 🌈"


# Blocks ------------------------------------------------------------------------------------------


def test_offsets_count_in_their_own_block() -> None:
    """A citation's offsets count in the block it names, not in the joined text."""
    events = [
        *answer("first block, ")[:-1],
        *answer("second block", citation(0, 6, "second", content_index=1), index=1)[1:],
    ]
    cited = cited_text(events)
    assert told(cited) == [("first block, ", []), ("second", ["second"]), (" block", [])]
    assert cited.text == "first block, second block"


THOUGHT = [message_start(), content_start(0, "thinking"), thinking_delta("Tides…"), content_end(0)]


@pytest.mark.parametrize("place", [{"content_index": 1}, {}, {"type": "TEXT_CONTENT"}])
def test_a_citation_after_thinking(place: JSON) -> None:
    """Where block 0 is thinking, a citation of text that names no block means the answer."""
    cited = citation(0, 4, "High", **place)
    events = [*THOUGHT, content_start(1), text_delta("High tide", 1), citation_start(cited)]
    assert told(cited_text(events)) == [("High", ["High"]), (" tide", [])]


STARTED: JSON = {"type": "content-start", "delta": {"message": {"content": {"type": "thinking"}}}}


@pytest.mark.parametrize(
    ("before", "segments"),
    [
        ([], [("High tide", [])]),
        ([thinking_delta("Tides…")], [("High", ["High"]), (" tide", [])]),
        ([STARTED], [("High", ["High"]), (" tide", [])]),
        ([content_start(0)], [("High tide", [])]),
        ([text_delta("So: "), STARTED], [("So: ", ["High"]), ("High tide", [])]),
    ],
    ids=["nothing", "thinking without a start", "a bare start", "text that is empty", "text"],
)
def test_what_stands_before_the_block_of_a_citation(
    before: list[JSON], segments: list[Any]
) -> None:
    """A citation that names no block means block 0, unless that is thinking."""
    cited = citation(0, 4, "High")
    events = [message_start(), *before, text_delta("High tide", 1), citation_start(cited)]
    assert told(cited_text(events)) == segments


@pytest.mark.parametrize("kind", ["THINKING_CONTENT", "PLAN"])
@pytest.mark.parametrize("place", [{}, {"content_index": 0}, {"content_index": 1}])
def test_citations_of_thinking_and_of_the_plan(kind: str, place: JSON) -> None:
    """Citations of what is not the answer are listed, and have no place in its text."""
    aside = citation(0, 4, "Tide", type=kind, **place)
    events = [
        *THOUGHT,
        citation_start(aside),
        content_start(1),
        text_delta("High tide", 1),
        tool_plan_delta("Tides"),
    ]
    cited = cited_text(events)
    assert told(cited) == [("High tide", [])]
    assert [c.type for c in cited.citations] == [kind]


def test_a_citation_of_an_unknown_kind_is_placed() -> None:
    """A citation of a type that is not known, in a block that has text, cites that text."""
    cited = cited_text(answer("High tide", citation(0, 4, "High", type="SOMETHING_NEW")))
    assert told(cited)[0] == ("High", ["High"])


def test_a_citation_of_a_block_that_is_not_there() -> None:
    """A citation of a block that never came is listed, and has no place."""
    cited = cited_text(answer("High tide", citation(0, 4, "High", content_index=7)))
    assert told(cited) == [("High tide", [])]
    assert len(cited.citations) == 1


def test_blocks_of_a_stream_without_any_index() -> None:
    """Without indexes, each start begins a block of its own, and segments do not span two."""
    events = [content_start(), text_delta("one"), content_end()] * 2
    bare = [{key: value for key, value in event.items() if key != "index"} for event in events]
    assert told(cited_text(bare)) == [("one", []), ("one", [])]


def test_only_the_answer_is_text() -> None:
    """Thinking, plans, arguments and unknown events are no part of the cited text."""
    events = [
        *THOUGHT,
        tool_plan_delta("I will"),
        tool_call_delta('{"text": 1}'),
        {"type": "progress-report", "delta": {"message": {"content": {"text": "!"}}}},
        content_start(1),
        text_delta("High", 1),
    ]
    assert cited_text(events).text == "High"


# Sources -----------------------------------------------------------------------------------------


def test_sources_are_listed_once() -> None:
    """Sources of all citations come once each by id, in order of arrival."""
    cited = cited_text(answer("High tide is noon.", TIDE, NOON, TIDE))
    assert [source.id for source in cited.sources] == ["doc:0", "doc:1"]
    assert cited.sources[0].document == {"id": "doc:0", "title": "Tides"}


def test_sources_without_an_id() -> None:
    """A source without an id is told apart by its content."""
    noon, one = ({"type": "tool", "tool_output": {"content": c}} for c in ("noon", "one"))
    cited = cited_text(
        answer("abc", citation(0, 1, "a", noon), citation(1, 2, "b", one, noon), {"start": 0})
    )
    assert [source.tool_output for source in cited.sources] == [
        {"content": "noon"},
        {"content": "one"},
    ]


# Live --------------------------------------------------------------------------------------------


def test_live_text_with_its_citations() -> None:
    """After each fragment and each citation: what just came, and everything so far."""
    events = [
        message_start(),
        content_start(),
        text_delta("High"),
        text_delta(""),
        text_delta(" tide"),
        citation_start(TIDE),
        citation_end(),
        text_delta(" is"),
        message_end(),
    ]
    live = run(LiveCitedTextFold(), parsed(events))
    assert [(c.delta, c.citation and c.citation.text, c.text, len(c.citations)) for c in live] == [
        ("High", None, "High", 0),
        (" tide", None, "High tide", 0),
        ("", "High tide", "High tide", 1),
        (" is", None, "High tide is", 1),
    ]


def test_the_collected_text_comes_once_at_the_end() -> None:
    """One `CitedText` at the end, also of a stream without text."""
    fold = CitedTextFold()
    assert [out for event in parsed(answer("High", TIDE)) for out in fold.push(event)] == []
    (cited,) = fold.finish()
    assert (cited.delta, cited.citation, cited.text) == ("", None, "High")
    (empty,) = CitedTextFold().finish()
    assert (empty.text, empty.citations, empty.sources, empty.segments()) == ("", [], [], [])


def snapshot(cited: CitedText) -> tuple[object, ...]:
    """All that a `CitedText` says, as plain JSON."""
    return (
        cited.delta,
        cited.citation and cited.citation.model_dump(exclude_unset=True),
        cited.text,
        [c.model_dump(exclude_unset=True) for c in cited.citations],
        [s.model_dump(exclude_unset=True) for s in cited.sources],
        [
            (s.text, [c.model_dump(exclude_unset=True) for c in s.citations])
            for s in cited.segments()
        ],
    )


@settings(deadline=None)
@given(streams())
def test_live_values_never_change(sample: Sample) -> None:
    """A value that was kept says at the end what it said when it came, read then or only now."""
    fold, unread = LiveCitedTextFold(), LiveCitedTextFold()
    kept: list[tuple[CitedText, tuple[object, ...]]] = []
    late: list[CitedText] = []
    for event in parsed(sample.events):
        kept.extend((cited, snapshot(cited)) for cited in fold.push(event))
        late.extend(unread.push(event))
    assert [snapshot(cited) for cited, _ in kept] == [said for _, said in kept]
    assert [snapshot(cited) for cited in late] == [said for _, said in kept]
    for cited, _ in kept:
        assert "".join(s.text for s in cited.segments()) == cited.text
        assert sample.text.startswith(cited.text)


@settings(deadline=None)
@given(streams())
def test_cited_text_of_random_streams(sample: Sample) -> None:
    """The whole text, all citations in order of arrival, and each code point with its own."""
    cited = cited_text(sample.events)
    assert cited.text == sample.text
    citations = sample.reply["message"].get("citations", [])
    assert [c.model_dump(exclude_unset=True) for c in cited.citations] == citations
    assert [
        c.model_dump(exclude_unset=True) for c in run(CitationFold(), parsed(sample.events))
    ] == (citations)
    segments = [
        (s.text, [c.model_dump(exclude_unset=True) for c in s.citations]) for s in cited.segments()
    ]
    assert segments == sample.segments


SPANS = st.lists(st.tuples(st.integers(-2, 9), st.integers(-2, 9)), max_size=6)


@settings(deadline=None)
@given(st.text("a😀\n", max_size=6), SPANS)
@example("", [(0, 1)])
@example("a😀", [(0, 1), (1, 2), (0, 2), (1, 1)])
def test_segments_of_any_offsets(text: str, spans: list[tuple[int, int]]) -> None:
    """Whatever the offsets, segments join to the text and none is empty or cited wrongly."""
    cited = cited_text(answer(text, *(citation(a, b, str(n)) for n, (a, b) in enumerate(spans))))
    at = 0
    for segment in cited.segments():
        assert segment.text
        for place in range(at, at + len(segment.text)):
            covering = [str(n) for n, (a, b) in enumerate(spans) if a <= place < b]
            assert [c.text for c in segment.citations] == covering
        at += len(segment.text)
    assert "".join(s.text for s in cited.segments()) == text == cited.text


def test_cited_text_of_recorded_streams(recorded: Path) -> None:
    """On real streams, each citation of text stands on exactly the text that it cites."""
    events = [parse_event(frame) for frame in frames_of(recorded)]
    (cited,) = run(CitedTextFold(), events)
    (response,) = run(ResponseFold(), events)
    assert (cited.text, cited.citations) == (response.text, response.citations)
    for found in cited.citations:
        stretch = [s.text for s in cited.segments() if found in s.citations]
        assert "".join(stretch) == found.text


# As values ---------------------------------------------------------------------------------------


def test_equal_when_they_say_the_same() -> None:
    """Two cited texts are equal when they say the same, however their text was cut."""
    whole = cited_text(answer("High tide", TIDE))
    cut = [message_start(), *map(text_delta, ("Hi", "gh ", "tide")), citation_start(TIDE)]
    assert cited_text(cut) == whole
    assert cited_text(answer("High tide")) != whole
    assert cited_text(answer("High tides", TIDE)) != whole
    assert whole != "High tide"


def test_lists_are_the_readers_own() -> None:
    """Changing a list that was given out does not change the cited text."""
    cited = cited_text(answer("High tide", TIDE))
    cited.citations.clear()
    cited.segments().clear()
    cited.sources.clear()
    assert cited.citations == [Citation.model_validate(TIDE)]
    assert told(cited) == [("High tide", ["High tide"])]
    assert len(cited.sources) == 1


def test_a_repr_shows_the_text() -> None:
    """The repr shows what there is to see."""
    assert "High tide" in repr(cited_text(answer("High tide", TIDE)))
