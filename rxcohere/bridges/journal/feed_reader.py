"""One blocking read for all in a process who wait for something in a journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from rxcohere.bridges.journal.feeds import EventFeed, Feed, Found
from rxcohere.errors import JournalError, RxCohereError

_CLOSED = "the journal was closed"

_LONGEST_READ = 2.0
"""Seconds; clients give a connection up that is silent for longer, after 5 s by default."""


class FeedReader:
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
        read: Callable[[Mapping[str, str], float], Awaitable[Found]],
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

    @property
    def at_rest(self) -> bool:
        """There is nothing to read."""
        return not self._feeds and (self._task is None or self._task.done())

    def get(self, key: str) -> Feed | None:
        """The feed of a key, if there is one."""
        return self._feeds.get(key)

    async def add(self, feed: Feed) -> None:
        """Has a feed read from now on, in place of one with its key that has ended."""
        self._feeds[feed.key] = feed
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="rxcohere-journal")
        feed.being_added = True  # to be woken may take longer than anybody is waited for
        try:
            async with self._waking:
                # The read that is under way does not know of it, unless it began in the meantime.
                if self._being_read is not None and feed.key not in self._being_read:
                    await self._wake()
        finally:
            feed.being_added = False

    def forget(self, key: str) -> None:
        """Has a feed that has ended kept no longer: there may be another stream with its id."""
        feed = self._feeds.get(key)
        if feed is not None and feed.ended:
            del self._feeds[key]

    def look_at_all(self) -> None:
        """Has it look at all feeds, since they may be gone."""
        for feed in self._event_feeds():
            feed.look_at = 0.0

    async def aclose(self) -> None:
        """Ends the reading; who waits hears of it. Nobody may add a feed from now on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._fail_all(JournalError(_CLOSED))  # also if the task had not begun

    async def _run(self) -> None:
        problem: RxCohereError = JournalError(_CLOSED)
        try:
            while self._feeds:
                await self._turn()
        except RxCohereError as error:
            problem = error
        except Exception as error:
            problem = JournalError(f"reading the journal failed: {error!r}")
            problem.__cause__ = error
        finally:
            self._fail_all(problem)

    def _fail_all(self, problem: RxCohereError) -> None:
        feeds, self._feeds = self._feeds, {}
        for feed in feeds.values():
            feed.fail(problem)

    def _event_feeds(self) -> list[EventFeed]:
        """Those that can still bring something, but may be abandoned."""
        feeds = self._feeds.values()
        return [feed for feed in feeds if isinstance(feed, EventFeed) and not feed.ended]

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
        look_at = min((feed.look_at for feed in self._event_feeds()), default=float("inf"))
        self._being_read = places
        try:
            found = await self._read(places, min(_LONGEST_READ, max(look_at - loop.time(), 0.001)))
        finally:
            self._being_read = None
        for key, records in found.items():
            if key == self._wake_key:
                if isinstance(records, JournalError):
                    raise records
                self._wake_place = records[-1][0]
                continue
            fed = self._feeds[key]  # it was open when the read began, and only this ends it
            if isinstance(records, JournalError):
                fed.fail(records)
            else:
                fed.take(records)
            if fed.failed:
                del self._feeds[key]

    async def _look_where_due(self, now: float) -> None:
        for feed in self._event_feeds():
            if feed.look_at <= now:
                try:
                    feed.look_at = now + await self._look(feed)
                except RxCohereError as error:
                    feed.fail(error)
                    self._feeds.pop(feed.key, None)
