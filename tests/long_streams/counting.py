"""What a piece of work costs, counted instead of timed.

The steps are calls and lines of Python, those of the libraries too; in the bytes that are taken, a
copy of all that came before would show.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

SLACK = 10_000
"""Bytes by which any two runs may differ."""


@contextmanager
def counting_steps() -> Generator[list[int]]:
    """Counts the calls and lines of Python inside the ``with``, but for its own frame's."""
    steps = [0]

    def trace(*_: object) -> Any:
        steps[0] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield steps
    finally:
        sys.settrace(before)


@contextmanager
def counting_bytes() -> Generator[Callable[[], int]]:
    """Inside the ``with``, tells how many bytes are kept of what was taken there."""

    def kept() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    gc.disable()  # when it runs has nothing to do with the event at hand
    gc.freeze()  # what there is already need not be gone through
    tracemalloc.start()
    try:
        yield kept
    finally:
        tracemalloc.stop()
        gc.unfreeze()
        gc.enable()
