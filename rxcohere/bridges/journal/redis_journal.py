"""A journal in Redis, for producers and followers in any number of processes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from rxcohere.bridges.journal.entries import JournalPage, Verdict
from rxcohere.bridges.journal.feeds import (
    EVENT,
    VERDICT,
    AbortFeed,
    EventFeed,
    Feeds,
    Record,
    check_number,
)
from rxcohere.bridges.journal.redis import RedisClient, RedisServer
from rxcohere.bridges.journal.scripts import ABORT, APPEND, BEGIN, END, RENEW, Script
from rxcohere.errors import (
    ConfigurationError,
    JournalError,
    StreamAbandonedError,
    StreamExistsError,
    StreamNotFoundError,
)
from rxcohere.events import ChatEvent, parse_event

_ABANDONED: Final = Verdict(
    StreamAbandonedError("the producer of the stream let its lease run out")
).to_json()

_PAGE = 1000
"""How many records one command reads."""

_WAKE_KEPT = 60_000
"""Milliseconds for which a wake-up call lies around: longer than any read blocks."""

_LOOK_LATE = 0.02
"""Seconds after which one looks whether a lease has run out that should have."""


class RedisJournal:
    """A `Journal` in Redis Streams, for as many processes as there are.

    Each stream has three keys, ``<prefix>:{<stream id>}:events``, ``:lease`` and ``:abort``, which
    a cluster keeps together, and which are gone ``keep`` seconds after the stream has ended. A
    process waits for all streams that it follows on one connection, whatever the number of
    followers (in a cluster on one for each stream); what comes is fetched and parsed once for all.

    A connection that breaks is made anew, and what was under way is done again, for ``reconnect``
    seconds; nothing is doubled by it. After that, and where Redis refuses or has lost something,
    `JournalError` says so. A journal works on one event loop, that of its first use.

    Args:
        server: a ``redis://`` URL, or a client, `redis.asyncio.Redis` or ``RedisCluster``, which
            you close yourself, and whose ``socket_timeout`` is more than 2 seconds.
        prefix: what the keys begin with.
        keep: seconds for which a stream that has ended can still be read.
        max_events: how many events a stream may have in the journal, merged as `publish` does. One
            that has more fails: what was dropped would be missed by those who come late.
        reconnect: seconds for which a server that cannot be reached is tried again.

    Raises:
        ConfigurationError: at the call, if an argument is wrong.
    """

    def __init__(
        self,
        server: str | RedisClient,
        *,
        prefix: str = "rxcohere",
        keep: float = 3600.0,
        max_events: int = 100_000,
        reconnect: float = 10.0,
    ) -> None:
        for name, seconds in (("keep", keep), ("reconnect", reconnect)):
            if not (isinstance(seconds, (int, float)) and 0 < seconds < 1e9):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(f"expected {name} to be above 0 seconds, got {seconds!r}")
        if type(max_events) is not int or max_events < 1:
            raise ConfigurationError(f"expected max_events to be 1 or more, got {max_events!r}")
        if not isinstance(prefix, str) or "{" in prefix:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"expected prefix to be text without '{{', got {prefix!r}")
        self._server = RedisServer(server, reconnect)
        self._server.on_break = self._look_at_all
        self._prefix = prefix
        self._keep = _ms(keep)
        self._max_events = max_events
        self._feeds: dict[str, Feeds] = {}

    async def __aenter__(self) -> RedisJournal:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Has all who wait here hear that it is closed, and closes the connections it made."""
        for feeds in list(self._feeds.values()):
            await feeds.aclose()
        await self._server.aclose()

    # The producer's side -------------------------------------------------------------------------

    async def begin(self, stream_id: str, lease: float) -> None:
        """Begins a stream; see `Journal`."""
        token = secrets.token_hex(8)  # so that it knows its own when it has to try again
        if not await self._run(BEGIN, stream_id, token, _ms(lease), self._keep):
            raise StreamExistsError(f"there is a stream {stream_id!r} already")

    async def append(self, stream_id: str, events: Sequence[ChatEvent], at: int) -> None:
        """Adds events; see `Journal`."""
        texts = [event.model_dump_json(exclude_unset=True) for event in events]
        told, count = await self._run(APPEND, stream_id, at, self._keep, self._max_events, *texts)
        _check(stream_id, told)
        if told == "full":
            raise JournalError(
                f"the stream {stream_id!r} has {count} events, and max_events={self._max_events}"
            )
        if told == "gap":
            raise JournalError(f"there are {count} events of {stream_id!r}, expected {at}")

    async def renew(self, stream_id: str, lease: float) -> None:
        """Makes the lease last longer; see `Journal`."""
        _check(stream_id, await self._run(RENEW, stream_id, _ms(lease), self._keep))

    async def close(self, stream_id: str, verdict: Verdict) -> None:
        """Ends the stream; see `Journal`."""
        await self._end(stream_id, verdict.to_json())

    async def abort_requested(self, stream_id: str) -> str:
        """Waits until somebody asks for that; see `Journal`."""
        await self._end(stream_id)
        feeds, key = self._feeds_of(stream_id), self._key(stream_id, "abort")
        feed = feeds.get(key)
        if not isinstance(feed, AbortFeed):
            feed = AbortFeed(key, "0-0")
            await feeds.add(feed)
        while feed.reason is None:
            await feed.changed()
        return feed.reason

    # The readers' side ---------------------------------------------------------------------------

    async def begun(self, stream_id: str) -> None:
        """Waits until there is such a stream; see `Journal`."""
        feeds, key = self._feeds_of(stream_id), self._key(stream_id, "events")
        feed = feeds.get(key)
        if not isinstance(feed, EventFeed):
            feed = EventFeed(stream_id, key, "0-0", 0, begun=False)
            await feeds.add(feed)
        while not feed.begun:
            await feed.changed()

    async def read(self, stream_id: str, at: int = 0) -> JournalPage:
        """What there is now; see `Journal`."""
        events: list[ChatEvent] = []
        while True:
            page = await self._page(stream_id, at + len(events))
            events += page.events
            if page.verdict is not None or len(page.events) < _PAGE:
                break
        if not events and page.verdict is None:
            await self._state(stream_id, at)
        return JournalPage(events, page.verdict)

    async def tail(self, stream_id: str, at: int = 0) -> JournalPage:
        """What comes after so many events; see `Journal`."""
        feeds, key = self._feeds_of(stream_id), self._key(stream_id, "events")
        while True:
            feed = feeds.get(key)
            page = feed.page(at) if isinstance(feed, EventFeed) else None
            if page is None:  # nobody here waits for what comes then
                count, left = await self._state(stream_id, at)
                feed = feeds.get(key)
                if count > at or left is None:
                    page = await self._page(stream_id, at)
                elif not isinstance(feed, EventFeed):
                    feed = EventFeed(stream_id, key, f"{at}-1", at, begun=True)
                    feed.look_at = asyncio.get_running_loop().time() + left
                    await feeds.add(feed)
                elif feed.page(at) is None:
                    await feed.changed()  # it is about to read what others have read already
            elif not page.events and page.verdict is None and isinstance(feed, EventFeed):
                await feed.changed()
            if page is not None and (page.events or page.verdict is not None):
                return page

    async def request_abort(self, stream_id: str, reason: str) -> None:
        """Asks the producer to give the stream up; see `Journal`."""
        _check(stream_id, await self._run(ABORT, stream_id, reason, self._keep))

    # What they share -----------------------------------------------------------------------------

    def _key(self, stream_id: str, part: str) -> str:
        return f"{self._prefix}:{{{stream_id}}}:{part}"

    async def _run(self, script: Script, stream_id: str, *arguments: Any) -> Any:
        keys = [self._key(stream_id, part) for part in ("events", "lease", "abort")]
        return await self._server.evaluate(script, keys, arguments)

    async def _end(self, stream_id: str, verdict: str = "") -> tuple[int, float | None]:
        """Ends it so, or if it is abandoned; its events, and for how many seconds it is leased."""
        told, count, left = await self._run(END, stream_id, verdict, _ABANDONED, self._keep)
        if told == "none":
            raise StreamNotFoundError(f"there is no stream {stream_id!r:.80}")
        return count, None if told == "ended" else left / 1000 + _LOOK_LATE

    async def _state(self, stream_id: str, at: int) -> tuple[int, float | None]:
        """How many events there are, at least so many, and for how many seconds it is leased."""
        count, left = await self._end(stream_id)
        if at > count:
            raise ConfigurationError(f"there are only {count} events, and not {at}")
        return count, left

    async def _page(self, stream_id: str, at: int) -> JournalPage:
        events: list[ChatEvent] = []
        for record_id, kind, text in await self._server.range(
            self._key(stream_id, "events"), f"{at}-2", _PAGE
        ):
            if kind == EVENT:
                check_number(stream_id, record_id, at + len(events) + 1)
                events.append(parse_event(text))
            elif kind == VERDICT:
                check_number(stream_id, record_id, at + len(events))
                return JournalPage(events, Verdict.from_json(text))
        return JournalPage(events)

    def _feeds_of(self, stream_id: str) -> Feeds:
        self._server.check()
        group = stream_id if self._server.is_cluster else ""
        feeds = self._feeds.get(group)
        if feeds is None:
            wake_key = f"{self._prefix}:{{{group}}}:wake:{secrets.token_hex(8)}"

            async def read(places: Mapping[str, str], seconds: float) -> dict[str, list[Record]]:
                return await self._server.read(places, seconds, _PAGE)

            async def wake() -> None:
                await self._server.add(wake_key, _WAKE_KEPT)

            feeds = self._feeds[group] = Feeds(read, wake_key, wake, self._look)
        return feeds

    async def _look(self, feed: EventFeed) -> float:
        """Looks after a stream that followers wait for; gives the seconds until the next time."""
        if not feed.begun:
            return float("inf")
        count, left = await self._end(feed.stream_id)
        if count < feed.count:
            raise JournalError(
                f"the journal has lost events of {feed.stream_id!r}: there were {feed.count}, and "
                f"there are {count}"
            )
        return _LOOK_LATE if left is None else left

    def _look_at_all(self) -> None:
        for feeds in self._feeds.values():
            feeds.look_at_all()


def _check(stream_id: str, told: str) -> None:
    if told == "none":
        raise StreamNotFoundError(f"there is no stream {stream_id!r:.80}")
    if told == "ended":
        raise StreamAbandonedError(f"the stream {stream_id!r} has ended")


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
