"""Random chains of operators, ours and stock ones, for any clock and any source."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import reactivex as rx
import reactivex.operators as ops
from fuzz.wire import Draw
from hypothesis import strategies as st
from reactivex import Observable, abc
from subscribers import Boom

from rxcohere import ContentDelta, MessageEnd, UnknownEvent
from rxcohere import operators as rxc

Link: TypeAlias = tuple[Any, ...]
"""The name of an operator, and what it is given."""

NEVER = 1_000
"""A count that no stream reaches."""

_COUNTS = st.integers(0, 6)
_RAISES = st.sampled_from([0, 1, 3, NEVER, NEVER, NEVER])

OF_EVENTS = [
    "text_deltas",
    "thinking_deltas",
    "tool_plan_deltas",
    "citations",
    "accumulate_text",
    "assemble_tool_calls",
    "track_tool_calls",
    "attach_citations",
    "accumulate_response",
    "collect_text",
    "collect_response",
    "collect_cited_text",
]
"""Take events and give something else."""

_LEAVE_EVENTS = {*OF_EVENTS, "to_list", "materialize"}

_EVENTS_TO_EVENTS = st.one_of(
    st.tuples(st.just("events_of")),
    st.tuples(st.just("share_response"), st.sampled_from([0.0, 0.0, 0.02])),
)
_TIMED_EVENTS = st.tuples(
    st.just("coalesce_deltas"), st.sampled_from([0.001, 0.02, 5.0]), st.none() | st.integers(1, 9)
)
_EVENTS_TO_VALUES = st.tuples(st.sampled_from(OF_EVENTS))
_ANYTHING = st.one_of(
    st.tuples(st.just("map"), _RAISES),
    st.tuples(st.just("filter"), _RAISES),
    st.tuples(st.just("do_action"), _RAISES),
    st.tuples(st.sampled_from(["take", "skip", "take_last"]), _COUNTS),
    st.tuples(st.just("retry"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["concat", "catch", "start_with", "share", "distinct"])),
    st.tuples(st.sampled_from(["to_list", "materialize"])),
)
_TIMED_ANYTHING = st.one_of(
    st.tuples(st.just("merge")),
    st.tuples(st.just("observe_on")),
    st.tuples(st.just("delay"), st.sampled_from([0.0, 0.01])),
    st.tuples(st.just("take_until"), st.sampled_from([0.0, 0.005, 0.05])),
)


@dataclass
class World:
    """What a chain is built in.

    Attributes:
        scheduler: what tells the time, in units of ``second``.
        other: makes a second source of events.
        second: how long a second is for the scheduler.
        breaches: of the Rx grammar, between the links.
    """

    scheduler: abc.SchedulerBase
    other: Callable[[], Observable[Any]]
    second: float = 1.0
    breaches: list[str] = field(default_factory=list)


@st.composite
def chains(draw: Draw, *, timed: bool = True) -> list[Link]:
    """One to five links; those that take events come before those that take anything else."""
    of_events = True
    links: list[Link] = []
    for _ in range(draw(st.integers(1, 5))):
        choices = [_ANYTHING, *([_TIMED_ANYTHING] if timed else [])]
        if of_events:
            choices += [_EVENTS_TO_EVENTS, _EVENTS_TO_VALUES, _EVENTS_TO_VALUES]
            choices += [_TIMED_EVENTS] if timed else []
        link = draw(st.one_of(choices))
        links.append(link)
        of_events = of_events and link[0] not in _LEAVE_EVENTS
    return links


def built(links: list[Link], source: Observable[Any], world: World) -> Observable[Any]:
    """The source with the chain behind it, watched between any two links."""
    result = source.pipe(_watched(world, "source"))
    of_events = True
    for link in links:
        other = world.other() if of_events else rx.of("other")
        result = result.pipe(_operator(link, world, other), _watched(world, str(link[0])))
        of_events = of_events and link[0] not in _LEAVE_EVENTS
    return result


def _operator(link: Link, world: World, other: Observable[Any]) -> Callable[[Any], Any]:
    scheduler = world.scheduler
    match link:
        case ("events_of",):
            return rxc.events_of(ContentDelta, MessageEnd, UnknownEvent)
        case ("share_response", linger):
            return rxc.share_response(linger * world.second, scheduler=scheduler)
        case ("coalesce_deltas", window, most):
            return rxc.coalesce_deltas(window * world.second, most, scheduler=scheduler)
        case ("map" | "filter" | "do_action" as name, raises):
            then = {"map": lambda value: value, "filter": lambda _: True}.get(name, lambda _: None)
            return _raising(getattr(ops, name), then, raises)
        case ("take" | "skip" | "take_last" | "retry" as name, count):
            return getattr(ops, name)(count)
        case ("concat" | "catch" | "merge" as name,):
            return getattr(ops, name)(other)
        case ("start_with",):
            return ops.start_with(UnknownEvent(type="first"))
        case ("distinct",):
            return ops.distinct_until_changed()
        case ("observe_on",):
            return ops.observe_on(scheduler)
        case ("delay", seconds):
            return ops.delay(seconds * world.second, scheduler=scheduler)
        case ("take_until", seconds):
            return ops.take_until(rx.timer(seconds * world.second, scheduler=scheduler))
        case (name,) if name in OF_EVENTS:
            return getattr(rxc, name)()
        case (name,):
            return getattr(ops, name)()
    raise AssertionError(link)


def _raising(operator: Any, then: Callable[[Any], Any], count: int) -> Callable[[Any], Any]:
    """The operator with a callback that raises when so many values have come."""

    def apply(source: Observable[Any]) -> Observable[Any]:
        def subscribe(observer: Any, scheduler: Any = None) -> abc.DisposableBase:
            calls = 0

            def callback(value: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > count:
                    raise Boom
                return then(value)

            return source.pipe(operator(callback)).subscribe(observer, scheduler=scheduler)

        return Observable(subscribe)

    return apply


def _watched(world: World, name: str) -> Callable[[Any], Any]:
    """The same values; notes a call that comes during another one, or after the terminal."""

    def apply(source: Observable[Any]) -> Observable[Any]:
        def subscribe(observer: Any, scheduler: Any = None) -> abc.DisposableBase:
            inside = ended = False

            def watch(kind: str, *values: Any) -> None:
                nonlocal inside, ended
                if inside or ended:
                    world.breaches.append(f"{kind} of {name}, {inside=}, {ended=}")
                inside, ended = True, kind != "on_next"
                try:
                    getattr(observer, kind)(*values)
                finally:
                    inside = False

            return source.subscribe(
                lambda value: watch("on_next", value),
                lambda error: watch("on_error", error),
                lambda: watch("on_completed"),
                scheduler=scheduler,
            )

        return Observable(subscribe)

    return apply
