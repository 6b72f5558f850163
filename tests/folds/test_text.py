"""Folds of plain text: the fragments as they come, and what they add up to."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import (
    Sample,
    content_end,
    content_start,
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
    AccumulatedTextFold,
    CollectedTextFold,
    ResponseFold,
    TextDeltaFold,
    ThinkingDeltaFold,
    ToolPlanDeltaFold,
)
from rxcohere.folds.fold import TextBuffer

# A reply that thinks, answers in two blocks and plans; nothing here is a legal order of a model.
MIXED = parsed(
    [
        message_start(),
        content_start(0, "thinking"),
        thinking_delta("Hm", 0),
        thinking_delta("", 0),
        {"type": "progress-report", "delta": {"message": {"content": {"text": "!"}}}},
        thinking_delta(", tides", 0),
        content_end(0),
        content_start(1),
        text_delta("High ", 1),
        text_delta("", 1),
        text_delta("tide", 1),
        content_end(1),
        content_start(2),
        text_delta(" 😀", 2),
        content_end(2),
        tool_plan_delta("I will"),
        tool_plan_delta(""),
        tool_plan_delta(" look."),
        tool_call_delta('{"text": "no"}'),
        message_end(),
    ]
)


def test_text_deltas_are_the_fragments_as_they_came() -> None:
    """Only the answer's text comes out, cut as it came, without empty fragments."""
    assert run(TextDeltaFold(), MIXED) == ["High ", "tide", " 😀"]


@pytest.mark.parametrize(
    ("index", "fragments"), [(0, []), (1, ["High ", "tide"]), (2, [" 😀"]), (3, [])]
)
def test_text_deltas_of_one_block(index: int, fragments: list[str]) -> None:
    """With an index, only that content block's text comes out."""
    assert run(TextDeltaFold(index), MIXED) == fragments


def test_thinking_deltas() -> None:
    """Only thinking comes out."""
    assert run(ThinkingDeltaFold(), MIXED) == ["Hm", ", tides"]


def test_tool_plan_deltas() -> None:
    """Only the plan comes out."""
    assert run(ToolPlanDeltaFold(), MIXED) == ["I will", " look."]


def test_accumulated_text_grows() -> None:
    """After each fragment, the text so far."""
    assert run(AccumulatedTextFold(), MIXED) == ["High ", "High tide", "High tide 😀"]


def test_collected_text_comes_once_at_the_end() -> None:
    """One text, when the stream is complete."""
    fold = CollectedTextFold()
    assert [value for event in MIXED for value in fold.push(event)] == []
    assert list(fold.finish()) == ["High tide 😀"]


def test_no_text_is_an_empty_text() -> None:
    """A stream without text has no fragments, and one empty text."""
    for events in ([], parsed([message_start(), tool_plan_delta("I"), message_end()])):
        assert run(TextDeltaFold(), events) == []
        assert run(AccumulatedTextFold(), events) == []
        assert run(CollectedTextFold(), events) == [""]


def test_text_in_a_start_is_not_lost() -> None:
    """The beginning that ``content-start`` may carry counts as the first fragment."""
    beginning = {"message": {"content": {"type": "text", "text": "Hi"}}}
    hidden = {"message": {"content": {"type": "thinking", "thinking": "Hm"}}}
    events = parsed(
        [
            {"type": "content-start", "delta": hidden},
            {"type": "content-start", "index": 1, "delta": beginning},
            text_delta("gh", 1),
        ]
    )
    assert run(TextDeltaFold(), events) == ["Hi", "gh"]
    assert run(ThinkingDeltaFold(), events) == ["Hm"]
    assert run(CollectedTextFold(), events) == ["High"]


@pytest.mark.parametrize(
    "fold",
    [TextDeltaFold, ThinkingDeltaFold, ToolPlanDeltaFold, AccumulatedTextFold, CollectedTextFold],
)
def test_bare_events_carry_no_text(fold: type) -> None:
    """Events that have nothing but their type are no error and bring nothing."""
    kinds = ["message-start", "content-start", "content-delta", "tool-plan-delta", "message-end"]
    out = run(fold(), [parse_event({"type": kind}) for kind in kinds])
    assert out == ([""] if fold is CollectedTextFold else [])


@settings(deadline=None)
@given(streams())
def test_texts_of_random_streams(sample: Sample) -> None:
    """Fragments join to the reply's text, and growing texts are its beginnings."""
    events = parsed(sample.events)
    fragments = run(TextDeltaFold(), events)
    assert "".join(fragments) == sample.text
    assert run(CollectedTextFold(), events) == [sample.text]
    grown = run(AccumulatedTextFold(), events)
    assert grown == ["".join(fragments[: n + 1]) for n in range(len(fragments))]
    thinking = [
        block["thinking"]
        for block in sample.reply["message"].get("content", [])
        if block["type"] == "thinking"
    ]
    assert "".join(run(ThinkingDeltaFold(), events)) == "".join(thinking)
    plan = sample.reply["message"].get("tool_plan", "")
    assert "".join(run(ToolPlanDeltaFold(), events)) == plan


def test_texts_of_recorded_streams(recorded: Path) -> None:
    """On real streams, the text is that of the whole response."""
    events = [parse_event(frame) for frame in frames_of(recorded)]
    (response,) = run(ResponseFold(), events)
    assert run(CollectedTextFold(), events) == [response.text]
    assert "".join(run(ThinkingDeltaFold(), events)) == response.thinking
    assert "".join(run(ToolPlanDeltaFold(), events)) == (response.message.tool_plan or "")


# TextBuffer --------------------------------------------------------------------------------------

FRAGMENTS = st.text("a\r\n\u2028\x85\0é😀\ud83d\ude00", max_size=6)


def test_buffer_keeps_line_ends() -> None:
    """No line end is translated, also not one that is cut in two."""
    buffer = TextBuffer("\r")
    for fragment in ("\n", "a\r\n", "b\r", "\r\n", "\n"):
        buffer.append(fragment)
    assert buffer.read() == "\r\na\r\nb\r\r\n\n"


def test_buffer_keeps_surrogates() -> None:
    """Half a surrogate pair stays what it is, and two halves stay two."""
    buffer = TextBuffer()
    buffer.append("\ud83d")
    assert buffer.read() == "\ud83d"
    buffer.append("\ude00")
    assert buffer.read() == "\ud83d\ude00"
    assert len(buffer.read()) == 2


def test_an_empty_buffer() -> None:
    """A buffer begins with the text it is given, or none."""
    assert TextBuffer().read() == ""
    assert TextBuffer("a").read() == "a"


@settings(deadline=None)
@given(FRAGMENTS, st.lists(st.tuples(FRAGMENTS, st.booleans())))
def test_buffer_is_concatenation(beginning: str, steps: list[tuple[str, bool]]) -> None:
    """Whenever it is read, the buffer holds what was appended; what was read stays as it was."""
    buffer, text = TextBuffer(beginning), beginning
    seen: list[tuple[str, str]] = []
    for fragment, read in steps:
        buffer.append(fragment)
        text += fragment
        if read:
            seen.append((buffer.read(), text))
            assert buffer.read() == text
    assert buffer.read() == text
    assert all(read == expected for read, expected in seen)
