"""One direction of a proxied connection: bytes that wait until they may go on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal, TypeAlias

from rxcohere.testing.wire import UNHARMED, CutEnding, Passage, Wire

End: TypeAlias = CutEnding | Literal["eof", "lost"]
"""How a direction ends: as its wire says; or as its source did, with a FIN or with an RST."""

_MOST_HELD = 1 << 17
"""Bytes that wait before the source is asked to pause; one more piece of it may come."""

_SLICE = 0.01
"""Seconds that the bytes sent at once take, where there is a limit of the rate."""


class Flow:
    """Bytes on their way from one side to the other, in order, and how they end.

    They go on only when the sink has taken all before them; else they wait here, and when that is
    much, the source is paused. So what the proxy holds is bounded.

    Args:
        on_held: is told how many bytes more wait here, or fewer.
        on_sent: is told how many were given to the sink.
        on_end: is told the end, when the sink has taken all before it.

    Attributes:
        source: what the bytes come from; None where it is not connected.
        sink: what they go to; None where it is not connected.
        stalled: nothing goes on.
    """

    def __init__(
        self,
        on_held: Callable[[int], None],
        on_sent: Callable[[int], None],
        on_end: Callable[[End], None],
    ) -> None:
        self._on_held = on_held
        self._on_sent = on_sent
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._wire = UNHARMED
        self._passage: Passage | None = None
        self._waiting: deque[tuple[float, memoryview] | End] = deque()
        self._size = 0
        self._line_free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._sink_is_full = False
        self._ended = False
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.stalled = False

    def carry(self, wire: Wire) -> None:
        """From now on bytes come over this wire; before anything has come."""
        self._wire = wire
        self._passage = Passage(wire)

    def take(self, piece: bytes) -> None:
        """A piece has come from the source; behind a cut it is dropped."""
        if self._ended:
            return
        if self._passage is None:
            self._hold(piece)
        else:
            piece, rest = self._passage.take(piece)
            self._hold(piece)
            if rest is not None:
                self._passage = None
                self._waiting.append(self._wire.ending)
                if self._wire.ending == "stall":
                    self._hold(rest)
                else:
                    self._ended = True
        self.go_on()

    def end(self, end: End) -> None:
        """The source has ended."""
        if not self._ended:
            self._ended = True
            self._waiting.append(end)
            self.go_on()

    def heal(self) -> None:
        """What is stalled goes on, and everything is carried as it is."""
        self._wire, self._passage = UNHARMED, None
        self.stalled = False
        if "stall" in self._waiting:
            self._waiting.remove("stall")
        self._stop_timer()
        self.go_on()

    def drop(self) -> None:
        """Nothing that waits goes on, nor what comes."""
        self._ended = True
        self._stop_timer()
        self._waiting.clear()
        self._shrink(self._size)

    def wait_for_sink(self) -> None:
        """The sink cannot take more now."""
        self._sink_is_full = True

    def sink_has_room(self) -> None:
        """The sink has taken everything."""
        self._sink_is_full = False
        self.go_on()

    def go_on(self) -> None:
        """Gives the sink what is due."""
        while self._waiting and not (self.stalled or self._sink_is_full or self._timer):
            if self.sink is None:
                return
            head = self._waiting[0]
            if isinstance(head, str):
                self._waiting.popleft()
                self.stalled = head == "stall"
                self._on_end(head)
            else:
                self._send(self.sink, *head)

    def _send(self, sink: asyncio.Transport, arrived: float, piece: memoryview) -> None:
        """Sends the head of what waits, as much of it as goes at once, or waits until it is due."""
        wire, now = self._wire, self._loop.time()
        left = arrived  # when the last byte left the far end of the wire
        count = len(piece)
        if wire.rate is not None:
            count = min(count, max(1, int(wire.rate * _SLICE)))
            left = max(arrived, self._line_free_at) + count / wire.rate
        if left + wire.delay > now:
            self._timer = self._loop.call_at(left + wire.delay, self._due)
            return
        # A line that stood idle, as its sink was full, does not catch up.
        self._line_free_at = max(left, now - wire.delay - _SLICE)
        if count < len(piece):
            self._waiting[0] = (arrived, piece[count:])
        else:
            self._waiting.popleft()
        sink.write(piece[:count])
        self._on_sent(count)
        self._shrink(count)

    def _due(self) -> None:
        self._timer = None
        self.go_on()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hold(self, piece: bytes) -> None:
        if not piece:
            return
        self._waiting.append((self._loop.time(), memoryview(piece)))
        self._size += len(piece)
        if self._size > _MOST_HELD and not self._paused and self.source is not None:
            self._paused = True
            self.source.pause_reading()
        self._on_held(len(piece))

    def _shrink(self, count: int) -> None:
        self._size -= count
        if self._paused and self._size <= _MOST_HELD and self.source is not None:
            self._paused = False
            self.source.resume_reading()
        self._on_held(-count)
