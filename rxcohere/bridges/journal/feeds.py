"""One blocking read for all in a process who wait for something in a journal.

Each key that somebody waits for has a `Feed`, which hands what is read from it to all of them, so
that it is fetched and parsed once however many there are. Nothing here knows what Redis is.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from rxcohere.bridges.journal.entries import JournalPage, Verdict
from rxcohere.errors import JournalError, RxCohereError
from rxcohere.events import ChatEvent, parse_event

Record: TypeAlias = tuple[str, str, bytes | str]
"""What a key brings: an id, what it is, and its text."""

BEGIN, EVENT, VERDICT, ABORT = "b", "e", "v", "a"
"""What a record can be."""

_RECENT = 1 << 20
"""Characters of JSON that a feed keeps for those who have not come to take it yet."""

_IDLE = 10.0
"""Seconds that a feed outlives the last who waited for it: they are mostly between two waits."""

_LONGEST_READ = 2.0
"""Seconds; clients give a connection up that is silent for longer, after 5 s by default."""


class Feed(ABC):
    """What comes on one key after some place, for all who wait for it.

    Attributes:
        key: where it comes from.
        place: the id of the last record that came.
        look_at: when one has to look whether it still can bring something, by the loop's clock.
        ended: nothing more can come.
    """

    def __init__(self, key: str, place: str) -> None:
        self.key = key
        self.place = place
        self.look_at = float("inf")
        self.ended = False
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
        """Waits until something has come.

        Raises:
            RxCohereError: it has failed.
        """
        if not self.ended:
            waiter = self._loop.create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
                self._left_at = self._loop.time()
        if self._error is not None:
            raise self._error

    @property
    def failed(self) -> bool:
        """What it had to bring cannot be read."""
        return self._error is not None

    @property
    def idle(self) -> bool:
        """Nobody has waited for it for a while."""
        return not self._waiters and self._loop.time() - self._left_at >= _IDLE


class EventFeed(Feed):
    """The events of a stream, the recent ones of which it keeps.

    Attributes:
        stream_id: which stream.
        begun: it is there.
        count: how many events are before what comes next.
    """

    def __init__(self, stream_id: str, key: str, place: str, at: int, begun: bool) -> None:
        super().__init__(key, place)
        self.stream_id = stream_id
        self.begun = begun
        self.count = at
        self._recent: list[ChatEvent] = []
        self._sizes: list[int] = []
        self._kept = 0
        self._verdict: Verdict | None = None
        self._pages: dict[int, JournalPage] = {}

    def take(self, records: Sequence[Record]) -> None:
        """Takes in what has come."""
        try:
            for record in records:
                self._take(record)
        except RxCohereError as error:
            self.fail(error)
        else:
            self._forget_old()
            self.wake()

    def _take(self, record: Record) -> None:
        self.place, kind, text = record
        self._pages.clear()
        if not self.begun:
            self.begun = True
            self.look_at = 0.0  # it has a lease from now on
        if kind == EVENT:
            check_number(self.stream_id, self.place, self.count + 1)
            self.count += 1
            self._recent.append(parse_event(text))
            self._sizes.append(len(text))
            self._kept += len(text)
        elif kind == VERDICT:
            check_number(self.stream_id, self.place, self.count)
            self._verdict = Verdict.from_json(text)
            self.ended = True

    def _forget_old(self) -> None:
        forgotten = 0
        # What has just come is kept, whatever its size: somebody waits for it.
        while self._kept > _RECENT and forgotten < len(self._sizes) - 1:
            self._kept -= self._sizes[forgotten]
            forgotten += 1
        del self._recent[:forgotten], self._sizes[:forgotten]

    def page(self, at: int) -> JournalPage | None:
        """What has come after so many events, if that is still or already here."""
        page = self._pages.get(at)
        if page is None and self.begun:
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
        self.reason = text if isinstance(text, str) else text.decode()
        self.ended = True
        self.wake()


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


class Feeds:
    """Reads all feeds at once, as long as there are any.

    Args:
        read: what comes on keys after places, for which it waits at most so many seconds.
        wake_key: a key of its own, on which `wake` makes something come.
        wake: does so.
        look: looks whether a feed can still bring something; gives the seconds until one has to
            look again, or raises what its readers have to hear.
    """

    def __init__(
        self,
        read: Callable[[Mapping[str, str], float], Awaitable[Mapping[str, Sequence[Record]]]],
        wake_key: str,
        wake: Callable[[], Awaitable[None]],
        look: Callable[[EventFeed], Awaitable[float]],
    ) -> None:
        self._read = read
        self._wake_key = wake_key
        self._wake_place = "0-0"
        self._wake = wake
        self._look = look
        self._feeds: dict[str, Feed] = {}
        self._being_read: Mapping[str, str] | None = None
        self._waking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def get(self, key: str) -> Feed | None:
        """The feed of a key, if there is one."""
        return self._feeds.get(key)

    async def add(self, feed: Feed) -> None:
        """Has a feed read from now on, in place of another with its key."""
        self._feeds[feed.key] = feed
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="rxcohere-journal")
        async with self._waking:
            # The read that is under way does not know of it, unless it began in the meantime.
            if self._being_read is not None and feed.key not in self._being_read:
                await self._wake()

    def look_at_all(self) -> None:
        """Has it look at all feeds, since they may be gone."""
        for feed in self._feeds.values():
            feed.look_at = 0.0

    async def aclose(self) -> None:
        """Ends the reading; who waits hears of it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        problem: RxCohereError = JournalError("the journal was closed")
        try:
            while self._feeds:
                await self._turn()
        except RxCohereError as error:
            problem = error
        except Exception as error:
            problem = JournalError(f"reading the journal failed: {error!r}")
            problem.__cause__ = error
        finally:
            feeds, self._feeds = self._feeds, {}
            for feed in feeds.values():
                feed.fail(problem)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        await self._look_where_due(loop.time())
        for feed in list(self._feeds.values()):
            if feed.idle:
                del self._feeds[feed.key]
        if not self._feeds:
            return
        open_feeds = [feed for feed in self._feeds.values() if not feed.ended]
        places = {self._wake_key: self._wake_place, **{feed.key: feed.place for feed in open_feeds}}
        look_at = min((feed.look_at for feed in open_feeds), default=float("inf"))
        self._being_read = places
        try:
            found = await self._read(places, min(_LONGEST_READ, max(look_at - loop.time(), 0.001)))
        finally:
            self._being_read = None
        for key, records in found.items():
            fed = self._feeds.get(key)
            if key == self._wake_key:
                self._wake_place = records[-1][0]
            elif fed is not None and fed.place == places.get(key):
                fed.take(records)
                if fed.failed:
                    del self._feeds[key]

    async def _look_where_due(self, now: float) -> None:
        for feed in list(self._feeds.values()):
            if feed.look_at <= now and isinstance(feed, EventFeed) and not feed.ended:
                try:
                    feed.look_at = now + await self._look(feed)
                except RxCohereError as error:
                    feed.fail(error)
                    self._feeds.pop(feed.key, None)
