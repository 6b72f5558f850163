"""Folds of tool calls: whole calls as they become complete, and arguments while they form."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic_core import from_json
from samples import (
    JSON,
    Sample,
    frames_of,
    message_end,
    message_start,
    parsed,
    run,
    streams,
    text_delta,
    tool_call_delta,
    tool_call_end,
    tool_call_start,
    tool_plan_delta,
    tool_stream,
)

from rxcohere.errors import ToolArgumentsError
from rxcohere.events import parse_event
from rxcohere.folds import ResponseFold, ToolCallFold, ToolCallProgress, ToolCallProgressFold
from rxcohere.response import ToolCall


def steps(events: list[JSON]) -> list[list[tuple[str, str]]]:
    """For each event, and for the end, the names and arguments of the calls that come out."""
    fold = ToolCallFold()
    out = [fold.push(event) for event in parsed(events)]
    return [[(call.name, call.arguments) for call in calls] for calls in [*out, fold.finish()]]


def calls(events: list[JSON]) -> list[tuple[str, str]]:
    return [call for step in steps(events) for call in step]


# Whole calls -------------------------------------------------------------------------------------


def test_a_call_comes_with_its_end() -> None:
    """Each call comes out at its own end, not at the end of the message."""
    stream = tool_stream(("a", ['{"x"', ": 1}"]), ("b", ["{}"]))
    came = {n: step for n, step in enumerate(steps(stream)) if step}
    ends = [n for n, event in enumerate(stream) if event["type"] == "tool-call-end"]
    assert came == {ends[0]: [("a", '{"x": 1}')], ends[1]: [("b", "{}")]}


def test_a_call_is_whole() -> None:
    """A call has its id, its type, keys from tomorrow and its arguments as streamed."""
    start = tool_call_start(0, "tides")
    start["delta"]["message"]["tool_calls"]["x_group"] = 1
    events = [message_start(), start, tool_call_delta('{"b": 1,\n "a": 2}'), tool_call_end()]
    (call,) = run(ToolCallFold(), parsed(events))
    assert call.model_dump(exclude_unset=True) == {
        "id": "tides_0",
        "type": "function",
        "function": {"name": "tides", "arguments": '{"b": 1,\n "a": 2}'},
        "x_group": 1,
    }
    assert call.parsed == {"a": 2, "b": 1}


def test_a_call_without_arguments() -> None:
    """A call that streams no arguments has none, and they parse as an empty object."""
    (call,) = run(ToolCallFold(), parsed(tool_stream(("now", []))))
    assert (call.name, call.arguments, call.parsed) == ("now", "", {})


def test_interleaved_calls() -> None:
    """Fragments are told apart by index, and calls come out in the order of their ends."""
    events = [
        message_start(),
        tool_call_start(0, "a"),
        tool_call_start(1, "b"),
        tool_call_delta('{"x', 1),
        tool_call_delta('{"y"', 0),
        tool_call_delta('":1}', 1),
        tool_call_end(1),
        tool_call_delta(":2}", 0),
        tool_call_end(0),
        message_end("TOOL_CALL"),
    ]
    assert calls(events) == [("b", '{"x":1}'), ("a", '{"y":2}')]


def test_the_start_may_bring_arguments() -> None:
    """What ``tool-call-start`` carries of the arguments is their beginning."""
    events = [tool_call_start(0, "a", '{"x'), tool_call_delta('":1}'), tool_call_end()]
    assert calls(events) == [("a", '{"x":1}')]


def test_calls_without_ends() -> None:
    """Where ends are left out, calls come at ``message-end``, in the order of their index."""
    events = [
        tool_call_start(1, "b"),
        tool_call_start(0, "a"),
        tool_call_delta("{}", 0),
        message_end("TOOL_CALL"),
    ]
    assert steps(events) == [[], [], [], [("a", "{}"), ("b", "")], []]


def test_calls_without_ends_or_message_end() -> None:
    """Where even ``message-end`` is missing, calls come when the stream has completed."""
    events = [tool_call_start(0, "a"), tool_call_delta("{}", 0)]
    assert steps(events) == [[], [], [("a", "{}")]]


def test_calls_without_any_index() -> None:
    """A second start with the same index begins a second call and completes the first."""
    start_a, start_b = tool_call_start(0, "a"), tool_call_start(0, "b")
    delta = tool_call_delta('{"x":1}')
    for event in (start_a, start_b, delta):
        del event["index"]
    assert steps([start_a, delta, start_b, delta, {"type": "tool-call-end"}]) == [
        [],
        [],
        [("a", '{"x":1}')],
        [],
        [("b", '{"x":1}')],
        [],
    ]


@pytest.mark.parametrize("reason", ["ERROR", "TIMEOUT", "MAX_TOKENS", "max_tokens"])
def test_a_call_that_was_cut_off_does_not_come_out(reason: str) -> None:
    """A call still open when the reply was cut off is not complete; the ended one is."""
    events = [
        *tool_stream(("a", ["{}"]))[:-1],
        tool_call_start(1, "b"),
        tool_call_delta('{"x', 1),
        message_end(reason),
    ]
    assert calls(events) == [("a", "{}")]
    (response,) = run(ResponseFold(), parsed(events))
    assert [(c.name, c.arguments) for c in response.tool_calls] == [("a", "{}"), ("b", '{"x')]


def test_a_call_comes_out_once() -> None:
    """A second end, or the message's end after the call's, brings nothing more."""
    events = [*tool_stream(("a", ["{}"])), tool_call_end(0), tool_call_end(7)]
    assert calls(events) == [("a", "{}")]


def test_a_delta_after_the_end_of_its_call_does_not_count() -> None:
    """What comes late makes no second call out of one that has ended."""
    events = tool_stream(("a", ["{}"]))
    late = [*events[:-1], tool_call_delta("rubbish", 0), events[-1]]
    assert calls(late) == [("a", "{}")]


def test_a_delta_after_the_end_of_its_call_is_no_progress() -> None:
    """Nor is it one of a call that begins by itself; a new start makes one."""
    events = [*tool_stream(("a", ["{}"]))[:-1], tool_call_delta("rubbish", 0)]
    count = len(run(ToolCallProgressFold(), parsed(events[:-1])))
    assert len(run(ToolCallProgressFold(), parsed(events))) == count
    again = [tool_call_start(0, "b"), tool_call_delta("{", 0)]
    assert len(run(ToolCallProgressFold(), parsed([*events, *again]))) == count + 1


def test_an_end_before_its_call_ends_nothing() -> None:
    """What comes then is a call without a name, for the fold and for the response."""
    events = [message_start(), tool_call_end(0), tool_call_delta("{}", 0), message_end()]
    assert calls(events) == [("", "{}")]
    (response,) = run(ResponseFold(), parsed(events))
    assert [(c.name, c.arguments) for c in response.tool_calls] == [("", "{}")]
    assert len(run(ToolCallProgressFold(), parsed(events))) == 1


def test_a_delta_without_its_start_is_kept() -> None:
    """Arguments whose start never came make a call without a name: nothing is lost."""
    events = [message_start(), tool_call_delta('{"x"', 2), tool_call_delta(":1}", 2), message_end()]
    (call,) = run(ToolCallFold(), parsed(events))
    assert (call.id, call.name, call.parsed) == (None, "", {"x": 1})


def test_arguments_that_are_no_json_still_come() -> None:
    """Broken arguments are the reader's to judge: the call comes, and says so when parsed."""
    (call,) = run(ToolCallFold(), parsed(tool_stream(("a", ["{'x': 1}"]))))
    assert call.arguments == "{'x': 1}"
    with pytest.raises(ToolArgumentsError):
        _ = call.parsed


def test_other_events_bring_no_calls() -> None:
    """Plans, text, unknown and bare events are let by."""
    kinds = ["tool-call-end", "tool-plan-delta", "debug", "progress-report", "message-end"]
    events = [tool_plan_delta("I"), text_delta("a"), *({"type": kind} for kind in kinds)]
    assert calls(events) == []


@settings(deadline=None)
@given(streams())
def test_calls_of_random_streams(sample: Sample) -> None:
    """All calls come out, whole, once, and in the order in which they become complete."""
    out = run(ToolCallFold(), parsed(sample.events))
    assert [(call.id, call.name, call.arguments) for call in out] == sample.tool_calls
    by_id = {call["id"]: call for call in sample.reply["message"].get("tool_calls", [])}
    for call in out:
        assert call.normalized().model_dump(exclude_unset=True) == by_id[call.id]


def test_calls_of_recorded_streams(recorded: Path) -> None:
    """On real streams, the calls are those of the response, and their arguments parse."""
    events = [parse_event(frame) for frame in frames_of(recorded)]
    out = run(ToolCallFold(), events)
    (response,) = run(ResponseFold(), events)
    assert out == response.tool_calls
    assert all(isinstance(call.parsed, dict) for call in out)


# Progress ----------------------------------------------------------------------------------------


def progress(*fragments: str) -> list[ToolCallProgress]:
    deltas = [tool_call_delta(fragment) for fragment in fragments]
    return run(ToolCallProgressFold(), parsed([tool_call_start(0, "tides"), *deltas]))


def test_progress_after_every_delta() -> None:
    """After each fragment: the text so far, and what it says so far."""
    came = progress('{"pier', '": 2', '5, "na', 'me": "So', 'uth"', "}")
    assert [p.delta for p in came] == ['{"pier', '": 2', '5, "na', 'me": "So', 'uth"', "}"]
    assert [p.arguments for p in came][-1] == '{"pier": 25, "name": "South"}'
    assert [p.length for p in came] == [len(p.arguments) for p in came]
    assert [p.parsed for p in came] == [
        {},
        {"pier": 2},
        {"pier": 25},
        {"pier": 25, "name": "So"},
        {"pier": 25, "name": "South"},
        {"pier": 25, "name": "South"},
    ]
    assert {(p.index, p.id, p.name) for p in came} == {(0, "tides_0", "tides")}


def test_progress_of_interleaved_calls() -> None:
    """Each call's progress has its own arguments, and a new start with its index begins anew."""
    events = [
        tool_call_start(0, "a"),
        tool_call_start(1, "b", '{"y'),
        tool_call_delta('{"x":', 0),
        tool_call_delta('":[', 1),
        tool_call_delta("1", 0),
        tool_call_end(0),
        tool_call_start(0, "c"),
        tool_call_delta("{", 0),
    ]
    came = run(ToolCallProgressFold(), parsed(events))
    assert [(p.index, p.name, p.arguments, p.parsed) for p in came] == [
        (1, "b", '{"y', {}),
        (0, "a", '{"x":', {}),
        (1, "b", '{"y":[', {"y": []}),
        (0, "a", '{"x":1', {"x": 1}),
        (0, "c", "{", {}),
    ]


def test_progress_kept_is_progress_unchanged() -> None:
    """Progress that was kept still says what it said when it came out."""
    fold = ToolCallProgressFold()
    kept: list[tuple[ToolCallProgress, str, dict[str, Any]]] = []
    text = '{"a": {"b": [1, 2.5, "tide"]}, "c": null}'
    for event in parsed([tool_call_start(), *map(tool_call_delta, text)]):
        kept.extend((p, p.arguments, copy.deepcopy(p.parsed)) for p in fold.push(event))
    assert len(kept) == len(text)
    assert [(p.arguments, p.parsed) for p, _, _ in kept] == [(a, v) for _, a, v in kept]
    # Read for the first time only now, each is the same as when read at once.
    assert [p.parsed for p in progress(*text)] == [value for _, _, value in kept]


def test_progress_of_arguments_that_are_no_object() -> None:
    """Text that is no object, or no JSON, reads as an empty one and raises nothing."""
    assert [p.parsed for p in progress("[1,", "2]")] == [{}, {}]
    assert [p.parsed for p in progress("{'x", "': 1}")] == [{}, {}]


def test_progress_without_a_start() -> None:
    """Fragments whose start never came have progress without id and name."""
    (p,) = run(ToolCallProgressFold(), parsed([tool_call_delta('{"x": 1', 3)]))
    assert (p.index, p.id, p.name, p.parsed) == (3, None, "", {"x": 1})


def test_progress_of_bare_events() -> None:
    """Tool events that have nothing but their type bring no arguments and no error."""
    kinds = ["tool-call-start", "tool-call-delta", "tool-call-end", "tool-call-end", "message-end"]
    came = run(ToolCallProgressFold(), parsed({"type": kind} for kind in kinds))
    assert [(p.arguments, p.parsed) for p in came] == [("", {})]


@settings(deadline=None)
@given(streams())
def test_progress_of_random_streams(sample: Sample) -> None:
    """Progress grows to the call's arguments; what it reads is what a partial parser reads."""
    last: dict[str, ToolCallProgress] = {}
    for p in run(ToolCallProgressFold(), parsed(sample.events)):
        before = last[p.id].arguments if p.id in last else ""
        assert p.arguments == before + p.delta
        read = from_json(p.arguments, allow_partial="trailing-strings") if p.arguments else {}
        assert p.parsed == read
        last[p.id] = p
    for call_id, name, arguments in sample.tool_calls:
        if not arguments:
            assert call_id not in last or last[call_id].arguments == ""
            continue
        assert (last[call_id].name, last[call_id].arguments) == (name, arguments)
        assert last[call_id].parsed == json.loads(arguments)


def test_a_call_built_from_nothing_is_empty() -> None:
    """A bare start and end make a call without anything."""
    events = parsed([{"type": "tool-call-start"}, {"type": "tool-call-end"}])
    assert run(ToolCallFold(), events) == [ToolCall()]


def test_progress_reads_the_same_at_once_late_and_backwards() -> None:
    """Whenever it is read, in whatever order, each progress says what it said when it came out."""
    events = parsed(tool_stream(("f", ['{"a": [1', ", 2], ", '"b": "x', 'y"}'])))
    expected: list[Any] = [{"a": [1]}, {"a": [1, 2]}, {"a": [1, 2], "b": "x"}]
    expected.append({"a": [1, 2], "b": "xy"})
    fold = ToolCallProgressFold()
    assert [p.parsed for event in events for p in fold.push(event)] == expected
    kept = run(ToolCallProgressFold(), events)
    assert [p.parsed for p in kept] == expected
    assert [p.parsed for p in reversed(kept)] == expected[::-1]
