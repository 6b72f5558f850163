"""Pure event arithmetic: events in, values out. No Rx, no I/O.

A fold is a small class with ``push(event)`` and ``finish()``, each returning the values that become
known at that moment. It is made anew for each stream, takes the events in order, and never changes
a value that it gave out. The operators are these folds, lifted.
"""

from rxcohere.folds.algebra import Compactor, compact, merge_events
from rxcohere.folds.citations import (
    CitationFold,
    CitedText,
    CitedTextFold,
    LiveCitedTextFold,
    Segment,
)
from rxcohere.folds.fold import Fold
from rxcohere.folds.response import LiveResponseFold, ResponseFold
from rxcohere.folds.text import (
    AccumulatedTextFold,
    CollectedTextFold,
    TextDeltaFold,
    ThinkingDeltaFold,
    ToolPlanDeltaFold,
)
from rxcohere.folds.tool_calls import ToolCallFold, ToolCallProgress, ToolCallProgressFold

__all__ = [
    "AccumulatedTextFold",
    "CitationFold",
    "CitedText",
    "CitedTextFold",
    "CollectedTextFold",
    "Compactor",
    "Fold",
    "LiveCitedTextFold",
    "LiveResponseFold",
    "ResponseFold",
    "Segment",
    "TextDeltaFold",
    "ThinkingDeltaFold",
    "ToolCallFold",
    "ToolCallProgress",
    "ToolCallProgressFold",
    "ToolPlanDeltaFold",
    "compact",
    "merge_events",
]
