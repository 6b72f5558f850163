"""Redis, reached again when a connection breaks, for as long as somebody has patience."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as UnreachableError
from redis.exceptions import TimeoutError as SlowError

from rxcohere.bridges.journal.feeds import Found, Record
from rxcohere.bridges.journal.scripts import Script
from rxcohere.errors import ConfigurationError, JournalError

T = TypeVar("T")

RedisClient: TypeAlias = Redis | RedisCluster
"""What reaches a server, or a cluster of them."""

_MAY_PASS = (
    UnreachableError,
    SlowError,
    OSError,
    # While another server takes over.
    ReadOnlyError,
    MasterDownError,
    ClusterDownError,
    TryAgainError,
    RedisClusterException,
)

_COMMANDS = 8
"""How many commands of either urgency may be under way at once, besides a blocking read."""

_LATE = 5.0
"""Seconds by which an answer may be late before the connection counts as lost."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two attempts, doubled from one to the next."""


class RedisServer:
    """The commands of a journal, each done again until its answer comes.

    So each has to be one that may be done twice.

    Args:
        server: a URL, or a client, which its owner closes.
        reconnect: seconds for which a server that cannot be reached is tried again.

    Attributes:
        on_break: is called when a connection breaks, since what was there may be gone.

    Raises:
        ConfigurationError: it is neither.
    """

    def __init__(self, server: str | RedisClient, reconnect: float) -> None:
        self._owned = isinstance(server, str)
        # Any: its methods are typed as synchronous and asynchronous at once.
        self._client: Any = _client_of(server)
        self._reconnect = reconnect
        self._commands = asyncio.Semaphore(_COMMANDS)
        self._urgent = asyncio.Semaphore(_COMMANDS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._under_way: set[asyncio.Task[Any]] = set()
        self.on_break: Callable[[], None] = lambda: None

    @property
    def is_cluster(self) -> bool:
        """One command can only be about the keys of one slot."""
        return isinstance(self._client, RedisCluster)

    def refuse(self) -> None:
        """Refuses what comes from now on: it is about to be closed."""
        self._closed = True

    async def aclose(self) -> None:
        """Ends what is under way, and closes the connections if they are its own."""
        self.refuse()
        under_way = set(self._under_way)
        for task in under_way:
            task.cancel()
        if self._owned:
            await self._client.aclose()
        if under_way:  # redis may have lost the cancellation
            await asyncio.wait(under_way)
            if self._owned:  # and have connected meanwhile
                await self._client.aclose()

    def check(self) -> None:
        """Sees to it that it can be used here.

        Raises:
            ConfigurationError: it belongs to another event loop.
            JournalError: it is closed.
        """
        loop = asyncio.get_running_loop()
        if self._closed:
            raise JournalError("the journal was closed")
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError(
                "a RedisJournal works on one event loop, that of its first use: make another one"
            )

    async def evaluate(
        self, script: Script, keys: Sequence[str], arguments: Iterable[Any], *, urgent: bool
    ) -> Any:
        """What a script gives, with its bytes as text; an urgent one waits for no other kind."""
        values = [*keys, *arguments]

        async def evaluate() -> Any:
            try:
                return await self._client.evalsha(script.sha, len(keys), *values)
            except NoScriptError:
                return await self._client.eval(script.text, len(keys), *values)

        slots = self._urgent if urgent else self._commands
        return _texts(await self._brief(evaluate, slots))

    async def range(self, key: str, first: str, most: int) -> list[Record]:
        """At most so many records of a key, from an id on."""
        found = await self._brief(
            lambda: self._client.xrange(key, first, "+", count=most), self._commands
        )
        return _records(found)

    async def add(self, key: str, keep: int) -> None:
        """Adds a record that says nothing, in place of others, which goes after so many ms."""

        async def add() -> None:
            await self._client.xadd(key, {"w": ""}, maxlen=1, approximate=False)
            await self._client.pexpire(key, keep)

        await self._brief(add, self._urgent)

    async def read(self, places: Mapping[str, str], seconds: float, most: int) -> Found:
        """At most so many records of each key after a place, or why there can be none.

        If there are none on any of them, it waits for some, so many seconds.
        """

        async def read() -> Any:
            async with asyncio.timeout(seconds + _LATE):
                return await self._client.xread(
                    dict(places), count=most, block=max(1, round(seconds * 1000))
                )

        try:
            found: Any = await self._again_and_again(read)
        except JournalError as error:
            if len(places) == 1 or not isinstance(error.__cause__, ResponseError):
                raise
            return await self._read_each(places, most)
        pairs: Any = found.items() if hasattr(found, "items") else found or ()
        return {_text(key): _records(records) for key, records in pairs if records}

    async def _read_each(self, places: Mapping[str, str], most: int) -> Found:
        # A command about many keys fails for all if one is not what it has to be.
        found: dict[str, Sequence[Record] | JournalError] = {}
        for key, place in places.items():
            try:
                found |= dict(await self.read({key: place}, 0.0, most))
            except JournalError as error:
                found[key] = error
        return found

    async def _brief(self, command: Callable[[], Awaitable[T]], slots: asyncio.Semaphore) -> T:
        async def attempt() -> T:
            async with asyncio.timeout(self._reconnect + _LATE):
                await slots.acquire()
            try:
                async with asyncio.timeout(_LATE):
                    return await command()
            finally:
                slots.release()

        return await self._again_and_again(attempt)

    async def _to_its_end(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        # Who leaves in the middle would spoil a connection, and redis 8.1 loses a cancellation that
        # comes early. So the command goes on, and its answer finds nobody.
        task = asyncio.create_task(attempt())
        self._under_way.add(task)
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if not task.cancelled() or (own is not None and own.cancelling()):
                raise
            raise JournalError("the journal was closed") from None

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # if nobody waits for it any more, nobody has to hear of it

    async def _again_and_again(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._reconnect
        pause = _FIRST_PAUSE
        while True:
            self.check()
            try:
                return await self._to_its_end(attempt)
            except AuthenticationError as error:
                raise JournalError(f"Redis refuses: {error}") from error
            except _MAY_PASS as error:
                if loop.time() + pause > give_up_at:
                    raise JournalError(
                        f"Redis could not be reached for {self._reconnect} s: "
                        f"{error or type(error).__name__}"
                    ) from error
                self.on_break()
            except RedisError as error:
                raise JournalError(f"Redis refuses: {error}") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _client_of(server: object) -> Any:
    if isinstance(server, (Redis, RedisCluster)):
        return server
    if not isinstance(server, str):
        raise ConfigurationError(f"expected a redis:// URL or a client, got {server!r:.80}")
    try:
        client = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            server,
            retry=Retry(NoBackoff(), 0),  # it is done here
            socket_connect_timeout=_LATE,
            socket_timeout=2 * _LATE,
        )
        pool: Any = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # looks at the options in the URL
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"expected a redis:// URL: {error}") from error
    return client


def _records(found: Any) -> list[Record]:
    if found and isinstance(found[0], list):  # as the newer of its two protocols has it
        found = found[0]
    records: list[Record] = []
    for record_id, fields in found:
        kind, text = next(iter(fields.items()))
        records.append((_text(record_id), _text(kind), text))
    return records


def _texts(value: Any) -> Any:
    return list(map(_text, value)) if isinstance(value, list) else _text(value)  # pyright: ignore[reportUnknownArgumentType]


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
