"""What a client keeps on one event loop: the aiohttp session, connection slots, live exchanges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from typing import Protocol

import aiohttp


class Cancellable(Protocol):
    """What can be live: `Transport` tells it when the client is closed."""

    def cancel(self, reason: str) -> None:
        """Breaks off; the consumer gets `StreamCancelledError`."""
        ...


class LoopResources:
    """What belongs to one loop: the session, and who may use a connection."""

    def __init__(self, session: aiohttp.ClientSession | None, max_connections: int | None) -> None:
        self.loop = asyncio.get_running_loop()
        # The slots limit the connections, so aiohttp's own limit of 100 must not: waiting for a
        # slot is not a part of connecting, and has no time limit but the total.
        self.session = session or aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
        )
        self.slots = asyncio.Semaphore(max_connections) if max_connections else None
        self.live: dict[Cancellable, asyncio.Semaphore | None] = {}  # and whose slot each has
        self._own = None if session else self.session
        self._guard = _close_with_loop(self._own, self.live)

    async def open(self) -> None:
        """Has the loop know that there is something to close."""
        await anext(self._guard)

    async def close(self) -> None:
        """Ends what is live and closes the connections."""
        # The loop may be finishing the guard off meanwhile: whoever is second has nothing to do.
        await _close(self._own, self.live)
        with suppress(RuntimeError):  # it is at it
            await self._guard.aclose()


async def _close_with_loop(
    session: aiohttp.ClientSession | None, live: Iterable[Cancellable]
) -> AsyncGenerator[None, None]:
    """Ends what is live and closes the session, at the latest when the loop ends.

    A suspended asynchronous generator is what a loop finishes off before it closes, and what it
    finishes off when nobody refers to it any more. So connections are closed in good order even if
    nobody closed the client.
    """
    try:
        yield
    finally:
        await _close(session, live)


async def _close(session: aiohttp.ClientSession | None, live: Iterable[Cancellable]) -> None:
    for exchange in list(live):
        exchange.cancel("the event loop was closed under a live stream")
    if session is not None:
        await session.close()
