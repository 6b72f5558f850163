"""Lets the examples run without an API key: a server on this machine replays recorded answers."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from rxcohere.testing import Fault, ReplayServer


@contextmanager
def replay_without_key(
    *transcripts: str, pace: float = 0.005, faults: Sequence[Fault] = ()
) -> Generator[None, None, None]:
    """With ``CO_API_KEY`` set, does nothing. Without, ``CohereClient()`` talks to a replay server.

    Args:
        *transcripts: what to replay, one a request.
        pace: seconds between the frames.
        faults: what goes wrong on the way.
    """
    if os.environ.get("CO_API_KEY"):
        yield
        return
    with ReplayServer(transcripts, pace=pace, faults=faults) as server:
        os.environ.update(CO_API_KEY="no key", CO_API_URL=server.url)
        yield
