"""The reader's side: a stream of a journal as an observable, from any entry on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from reactivex import Observable, abc
from reactivex.disposable import Disposable

from rxcohere.batches import loop_closed
from rxcohere.bridges.journal.entries import JournalEntry, JournalPage, Verdict
from rxcohere.bridges.journal.journal import Journal, check_stream_id
from rxcohere.delivery import tell
from rxcohere.errors import ConfigurationError, StreamError, StreamNotFoundError
from rxcohere.events import MessageEnd
from rxcohere.folds import Compactor, ResponseFold
from rxcohere.response import ChatResponse
from rxcohere.runtime import running_loop
from rxcohere.subscription import TaskSubscription, deliver, unowned

_LOOK_AGAIN = 0.05  # seconds until one looks again for a stream that is not there yet


class FollowedBatches:
    """The entries of a stream after some place, as they come, those of one read compacted.

    It reads from the beginning, whatever the place, since the response is built from all of it.

    Args:
        journal: where it is.
        stream_id: which it is.
        after: the id of the entry after which to begin; None for the beginning.
        patience: seconds to wait for a stream that is not there.
    """

    def __init__(
        self, journal: Journal, stream_id: str, after: str | None, patience: float
    ) -> None:
        self._journal = journal
        self._stream_id = stream_id
        self._after = after
        self._patience = patience
        self._fold = ResponseFold()
        self._last: str | None = None
        self._begun = False
        self._verdict: Verdict | None = None

    async def next_batch(self) -> list[JournalEntry]:
        """The next entries; an empty list when the stream is complete.

        Raises:
            RxCohereError: what the stream ended with.
            StreamNotFoundError: there is no such stream.
            ConfigurationError: there is no such entry.
        """
        while self._verdict is None:
            if self._begun:
                page = await self._journal.tail(self._stream_id, self._last)
                entries = self._heard(page)
            else:
                page = await self._appeared()
                self._begun = True
                entries = self._after_the_place(self._heard(page))
            self._verdict = page.verdict
            if entries:
                return _compacted(entries)
        # Each follower has an error of its own, in the producer's process too: those who raise it
        # add to it where they were.
        error = Verdict.from_json(self._verdict.to_json()).error
        if error is None:
            return []
        if isinstance(error, StreamError) and error.partial is None:
            error.partial = self.partial()
        raise error

    def close(self) -> None:
        """Nothing: a reader that goes away is nobody's concern."""

    def partial(self) -> ChatResponse | None:
        """The response as far as it has been read."""
        return self._fold.response()

    async def _appeared(self) -> JournalPage:
        deadline = asyncio.get_running_loop().time() + self._patience
        while True:
            try:
                return await self._journal.read(self._stream_id)
            except StreamNotFoundError:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
            await asyncio.sleep(_LOOK_AGAIN)

    def _heard(self, page: JournalPage) -> list[JournalEntry]:
        """The entries, of which the last event carries the response."""
        heard: list[JournalEntry] = []
        for entry in page.entries:
            self._fold.add(entry.event)
            self._last = entry.id
            if type(entry.event) is MessageEnd:
                whole = entry.event.with_response(self._fold.response())
                entry = JournalEntry(entry.id, whole)
            heard.append(entry)
        return heard

    def _after_the_place(self, entries: list[JournalEntry]) -> list[JournalEntry]:
        if self._after is None:
            return entries
        for position, entry in enumerate(entries, 1):
            if entry.id == self._after:
                return entries[position:]
        raise ConfigurationError(f"{self._after!r:.80} is the id of no entry of this stream")


def _compacted(entries: Iterable[JournalEntry]) -> list[JournalEntry]:
    events = Compactor()
    ids: list[str] = []
    for entry in entries:
        events.push(entry.event)
        if len(events) > len(ids):
            ids.append(entry.id)
        else:
            ids[-1] = entry.id  # it was merged into the one before
    return [JournalEntry(*pair) for pair in zip(ids, events.events(), strict=True)]


def follow(
    journal: Journal, stream_id: str, after: str | None = None, *, patience: float = 5.0
) -> Observable[JournalEntry]:
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
        ConfigurationError: at the call, if the id or the patience is none; through ``on_error``, if
            there is no such entry, or no event loop is running where it is subscribed to.
        StreamNotFoundError: through ``on_error``, if the stream does not appear.
    """
    check_stream_id(stream_id)
    if not isinstance(patience, (int, float)) or not patience >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"expected patience to be 0 or more seconds, got {patience!r}")

    def subscribe(
        observer: abc.ObserverBase[JournalEntry], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        loop = running_loop()
        if loop is None:
            observer.on_error(
                ConfigurationError("follow() needs a running event loop: subscribe in a coroutine")
            )
            return Disposable()
        batches = FollowedBatches(journal, stream_id, after, patience)
        subscription = TaskSubscription(loop)

        async def work() -> None:
            await deliver(batches, observer, subscription)

        def if_lost() -> None:
            tell(observer.on_error, loop_closed(batches))

        subscription.start(work, unowned, if_lost)
        return subscription

    return Observable(subscribe)
