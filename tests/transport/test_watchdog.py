"""The clock of one stream."""

from __future__ import annotations

import asyncio
import socket
import time

from subscribers import HANG

from rxcohere.transport.watchdog import Watchdog


async def test_what_came_while_the_loop_was_busy_came_in_time() -> None:
    """A loop that is blocked for longer than the limit finds that there is something to read."""
    loop = asyncio.get_running_loop()
    expired: list[str] = []
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        watchdog = Watchdog(0.05, None, expired.append)

        async def read() -> None:
            watchdog.wait()
            assert await loop.sock_recv(here, 1) == b"x"
            watchdog.reset()

        async with asyncio.timeout(HANG):
            reading = asyncio.create_task(read())
            await asyncio.sleep(0)  # until it waits
            there.send(b"x")
            time.sleep(0.1)  # noqa: ASYNC251 - what keeps the loop busy
            await reading
            await asyncio.sleep(0.1)  # it has looked again, more than once
        watchdog.stop()
    assert expired == []


async def test_silence_after_a_busy_moment_is_noticed() -> None:
    """A second look that finds nothing new is the last one."""
    expired: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    watchdog = Watchdog(0.05, None, expired.set_result)
    watchdog.wait()
    time.sleep(0.1)  # noqa: ASYNC251 - what keeps the loop busy
    async with asyncio.timeout(HANG):
        assert await expired == "idle"
    watchdog.stop()
