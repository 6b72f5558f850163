"""What tests that run a program in another process share."""

from __future__ import annotations

import re

SLOW = re.compile(r"^Executing <.*took [0-9.]+ seconds\n", re.MULTILINE)
"""What asyncio's debug mode says of a machine that has much to do, and not of the program."""
