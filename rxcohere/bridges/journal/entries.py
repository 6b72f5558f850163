"""What a journal holds: the events of a stream, each with its place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rxcohere.bridges.journal.verdicts import Verdict
from rxcohere.events import ChatEvent
from rxcohere.folds import Compactor

_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """An event of a stream, and the place in the journal after which one goes on from it.

    Attributes:
        id: the number, from 1 on, of the last event that this one says; what ``after`` of `follow`
            takes.
        event: what happened.
    """

    id: str
    event: ChatEvent

    @staticmethod
    def number_of(entry_id: str) -> int | None:
        """The number that an id is; None if it is the id of no entry."""
        return int(entry_id) if _NUMBER.fullmatch(entry_id) else None


class EntryCompactor:
    """A list of entries that merges what it can at its end; see `Compactor`."""

    def __init__(self) -> None:
        self._events = Compactor()
        self._ids: list[str] = []

    def push(self, entry: JournalEntry) -> None:
        """Adds an entry at the end."""
        self._events.push(entry.event)
        if len(self._events) > len(self._ids):
            self._ids.append(entry.id)
        else:
            self._ids[-1] = entry.id  # it was merged into the one before

    def drain(self) -> list[JournalEntry]:
        """The entries so far, which are then no longer held."""
        ids, self._ids = self._ids, []
        return [JournalEntry(*pair) for pair in zip(ids, self._events.drain(), strict=True)]


@dataclass(frozen=True, slots=True)
class JournalPage:
    """What a journal has of a stream after some place.

    Attributes:
        events: what happened, in order. Others may have been given the same list.
        verdict: how it ended, if that comes right after them.
    """

    events: Sequence[ChatEvent] = ()
    verdict: Verdict | None = None

    @property
    def is_empty(self) -> bool:
        """There is nothing after that place yet."""
        return not self.events and self.verdict is None
