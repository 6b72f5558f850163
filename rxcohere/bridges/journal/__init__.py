"""Streams that outlive the process that asked for them: written once, read by any number.

A producer `publish`es a stream into a `Journal`; whoever knows its id `follow`s it, from any entry
on, while it runs or afterwards; `abort` reaches the producer. `MemoryJournal` is for one process,
`RedisJournal` for any number of them; the latter needs ``pip install 'rxcohere[redis]'``.
"""

from typing import TYPE_CHECKING

from rxcohere.bridges.journal.entries import JournalEntry, JournalPage
from rxcohere.bridges.journal.following import FollowedStream, follow
from rxcohere.bridges.journal.journal import Journal, new_stream_id
from rxcohere.bridges.journal.memory import MemoryJournal
from rxcohere.bridges.journal.publishing import abort, publish
from rxcohere.bridges.journal.verdicts import Verdict

if TYPE_CHECKING:
    from rxcohere.bridges.journal.redis_journal import RedisJournal as RedisJournal

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


def __dir__() -> list[str]:
    """Also what is only imported when somebody asks for it."""
    return sorted({*globals(), "RedisJournal"})


def __getattr__(name: str) -> object:
    """`RedisJournal`, imported when somebody asks for it: redis is not needed before."""
    if name != "RedisJournal":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from rxcohere.bridges.journal.redis_journal import RedisJournal
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "redis":
            raise
        raise ImportError("RedisJournal needs redis: pip install 'rxcohere[redis]'") from error
    return RedisJournal
