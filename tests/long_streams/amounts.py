"""How long the streams are whose costs are compared, and how many events are looked at."""

from __future__ import annotations

CYCLE = 800
"""Whatever happens now and then in a stream does so with one of these numbers of events."""
FEW, MANY, MILLION = CYCLE, 3 * CYCLE, 1_250 * CYCLE
WINDOW = 200
"""Events whose costs are counted."""
SOAK = 600.0
"""Seconds after which a test that hangs fails; nothing is timed with it."""
