"""Each operator in a long stream: an event costs what it did, and no more is kept than its text.

What gives out all there is so far copies some of it, by contract: the lists of a `ChatResponse`,
the arrays and objects of `ToolCallProgress.parsed` that are still open, and a text, for whoever
keeps the one before, as ``async for`` does.

With ``-m soak`` a million events come before those whose costs are counted.
"""

from __future__ import annotations

import inspect
import sys
from collections import deque

import pytest
import samples
from long_streams.amounts import CYCLE, FEW, MANY, MILLION, WINDOW
from long_streams.cases import CASES, Case
from long_streams.costs import Run, content, costs
from long_streams.counting import SLACK, counting_steps
from long_streams.streams import Stream, again, cited, escaped, logprobs, text

from rxcohere import ChatEvent, ContentDelta
from rxcohere import operators as rxc
from rxcohere.folds import ToolCallProgress

cases = pytest.mark.parametrize("case", CASES, ids=str)

grows_in_place = sys.implementation.name == "cpython" and sys.gettrace() is None
"""Strings do on CPython only, and not while code is traced, as for its coverage."""
WHOLE_EVENT = 5
"""How many times what an event carries the event may take."""


def check(case: Case, count: int, new: bool = True) -> None:
    """Nothing grows with the number of events; memory may with what they say."""
    costs(case, WINDOW, new)  # the first time, more is kept, by the libraries too
    few, many = costs(case, FEW, new), costs(case, count, new)
    assert few.steps > WINDOW * case.subscribers
    assert many.steps <= few.steps * 1.01
    if grows_in_place:
        assert many.bytes_taken <= few.bytes_taken + 1_000
    cycles = count // CYCLE - 1
    chars, items = content(case.stream)
    room = case.room * chars + (WHOLE_EVENT * items if case.room else 0)
    assert many.kept - few.kept <= room * cycles + SLACK
    assert many.completing - few.completing <= 6 * chars * cycles + SLACK
    if case.room and chars:
        assert many.kept - few.kept >= chars * cycles / 2  # or the test is no use


def test_every_operator_has_a_case() -> None:
    """An operator that is new, and has no case here, is noticed."""
    operators = {name for name in rxc.__all__ if inspect.isfunction(getattr(rxc, name))}
    assert {case.operator for case in CASES} == operators


@cases
def test_an_event_costs_the_same_after_many_others(case: Case) -> None:
    """Steps and bytes of an event stay as they are; what is kept grows with the text alone."""
    check(case, MANY)


@pytest.mark.soak
@cases
def test_an_event_costs_the_same_after_a_million_others(case: Case) -> None:
    """The same after a million, which are not all new, as making them would take most of it."""
    check(case, MILLION, new=False)


def test_a_late_subscriber_costs_the_text_alone() -> None:
    """Whoever comes to a share gets one delta, in as many steps however many events made it up."""
    steps: list[int] = []
    for count in (FEW, FEW, MANY):  # the first time, there is more to do
        run = Run(Case("share_response", text, rxc.share_response))
        run.push(again(text, 0, count))
        got: list[ChatEvent] = []
        with counting_steps() as counted:
            run.through.subscribe(got.append)
        steps.append(counted[0])
        assert [len(event.text) for event in got if type(event) is ContentDelta] == [4 * count]
    assert steps[1] == steps[2]


@pytest.mark.parametrize("stream", [cited, logprobs], ids=lambda stream: stream.__name__)
def test_an_accumulated_response_copies_the_lists_alone(stream: Stream) -> None:
    """With citations or log probabilities, the steps stay the same, and the bytes are a list's."""
    case = Case("accumulate_response", stream, rxc.accumulate_response)
    few, many = costs(case, FEW), costs(case, MANY)
    assert many.steps <= few.steps * 1.01
    assert few.bytes_taken < many.bytes_taken <= few.bytes_taken + 8 * (MANY - FEW) + 1_000


def test_a_finished_call_is_not_built_again() -> None:
    """A call that has ended costs each later response the steps of copying a list, at most."""
    steps: list[int] = []
    for calls in (2, 102):
        run = Run(Case("accumulate_response", text, rxc.accumulate_response))
        for index in range(calls):
            run.push(samples.parsed([samples.tool_call_start(index, arguments="{}")]))
            run.push(samples.parsed([samples.tool_call_end(index)]))
        run.push(again(text, 0, WINDOW))
        steps.append(run.steps(again(text, WINDOW, WINDOW)) // WINDOW)
    assert steps[1] - steps[0] <= 20 * 100


def test_progress_that_two_read_is_parsed_once_for_each() -> None:
    """Whoever reads the same progress later than another has each character parsed once, too."""
    steps: list[int] = []
    for count in (100, 400):
        behind: deque[ToolCallProgress] = deque()

        def read(progress: ToolCallProgress, behind: deque[ToolCallProgress] = behind) -> None:
            assert progress.parsed
            behind.append(progress)
            if len(behind) > 10:
                assert behind.popleft().parsed

        run = Run(Case("track_tool_calls", escaped, rxc.track_tool_calls, read=read))
        run.push(again(escaped, 0, count))
        steps.append(run.steps(again(escaped, count, 20)))
    assert steps[1] <= steps[0] * 1.01
