"""One subscription: a task that brings values to an observer, and what disposes of it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from reactivex import abc

from rxcohere.batches import Batches, loop_closed
from rxcohere.delivery import as_error, report, tell
from rxcohere.pausing import current_gate, subscribing_through
from rxcohere.runtime import LoopEnd, Work, running_loop, schedule

T = TypeVar("T")


unowned: set[Work] = set()
"""Holds the work of subscriptions that belong to no client, or the collector might take it."""


class TaskSubscription(abc.DisposableBase):
    """A subscription whose work is one task. It may be disposed of, and paused, from any thread.

    Attributes:
        gate: where it waits for its consumer, if the consumer wants it to.
        halted: it is disposed of or paused, so no value may be delivered now.
        task: does the work.
        disposed: nothing may be delivered any more.
        ended: the terminal event is on its way, so there is nothing left to cancel.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.task: asyncio.Task[None] | None = None
        self._resumed: asyncio.Event | None = None
        self._paused = False
        self.gate = current_gate()
        self.halted = False
        self.disposed = False
        self.ended = False

    def start(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        keep: set[Work],
        if_lost: Callable[[], None],
    ) -> None:
        """Starts the work on the loop, in the caller's context, no sooner than its next turn.

        Args:
            work: makes the coroutine, once the loop gets to it.
            keep: holds this while it runs, or the collector might take it.
            if_lost: is called if the loop ends before it gets to the work's first step.
        """
        with subscribing_through(None):  # what on_next subscribes to has another consumer
            context = contextvars.copy_context()
        if self.gate is not None:
            self.gate.enter(self)

        def begin() -> None:
            if self.disposed:
                return
            # Not `create_task`: an eager task factory would send the request before `subscribe`
            # returns, and `switch_map` over three prompts would send three.
            self.task = asyncio.Task(work(), loop=self._loop, context=context)
            keep.add(self)
            self.task.add_done_callback(end)

        def end(task: asyncio.Task[None]) -> None:
            keep.discard(self)
            self._leave_gate()
            if not task.cancelled():
                task.exception()  # if any, an interruption, which has left the loop by itself
            elif not (self.disposed or self.ended):
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
        self.halted = True  # in this order: `resume` relies on it
        self._leave_gate()
        if running_loop() is self._loop:
            self._cancel()
        else:
            with suppress(RuntimeError):  # the loop is closed, and the work gone with it
                self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        task = self.task
        # A task that disposes of itself, inside on_next, must not cancel its own clean-up: it
        # looks at `disposed` when on_next returns.
        if task is None or self.ended or asyncio.current_task(self._loop) is task:
            return
        task.cancel()

    def pause(self) -> None:
        """Has the work wait before it brings the next value. For the gate, as is `resume`."""
        self._paused = self.halted = True

    def resume(self) -> None:
        """Has the work go on."""
        self._paused = False
        self.halted = False
        if self.disposed:  # by another thread, between these lines
            self.halted = True
        if running_loop() is self._loop:
            self._wake()
        else:
            schedule(self._wake, self._loop)

    def release(self) -> None:
        """Has the work go on, and wait for nobody any more. Any thread may call it."""
        if self.gate is not None:
            self.gate.give_up(self)

    async def resumed(self) -> None:
        """Waits until it is not paused. Only the work itself may do so."""
        # Work that disposes of itself, inside on_next, is not cancelled, and nobody resumes it.
        while self._paused and not self.disposed:
            self._resumed = asyncio.Event()
            if self._paused:  # still, now that whoever resumes it can see the event
                await self._resumed.wait()
            self._resumed = None

    def _wake(self) -> None:
        if self._resumed is not None:
            self._resumed.set()

    def _leave_gate(self) -> None:
        if self.gate is not None:
            self.gate.leave(self)


async def deliver(
    batches: Batches[T], observer: abc.ObserverBase[T], subscription: TaskSubscription
) -> None:
    """Brings the values to the observer, then one verdict; no error of a subscriber vanishes."""
    await give_verdict(_bring(batches, observer, subscription), batches, observer, subscription)


async def give_verdict(
    bringing: Awaitable[Exception | None],
    batches: Batches[Any],
    observer: abc.ObserverBase[Any],
    subscription: TaskSubscription,
) -> None:
    """Gives the observer one verdict, after the values.

    Args:
        bringing: brings the values. It returns what the observer raised, if it did and has not been
            disposed of, and raises what the batches did.
        batches: what the values come from; given up before the verdict.
        observer: who is told.
        subscription: whose task this is.
    """
    error: Exception | None = None
    try:
        error = await bringing
    except Exception as problem:
        error = problem
    except BaseException:
        # Disposed of, or the loop is ending. The subscriber has to hear of the latter.
        batches.close()
        if not subscription.disposed:
            subscription.ended = True
            tell(observer.on_error, loop_closed(batches))
        raise
    finally:
        # Before the verdict, which may make the subscriber ask for the next stream.
        batches.close()
    if subscription.disposed:
        return
    subscription.ended = True
    with subscribing_through(subscription.gate):  # the next stream has the same consumer
        if error is None:
            tell(observer.on_completed)
        else:
            tell(observer.on_error, error)


async def _bring(
    batches: Batches[T], observer: abc.ObserverBase[T], subscription: TaskSubscription
) -> Exception | None:
    """Brings the values, waiting where the subscription is paused; returns what on_next raised."""
    await subscription.resumed()
    while batch := await batches.next_batch():
        if subscription.halted:  # since it began to wait for the batch
            await subscription.resumed()
            if subscription.disposed:
                return None
        for value in batch:
            try:
                observer.on_next(value)
            except BaseException as problem:
                return error_to_tell(problem, subscription)
            if subscription.halted:
                await subscription.resumed()
                if subscription.disposed:
                    return None
    return None


def error_to_tell(problem: BaseException, subscription: TaskSubscription) -> Exception | None:
    """What the observer has to be told of its own ``on_next``; reported if it cannot be told."""
    error = as_error(problem)
    if not subscription.disposed:
        return error
    report(error)
    return None
