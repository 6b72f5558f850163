"""Random chains of operators in virtual time: the Rx grammar, and every subscription released."""

import sys
from typing import Any, NamedTuple

from fuzz.amounts import fuzzed
from fuzz.broken_streams import broken_data
from fuzz.chains import Link, World, built, chains
from fuzz.readings import parsed_as_far_as_possible
from fuzz.wire import Draw
from hypothesis import strategies as st
from reactivex.testing import ReactiveTest, Recorded, TestScheduler
from samples import streams
from subscribers import Boom, Subscriber

from rxcohere import ChatEvent, parse_event

SUBSCRIBED = 200
SECOND = 1_000
"""How many ticks of virtual time a second has."""


class Line(NamedTuple):
    """A source: events, each so many ticks after the one before, and how it ends."""

    events: list[ChatEvent]
    gaps: list[int]
    end: str

    def messages(self) -> list[Recorded[Any]]:
        times = [1 + sum(self.gaps[: number + 1]) for number in range(len(self.gaps))]
        messages: list[Recorded[Any]] = [
            ReactiveTest.on_next(at, event) for at, event in zip(times, self.events, strict=False)
        ]
        if self.end == "completed":
            messages.append(ReactiveTest.on_completed(times[-1]))
        elif self.end == "error":
            messages.append(ReactiveTest.on_error(times[-1], Boom()))
        return messages


@st.composite
def lines(draw: Draw) -> Line:
    """Legal and broken streams on the line of virtual time."""
    if draw(st.booleans()):
        events = [parse_event(event) for event in draw(streams()).events]
    else:
        events = parsed_as_far_as_possible(draw(broken_data()))
    gaps = draw(st.lists(st.sampled_from([0, 1, 7, 30]), min_size=3, max_size=3))
    end = draw(st.sampled_from(["completed", "completed", "error", "error", "never"]))
    return Line(events, [gaps[n % 3] for n in range(len(events) + 1)], end)


@fuzzed(
    few=100,
    many=10_000,
    line=lines(),
    second=lines(),
    chain=chains(),
    dispose_at=st.none() | st.integers(SUBSCRIBED, 800),
    dispose_after=st.none() | st.integers(1, 10),
)
def test_a_chain_keeps_the_grammar(
    line: Line, second: Line, chain: list[Link], dispose_at: int | None, dispose_after: int | None
) -> None:
    """One call at a time, one terminal, none after disposal, and all sources are let go."""
    scheduler = TestScheduler()
    source = scheduler.create_cold_observable(line.messages())
    other = scheduler.create_cold_observable(second.messages())
    world = World(scheduler, lambda: other, second=SECOND)
    result = built(chain, source, world)
    left_at: float | None = None

    def leave(*_: object) -> None:
        nonlocal left_at
        if left_at is None and subscriber.is_silent:
            left_at = scheduler.clock
            subscriber.dispose()

    def after_value(_: object) -> None:
        if len(subscriber.values) == dispose_after and subscriber.subscription is not None:
            leave()

    subscriber = Subscriber(after_value)
    scheduler.schedule_absolute(SUBSCRIBED, lambda *_: subscriber.to(result) and None)
    if dispose_at is not None:
        scheduler.schedule_absolute(dispose_at, lambda *_: leave())
    scheduler.start()

    assert subscriber.breaches == []
    assert world.breaches == []
    assert subscriber.is_silent or left_at is None
    if "never" not in (line.end, second.end) and left_at is None:
        assert not subscriber.is_silent
    if subscriber.error is not None:
        assert isinstance(subscriber.error, Boom)
    lingers = any(link[0] == "share_response" and link[1] for link in chain)
    for subscription in [*source.subscriptions, *other.subscriptions]:
        if left_at is not None and not lingers:
            assert subscription.unsubscribe <= left_at
        elif left_at is not None or not subscriber.is_silent:
            assert subscription.unsubscribe < sys.maxsize
