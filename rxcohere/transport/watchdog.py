"""The clock of one stream: how long nothing came, and how long all of it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rxcohere.errors import TimeoutPhase

_SECOND_LOOK = 0.001  # seconds, by which a loop has looked at its sockets


class Watchdog:
    """Calls back once, when a limit is reached. One timer serves a whole stream.

    Only time spent waiting counts as idle: `wait` starts the clock, and `reset` turns it back and
    stops it when events came. The timer is not moved for each event; it looks, when it is due,
    whether there is time left, and sleeps on if so. If not, it looks again before it calls: what
    has kept the loop busy may have kept it from events that have come.

    Args:
        idle: seconds of waiting without an event; None for no limit.
        total_at: the loop time at which everything must be over; None for no limit.
        on_expiry: gets the phase that took too long.
    """

    __slots__ = (
        "_idle",
        "_loop",
        "_on_expiry",
        "_suspects",
        "_timer",
        "_total_at",
        "_waiting_since",
    )

    def __init__(
        self,
        idle: float | None,
        total_at: float | None,
        on_expiry: Callable[[TimeoutPhase], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle = idle
        self._total_at = total_at
        self._on_expiry = on_expiry
        self._waiting_since: float | None = None
        self._suspects = False
        self._timer: asyncio.TimerHandle | None = None
        self._sleep(self._loop.time())

    def wait(self) -> None:
        """Starts to count: the consumer asks for more and has to wait."""
        self._waiting_since = self._loop.time()

    def reset(self) -> None:
        """Turns the idle clock back and stops it: events came."""
        self._waiting_since = None

    def stop(self) -> None:
        """Ends it; there will be no call."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sleep(self, now: float) -> None:
        due: list[float] = []
        if self._total_at is not None:
            due.append(self._total_at)
        if self._idle is not None:
            due.append(now + self._idle - self._elapsed(now))
        if due:
            self._timer = self._loop.call_at(min(due), self._look)

    def _elapsed(self, now: float) -> float:
        return 0.0 if self._waiting_since is None else now - self._waiting_since

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self._total_at is not None and now >= self._total_at:
            self._on_expiry("total")
        elif self._idle is None or self._elapsed(now) < self._idle:
            self._suspects = False
            self._sleep(now)
        elif self._suspects:
            self._on_expiry("idle")
        else:
            self._suspects = True
            self._timer = self._loop.call_at(now + _SECOND_LOOK, self._look)
