"""How the slow end of a subscription makes its sources wait.

Rx has no word for "not now". Whoever hands values over to a slow consumer makes a `Gate`, and
subscribes through it: a context variable carries it past the operators to each source that is
subscribed to meanwhile, be it one or, behind a ``merge``, several. A source that can wait enters
the gate and, while it is closed, waits before it brings the next value.

The variable is set while the chain is subscribed to, and in a source's ``on_completed`` and
``on_error``, where ``concat``, ``repeat`` and ``catch`` go on to their next source. In ``on_next``
it is not: what people subscribe to there has, as a rule, nothing to do with the consumer.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Pausable(Protocol):
    """A source that can wait. The gate calls it from any thread, but never twice at a time."""

    def pause(self) -> None:
        """Has it bring no more than the value that it is bringing now."""
        ...

    def resume(self) -> None:
        """Has it go on."""
        ...


class Gate:
    """Where the sources of one subscription wait while it is closed. Any thread may call it.

    Attributes:
        closed: the sources are waiting, or will do so before they bring the next value.
        reached: a source that can wait has entered. It may have ended meanwhile.
        given_up: one of them will wait no more, but bring all it still has.
    """

    def __init__(self) -> None:
        self.closed = False
        self.reached = False
        self.given_up = False
        self._retired = False
        self._sources: set[Pausable] = set()
        # The collector may run, and dispose of a source, while the lock is held.
        self._lock = threading.RLock()

    def enter(self, source: Pausable) -> None:
        """Adds a source, which waits at once if the gate is closed."""
        with self._lock:
            self.reached = True
            self._sources.add(source)
            if self.closed:
                source.pause()

    def leave(self, source: Pausable) -> None:
        """Forgets a source that has ended."""
        with self._lock:
            self._sources.discard(source)

    def give_up(self, source: Pausable) -> None:
        """Has a source go on that can wait no longer."""
        with self._lock:
            self.given_up = True
            self._sources.discard(source)
            source.resume()

    def retire(self) -> None:
        """Has the sources go on for good: there may be others who want to hear them."""
        with self._lock:
            self._retired = True
        self.open()

    def close(self) -> None:
        """Has the sources wait."""
        with self._lock:
            if not (self.closed or self._retired):
                self.closed = True
                for source in list(self._sources):
                    source.pause()

    def open(self) -> None:
        """Has the sources go on."""
        with self._lock:
            if self.closed:
                self.closed = False
                for source in list(self._sources):
                    source.resume()


_gate: ContextVar[Gate | None] = ContextVar("rxcohere.gate", default=None)


def current_gate() -> Gate | None:
    """The gate of the subscription that is being made here."""
    return _gate.get()


@contextmanager
def subscribing_through(gate: Gate | None) -> Generator[None, None, None]:
    """What is subscribed to inside the ``with`` enters this gate, or, with None, none at all."""
    token = _gate.set(gate)
    try:
        yield
    finally:
        _gate.reset(token)
