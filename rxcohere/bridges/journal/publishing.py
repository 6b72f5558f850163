"""The producer's side: a stream is written into a journal, whoever reads it there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

from reactivex import Observable, abc
from reactivex.disposable import SingleAssignmentDisposable

from rxcohere.bridges.journal.journal import Journal, check_stream_id
from rxcohere.bridges.journal.verdicts import Verdict
from rxcohere.errors import (
    ConfigurationError,
    JournalError,
    StreamAbandonedError,
    StreamCancelledError,
    StreamError,
    StreamNotFoundError,
)
from rxcohere.events import EVENT_TYPES, ChatEvent
from rxcohere.folds import Compactor, ResponseFold
from rxcohere.options import check_seconds, check_whole
from rxcohere.pausing import subscribing_through
from rxcohere.response import ChatResponse
from rxcohere.runtime import schedule


class _EventBatches(abc.ObserverBase[ChatEvent]):
    """Takes what a stream brings, on whatever thread, and gives it out in batches.

    The first event comes at once; then a batch comes when so many seconds have passed since the one
    before, or so many events have come. What waits is merged as it comes, under a lock, so that
    a journal that cannot be reached for a while costs no more memory than the text has.
    """

    def __init__(self, seconds: float, max_events: int) -> None:
        self._seconds = seconds
        self._max_events = max_events
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._events = Compactor()
        self._count = 0
        self._not_before = 0.0
        self._changed = asyncio.Event()
        self.ended = False
        self.error: Exception | None = None

    def on_next(self, value: ChatEvent) -> None:
        """Takes an event in, unless it has ended: by an abort, that is."""
        if not isinstance(value, EVENT_TYPES):  # pyright: ignore[reportUnnecessaryIsInstance]
            kind = type(value).__name__
            self.on_error(ConfigurationError(f"expected a stream of ChatEvents, and a {kind} came"))
        with self._lock:
            if self.ended:
                return
            self._events.push(value)
            self._count += 1
            count = self._count
        if count in (1, self._max_events):
            schedule(self._changed.set, self._loop)

    def on_error(self, error: Exception) -> None:
        """Ends it with an error, after what came before."""
        with self._lock:
            if not self.ended:
                self.error = error
        self.on_completed()

    def on_completed(self) -> None:
        """Ends it, after what came before."""
        with self._lock:
            self.ended = True
        schedule(self._changed.set, self._loop)

    async def next_batch(self) -> list[ChatEvent]:
        """The next events, merged as far as they can be; an empty list at the end."""
        await self._until(lambda: self._count > 0 or self.ended)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._not_before):
                await self._until(lambda: self._count >= self._max_events or self.ended)
        self._not_before = self._loop.time() + self._seconds
        with self._lock:
            self._count = 0
            return self._events.drain()

    def rest(self) -> list[ChatEvent]:
        """What has come and was not asked for."""
        with self._lock:
            return self._events.drain()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()  # it is set on this loop, after what it tells of
            await self._changed.wait()


class _Publication:
    """A stream on its way into a journal."""

    def __init__(
        self, journal: Journal, stream_id: str, lease: float, batches: _EventBatches
    ) -> None:
        self._journal = journal
        self._stream_id = stream_id
        self._lease = lease
        self._batches = batches
        self._fold = ResponseFold()
        self._written = 0

    async def write(self, stream: Observable[ChatEvent]) -> Verdict:
        """Writes all of it, and how it ended."""
        await self._journal.begin(self._stream_id, self._lease)
        closing: asyncio.Task[Verdict] | None = None
        guards = [asyncio.create_task(self._keep_lease()), asyncio.create_task(self._obey())]
        subscription = SingleAssignmentDisposable()
        try:
            with subscribing_through(None):  # whoever may wait for the caller does not read this
                subscription.disposable = stream.subscribe(self._batches)
            await self._append_all()
            # Once begun, it is seen through: who cancels now comes too late, and readers would wait
            # for the lease to run out.
            closing = asyncio.create_task(self._close(self._batches.error))
            return await asyncio.shield(closing)
        except asyncio.CancelledError:
            if closing is None:
                cancelled = "the publication of the stream was cancelled"
                await self._give_up(StreamCancelledError(cancelled))
            else:
                await asyncio.wait([closing], timeout=self._lease)
            raise
        except StreamNotFoundError as error:
            lost = JournalError(f"the journal has lost the stream {self._stream_id!r}")
            lost.partial = self._received()
            raise lost from error
        except Exception as error:  # the journal's, which may still take a verdict
            await self._give_up(error)
            if isinstance(error, StreamAbandonedError):  # the journal has said so itself
                return self._verdict(error)
            raise
        finally:
            subscription.dispose()
            for guard in guards:
                guard.cancel()
            await asyncio.gather(*guards, return_exceptions=True)

    async def _append_all(self) -> None:
        while batch := await self._batches.next_batch():
            for event in batch:
                self._fold.add(event)
            await self._journal.append(self._stream_id, batch, self._written)
            self._written += len(batch)

    async def _close(self, error: Exception | None) -> Verdict:
        return await self._journal.close(self._stream_id, self._verdict(error))

    async def _give_up(self, error: Exception) -> None:
        with suppress(Exception):  # if it cannot be told, the lease will run out
            async with asyncio.timeout(self._lease):
                await self._close(error)

    def _received(self) -> ChatResponse | None:
        for event in self._batches.rest():
            self._fold.add(event)
        return self._fold.response()

    def _verdict(self, error: Exception | None) -> Verdict:
        if isinstance(error, StreamError) and error.partial is None:
            error.partial = self._received()
        return Verdict.of(error)

    async def _keep_lease(self) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._lease
        while True:
            await asyncio.sleep(self._lease / 3)
            now = loop.time()
            try:
                await self._journal.renew(self._stream_id, self._lease)
            except Exception as error:
                # A journal that cannot be reached now may be in time.
                if isinstance(error, StreamAbandonedError) or loop.time() >= ends_at:
                    self._batches.on_error(error)
                    return
            else:
                ends_at = now + self._lease

    async def _obey(self) -> None:
        try:
            reason = await self._journal.abort_requested(self._stream_id)
        except Exception as error:
            self._batches.on_error(error)
        else:
            self._batches.on_error(StreamCancelledError(reason))


async def publish(
    journal: Journal,
    stream_id: str,
    stream: Observable[ChatEvent],
    *,
    lease: float = 15.0,
    batch_seconds: float = 0.05,
    batch_events: int = 256,
) -> Verdict:
    """How the stream ended in the journal, once all of it is there.

    Subscribes to the stream, which sends its request, and writes what comes: the first event at
    once, then what has come in ``batch_seconds``, merged. It depends on no reader, and goes on when
    none is there; run it in a task of its own. `abort` ends it, from any process, and so does
    cancelling it. If this process dies, readers get `StreamAbandonedError` when the lease has run
    out.

    A stream that fails does not raise here: the verdict says so, to you and to its readers, and
    nothing is logged. What raises is what keeps it from being written.

    Args:
        journal: where to write.
        stream_id: what readers ask for: 1 to 200 of the characters ``A-Za-z0-9_.:-``. Whoever can
            guess it can read the stream; `new_stream_id` gives one that nobody can.
        stream: what to write.
        lease: seconds after which a producer that does not stir counts as dead.
        batch_seconds: the time between two batches.
        batch_events: how many events make a batch before that.

    Raises:
        ConfigurationError: an argument is wrong.
        StreamExistsError: there is a stream of that id.
        JournalError: the journal cannot be reached, or refuses; the request is given up then, and
            ``partial`` is what had been received.
    """
    check_stream_id(stream_id)
    check_seconds("lease", lease, most=threading.TIMEOUT_MAX)
    check_seconds("batch_seconds", batch_seconds, most=threading.TIMEOUT_MAX)
    check_whole("batch_events", batch_events, 1)
    if not isinstance(stream, Observable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"expected an Observable of ChatEvents, got {stream!r:.80}")
    batches = _EventBatches(batch_seconds, batch_events)
    return await _Publication(journal, stream_id, lease, batches).write(stream)


async def abort(journal: Journal, stream_id: str, reason: str = "the stream was aborted") -> None:
    """Has the producer, in whatever process, give its request up.

    Its readers then get `StreamCancelledError` with the reason. A stream that has ended stays as it
    is.

    Raises:
        ConfigurationError: the id is not valid, or the reason is no text.
        StreamNotFoundError: there is no such stream.
        JournalError: the journal cannot be reached.
    """
    if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"expected the reason to be text, got {reason!r:.80}")
    reason = reason.encode("utf-8", "replace").decode()  # halves of surrogate pairs do not travel
    await journal.request_abort(check_stream_id(stream_id), reason)
