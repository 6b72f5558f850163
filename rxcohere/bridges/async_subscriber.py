"""A subscriber whose ``on_next`` is a coroutine function."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from reactivex import Observable, abc
from reactivex.observer import Observer

from rxcohere.batches import loop_closed
from rxcohere.bridges.handover import Handover, Overflow, check_observable
from rxcohere.delivery import tell
from rxcohere.errors import ConfigurationError
from rxcohere.pausing import subscribing_through
from rxcohere.runtime import running_loop
from rxcohere.subscription import TaskSubscription, error_to_tell, give_verdict, unowned

T = TypeVar("T")


class AsyncSubscription(abc.DisposableBase):
    """What `subscribe_async` returns; `dispose` may be called from any thread."""

    def __init__(self, handover: Handover[Any], task: TaskSubscription) -> None:
        self._handover = handover
        self._task = task

    @property
    def dropped(self) -> int:
        """How many values there was no room for."""
        return self._handover.dropped

    def dispose(self) -> None:
        """Ends the subscription, and cancels ``on_next`` if it is running and this is not in it."""
        self._handover.close()
        self._task.dispose()


def subscribe_async(
    observable: Observable[T],
    on_next: Callable[[T], Awaitable[object]],
    on_error: Callable[[Exception], None] | None = None,
    on_completed: Callable[[], None] | None = None,
    *,
    max_pending: int = 256,
    overflow: Overflow = "pause",
) -> AsyncSubscription:
    """A subscription whose ``on_next`` is awaited for one value after the other.

    It runs on the loop that calls this, wherever the values come from. What comes while it is at
    work waits in a buffer; `to_async_iterator` says what happens when that is full. ``on_error``
    and ``on_completed`` are plain functions, called once everything before them has been handled.
    If ``on_next`` raises, the subscription is disposed of and ``on_error`` gets the error; without
    one, the loop's exception handler does.

    Disposing cancels an ``on_next`` that is waiting for something; done inside ``on_next``, it lets
    that call come to its end. A loop that ends gives `StreamCancelledError` to ``on_error``.

    Args:
        observable: what to subscribe to.
        on_next: gets the values.
        on_error: gets the error that ended it.
        on_completed: is called at the end.
        max_pending: how many values may wait, 256 by default; see `to_async_iterator`.
        overflow: what happens to more; ``"pause"`` by default.

    Raises:
        ConfigurationError: at the call, for a policy that there is not, ``max_pending`` below 1, an
            asynchronous ``on_error`` or ``on_completed``, or outside a running loop; through
            ``on_error``, if ``"merge"`` meets a value that is no `ChatEvent` and no `JournalEntry`,
            or ``on_next`` gives nothing to await.
        BufferOverflowError: through ``on_error``. It has no ``partial``.
    """
    check_observable(observable)
    if not callable(on_next):
        raise ConfigurationError(f"expected on_next to be an async function, got {on_next!r}")
    for callback in (on_error, on_completed):
        if inspect.iscoroutinefunction(callback):
            raise ConfigurationError(
                "subscribe_async awaits on_next only: on_error and on_completed are plain "
                f"functions, and {getattr(callback, '__name__', callback)} is an async def"
            )
    handover = Handover[T](max_pending, overflow)
    loop = running_loop()
    if loop is None:
        raise ConfigurationError(
            "subscribe_async needs a running event loop for on_next: call it in a coroutine"
        )
    observer = Observer[T](None, on_error, on_completed)
    with subscribing_through(None):  # if somebody makes the caller wait, this is not meant
        task = TaskSubscription(loop)

    async def work() -> None:
        await give_verdict(_bring(handover, on_next, task), handover, observer, task)

    def if_lost() -> None:
        handover.close()
        tell(observer.on_error, loop_closed(handover))

    handover.subscribe_to(observable)
    task.start(work, unowned, if_lost)
    return AsyncSubscription(handover, task)


async def _bring(
    handover: Handover[T],
    on_next: Callable[[T], Awaitable[object]],
    subscription: TaskSubscription,
) -> Exception | None:
    """Awaits ``on_next`` for one value after the other; returns what it raised."""
    while batch := await handover.next_batch():
        for value in batch:
            try:
                awaitable = on_next(value)
                if not inspect.isawaitable(awaitable):  # pyright: ignore[reportUnnecessaryComparison]
                    raise ConfigurationError(
                        f"subscribe_async awaits what on_next returns, and it returned "
                        f"{awaitable!r}: give it an async def, or subscribe with "
                        "observable.subscribe"
                    )
                await awaitable
            except BaseException as problem:
                return error_to_tell(problem, subscription)
            if subscription.disposed:
                return None
            if subscription.task is not None and subscription.task.cancelling():
                raise asyncio.CancelledError  # on_next has swallowed it
    return None
