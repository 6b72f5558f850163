"""What a stream costs that is brought to an operator by hand, and what it says."""

from __future__ import annotations

import statistics
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from long_streams.amounts import CYCLE, WINDOW
from long_streams.cases import Case
from long_streams.counting import counting_bytes, counting_steps
from long_streams.streams import Stream, again
from reactivex import Subject

from rxcohere import ChatEvent


class Run:
    """A stream that is brought by hand, to subscribers that keep nothing of it."""

    def __init__(self, case: Case) -> None:
        self.values = 0
        self.source = Subject[ChatEvent]()
        self.through = self.source.pipe(case.make())
        self._read = case.read
        for _ in range(case.subscribers):
            self.through.subscribe(self._take, self._fail)

    def _take(self, value: Any) -> None:
        self.values += 1
        self._read(value)

    def _fail(self, error: Exception) -> None:
        raise error

    def push(self, events: Iterable[ChatEvent]) -> None:
        on_next = self.source.on_next
        for event in events:
            on_next(event)

    def steps(self, events: Iterable[ChatEvent]) -> int:
        """What it takes to bring these."""
        events = list(events)
        with counting_steps() as steps:
            self.push(events)
        return steps[0]

    def bytes_taken(self, events: Iterable[ChatEvent]) -> float:
        """How much is taken at a time to bring one of these, in the median; while tracing."""
        on_next = self.source.on_next
        taken: list[int] = []
        for event in list(events):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            on_next(event)
            taken.append(tracemalloc.get_traced_memory()[1] - before)
        return statistics.median(taken)


@dataclass(frozen=True)
class Costs:
    """What a stream costs.

    Attributes:
        kept: bytes that are kept while it is open.
        completing: bytes beyond those, at most, while it completes.
        steps: that further events take.
        bytes_taken: to bring a further event.
    """

    kept: int
    completing: int
    steps: int
    bytes_taken: float


def costs(case: Case, count: int, new: bool = True) -> Costs:
    """The costs of so many events, each a new one or not."""
    stream = case.stream
    ahead = [list(again(stream, count + n * WINDOW, WINDOW)) for n in range(2)]
    with counting_bytes() as kept:
        run = Run(case)
        run.push(map(stream, range(count)) if new else again(stream, 0, count))
        early = run.values
        bytes_kept = kept()
        bytes_taken = run.bytes_taken(ahead[0])
        steps = run.steps(ahead[1])
        tracemalloc.reset_peak()
        before = kept()
        run.source.on_completed()
        completing = tracemalloc.get_traced_memory()[1] - before
    assert early <= 1 if case.late else early >= count // 100  # or what was counted is no use
    assert run.values >= 1
    return Costs(bytes_kept, completing, steps, bytes_taken)


@cache
def content(stream: Stream) -> tuple[int, int]:
    """What a cycle of events says, in characters, and in bytes what it has beside text.

    A response has citations and log probabilities one by one, and so may whoever keeps events that
    carry them.
    """
    chars = 0
    items: list[object] = []
    with counting_bytes() as kept:
        for event in map(stream, range(CYCLE, 2 * CYCLE)):
            chars += sum(
                len(getattr(event, name, "")) for name in ("text", "thinking", "arguments")
            )
            item = getattr(event, "citation", None) or getattr(event, "logprobs", None)
            if item is not None:
                items.append(item)
        del event
        return chars, kept() if items else 0
