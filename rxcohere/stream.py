"""The cold observables of a client: one subscription, iteration or ``await`` is one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar, cast

import reactivex.operators as ops
from reactivex import Observable, abc
from reactivex.scheduler import NewThreadScheduler
from reactivex.scheduler.eventloop import AsyncIOScheduler

from rxcohere import operators as rxc
from rxcohere.errors import StreamCancelledError
from rxcohere.events import ChatEvent, MessageEnd
from rxcohere.folds import CitedText
from rxcohere.response import ChatResponse, Citation, ToolCall
from rxcohere.runtime import (
    Batches,
    RemoteBatches,
    TaskSubscription,
    refuse_to_block,
    running_loop,
)
from rxcohere.transport import Exchange, Transport

T = TypeVar("T")


class RequestStream(Observable[T], Generic[T]):
    """What comes back on a request that each subscription sends anew.

    Whoever subscribes gets the values serially, on the client's loop. The request is sent in the
    next turn of that loop. Disposing, from any thread, gives the connection up at once. ``async
    for`` and ``for`` pull straight from the connection: a slow consumer slows the server, and
    nothing piles up. ``await`` gives the last value.

    Args:
        transport: what sends the request.
        exchange: makes the exchange of one subscription.
    """

    def __init__(self, transport: Transport, exchange: Callable[[], Exchange[T]]) -> None:
        super().__init__()
        self._transport = transport
        self._exchange = exchange

    def _subscribe_core(
        self, observer: abc.ObserverBase[T], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        here = running_loop()
        if here is not None and isinstance(scheduler, NewThreadScheduler):
            # What `Observable.run` passes. It would wait for events that only this loop can bring.
            refuse_to_block("run()", "await")
        owner = self._transport.binding.acquire()
        # `await` passes a scheduler of the loop it waits on; there the values have to arrive.
        loop = here if here is not None and isinstance(scheduler, AsyncIOScheduler) else owner
        subscription = TaskSubscription(loop)

        async def work() -> None:
            exchange = self._exchange()
            batches: Batches[T] = exchange if loop is owner else RemoteBatches(exchange, owner)
            await _deliver(batches, observer, subscription)

        try:
            subscription.start(work, self._transport.tasks)
        except RuntimeError as error:  # the loop was closed this moment
            failure = StreamCancelledError("the event loop of the client was closed")
            failure.__cause__ = error
            observer.on_error(failure)
        return subscription

    def __aiter__(self) -> AsyncIterator[T]:
        """The values, pulled from the connection as the consumer asks for them."""
        return self._pull()

    async def _pull(self) -> AsyncIterator[T]:
        owner = self._transport.binding.acquire()
        exchange = self._exchange()
        batches: Batches[T] = (
            exchange if owner is running_loop() else RemoteBatches(exchange, owner)
        )
        try:
            while batch := await batches.next_batch():
                for value in batch:
                    yield value
        finally:
            batches.close()

    def __iter__(self) -> Iterator[T]:
        """The values, in a thread without an event loop; each chunk is handed over as a whole.

        Raises:
            BlockingCallError: at once, where an event loop is running.
        """
        refuse_to_block("iterating over a stream", "async for")
        return self._pull_blocking()

    def _pull_blocking(self) -> Iterator[T]:
        batches = RemoteBatches(self._exchange(), self._transport.binding.acquire())
        try:
            while batch := batches.next_batch_blocking():
                yield from batch
        finally:
            batches.close()

    def __contains__(self, value: object) -> bool:
        """Whether a value comes; sends a request, and gives it up when the value has come."""
        values = cast("Iterator[object]", iter(self))
        try:
            return any(value == each for each in values)
        finally:
            with suppress(AttributeError):
                values.close()  # type: ignore[attr-defined]

    def run(self, scheduler: abc.SchedulerBase | None = None) -> T:
        """The last value; blocks until it is there.

        Raises:
            BlockingCallError: at once, where an event loop is running.
        """
        refuse_to_block("run()", "await")
        return super().run(scheduler)


async def _deliver(
    batches: Batches[T], observer: abc.ObserverBase[T], subscription: TaskSubscription
) -> None:
    """Brings the values to the observer, then the verdict, and never lets an error vanish."""
    error: Exception | None = None
    try:
        while batch := await batches.next_batch():
            for value in batch:
                observer.on_next(value)
                if subscription.disposed:
                    return
    except asyncio.CancelledError:
        # Disposed of, or the loop is closing. The subscriber has to hear of the latter.
        batches.close()
        if not subscription.disposed:
            subscription.ended = True
            cancelled = StreamCancelledError("the event loop was closed under a live stream")
            _tell(observer.on_error, cancelled)
        raise
    except Exception as problem:
        error = problem
    finally:
        # Before the verdict, which may make the subscriber ask for the next stream.
        batches.close()
    if subscription.disposed:
        if error is not None:
            _report(error)
        return
    subscription.ended = True
    if error is None:
        _tell(observer.on_completed)
    else:
        _tell(observer.on_error, error)


def _tell(callback: Callable[..., None], *arguments: object) -> None:
    try:
        callback(*arguments)
    except Exception as problem:
        _report(problem)


def _report(problem: Exception) -> None:
    """Hands an error that no subscriber can be told of to the loop's exception handler."""
    asyncio.get_running_loop().call_exception_handler(
        {"message": "a subscriber of a stream raised an error", "exception": problem}
    )


class ChatStream(RequestStream[ChatEvent]):
    """The events of one chat, cold: each subscription, iteration or ``await`` sends a request.

    It ends exactly once: it completes after ``message-end``, or fails with one typed error that
    carries, as ``.partial``, the response as far as it came. To serve several subscribers with one
    request, share it.
    """

    def text(self) -> Observable[str]:
        """The fragments of the answer's text; see `operators.text_deltas`."""
        return self.pipe(rxc.text_deltas())

    def thinking(self) -> Observable[str]:
        """The fragments of the model's thinking; see `operators.thinking_deltas`."""
        return self.pipe(rxc.thinking_deltas())

    def tool_calls(self) -> Observable[ToolCall]:
        """The tool calls, each when complete; see `operators.assemble_tool_calls`."""
        return self.pipe(rxc.assemble_tool_calls())

    def citations(self) -> Observable[Citation]:
        """The citations as they arrive; see `operators.citations`."""
        return self.pipe(rxc.citations())

    def cited_text(self) -> Observable[CitedText]:
        """The answer so far with its citations; see `operators.attach_citations`."""
        return self.pipe(rxc.attach_citations())

    def response(self) -> Observable[ChatResponse]:
        """The response that the non-streaming call would have given, at ``message-end``.

        It comes also with a generation that failed, before the error does.
        """
        return self.pipe(rxc.events_of(MessageEnd)).pipe(ops.map(_response_of))


def _response_of(end: MessageEnd) -> ChatResponse:
    return end.response or ChatResponse()
