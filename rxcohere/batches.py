"""Values that come in batches, for whoever asks: on their own loop, on another, or in a thread.

Whoever is elsewhere gets one batch at a time handed over, so a slow consumer slows the socket there
too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

from rxcohere.errors import StreamCancelledError
from rxcohere.response import ChatResponse
from rxcohere.runtime import refuse_to_block, schedule, submit

T = TypeVar("T")


class Batches(Protocol[T]):
    """Values that come in batches, on the loop that owns them."""

    async def next_batch(self) -> list[T]:
        """The next values; an empty list when there are no more."""
        ...

    def close(self) -> None:
        """Gives up at once what they come from. May be called twice."""
        ...

    def partial(self) -> ChatResponse | None:
        """The response that they come from, as far as it came."""
        ...


async def values_of(open_batches: Callable[[], Batches[T]]) -> AsyncGenerator[T, None]:
    """The values one by one. Their batches are opened with the first and closed with the last."""
    batches = open_batches()
    try:
        while batch := await batches.next_batch():
            for value in batch:
                yield value
    finally:
        batches.close()


class RemoteBatches(Generic[T]):
    """The batches of another loop, one at a time, for this loop or for a thread without one."""

    def __init__(self, source: Batches[T], loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._loop = loop

    async def next_batch(self) -> list[T]:
        """The next values, for a consumer on another loop."""
        try:
            return await asyncio.wrap_future(self._request())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise loop_closed(self) from None

    def next_batch_blocking(self) -> list[T]:
        """The next values, for a consumer in a thread without a loop."""
        refuse_to_block("iterating over a stream", "async for")
        future = self._request()
        try:
            while True:
                try:
                    return future.result(1)
                except TimeoutError:
                    if future.done():  # in the meantime, or it is what the batches raised
                        return future.result()
                    if self._loop.is_closed():  # by somebody who did not let it finish things off
                        future.cancel()
        except FutureCancelledError:
            raise loop_closed(self) from None
        finally:
            future.cancel()  # after a KeyboardInterrupt nobody waits any more

    def close(self) -> None:
        """Has the other loop give them up."""
        schedule(self._source.close, self._loop)

    def _request(self) -> Future[list[T]]:
        return submit(self._source.next_batch, self._loop)

    def partial(self) -> ChatResponse | None:
        """The response that they come from, as far as it came."""
        return self._source.partial()


def loop_closed(batches: Batches[T]) -> StreamCancelledError:
    """What the consumer of batches hears when their loop ends before they do."""
    error = StreamCancelledError("the event loop was closed under a live stream")
    error.partial = batches.partial()
    return error
