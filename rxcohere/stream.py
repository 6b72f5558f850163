"""The cold observables of a client: one subscription, iteration or ``await`` is one request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing
from typing import Generic, TypeVar

import reactivex as rx
from reactivex import Observable, abc

from rxcohere.batches import Batches, RemoteBatches, values_of
from rxcohere.delivery import loop_asked_for, tell
from rxcohere.errors import StreamCancelledError
from rxcohere.events import ChatEvent, MessageEnd
from rxcohere.folds import (
    CitationFold,
    CitedText,
    Fold,
    LiveCitedTextFold,
    TextDeltaFold,
    ThinkingDeltaFold,
    ToolCallFold,
)
from rxcohere.operators import share_response
from rxcohere.response import ChatResponse, Citation, ToolCall
from rxcohere.runtime import refuse_to_block, running_loop
from rxcohere.subscription import TaskSubscription, deliver
from rxcohere.transport import Transport

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


class RequestStream(Observable[T], Generic[T]):
    """What comes back on a request that each subscription sends anew.

    Whoever subscribes gets the values serially, on the client's loop. The request is sent in the
    next turn of that loop. Disposing, from any thread, gives the connection up at once. ``async
    for`` and ``for`` pull straight from the connection: a slow consumer slows the server, and
    nothing piles up. ``await`` gives the last value.

    The scheduler of a subscription, which ``await`` and ``run`` set, tells where the values have to
    go. An `AsyncIOScheduler`, inside a running loop, brings them to that loop. A
    `NewThreadScheduler` inside a running loop is refused with `BlockingCallError`: it is what
    ``run`` passes, which would stop the loop for ever.

    Args:
        transport: what sends the request.
        open_batches: makes what one subscription gets its values from, on the client's loop.
    """

    def __init__(self, transport: Transport, open_batches: Callable[[], Batches[T]]) -> None:
        def subscribe(
            observer: abc.ObserverBase[T], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            return _subscribe(transport, open_batches, observer, scheduler)

        super().__init__(subscribe)
        self._transport = transport
        self._open_batches = open_batches

    def __aiter__(self) -> AsyncGenerator[T, None]:
        """The values, pulled from the connection as the consumer asks for them."""
        return values_of(self._open_here)

    def _open_here(self) -> Batches[T]:
        owner = self._transport.acquire_loop()
        batches = self._open_batches()
        return batches if owner is running_loop() else RemoteBatches(batches, owner)

    def __iter__(self) -> Generator[T, None, None]:
        """The values, in a thread without an event loop; they are handed over some at a time.

        Raises:
            BlockingCallError: at once, where an event loop is running.
        """
        refuse_to_block("iterating over a stream", "async for")
        return self._pull_blocking()

    def _pull_blocking(self) -> Generator[T, None, None]:
        owner = self._transport.acquire_loop()
        batches = RemoteBatches(self._open_batches(), owner)
        try:
            while batch := batches.next_batch_blocking():
                yield from batch
        finally:
            batches.close()

    def __contains__(self, value: object) -> bool:
        """Whether a value comes; sends a request, and gives it up when the value has come."""
        with closing(iter(self)) as values:
            return any(value == each for each in values)

    def run(self, scheduler: abc.SchedulerBase | None = None) -> T:
        """The last value; blocks until it is there.

        Raises:
            BlockingCallError: at once, where an event loop is running.
        """
        refuse_to_block("run()", "await")
        last: list[T] = []
        for value in self._pull_blocking():  # which gives the request up when it is interrupted
            last[:] = [value]
        return last[0] if last else rx.empty().run()  # which raises what an empty source does


def _subscribe(
    transport: Transport,
    open_batches: Callable[[], Batches[T]],
    observer: abc.ObserverBase[T],
    scheduler: abc.SchedulerBase | None,
) -> abc.DisposableBase:
    asked_for = loop_asked_for(scheduler)
    owner = transport.acquire_loop()
    loop = asked_for or owner
    subscription = TaskSubscription(loop)

    async def work() -> None:
        batches = open_batches()
        if loop is not owner:
            batches = RemoteBatches(batches, owner)
        await deliver(batches, observer, subscription)

    def if_lost() -> None:
        if not subscription.disposed:
            error = StreamCancelledError("the event loop of the client was closed")
            tell(observer.on_error, error)

    subscription.start(work, transport.at_work, if_lost)
    return subscription


class FoldedBatches(Generic[A, B]):
    """What a fold makes of batches, without a detour over an observable.

    Args:
        source: the batches of events.
        fold: a new one.
    """

    def __init__(self, source: Batches[A], fold: Fold[A, B]) -> None:
        self._source = source
        self._fold = fold
        self._finished = False
        self.close = source.close
        self.partial = source.partial

    async def next_batch(self) -> list[B]:
        """The next values; an empty list when there are no more."""
        push = self._fold.push
        while not self._finished:
            batch = await self._source.next_batch()
            if batch:
                values = [value for event in batch for value in push(event)]
            else:
                self._finished = True
                values = list(self._fold.finish())
            if values:
                return values
        return []


class _ResponseAtEnd:
    """The response that ``message-end`` carries."""

    def push(self, event: ChatEvent) -> tuple[ChatResponse, ...]:
        if type(event) is not MessageEnd:
            return ()
        assert event.response is not None  # the transport never leaves it out
        return (event.response,)

    def finish(self) -> tuple[ChatResponse, ...]:
        return ()


class ChatStream(RequestStream[ChatEvent]):
    """The events of one chat, cold: each subscription, iteration or ``await`` sends a request.

    It ends exactly once: it completes after ``message-end``, or fails with one typed error that
    carries, as ``.partial``, the response as far as it came.

    The shortcuts, but for `share_response`, are streams of the same kind: to subscribe to, to
    iterate over or to ``await``.
    """

    def text(self) -> RequestStream[str]:
        """The fragments of the answer's text; see `operators.text_deltas`."""
        return self._folded(TextDeltaFold)

    def thinking(self) -> RequestStream[str]:
        """The fragments of the model's thinking; see `operators.thinking_deltas`."""
        return self._folded(ThinkingDeltaFold)

    def tool_calls(self) -> RequestStream[ToolCall]:
        """The tool calls, each when complete; see `operators.assemble_tool_calls`."""
        return self._folded(ToolCallFold)

    def citations(self) -> RequestStream[Citation]:
        """The citations as they arrive; see `operators.citations`."""
        return self._folded(CitationFold)

    def cited_text(self) -> RequestStream[CitedText]:
        """The answer so far with its citations; see `operators.attach_citations`."""
        return self._folded(LiveCitedTextFold)

    def response(self) -> RequestStream[ChatResponse]:
        """The response that the non-streaming call would have given, at ``message-end``.

        It comes also with a generation that failed, before the error does.
        """
        return self._folded(_ResponseAtEnd)

    def share_response(
        self, linger: float = 0.0, *, scheduler: abc.SchedulerBase | None = None
    ) -> Observable[ChatEvent]:
        """The same events for any number of subscribers, from one request.

        See `operators.share_response`.

        Args:
            linger: seconds for which the request goes on without a subscriber; ``math.inf`` lets it
                run to its end.
            scheduler: for ``linger``.

        Raises:
            ConfigurationError: at the call, if ``linger`` is negative or no number.
        """
        return self.pipe(share_response(linger, scheduler=scheduler))

    def _folded(self, make_fold: Callable[[], Fold[ChatEvent, B]]) -> RequestStream[B]:
        open_batches = self._open_batches
        return RequestStream(self._transport, lambda: FoldedBatches(open_batches(), make_fold()))
