"""`MemoryJournal`: how long it keeps what has ended."""

from __future__ import annotations

import math

import pytest
from samples import parsed, text_stream
from subscribers import HANG

from rxcohere.bridges.journal import MemoryJournal, Verdict
from rxcohere.errors import StreamExistsError, StreamNotFoundError

EVENTS = parsed(text_stream("Emperor", " penguins"))


async def ended(journal: MemoryJournal, stream_id: str) -> None:
    """A stream that is complete."""
    await journal.begin(stream_id, HANG)
    await journal.append(stream_id, EVENTS, 0)
    await journal.close(stream_id, Verdict())


async def test_what_has_ended_long_ago_is_forgotten() -> None:
    """When another stream begins; its id may be used again then, and one that runs is kept."""
    journal = MemoryJournal(keep=0.0)
    await journal.begin("runs", HANG)
    await ended(journal, "old")
    assert list((await journal.read("old")).events) == EVENTS
    await journal.begin("new", HANG)
    with pytest.raises(StreamNotFoundError):
        await journal.read("old")
    assert (await journal.read("runs")).is_empty
    await ended(journal, "old")


async def test_the_dead_are_forgotten_too() -> None:
    """One whose lease has run out, and that nobody has read since, does not stay for ever."""
    journal = MemoryJournal(keep=0.0)
    await journal.begin("dead", 1e-9)
    await journal.begin("other", HANG)
    await journal.begin("dead", HANG)


@pytest.mark.parametrize("keep", [3600.0, math.inf])
async def test_what_has_just_ended_is_kept(keep: float) -> None:
    """However many streams begin after it."""
    journal = MemoryJournal(keep=keep)
    await ended(journal, "old")
    for number in range(100):
        await ended(journal, f"s-{number}")
    assert list((await journal.read("old")).events) == EVENTS
    with pytest.raises(StreamExistsError):
        await journal.begin("old", HANG)
