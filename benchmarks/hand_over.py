"""The ways from a source that cannot wait into asynchronous code: ours, and what is beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from hot_source import HotSource

from rxcohere import ChatEvent
from rxcohere.bridges import Overflow, subscribe_async, to_async_iterator

Take: TypeAlias = Callable[[], Awaitable[object] | None]
"""Is called for a value; what it gives, if anything, is awaited before the next one."""
Way: TypeAlias = Callable[[HotSource, Take], Awaitable[None]]
"""Subscribes to the source, and takes each value where its user would have it, to the end."""


async def without(source: HotSource, take: Take) -> None:
    """None at all: takes values as they come, and awaits nothing."""

    def on_next(_: ChatEvent) -> None:
        take()

    await _completion(partial(source.observable.subscribe, on_next))


async def through_queue(source: HotSource, take: Take) -> None:
    """The stock way; awaits nothing either."""
    queue: asyncio.Queue[ChatEvent | None] = asyncio.Queue()
    source.observable.subscribe(queue.put_nowait, None, lambda: queue.put_nowait(None))
    while await queue.get() is not None:
        take()


def iterating(overflow: Overflow, **room: Any) -> Way:
    """By `to_async_iterator`, with its own ``max_pending`` or this one."""

    async def iterate(source: HotSource, take: Take) -> None:
        async for _ in to_async_iterator(source.observable, overflow=overflow, **room):
            if (pause := take()) is not None:
                await pause

    return iterate


def subscribing(overflow: Overflow, **room: Any) -> Way:
    """By `subscribe_async`, with its own ``max_pending`` or this one."""

    async def subscribe(source: HotSource, take: Take) -> None:
        async def on_next(_: ChatEvent) -> None:
            if (pause := take()) is not None:
                await pause

        await _completion(
            partial(subscribe_async, source.observable, on_next, overflow=overflow, **room)
        )

    return subscribe


async def _completion(subscribe: Callable[..., object]) -> None:
    """Subscribes with ``on_error`` and ``on_completed``, and waits for one of them."""
    done = asyncio.get_running_loop().create_future()
    subscribe(done.set_exception, lambda: done.set_result(None))
    await done
