"""What the body of a ``with`` spends: CPU time and memory."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Generator
from contextlib import contextmanager


class Clock:
    """The CPU time, in µs, that this process spends inside the ``with``."""

    spent = 0.0

    def __enter__(self) -> Clock:
        gc.collect()
        self._started = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.spent = (time.process_time() - self._started) * 1e6


@contextmanager
def tracing() -> Generator[Callable[[], tuple[float, float]]]:
    """Inside the ``with``, tells how many KiB are held, and were at most."""

    def held() -> tuple[float, float]:
        gc.collect()
        now, peak = tracemalloc.get_traced_memory()
        return now / 1024, peak / 1024

    gc.collect()
    tracemalloc.start()
    try:
        yield held
    finally:
        tracemalloc.stop()
