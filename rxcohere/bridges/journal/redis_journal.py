"""A journal in Redis, for producers and followers in any number of processes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from rxcohere.bridges.journal.entries import JournalPage
from rxcohere.bridges.journal.feed_reader import FeedReader
from rxcohere.bridges.journal.feeds import (
    AbortFeed,
    EventFeed,
    Found,
    page_of,
)
from rxcohere.bridges.journal.redis import RedisClient, RedisServer
from rxcohere.bridges.journal.scripts import ABORT, APPEND, BEGIN, RENEW, SETTLE, Script
from rxcohere.bridges.journal.shared_work import SharedWork
from rxcohere.bridges.journal.verdicts import Verdict
from rxcohere.errors import (
    ConfigurationError,
    JournalError,
    StreamAbandonedError,
    StreamExistsError,
    StreamNotFoundError,
)
from rxcohere.events import ChatEvent
from rxcohere.options import check_seconds, check_whole

_ABANDONED: Final = Verdict.of_abandoned().to_json()

_PAGE = 1000
"""How many records one command reads."""

_LONGEST = 1e9
"""Seconds; Redis counts milliseconds, which have to fit into its integers."""

_WAKE_KEPT = 60_000
"""Milliseconds for which a wake-up call lies around: longer than any read blocks."""

_LOOK_LATE = 0.02
"""Seconds after which one looks whether a lease has run out that should have."""


@dataclass(frozen=True, slots=True)
class _State:
    """How it stands with a stream.

    Attributes:
        count: how many events there are.
        leased: for how many seconds more its producer need not stir; None if it has ended.
        verdict: how it ended, in JSON.
        token: tells it from others that had its id before, until it has ended.
    """

    count: int
    leased: float | None
    verdict: str
    token: str


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
        check_seconds("keep", keep, most=_LONGEST)
        check_seconds("reconnect", reconnect, most=_LONGEST)
        check_whole("max_events", max_events, 1)
        if not isinstance(prefix, str) or "{" in prefix:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"expected prefix to be text without '{{', got {prefix!r}")
        self._server = RedisServer(server, reconnect)
        self._server.on_break = self._look_at_all
        self._prefix = prefix
        self._keep = _ms(keep)
        self._max_events = max_events
        self._readers: dict[str, FeedReader] = {}
        self._reads = SharedWork[tuple[str, int], JournalPage]()

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
        self._server.refuse()
        for reader in self._readers.values():
            await reader.aclose()
        await self._server.aclose()

    # The producer's side -------------------------------------------------------------------------

    async def begin(self, stream_id: str, lease: float) -> None:
        """Begins a stream; see `Journal`."""
        for reader in self._readers.values():  # which may know of one with the same id before it
            reader.forget(self._key(stream_id, "events"))
            reader.forget(self._key(stream_id, "abort"))
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

    async def close(self, stream_id: str, verdict: Verdict) -> Verdict:
        """Ends the stream; see `Journal`."""
        return Verdict.from_json((await self._settle(stream_id, verdict.to_json())).verdict)

    async def abort_requested(self, stream_id: str) -> str:
        """Waits until somebody asks for that; see `Journal`."""
        await self._settle(stream_id)
        reader, key = self._reader_of(stream_id), self._key(stream_id, "abort")
        feed = reader.get(key)
        if not isinstance(feed, AbortFeed):
            feed = AbortFeed(key, "0-0")
            await reader.add(feed)
        while feed.reason is None:
            await feed.changed()
        return feed.reason

    # The readers' side ---------------------------------------------------------------------------

    async def begun(self, stream_id: str) -> None:
        """Waits until there is such a stream; see `Journal`."""
        reader, key = self._reader_of(stream_id), self._key(stream_id, "events")
        feed = reader.get(key)
        if not isinstance(feed, EventFeed) or feed.ended:
            feed = EventFeed(stream_id, key, "0-0", 0, None)
            await reader.add(feed)
        while not feed.has_begun:
            await feed.changed()

    async def read(self, stream_id: str, at: int = 0) -> JournalPage:
        """What there is now; see `Journal`."""
        return await self._reads.get((stream_id, at), lambda: self._read(stream_id, at))

    async def _read(self, stream_id: str, at: int) -> JournalPage:
        # Who begins to read must not go on with what a stream had that is gone.
        self._reader_of(stream_id).forget(self._key(stream_id, "events"))
        events: list[ChatEvent] = []
        while True:
            page = await self._page(stream_id, at + len(events))
            events += page.events
            if page.verdict is not None or len(page.events) < _PAGE:
                break
        page = JournalPage(events, page.verdict)
        if page.is_empty:
            await self._state(stream_id, at)
        return page

    async def tail(self, stream_id: str, at: int = 0) -> JournalPage:
        """What comes after so many events; see `Journal`."""
        reader, key = self._reader_of(stream_id), self._key(stream_id, "events")
        while True:
            feed, page = reader.get(key), None
            if not isinstance(feed, EventFeed) or feed.token is None or feed.count < at:
                state = await self._state(stream_id, at)
                if state.count > at or state.leased is None:
                    page = await self._page(stream_id, at)
                else:
                    feed = await self._feed_of(stream_id, at, state)
                    page = await feed.next_page(at)
            else:
                page = await feed.next_page(at)
                if page is None:  # it is long ago
                    page = await self._page(stream_id, at)
            if page is not None and not page.is_empty:
                return page

    async def _feed_of(self, stream_id: str, at: int, state: _State) -> EventFeed:
        """What brings the events after those that there are."""
        reader, key = self._reader_of(stream_id), self._key(stream_id, "events")
        feed = reader.get(key)  # which may be about to read what somebody has read by himself
        if not isinstance(feed, EventFeed) or feed.ended:
            feed = EventFeed(stream_id, key, f"{at}-1", at, state.token)
            feed.look_at = asyncio.get_running_loop().time() + (state.leased or 0.0)
            await reader.add(feed)
        return feed

    async def request_abort(self, stream_id: str, reason: str) -> None:
        """Asks the producer to give the stream up; see `Journal`."""
        _check(stream_id, await self._run(ABORT, stream_id, reason, self._keep))

    # What they share -----------------------------------------------------------------------------

    def _key(self, stream_id: str, part: str) -> str:
        return f"{self._prefix}:{{{stream_id}}}:{part}"

    async def _run(
        self, script: Script, stream_id: str, *arguments: Any, urgent: bool = True
    ) -> Any:
        # A thousand readers who come at once must not cost a producer its lease.
        keys = [self._key(stream_id, part) for part in ("events", "lease", "abort")]
        return await self._server.evaluate(script, keys, arguments, urgent=urgent)

    async def _settle(self, stream_id: str, verdict: str = "") -> _State:
        """Ends it so, or if it is abandoned."""
        told, count, left, settled, token = await self._run(
            SETTLE, stream_id, verdict, _ABANDONED, self._keep, urgent=verdict != ""
        )
        _check(stream_id, told, may_have_ended=True)
        leased = None if told == "ended" else left / 1000 + _LOOK_LATE
        return _State(count, leased, settled, token)

    async def _state(self, stream_id: str, at: int) -> _State:
        """How it stands with a stream that has so many events at least."""
        state = await self._settle(stream_id)
        if at > state.count:
            raise ConfigurationError(f"there are only {state.count} events, and not {at}")
        return state

    async def _page(self, stream_id: str, at: int) -> JournalPage:
        key = self._key(stream_id, "events")
        return page_of(stream_id, at, await self._server.range(key, f"{at}-2", _PAGE))

    def _reader_of(self, stream_id: str) -> FeedReader:
        self._server.check()
        group = stream_id if self._server.is_cluster else ""
        reader = self._readers.get(group)
        if reader is None:
            for other, idle in list(self._readers.items()):
                if idle.at_rest:
                    del self._readers[other]
            wake_key = f"{self._prefix}:{{{group}}}:wake:{secrets.token_hex(8)}"

            async def read(places: Mapping[str, str], seconds: float) -> Found:
                return await self._server.read(places, seconds, _PAGE)

            async def wake() -> None:
                await self._server.add(wake_key, _WAKE_KEPT)

            reader = self._readers[group] = FeedReader(read, wake_key, wake, self._look)
        return reader

    async def _look(self, feed: EventFeed) -> float:
        """Looks after a stream that followers wait for; gives the seconds until the next time."""
        if feed.token is None:
            return float("inf")
        state = await self._settle(feed.stream_id)
        another = state.leased is not None and state.token != feed.token
        if another or state.count < feed.count:
            raise JournalError(
                f"the journal has lost events of {feed.stream_id!r}: there were {feed.count}, and "
                f"there are {state.count} now, or it is another stream"
            )
        return _LOOK_LATE if state.leased is None else state.leased

    def _look_at_all(self) -> None:
        for reader in self._readers.values():
            reader.look_at_all()


def _check(stream_id: str, told: str, *, may_have_ended: bool = False) -> None:
    if told == "none":
        raise StreamNotFoundError(f"there is no stream {stream_id!r:.80}")
    if told == "ended" and not may_have_ended:
        raise StreamAbandonedError(f"the stream {stream_id!r} has ended")


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
