"""One subscription: a task that brings values to an observer, and what disposes of it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from reactivex import abc

from rxcohere.delivery import as_error, report, tell
from rxcohere.runtime import Batches, LoopEnd, loop_closed, running_loop

T = TypeVar("T")


class TaskSubscription(abc.DisposableBase):
    """A subscription whose work is one task; `dispose` may be called from any thread.

    Attributes:
        disposed: nothing may be delivered any more.
        ended: the terminal event is on its way, so there is nothing left to cancel.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self.disposed = False
        self.ended = False

    def start(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        keep: set[Any],
        if_lost: Callable[[], None],
    ) -> None:
        """Starts the work on the loop, in the caller's context, no sooner than its next turn.

        Args:
            work: makes the coroutine, once the loop gets to it.
            keep: holds the task while it runs, or the collector might take it.
            if_lost: is called if the loop ends before it gets to the work's first step.
        """
        context = contextvars.copy_context()

        def begin() -> None:
            if self.disposed:
                return
            # Not `create_task`: an eager task factory would send the request before `subscribe`
            # returns, and `switch_map` over three prompts would send three.
            self._task = asyncio.Task(work(), loop=self._loop, context=context)
            keep.add(self._task)
            self._task.add_done_callback(end)

        def end(task: asyncio.Task[None]) -> None:
            keep.discard(task)
            if task.cancelled() and not (self.disposed or self.ended):
                self.ended = True  # cancelled before its first step, so it could tell nobody
                if_lost()

        if running_loop() is self._loop:
            begin()
            return
        begun: Future[None] = LoopEnd.of(self._loop).cancel_at_end(Future())
        begun.add_done_callback(lambda f: if_lost() if f.cancelled() else None)

        def begin_if_awaited() -> None:
            if begun.set_running_or_notify_cancel():
                begin()
                begun.set_result(None)

        try:
            self._loop.call_soon_threadsafe(begin_if_awaited)
        except RuntimeError:  # the loop is closed
            begun.cancel()

    def dispose(self) -> None:
        """Cancels the work: what it holds is given up at once, nothing is delivered any more."""
        if self.disposed:
            return
        self.disposed = True
        if running_loop() is self._loop:
            self._cancel()
        else:
            with suppress(RuntimeError):  # the loop is closed, and the work gone with it
                self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        task = self._task
        # A task that disposes of itself, inside on_next, must not cancel its own clean-up: it
        # looks at `disposed` when on_next returns.
        if task is None or self.ended or asyncio.current_task(self._loop) is task:
            return
        task.cancel()


async def deliver(
    batches: Batches[T], observer: abc.ObserverBase[T], subscription: TaskSubscription
) -> None:
    """Brings the values to the observer, then one verdict; no error of a subscriber vanishes."""
    error: Exception | None = None
    try:
        while batch := await batches.next_batch():
            try:
                for value in batch:
                    observer.on_next(value)
                    if subscription.disposed:
                        return
            except BaseException as problem:
                error = as_error(problem)
                if subscription.disposed:
                    report(error)
                    return
                break
    except asyncio.CancelledError:
        # Disposed of, or the loop is closing. The subscriber has to hear of the latter.
        batches.close()
        if not subscription.disposed:
            subscription.ended = True
            tell(observer.on_error, loop_closed(batches))
        raise
    except Exception as problem:
        error = problem
    finally:
        # Before the verdict, which may make the subscriber ask for the next stream.
        batches.close()
    if subscription.disposed:
        return
    subscription.ended = True
    if error is None:
        tell(observer.on_completed)
    else:
        tell(observer.on_error, error)
