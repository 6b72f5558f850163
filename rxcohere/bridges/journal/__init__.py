"""Streams that outlive the process that asked for them: written once, read by any number.

A producer `publish`es a stream into a `Journal`; whoever knows its id `follow`s it, from any entry
on, while it runs or afterwards; `abort` reaches the producer. `MemoryJournal` is for one process.
"""

from rxcohere.bridges.journal.entries import JournalEntry, JournalPage, Verdict
from rxcohere.bridges.journal.following import FollowedStream, follow
from rxcohere.bridges.journal.journal import Journal, new_stream_id
from rxcohere.bridges.journal.memory import MemoryJournal
from rxcohere.bridges.journal.publishing import abort, publish

__all__ = [
    "FollowedStream",
    "Journal",
    "JournalEntry",
    "JournalPage",
    "MemoryJournal",
    "Verdict",
    "abort",
    "follow",
    "new_stream_id",
    "publish",
]
