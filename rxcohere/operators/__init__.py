"""Operators that know the protocol. They work on any ``Observable[ChatEvent]``.

Import them as ``from rxcohere import operators as rxc``; the stock ones stay ``ops``. A plural noun
picks parts, ``verb_object`` keeps state and emits on the way, ``collect_object`` gives one value at
completion. State is made for each subscription, and what was emitted never changes. Completion and
errors pass, unless an operator says otherwise; events that it does not speak of are left out.

In the marble diagrams, ``S`` is `MessageStart` and ``E`` `MessageEnd`; ``t`` (``T`` at a block's
start) is text, ``k`` thinking, ``p`` tool plan, ``d`` any delta, ``C`` a citation; ``c0``, ``a0``
and ``e0`` are start, arguments and end of tool call 0.
"""

from rxcohere.operators._lift import Operator
from rxcohere.operators.assemble import (
    accumulate_response,
    accumulate_text,
    assemble_tool_calls,
    attach_citations,
    collect_cited_text,
    collect_response,
    collect_text,
    track_tool_calls,
)
from rxcohere.operators.select import (
    citations,
    events_of,
    text_deltas,
    thinking_deltas,
    tool_plan_deltas,
)
from rxcohere.operators.shape import coalesce_deltas
from rxcohere.operators.share import share_response

__all__ = [
    "Operator",
    "accumulate_response",
    "accumulate_text",
    "assemble_tool_calls",
    "attach_citations",
    "citations",
    "coalesce_deltas",
    "collect_cited_text",
    "collect_response",
    "collect_text",
    "events_of",
    "share_response",
    "text_deltas",
    "thinking_deltas",
    "tool_plan_deltas",
    "track_tool_calls",
]
