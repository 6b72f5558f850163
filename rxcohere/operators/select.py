"""Operators that pick parts of the stream and keep no state."""

from __future__ import annotations

from typing import Any, TypeVar, overload

import reactivex.operators as ops

from rxcohere.errors import ConfigurationError
from rxcohere.events import ChatEvent
from rxcohere.folds import CitationFold, TextDeltaFold, ThinkingDeltaFold, ToolPlanDeltaFold
from rxcohere.operators._lift import Operator, lift
from rxcohere.response import Citation, WireModel

A = TypeVar("A", bound=WireModel)
B = TypeVar("B", bound=WireModel)
C = TypeVar("C", bound=WireModel)
D = TypeVar("D", bound=WireModel)


@overload
def events_of(first: type[A], /) -> Operator[ChatEvent, A]: ...
@overload
def events_of(first: type[A], second: type[B], /) -> Operator[ChatEvent, A | B]: ...
@overload
def events_of(
    first: type[A], second: type[B], third: type[C], /
) -> Operator[ChatEvent, A | B | C]: ...
@overload
def events_of(
    first: type[A], second: type[B], third: type[C], fourth: type[D], /
) -> Operator[ChatEvent, A | B | C | D]: ...
@overload
def events_of(*types: type[Any]) -> Operator[ChatEvent, Any]: ...
def events_of(*types: type[Any]) -> Operator[Any, Any]:
    """The events of the given types, and of no other, with their type known to checkers.

    ::

        ---S--d--d--C--d--E-----|
        [events_of(ContentDelta)]
        ------d--d-----d--------|

    Completion and errors pass.

    Args:
        types: event classes, such as `ContentDelta`.

    Raises:
        ConfigurationError: at the call, without a type or with something that is not a class.
    """
    if not types:
        raise ConfigurationError("events_of needs at least one event type, such as ContentDelta")
    for wanted in types:
        if not isinstance(wanted, type):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"events_of takes event classes, not {wanted!r}")
    # Whether a class is wanted is found out once: `isinstance` on pydantic models is slow to say
    # no.
    known: dict[type[Any], bool] = dict.fromkeys(types, True)

    def is_wanted(event: Any) -> bool:
        kind: type[Any] = type(event)  # pyright: ignore[reportUnknownVariableType]
        try:
            return known[kind]
        except KeyError:
            return known.setdefault(kind, issubclass(kind, types))

    return ops.filter(is_wanted)


def text_deltas(index: int | None = None) -> Operator[ChatEvent, str]:
    """The fragments of the answer's text, as they arrive.

    ::

        ---S--T(The)--t( pen)--C--t(guins)--E--|
        [             text_deltas()            ]
        ------The----- pen--------guins--------|

    Fragments may end anywhere, also within a word. Empty ones are left out, as is thinking.
    Other events are left out; completion and errors pass.

    Args:
        index: only the content block with this index; None, the default, for all.

    Raises:
        ConfigurationError: at the call, if the index is not a whole number from 0.
    """
    if index is not None and (type(index) is not int or index < 0):
        raise ConfigurationError(f"text_deltas takes an index from 0, or None, not {index!r}")
    return lift(lambda: TextDeltaFold(index))


def thinking_deltas() -> Operator[ChatEvent, str]:
    """The fragments of the model's thinking, as they arrive.

    ::

        ---S--k(Let)--k( me)--t(4)--E--|
        [      thinking_deltas()       ]
        ------Let----- me--------------|

    Empty fragments are left out. Other events are left out; completion and errors pass.
    """
    return lift(ThinkingDeltaFold)


def tool_plan_deltas() -> Operator[ChatEvent, str]:
    """The fragments of the plan that precedes tool calls, as they arrive.

    ::

        ---S--p(I)--p( will)--c--c--E--|
        [      tool_plan_deltas()      ]
        ------I----- will--------------|

    A model that reasons has no plan; its reasons are in `thinking_deltas`. Empty fragments are left
    out. Other events are left out; completion and errors pass.
    """
    return lift(ToolPlanDeltaFold)


def citations() -> Operator[ChatEvent, Citation]:
    """The citations, each as soon as it arrives.

    ::

        ---S--t--C1--t--C2--E--|
        [     citations()      ]
        ---------c1-----c2-----|

    They come between the pieces of text or after them, depending on the model and on
    ``citation_options``. Other events are left out; completion and errors pass. See also
    `attach_citations`.
    """
    return lift(CitationFold)
