"""The event algebra: fewer events that say the same."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import (
    JSON,
    Sample,
    citation,
    citation_start,
    content_start,
    frames_of,
    message_end,
    message_start,
    parsed,
    run,
    streams,
    text_delta,
    text_stream,
    thinking_delta,
    tool_call_delta,
    tool_call_start,
    tool_plan_delta,
    tool_stream,
)

from rxcohere.events import ChatEvent, parse_event
from rxcohere.folds import (
    AccumulatedTextFold,
    CitationFold,
    CitedTextFold,
    CollectedTextFold,
    Compactor,
    ResponseFold,
    ToolCallFold,
    ToolPlanDeltaFold,
    compact,
    merge_events,
)

LOGPROBS = {"token_ids": [1], "text": "a", "logprobs": [-0.5]}


def dumps(events: list[ChatEvent]) -> list[JSON]:
    return [event.model_dump(exclude_unset=True) for event in events]


def with_extra(event: JSON, *path: str) -> JSON:
    """The event with a key from tomorrow at a level of it."""
    changed: JSON = json.loads(json.dumps(event))
    level = changed
    for key in path:
        level = level[key]
    level["x_new"] = 1
    return changed


def cut_short(event: JSON, *path: str) -> JSON:
    """The event with nothing in a level of it."""
    changed: JSON = json.loads(json.dumps(event))
    level = changed
    for key in path[:-1]:
        level = level[key]
    level[path[-1]] = {}
    return changed


def without_index(event: JSON) -> JSON:
    return {key: value for key, value in event.items() if key != "index"}


def nulled(event: JSON) -> JSON:
    """The event with the other kind of content spelt out as null."""
    changed: JSON = json.loads(json.dumps(event))
    content = changed["delta"]["message"]["content"]
    content["thinking" if "text" in content else "text"] = None
    return changed


# A few keys and many fragments, so that neighbours often merge; and all that must not.
FRAGMENTS = st.sampled_from(["", "a", "é😀", "\r", "\n", '{"', "\u2028"])
DELTA = st.builds(text_delta, FRAGMENTS)
DELTAS = st.one_of(
    st.builds(text_delta, FRAGMENTS, st.integers(0, 1)),
    st.builds(thinking_delta, FRAGMENTS, st.integers(0, 1)),
    st.builds(tool_call_delta, FRAGMENTS, st.integers(0, 1)),
    st.builds(tool_plan_delta, FRAGMENTS),
    st.builds(without_index, DELTA),
    st.builds(nulled, DELTA),
    st.builds(lambda e: {**e, "logprobs": LOGPROBS}, DELTA),
    st.builds(with_extra, DELTA),
    st.builds(lambda e: with_extra(e, "delta", "message", "content"), DELTA),
    st.sampled_from(
        [
            content_start(0),
            content_start(0, "thinking"),
            tool_call_start(0),
            {"type": "content-delta", "index": 0},
            {"type": "content-delta", "index": 0, "delta": {"message": {"content": {}}}},
            {
                "type": "content-delta",
                "delta": {"message": {"content": {"text": "t", "thinking": "h"}}},
            },
            {"type": "tool-call-delta", "index": 0},
            {"type": "tool-plan-delta", "delta": {"message": {}}},
            {"type": "content-end", "index": 0},
            {"type": "tool-call-end", "index": 0},
            citation_start(citation(0, 1, "a")),
            {"type": "keep-warm"},
            message_end(),
        ]
    ),
)
EVENTS = st.lists(DELTAS, max_size=12)


# merge_events ------------------------------------------------------------------------------------

MERGED: list[tuple[JSON, JSON, JSON]] = [
    (text_delta("a", 1), text_delta("b", 1), text_delta("ab", 1)),
    (thinking_delta("a"), thinking_delta("b"), thinking_delta("ab")),
    (tool_plan_delta("a"), tool_plan_delta("b"), tool_plan_delta("ab")),
    (tool_call_delta('{"', 2), tool_call_delta("x", 2), tool_call_delta('{"x', 2)),
    (text_delta(""), text_delta(""), text_delta("")),
    (text_delta("\r"), text_delta("\n"), text_delta("\r\n")),
    (nulled(text_delta("a")), text_delta("b"), text_delta("ab")),
]


@pytest.mark.parametrize(("first", "second", "both"), MERGED)
def test_deltas_of_one_block_merge(first: JSON, second: JSON, both: JSON) -> None:
    """Two deltas of one block are one event, which is what the server might have sent."""
    merged = merge_events(*parsed([first, second]))
    assert merged == parse_event(both)
    assert merged is not None
    assert merged.model_dump(exclude_unset=True) == both


def test_an_absent_index_is_index_zero() -> None:
    """A delta without an index merges with one of index 0, in either order."""
    bare = without_index(text_delta("a"))
    assert merge_events(*parsed([bare, text_delta("b")])) == parse_event(text_delta("ab"))
    assert merge_events(*parsed([text_delta("b"), bare])) == parse_event(text_delta("ba"))
    assert merge_events(*parsed([bare, bare])) == parse_event(text_delta("aa"))
    assert merge_events(*parsed([bare, text_delta("b", 1)])) is None


def test_merging_does_not_compose() -> None:
    """Merging joins the text as it is: a letter and its accent stay two code points."""
    merged: Any = merge_events(*parsed([text_delta("e"), text_delta("\u0301")]))
    assert list(merged.text) == ["e", "\u0301"]


def tool_call_delta_of(**more: object) -> JSON:
    """A fragment of arguments that says again whose it is, as some gateways do."""
    call = {"function": {"arguments": "a"}, **more}
    return {"type": "tool-call-delta", "index": 0, "delta": {"message": {"tool_calls": call}}}


STANDALONE: list[JSON] = [
    message_start(),
    content_start(),
    tool_call_start(),
    citation_start(citation(0, 1, "a")),
    message_end(),
    {"type": "content-end", "index": 0},
    {"type": "tool-call-end", "index": 0},
    {"type": "citation-end", "index": 0},
    {"type": "citation-generation", "citations": []},
    {"type": "debug", "prompt": "a"},
    {"type": "keep-warm"},
    {"type": "content-delta", "index": 0},
    {"type": "tool-call-delta", "index": 0},
    {"type": "tool-plan-delta"},
    {**text_delta("a"), "logprobs": LOGPROBS},
    tool_call_delta_of(id="call_1"),
    tool_call_delta_of(type="function"),
    tool_call_delta_of(function={"name": "look_up", "arguments": "a"}),
]
LEVELS = [
    (text_delta("a"), ("delta", "message", "content")),
    (thinking_delta("a"), ("delta", "message", "content")),
    (tool_call_delta("a"), ("delta", "message", "tool_calls", "function")),
    (tool_plan_delta("a"), ("delta", "message")),
]
for delta, levels in LEVELS:
    STANDALONE += [with_extra(delta, *levels[:n]) for n in range(len(levels) + 1)]
    STANDALONE += [cut_short(delta, *levels[: n + 1]) for n in range(len(levels))]


@pytest.mark.parametrize("alone", STANDALONE, ids=lambda e: e["type"])
def test_what_says_more_than_a_fragment_stands_alone(alone: JSON) -> None:
    """Events that carry more than a fragment merge with nothing, not even with their like."""
    event = parse_event(alone)
    for other in parsed([alone, text_delta("a"), tool_call_delta("a"), tool_plan_delta("a")]):
        assert merge_events(event, other) is None
        assert merge_events(other, event) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (text_delta("a", 0), text_delta("b", 1)),
        (text_delta("a"), thinking_delta("b")),
        (thinking_delta("a"), text_delta("b")),
        (tool_call_delta("a", 0), tool_call_delta("b", 1)),
        (text_delta("a"), tool_plan_delta("b")),
        (text_delta("a"), tool_call_delta("b")),
    ],
)
def test_deltas_of_different_blocks_do_not_merge(first: JSON, second: JSON) -> None:
    """Another type, index or content key is another block."""
    assert merge_events(*parsed([first, second])) is None


@settings(deadline=None, max_examples=500)
@given(DELTAS, DELTAS, DELTAS)
@example(text_delta("a"), text_delta(""), text_delta("b"))
@example(text_delta("a"), text_delta("b"), thinking_delta("c"))
def test_merging_is_associative(first: JSON, second: JSON, third: JSON) -> None:
    """However three events are bracketed, they merge to the same event, or neither way."""
    a, b, c = parsed([first, second, third])
    ab, bc = merge_events(a, b), merge_events(b, c)
    left = None if ab is None else merge_events(ab, c)
    right = None if bc is None else merge_events(a, bc)
    if ab is not None and bc is not None:
        assert left is not None
    assert left == right
    if left is not None and right is not None:
        assert dumps([left]) == dumps([right])


@settings(deadline=None)
@given(DELTAS, DELTAS)
def test_merging_leaves_the_events_alone(first: JSON, second: JSON) -> None:
    """Neither event is changed by being merged."""
    events = parsed([first, second])
    merge_events(*events)
    assert dumps(events) == [first, second]


# compact -----------------------------------------------------------------------------------------


def test_a_compacted_text_stream() -> None:
    """The deltas of a block become one; everything else stays where it was."""
    stream = text_stream("High", " ", "tide")
    assert dumps(compact(parsed(stream))) == text_stream("High tide")


def test_a_compacted_tool_stream() -> None:
    """Plan and arguments become one delta each."""
    stream = tool_stream(("a", ['{"x"', ":", "1}"]), ("b", []))
    out = dumps(compact(parsed(stream)))
    expected = tool_stream(("a", ['{"x":1}']), ("b", []))
    expected[1:3] = [tool_plan_delta("I will look.")]
    assert out == expected


def test_interleaved_blocks_stay_interleaved() -> None:
    """Only neighbours merge: nothing is moved across another block's delta."""
    stream = [text_delta("a", 0), text_delta("b", 1), text_delta("c", 0), text_delta("d", 0)]
    assert dumps(compact(parsed(stream))) == [
        text_delta("a", 0),
        text_delta("b", 1),
        text_delta("cd", 0),
    ]


def test_a_citation_keeps_its_place_in_the_text() -> None:
    """An inline citation parts the text before it from the text after it."""
    cited = citation_start(citation(0, 2, "ab"))
    stream = [text_delta("a"), text_delta("b"), cited, text_delta("c"), text_delta("d")]
    assert dumps(compact(parsed(stream))) == [text_delta("ab"), cited, text_delta("cd")]


def test_a_lone_event_is_passed_on_itself() -> None:
    """What merges with nothing comes out as the very object that went in."""
    events = parsed([message_start(), text_delta("a"), message_end()])
    assert all(out is given for out, given in zip(compact(events), events, strict=True))


def test_nothing_compacts_to_nothing() -> None:
    """No events give no events."""
    assert compact([]) == []


PLACES: dict[Callable[[str, int], JSON], tuple[str, ...]] = {
    text_delta: ("content", "text"),
    thinking_delta: ("content", "thinking"),
    tool_call_delta: ("tool_calls", "function", "arguments"),
    lambda text, _: {"index": 0, **tool_plan_delta(text)}: ("tool_plan",),
}
"""Who builds a plain delta of each kind, and where its fragment is."""


def characters(events: list[JSON]) -> list[Any]:
    """Every character with the kind and index of its block, and whole all other events."""
    out: list[Any] = []
    for event in events:
        wire = {"index": 0, **without_nulls(event)}
        for build, path in PLACES.items():
            fragment: Any = wire
            for key in ("delta", "message", *path):
                fragment = fragment.get(key) if isinstance(fragment, dict) else None
            if isinstance(fragment, str) and wire == build(fragment, wire["index"]):
                out.extend((path, wire["index"], character) for character in fragment)
                break
        else:
            out.append(event)
    return out


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


@settings(deadline=None)
@given(EVENTS)
def test_compacting_keeps_order_and_every_character(stream: list[JSON]) -> None:
    """Each character stays in its block and in its place among all others and all other events."""
    events = parsed(stream)
    out = dumps(compact(events))
    assert characters(out) == characters(stream)
    assert dumps(events) == stream


@settings(deadline=None)
@given(EVENTS)
def test_compacting_is_merging_neighbours(stream: list[JSON]) -> None:
    """The result is what merging pairs gives, no two of it merge, and it compacts to itself."""
    merged: list[ChatEvent] = []
    for event in parsed(stream):
        both = merge_events(merged[-1], event) if merged else None
        if both is None:
            merged.append(event)
        else:
            merged[-1] = both
    out = compact(parsed(stream))
    assert out == merged
    assert all(merge_events(a, b) is None for a, b in pairwise(out))
    assert compact(out) == out


FOLDS = (
    ResponseFold,
    CitedTextFold,
    ToolCallFold,
    CitationFold,
    CollectedTextFold,
)


@pytest.mark.parametrize("fold", FOLDS)
@settings(deadline=None)
@given(sample=streams())
def test_a_compacted_stream_folds_to_the_same(fold: type, sample: Sample) -> None:
    """What a stream adds up to does not depend on how its fragments were cut."""
    events = parsed(sample.events)
    assert run(fold(), compact(events)) == run(fold(), events)


@pytest.mark.parametrize("fold", FOLDS)
@settings(deadline=None)
@given(stream=EVENTS)
def test_any_events_fold_to_the_same(fold: type, stream: list[JSON]) -> None:
    """That also holds for streams that no server should send."""
    events = parsed(stream)
    assert run(fold(), compact(events)) == run(fold(), events)


@settings(deadline=None)
@given(streams())
def test_growing_text_ends_the_same(sample: Sample) -> None:
    """A screen that shows a compacted stream ends with the same text and plan."""
    events = parsed(sample.events)
    grown, less = (run(AccumulatedTextFold(), each) for each in (events, compact(events)))
    assert grown[-1:] == less[-1:]
    plan, again = (run(ToolPlanDeltaFold(), each) for each in (events, compact(events)))
    assert "".join(plan) == "".join(again)


@settings(deadline=None)
@given(streams(), st.data())
def test_compacting_a_part_first_changes_nothing(sample: Sample, data: st.DataObject) -> None:
    """A history compacted early, and the rest later, is the same as all at once."""
    events = parsed(sample.events)
    cut = data.draw(st.integers(0, len(events)))
    assert compact([*compact(events[:cut]), *events[cut:]]) == compact(events)
    assert compact([*events[:cut], *compact(events[cut:])]) == compact(events)


def test_recorded_streams_fold_to_the_same(recorded: Path) -> None:
    """Real streams compact to far fewer events that say the same."""
    events = [parse_event(frame) for frame in frames_of(recorded)]
    out = compact(events)
    assert len(out) < len(events)
    for fold in FOLDS:
        assert run(fold(), out) == run(fold(), events)


# Compactor ---------------------------------------------------------------------------------------


def test_pushing_tells_how_much_came() -> None:
    """Each push tells how many characters it brought; None for what stands alone."""
    compactor = Compactor()
    stream = [
        message_start(),
        text_delta("é😀"),
        text_delta(""),
        tool_plan_delta("a"),
        message_end(),
    ]
    counts = [(compactor.push(event), len(compactor)) for event in parsed(stream)]
    assert counts == [(None, 1), (2, 2), (0, 2), (1, 3), (None, 4)]


def test_a_compactor_may_begin_with_events() -> None:
    """Events given at the start are compacted like those pushed."""
    compactor = Compactor(parsed([text_delta("a"), text_delta("b")]))
    compactor.push(parse_event(text_delta("c")))
    assert dumps(compactor.events()) == [text_delta("abc")]


@settings(deadline=None)
@given(EVENTS, st.data())
def test_reading_on_the_way_changes_nothing(stream: list[JSON], data: st.DataObject) -> None:
    """At any moment `events` is the compacted stream so far; what was read never changes."""
    events = parsed(stream)
    compactor = Compactor()
    kept: list[tuple[list[ChatEvent], list[JSON]]] = []
    for count, event in enumerate(events, 1):
        compactor.push(event)
        if data.draw(st.booleans()):
            out = compactor.events()
            assert out == compact(events[:count])
            kept.append((out, dumps(out)))
    assert compactor.events() == compact(events)
    assert all(dumps(out) == said for out, said in kept)


def test_the_delta_at_the_end_can_be_lengthened() -> None:
    """A fragment added to it says what a further delta would; what was read stays as it was."""
    for make in (text_delta, tool_plan_delta):
        compactor = Compactor(parsed([message_start(), make("a")]))
        first = compactor.events()
        compactor.lengthen("")
        assert compactor.events()[-1] is first[-1]
        compactor.lengthen("bc")
        assert dumps(compactor.events()) == [message_start(), make("abc")]
        assert dumps(first) == [message_start(), make("a")]


@pytest.mark.parametrize("events", [[], [text_delta("a"), message_end()]], ids=["none", "other"])
def test_nothing_else_can_be_lengthened(events: list[JSON]) -> None:
    """Where there is no delta at the end, a fragment is refused."""
    compactor = Compactor(parsed(events))
    with pytest.raises(ValueError, match="stands alone"):
        compactor.lengthen("b")
    assert dumps(compactor.events()) == events


def test_the_list_is_the_readers_own() -> None:
    """Changing the list that was read does not change the compactor."""
    compactor = Compactor(parsed(text_stream("a")))
    compactor.events().clear()
    assert dumps(compactor.events()) == text_stream("a")


def test_reading_twice_makes_no_new_event() -> None:
    """A run is made into an event once; it is made anew only when it has grown."""
    compactor = Compactor(parsed([text_delta("a"), text_delta("b")]))
    first = compactor.events()[-1]
    assert compactor.events()[-1] is first
    compactor.push(parse_event(text_delta("c")))
    assert dumps([first]) == [text_delta("ab")]
    assert dumps(compactor.events()) == [text_delta("abc")]


@settings(deadline=None)
@given(EVENTS, st.data())
def test_draining_gives_each_event_once(stream: list[JSON], data: st.DataObject) -> None:
    """Batches that are drained say together what the stream said, and leave nothing behind."""
    compactor = Compactor()
    batches: list[list[ChatEvent]] = []
    for event in parsed(stream):
        compactor.push(event)
        if data.draw(st.booleans()):
            batches.append(compactor.drain())
            assert compactor.events() == []
    batches.append(compactor.drain())
    assert compactor.drain() == []
    drained = [event for batch in batches for event in batch]
    assert compact(drained) == compact(parsed(stream))
