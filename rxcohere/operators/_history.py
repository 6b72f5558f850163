"""What a shared response has said so far, put down by one thread and read by others."""

from __future__ import annotations

from rxcohere.events import ChatEvent
from rxcohere.folds import Compactor
from rxcohere.folds.algebra import Key, fragment_of

_RECENT = 32
"""Events that are put down before they are compacted together."""


class History:
    """The events so far, adjacent mergeable ones merged.

    The source's thread puts events down without a lock. Anything else happens under a lock of the
    owner's, and may happen meanwhile.

    Of a delta that goes on from the one before, only its fragment is put down. An event is a dozen
    objects that the garbage collector counts: were each kept for a while, it would go through all
    there is again and again: half of what an event costs that comes alone, with 100 streams open.

    Attributes:
        count: how many events `events` stands for.
    """

    __slots__ = ("_compactor", "_key", "_recent", "count")

    def __init__(self) -> None:
        self.count = 0
        self._compactor = Compactor()
        # Not in the compactor, yet. What was found of an event is kept with it: its extra keys may
        # be changed by whoever hears it.
        self._recent: list[str | tuple[ChatEvent, tuple[Key, str] | None]] = []
        self._key: Key | None = None  # what a delta that goes on has

    def put_down(self, event: ChatEvent) -> bool:
        """Adds an event; whether it is time to `compact`."""
        found = fragment_of(event)
        recent = self._recent
        if found is not None and found[0] == self._key:
            recent.append(found[1])
        else:
            self._key = None if found is None else found[0]
            recent.append((event, found))
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
                self._compactor.add(*each)
        self._compactor.lengthen("".join(fragments))
        self.count += len(recent)

    def events(self) -> list[ChatEvent]:
        """The events as of the last `compact`. The list is the caller's own."""
        return self._compactor.events()
