"""The ways out of Rx: asynchronous iteration, asynchronous subscribers, the journal, the web.

`RedisJournal` is in `rxcohere.bridges.journal`, what serves the web in `rxcohere.bridges.web`: they
import more than most programs need.
"""

from rxcohere.bridges.async_iterator import ObservableIterator, to_async_iterator
from rxcohere.bridges.async_subscriber import AsyncSubscription, subscribe_async
from rxcohere.bridges.handover import Overflow
from rxcohere.bridges.journal import (
    FollowedStream,
    Journal,
    JournalEntry,
    JournalPage,
    MemoryJournal,
    Verdict,
    abort,
    follow,
    new_stream_id,
    publish,
)

__all__ = [
    "AsyncSubscription",
    "FollowedStream",
    "Journal",
    "JournalEntry",
    "JournalPage",
    "MemoryJournal",
    "ObservableIterator",
    "Overflow",
    "Verdict",
    "abort",
    "follow",
    "new_stream_id",
    "publish",
    "subscribe_async",
    "to_async_iterator",
]
