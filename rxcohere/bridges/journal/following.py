"""The reader's side: a stream of a journal as an observable, from any entry on."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from typing import NoReturn

from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.disposable import Disposable

from rxcohere.batches import loop_closed, values_of
from rxcohere.bridges.journal.entries import EntryCompactor, JournalEntry, JournalPage
from rxcohere.bridges.journal.journal import Journal, check_stream_id
from rxcohere.bridges.journal.verdicts import Verdict
from rxcohere.delivery import tell
from rxcohere.errors import ConfigurationError, JournalError, StreamError, StreamNotFoundError
from rxcohere.events import ChatEvent, MessageEnd
from rxcohere.folds import ResponseFold
from rxcohere.options import check_seconds
from rxcohere.response import ChatResponse
from rxcohere.runtime import running_loop
from rxcohere.subscription import TaskSubscription, deliver, unowned


class FollowedBatches:
    """The entries of a stream after some place, as they come, those of one read compacted.

    It reads from the beginning, whatever the place, since the response is built from all of it.

    Args:
        journal: where it is.
        stream_id: which it is.
        after: the number of the entry after which to begin; 0 for the beginning.
        patience: seconds to wait for a stream that is not there.
    """

    def __init__(self, journal: Journal, stream_id: str, after: int, patience: float) -> None:
        self._journal = journal
        self._stream_id = stream_id
        self._after = after
        self._patience = patience
        self._fold = ResponseFold()
        self._count = 0
        self._begun = False
        self._verdict: Verdict | None = None

    async def next_batch(self) -> list[JournalEntry]:
        """The next entries; an empty list when the stream is complete.

        Raises:
            RxCohereError: what the stream ended with, or the journal failed with.
            StreamNotFoundError: there is no such stream.
            ConfigurationError: there is no such entry.
        """
        while self._verdict is None:
            page = await self._next_page()
            entries = self._entries_of(page)
            self._verdict = page.verdict
            if entries:
                return entries
        if self._verdict.error is None:
            return []
        # Each follower has an error of its own: those who raise it add to it where they were.
        error = copy.copy(self._verdict.error)
        if isinstance(error, StreamError) and error.partial is None:
            error.partial = self.partial()
        raise error

    def close(self) -> None:
        """Nothing: a reader that goes away is nobody's concern."""

    def partial(self) -> ChatResponse | None:
        """The response as far as it has been read."""
        return self._fold.response()

    async def _next_page(self) -> JournalPage:
        try:
            if self._begun:
                return await self._journal.tail(self._stream_id, self._count)
            page = await self._first_page()
        except (StreamNotFoundError, ConfigurationError) as error:
            if not self._begun:
                raise
            lost = JournalError(f"the journal has lost what it had of {self._stream_id!r}")
            lost.partial = self.partial()
            raise lost from error
        except StreamError as error:
            self._fail(error)
        self._begun = True
        if self._after > len(page.events):
            raise ConfigurationError(
                f"'{self._after}' is the id of no entry of this stream, which has "
                f"{len(page.events)} now"
            )
        return page

    def _fail(self, error: StreamError) -> NoReturn:
        own = copy.copy(error)  # the journal may tell others the same
        own.partial = self.partial()
        raise own from error.__cause__

    async def _first_page(self) -> JournalPage:
        try:
            return await self._journal.read(self._stream_id)
        except StreamNotFoundError:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._journal.begun(self._stream_id)
        return await self._journal.read(self._stream_id)

    def _entries_of(self, page: JournalPage) -> list[JournalEntry]:
        """The entries after the place, of which the last event carries the response."""
        entries = EntryCompactor()
        for number, event in enumerate(page.events, self._count + 1):
            self._fold.add(event)
            if number > self._after:
                if type(event) is MessageEnd:
                    event = event.with_response(self._fold.response())
                entries.push(JournalEntry(str(number), event))
        self._count += len(page.events)
        return entries.drain()


class FollowedStream(Observable[JournalEntry]):
    """The entries of a stream in a journal, anew for each subscription; made by `follow`.

    It can be subscribed to, awaited, which gives the last entry, and iterated over with ``async
    for``, which reads from the journal as fast as it is asked.
    """

    def __init__(self, journal: Journal, stream_id: str, after: int, patience: float) -> None:
        super().__init__(self._start)
        self._journal = journal
        self._stream_id = stream_id
        self._after = after
        self._patience = patience

    def after(self, entry_id: str) -> FollowedStream:
        """The same stream, from after that entry on.

        Raises:
            ConfigurationError: it is the id of no entry of any stream.
        """
        return FollowedStream(self._journal, self._stream_id, _place(entry_id), self._patience)

    def events(self) -> Observable[ChatEvent]:
        """The events without their places, for the operators."""
        return self.pipe(ops.map(_event_of))

    def __aiter__(self) -> AsyncGenerator[JournalEntry, None]:
        """The entries, read when they are asked for."""
        return values_of(self.batches)

    def __iter__(self) -> Iterator[JournalEntry]:  # a stock one would spin
        raise TypeError("a stream in a journal is iterated over with 'async for'")

    def batches(self) -> FollowedBatches:
        """The entries for one reader, some at a time, as it asks for them."""
        return FollowedBatches(self._journal, self._stream_id, self._after, self._patience)

    def _start(
        self, observer: abc.ObserverBase[JournalEntry], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        loop = running_loop()
        if loop is None:
            observer.on_error(
                ConfigurationError("follow() needs a running event loop: subscribe in a coroutine")
            )
            return Disposable()
        batches = self.batches()
        subscription = TaskSubscription(loop)

        async def work() -> None:
            await deliver(batches, observer, subscription)

        def if_lost() -> None:
            tell(observer.on_error, loop_closed(batches))

        subscription.start(work, unowned, if_lost)
        return subscription


def _event_of(entry: JournalEntry) -> ChatEvent:
    return entry.event


def _place(entry_id: str | None) -> int:
    if entry_id is None:
        return 0
    number = JournalEntry.number_of(entry_id) if isinstance(entry_id, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if number is None:
        raise ConfigurationError(f"{entry_id!r:.80} is the id of no entry")
    return number


def follow(
    journal: Journal, stream_id: str, after: str | None = None, *, patience: float = 5.0
) -> FollowedStream:
    """The entries of a stream: first what is in the journal, compacted, then what comes.

    It ends as the producer's own subscriber would: completes, or fails with the same error. A
    producer that died is `StreamAbandonedError`, within its lease. Each subscription reads for
    itself, on the loop that runs where it is made, at the pace of its consumer; leaving it does not
    touch the stream.

    Args:
        journal: where the stream is.
        stream_id: which it is.
        after: the id of the last entry that was seen, to go on from there; None for the beginning.
        patience: seconds to wait for a stream that is not there (yet).

    Raises:
        ConfigurationError: at the call, if an argument is not valid; through ``on_error``, if there
            is no such entry, or no event loop is running where it is subscribed to.
        StreamNotFoundError: through ``on_error``, if the stream does not appear.
        JournalError: through ``on_error``, if the journal cannot be reached, or has lost something.
    """
    check_stream_id(stream_id)
    check_seconds("patience", patience, zero=True)
    return FollowedStream(journal, stream_id, _place(after), patience)
