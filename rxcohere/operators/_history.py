"""What a shared response has said so far, put down by one thread and read by others."""

from __future__ import annotations

from rxcohere.events import ChatEvent
from rxcohere.folds import Compactor
from rxcohere.folds.algebra import fragment_of

_RECENT = 32
"""How much is put down before it is to be compacted."""


class History:
    """The events so far, adjacent mergeable ones merged.

    The source's thread puts events down without a lock. Anything else happens under a lock of the
    owner's, and may happen meanwhile.

    Of a delta that goes on from the one before, only its fragment is put down. An event is a dozen
    objects that the garbage collector counts: were each kept for a while, it would go through all
    there is again and again, which costs half as much as the rest where events come one by one.

    Attributes:
        count: how many events `events` stands for.
    """

    __slots__ = ("_compactor", "_key", "_recent", "count")

    def __init__(self) -> None:
        self.count = 0
        self._compactor = Compactor()
        self._recent: list[ChatEvent | str] = []  # not in the compactor, yet
        self._key: object = None  # what a delta that goes on has

    def put_down(self, event: ChatEvent) -> bool:
        """Adds an event; whether it is time to `compact`."""
        found = fragment_of(event)
        recent = self._recent
        if found is None:
            self._key = None
            recent.append(event)
        elif found[0] == self._key:
            recent.append(found[1])
        else:
            self._key = found[0]
            recent.append(event)
        return len(recent) >= _RECENT

    def compact(self) -> None:
        """Has `events` include what has been put down."""
        recent = self._recent[:]
        del self._recent[: len(recent)]  # and not what has been put down between these lines
        fragments: list[str] = []
        for each in recent:
            if isinstance(each, str):
                fragments.append(each)
            else:
                self._compactor.lengthen("".join(fragments))
                fragments = []
                self._compactor.push(each)
        self._compactor.lengthen("".join(fragments))
        self.count += len(recent)

    def events(self) -> list[ChatEvent]:
        """The events as of the last `compact`. The list is the caller's own."""
        return self._compactor.events()
