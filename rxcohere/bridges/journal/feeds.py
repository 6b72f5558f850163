"""What comes on a key of a journal, for all in a process who wait for it.

It is fetched and parsed once however many they are. Keys and ids are those of Redis Streams;
reading them is `FeedReader`'s business.
"""

from __future__ import annotations

import asyncio
import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rxcohere.bridges.journal.entries import JournalPage
from rxcohere.bridges.journal.verdicts import Verdict
from rxcohere.errors import JournalError, RxCohereError
from rxcohere.events import ChatEvent, parse_event

Record: TypeAlias = tuple[str, str, bytes | str]
"""What a key brings: an id, what it is, and its text."""

Found: TypeAlias = Mapping[str, Sequence[Record] | JournalError]
"""What several keys bring, or why they cannot."""

BEGIN, EVENT, VERDICT = "b", "e", "v"
"""What a record can be, besides a request to abort."""

_RECENT = 1 << 20
"""Characters of JSON that a feed keeps for those who have not come to take it yet."""

_IDLE = 10.0
"""Seconds that a feed outlives the last who waited for it: they are mostly between two waits."""


class Feed(ABC):
    """What comes on one key after some place, for all who wait for it.

    Attributes:
        key: where it comes from.
        place: the id of the last record that came.
        ended: nothing more can come.
        being_added: somebody is about to wait for it.
    """

    def __init__(self, key: str, place: str) -> None:
        self.key = key
        self.place = place
        self.ended = False
        self.being_added = False
        self._error: RxCohereError | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._left_at = self._loop.time()

    @abstractmethod
    def take(self, records: Sequence[Record]) -> None:
        """Takes in what has come, and wakes those who wait."""

    def fail(self, error: RxCohereError) -> None:
        """Has all who wait for it fail, and whoever is about to."""
        self._error = error
        self.ended = True
        self.wake()

    def wake(self) -> None:
        """Wakes those who wait."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self) -> None:
        """Waits until something has come, or nothing more can. Not for one that is complete.

        Raises:
            RxCohereError: it had failed before.
        """
        if self._error is not None:
            raise copy.copy(self._error) from self._error.__cause__
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            self._left_at = self._loop.time()

    @property
    def failed(self) -> bool:
        """What it had to bring cannot be read."""
        return self._error is not None

    @property
    def idle(self) -> bool:
        """Nobody has waited for it for a while."""
        in_use = self._waiters or self.being_added
        return not in_use and self._loop.time() - self._left_at >= _IDLE


class EventFeed(Feed):
    """The events of a stream, the recent ones of which it keeps.

    Attributes:
        stream_id: which stream.
        token: tells it from others that had its id before; None while it is not there.
        look_at: when one has to look whether it still can bring something, by the loop's clock.
        count: how many events are before what comes next.
    """

    def __init__(self, stream_id: str, key: str, place: str, at: int, token: str | None) -> None:
        super().__init__(key, place)
        self.stream_id = stream_id
        self.token = token
        self.look_at = float("inf")
        self.count = at
        self._recent: list[ChatEvent] = []
        self._sizes: list[int] = []
        self._kept = 0
        self._verdict: Verdict | None = None
        self._pages: dict[int, JournalPage] = {}

    @property
    def has_begun(self) -> bool:
        """The stream is there, or has been."""
        return self.token is not None or self._verdict is not None

    def take(self, records: Sequence[Record]) -> None:
        """Takes in what has come."""
        try:
            for record in records:
                self._take(record)
        except RxCohereError as error:  # it is this stream's alone
            self.fail(error)
        else:
            self._forget_old()
            self.wake()

    def _take(self, record: Record) -> None:
        self.place, kind, text = record
        self._pages.clear()
        if kind == BEGIN and self.token is None:
            self.token = text if isinstance(text, str) else text.decode("utf-8", "replace")
            self.look_at = 0.0  # it has a lease from now on
        elif kind == EVENT:
            check_number(self.stream_id, self.place, self.count + 1)
            self.count += 1
            self._recent.append(parse_event(text))
            self._sizes.append(len(text))
            self._kept += len(text)
        else:
            check_number(self.stream_id, self.place, self.count)
            self._verdict = verdict_in(kind, text)
            self.ended = True

    def _forget_old(self) -> None:
        forgotten = 0
        # The last one is kept, whatever its size: somebody waits for it.
        while self._kept > _RECENT and forgotten < len(self._sizes) - 1:
            self._kept -= self._sizes[forgotten]
            forgotten += 1
        del self._recent[:forgotten], self._sizes[:forgotten]

    async def next_page(self, at: int) -> JournalPage | None:
        """What comes after so many events, for which it waits; None if it is not to be had here.

        Raises:
            RxCohereError: it has failed.
        """
        while True:
            page = self._page(at)
            if page is not None and not page.is_empty:
                return page
            if page is None and (at < self.count or self._verdict is not None):
                return None
            await self.changed()

    def _page(self, at: int) -> JournalPage | None:
        self._left_at = self._loop.time()
        page = self._pages.get(at)
        if page is None:
            first = at - (self.count - len(self._recent))
            if first < 0 or at > self.count:
                return None
            page = self._pages[at] = JournalPage(tuple(self._recent[first:]), self._verdict)
        return page


class AbortFeed(Feed):
    """The first reason that was given for an abort.

    Attributes:
        reason: is None until then.
    """

    reason: str | None = None

    def take(self, records: Sequence[Record]) -> None:
        """Takes in what has come."""
        self.place, _, text = records[0]
        self.reason = text if isinstance(text, str) else text.decode("utf-8", "replace")
        self.ended = True
        self.wake()


def page_of(stream_id: str, at: int, records: Sequence[Record]) -> JournalPage:
    """What records say that come after so many events.

    Raises:
        RxCohereError: the first cannot be read; what is before another one is given out first.
    """
    events: list[ChatEvent] = []
    for record_id, kind, text in records:
        try:
            if kind == EVENT:
                check_number(stream_id, record_id, at + len(events) + 1)
                events.append(parse_event(text))
            else:
                check_number(stream_id, record_id, at + len(events))
                return JournalPage(events, verdict_in(kind, text))
        except RxCohereError:
            if not events:
                raise
            break
    return JournalPage(events)


def verdict_in(kind: str, text: bytes | str) -> Verdict:
    """The verdict in a record.

    Raises:
        JournalError: it holds something else.
    """
    if kind != VERDICT:
        raise JournalError(f"the journal has a record of a kind that there is not, {kind!r:.40}")
    return Verdict.from_json(text)


def check_number(stream_id: str, record_id: str, expected: int) -> None:
    """Sees to it that nothing is missing before a record.

    Raises:
        JournalError: something is.
    """
    number = int(record_id.partition("-")[0])
    if number != expected:
        raise JournalError(
            f"the journal has lost events of {stream_id!r}: {number} came instead of {expected}"
        )
