"""`publish`, `follow` and `abort`: a reader of the journal gets what a direct subscriber would."""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import reactivex as rx
from reactivex import operators as ops
from reactivex.subject import Subject
from samples import parsed, text_delta, text_stream
from subscribers import (
    ANSWER,
    ASK,
    HANG,
    TEXT,
    Boom,
    Subscriber,
    Subscribers,
    client_of,
    in_thread,
    run,
    served,
    waiting,
    was_aborted,
)

from rxcohere import ContentDelta, to_async_iterator
from rxcohere import operators as rxc
from rxcohere.bridges.journal import (
    Journal,
    JournalEntry,
    JournalPage,
    MemoryJournal,
    Verdict,
    abort,
    follow,
    new_stream_id,
    publish,
)
from rxcohere.errors import (
    ConfigurationError,
    JournalError,
    RxCohereError,
    StreamAbandonedError,
    StreamCancelledError,
    StreamExistsError,
    StreamNotFoundError,
    StreamTruncatedError,
)
from rxcohere.events import ChatEvent
from rxcohere.folds import ResponseFold
from rxcohere.testing import (
    Corrupt,
    Cut,
    Fault,
    ReplayServer,
    Stall,
    Status,
    Transcript,
    transcript_names,
)

ID = "stream-1"
LONG = 10 * HANG
"""A lease that outlasts any test."""

NOT_IDS = ["", "a/b", "a\nb", "a\n", "a b", "é", "x" * 10_000, None, b"a"]


class Relay:
    """A journal that passes everything on; subclasses do something else as well."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)


class Recorder(Relay):
    """Keeps the batches that are appended."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[ChatEvent]] = []
        self._changed = asyncio.Event()

    async def append(self, stream_id: str, events: Sequence[ChatEvent], at: int) -> None:
        await self.journal.append(stream_id, events, at)
        self.batches.append(list(events))
        self._changed.set()

    async def has(self, count: int) -> None:
        """Waits for so many batches."""
        async with asyncio.timeout(HANG):
            while len(self.batches) < count:
                self._changed.clear()
                await self._changed.wait()


class NeverRenews(Relay):
    """The journal of a producer that does not stir any more."""

    async def renew(self, stream_id: str, lease: float) -> None:
        pass


class Frozen(Relay):
    """The journal of a producer that does not stir until it is thawed."""

    def __init__(self) -> None:
        super().__init__()
        self.thawed = asyncio.Event()

    async def renew(self, stream_id: str, lease: float) -> None:
        await self.thawed.wait()
        await self.journal.renew(stream_id, lease)


class Full(Relay):
    """A journal that takes no events."""

    async def append(self, stream_id: str, events: Sequence[ChatEvent], at: int) -> None:
        raise Boom


@asynccontextmanager
async def published(
    stream: Any, journal: Any = None, stream_id: str = ID, **options: Any
) -> AsyncIterator[tuple[Any, asyncio.Task[Verdict]]]:
    """A journal, and the task that writes the stream into it, which has begun."""
    journal = journal or MemoryJournal()
    task = asyncio.create_task(publish(journal, stream_id, stream, **options))
    await asyncio.sleep(0)
    try:
        yield journal, task
    finally:
        task.cancel()
        await asyncio.wait([task])


def events_of(seen: Subscriber) -> list[ChatEvent]:
    return [entry.event for entry in seen.values]


def text_of(events: list[ChatEvent]) -> str:
    return "".join(event.text or "" for event in events if isinstance(event, ContentDelta))


def response_of(events: list[ChatEvent]) -> Any:
    fold = ResponseFold()
    for event in events:
        fold.add(event)
    return fold.response()


def outcome(seen: Subscriber) -> Any:
    """How it ended, with all that an error says but the date in its headers."""
    error = seen.error
    if error is None:
        return seen.completed
    headers = {**getattr(error, "headers", {})}
    headers.pop("date", None)
    return type(error), str(error), {**vars(error), "headers": headers}


async def some_turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


# What a follower gets ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", transcript_names())
async def test_a_follower_gets_what_a_subscriber_does(subscriber: Subscribers, name: str) -> None:
    """Early and late ones have the same response, in the last event too, and the same end."""
    async with served(name) as (server, co):
        direct = await subscriber().to(co.chat_stream(**ASK)).end()
        async with published(co.chat_stream(**ASK)) as (journal, task):
            early = [subscriber().to(follow(journal, ID)) for _ in range(3)]
            verdict = await task
            late = subscriber().to(follow(journal, ID))
            for seen in [*early, late]:
                await seen.end()
                assert response_of(events_of(seen)) == response_of(direct.values)
                assert seen.values[-1].event.response == direct.values[-1].response
                assert outcome(seen) == outcome(direct)
                assert text_of(events_of(seen)) == text_of(direct.values)
            assert type(verdict.error) is type(direct.error)
            assert len(late.values) <= len(early[0].values)
        assert len(server.requests) == 2


FAILURES: list[Fault] = [
    Cut(after_events=0, how="eof"),
    Cut(after_events=6, how="eof"),
    Cut(after_events=6, how="close"),
    Corrupt(5),
    Status(422, {"message": "no", "error_type": "X"}, {"x-debug-trace-id": "t-1"}),
    Status(429, headers={"retry-after": "7", "x-debug-trace-id": "t-2"}),
]


@pytest.mark.parametrize("fault", FAILURES, ids=lambda fault: type(fault).__name__)
async def test_an_error_reaches_the_followers(subscriber: Subscribers, fault: Fault) -> None:
    """It is what the producer's subscriber gets: class, fields, and what had come of the answer."""
    async with served(faults=[fault]) as (_, co):
        direct = await subscriber().to(co.chat_stream(**ASK)).end()
        assert direct.error is not None
        async with published(co.chat_stream(**ASK)) as (journal, task):
            seen = await subscriber().to(follow(journal, ID)).end()
            assert outcome(seen) == outcome(direct)
            assert text_of(events_of(seen)) == text_of(direct.values)
            assert type((await task).error) is type(direct.error)


async def test_followers_do_not_pile_up_on_an_error(subscriber: Subscribers) -> None:
    """The journal keeps the error, and with it nothing of those who were told of it."""
    async with published(rx.throw(StreamTruncatedError("too short"))) as (journal, task):
        await task
        depths: list[int] = []
        for _ in range(3):
            seen = await subscriber().to(follow(journal, ID)).end()
            assert seen.error is not None
            depths.append(len(list(traceback.walk_tb(seen.error.__traceback__))))
        assert len(set(depths)) == 1


async def test_a_stream_without_events(subscriber: Subscribers) -> None:
    """It is complete, and empty, for its followers too."""
    async with published(rx.empty()) as (journal, task):
        seen = await subscriber().to(follow(journal, ID)).end()
        assert (seen.values, seen.completed, await task) == ([], True, Verdict())


async def test_a_follower_that_leaves_touches_nothing(subscriber: Subscribers) -> None:
    """Neither the publication nor the others: there is one request, and all of it is written."""
    async with served() as (server, co), published(co.chat_stream(**ASK)) as (journal, task):
        leaves = subscriber(lambda _: leaves.dispose())
        leaves.to(follow(journal, ID))
        stays = subscriber().to(follow(journal, ID))
        taken = await follow(journal, ID).pipe(ops.take(1))
        assert (await task) == Verdict()
        await stays.end()
        assert (stays.completed, text_of(events_of(stays))) == (True, ANSWER)
        assert taken.event.type == "message-start"
        assert len(leaves.values) == 1
        assert leaves.is_silent
        assert len(server.requests) == 1
        assert server.aborted == 0


async def test_a_slow_follower_loses_nothing() -> None:
    """One that asks for an entry at a time pauses its reading, and nobody else's."""
    async with served() as (_, co), published(co.chat_stream(**ASK)) as (journal, task):
        entries = to_async_iterator(follow(journal, ID), max_pending=1)
        first = await anext(entries)
        assert (await task) == Verdict()
        events = [first.event]
        async for entry in entries:
            await some_turns()
            events.append(entry.event)
        assert text_of(events) == ANSWER
        assert entries.dropped == 0


# Going on from a place ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text", "rag", "reasoning"])
async def test_going_on_from_every_entry(subscriber: Subscribers, name: str) -> None:
    """What had come until then and what comes after it are the text, to the byte.

    That holds for each entry of the journal, and for each that a follower got, where many are one.
    """
    whole = Transcript.load(name).events
    journal = MemoryJournal()
    await journal.begin(ID, HANG)
    await journal.append(ID, whole, 0)
    await journal.close(ID, Verdict())
    written = [JournalEntry(str(number), event) for number, event in enumerate(whole, 1)]
    merged = (await subscriber().to(follow(journal, ID)).end()).values
    assert len(merged) < len(written) == len(whole)
    for entries in (written, merged):
        for count, entry in enumerate(entries, 1):
            come = [each.event for each in entries[:count]]
            rest = events_of(await subscriber().to(follow(journal, ID, entry.id)).end())
            assert text_of(come) + text_of(rest) == text_of(whole)
            assert response_of([*come, *rest]) == response_of(whole)
            if rest:
                assert rest[-1].response == response_of(whole)  # type: ignore[union-attr]


async def test_going_on_while_it_runs(subscriber: Subscribers) -> None:
    """Each reader takes over where the one before left, at the last entry that it was given."""
    source: Subject[ChatEvent] = Subject()
    seen: list[JournalEntry] = []
    async with published(source, batch_seconds=0.001) as (journal, task):
        for event in TEXT.events:
            source.on_next(event)
            after = seen[-1].id if seen else None
            seen.append(await follow(journal, ID, after).pipe(ops.first()))
        source.on_completed()
        assert (await task) == Verdict()
        rest = await subscriber().to(follow(journal, ID, seen[-1].id)).end()
        assert (rest.values, rest.completed) == ([], True)
    assert text_of([entry.event for entry in seen]) == ANSWER


async def test_a_place_that_never_was(subscriber: Subscribers) -> None:
    """It is `ConfigurationError`, also after a stream that has ended, and nothing comes."""
    async with published(rx.from_iterable(TEXT.events)) as (journal, task):
        await task
        seen = await subscriber().to(follow(journal, ID, "999")).end()
        assert isinstance(seen.error, ConfigurationError)
        assert seen.values == []


@pytest.mark.parametrize("after", ["0", "-1", "", "x", "1.0", " 1", "1\n", "²", "٣", "9" * 5000, 1])
def test_a_place_that_cannot_be(after: Any) -> None:
    """It is refused at the call, in no more words than there is room for."""
    stream = follow(MemoryJournal(), ID)
    for call in (lambda: follow(MemoryJournal(), ID, after), lambda: stream.after(after)):
        with pytest.raises(ConfigurationError) as caught:
            call()
        assert len(str(caught.value)) < 300


async def test_the_events_alone() -> None:
    """They are what the operators take."""
    async with published(rx.from_iterable(TEXT.events)) as (journal, _):
        assert await follow(journal, ID).events().pipe(rxc.collect_text()) == ANSWER


async def test_iterating_over_it() -> None:
    """`async for` brings the entries, from any of them on; a plain `for` would never end."""
    async with published(rx.from_iterable(TEXT.events)) as (journal, _):
        stream = follow(journal, ID)
        entries = [entry async for entry in stream]
        assert text_of([entry.event for entry in entries]) == ANSWER
        rest = [entry async for entry in stream.after(entries[1].id)]
        assert rest == entries[2:]
        with pytest.raises(TypeError, match="async for"):
            list(stream)


@pytest.mark.parametrize("problem", [StreamNotFoundError("gone"), JournalError("no route")])
async def test_a_journal_that_loses_a_stream(
    subscriber: Subscribers, problem: RxCohereError
) -> None:
    """Each of its readers gets a `JournalError` of its own with what came."""

    class Forgetful(Recorder):
        async def tail(self, stream_id: str, at: int) -> JournalPage:
            raise problem

    source: Subject[ChatEvent] = Subject()
    async with published(source, Forgetful(), batch_seconds=0.001) as (journal, _):
        source.on_next(TEXT.events[0])
        await journal.has(1)
        readers = [subscriber().to(follow(journal, ID)) for _ in range(2)]
        for seen in readers:
            await seen.end()
            assert isinstance(seen.error, JournalError)
            assert events_of(seen) == TEXT.events[:1]
            assert seen.error.partial == response_of(events_of(seen))
        assert readers[0].error is not readers[1].error


# How a publication ends --------------------------------------------------------------------------


async def test_an_abort_reaches_the_server(subscriber: Subscribers) -> None:
    """The request is given up; the followers hear the reason and have what came."""
    async with served(faults=[Stall(after_events=6)]) as (server, co):
        async with published(co.chat_stream(**ASK), batch_seconds=0.001) as (journal, task):
            seen = subscriber()
            come = seen.arrived(1)
            seen.to(follow(journal, ID))
            await asyncio.wrap_future(come)
            await abort(journal, ID, "the user went home")
            await server.until(was_aborted)
            await seen.end()
            assert isinstance(seen.error, StreamCancelledError)
            assert str(seen.error) == "the user went home"
            assert seen.error.partial == response_of(events_of(seen))
            assert isinstance((await task).error, StreamCancelledError)
            await abort(journal, ID, "again")
            assert await outcome_of(journal) == (StreamCancelledError, "the user went home")


async def outcome_of(journal: Journal) -> tuple[type[Any], str]:
    verdict = (await journal.read(ID)).verdict
    assert verdict is not None
    return type(verdict.error), str(verdict.error)


async def test_an_abort_ends_a_source_that_never_rests(subscriber: Subscribers) -> None:
    """Events that come while others are being written do not put the end off."""
    source: Subject[ChatEvent] = Subject()

    class Busy(Recorder):
        async def append(self, stream_id: str, events: Sequence[ChatEvent], at: int) -> None:
            await super().append(stream_id, events, at)
            if len(self.batches) < 100:
                source.on_next(parsed([text_delta("more")])[0])
            await asyncio.sleep(0)

    journal = Busy()
    async with published(source, journal, batch_seconds=HANG, batch_events=2) as (_, task):
        source.on_next(TEXT.events[0])
        await journal.has(1)
        await abort(journal, ID)
        async with asyncio.timeout(HANG):
            await task
        assert len(journal.batches) < 5
        assert source.observers == []


async def test_a_cancelled_publication(subscriber: Subscribers) -> None:
    """Its request is given up, and its followers hear of it with what came."""
    async with served(faults=[Stall(after_events=6)]) as (server, co):
        async with published(co.chat_stream(**ASK)) as (journal, task):
            seen = subscriber(lambda _: task.cancel())
            await seen.to(follow(journal, ID)).end()
            await server.until(was_aborted)
            assert isinstance(seen.error, StreamCancelledError)
            assert seen.error.partial is not None
            assert task.cancelled()


async def test_a_loop_that_ends_under_a_publication(subscriber: Subscribers) -> None:
    """Followers on another loop, in another thread, hear of it."""
    journal = MemoryJournal()

    async def work(server: ReplayServer) -> None:
        async with client_of(server) as co:
            task = asyncio.create_task(publish(journal, ID, co.chat_stream(**ASK)))
            await follow(journal, ID).pipe(ops.first())
            assert not task.done()

    async with served(faults=[Stall(after_events=6)]) as (server, _):
        seen = subscriber().to(follow(journal, ID))
        await in_thread(lambda: run(work(server)))
        await seen.end()
        assert isinstance(seen.error, StreamCancelledError)
        assert seen.error.partial is not None
        await server.until(was_aborted)


async def test_a_producer_that_dies(subscriber: Subscribers) -> None:
    """Within its lease the followers get `StreamAbandonedError` with what came."""
    async with served(faults=[Stall(after_events=6)]) as (_, co):
        async with published(co.chat_stream(**ASK), NeverRenews(), lease=0.6) as (journal, task):
            seen = await subscriber().to(follow(journal, ID)).end()
            assert isinstance(seen.error, StreamAbandonedError)
            assert seen.error.partial is not None
            assert seen.error.partial == response_of(events_of(seen))
            assert not task.done()


async def test_a_producer_that_comes_back_too_late(subscriber: Subscribers) -> None:
    """It learns that its stream was abandoned, and gives its request up."""
    journal = Frozen()
    async with served(faults=[Stall(after_events=6)]) as (server, co):
        async with published(co.chat_stream(**ASK), journal, lease=0.6) as (_, task):
            seen = await subscriber().to(follow(journal, ID)).end()
            assert isinstance(seen.error, StreamAbandonedError)
            journal.thawed.set()
            async with asyncio.timeout(HANG):
                verdict = await task
            assert isinstance(verdict.error, StreamAbandonedError)
            await server.until(was_aborted)


async def test_a_stream_that_somebody_else_has_ended(subscriber: Subscribers) -> None:
    """Its producer learns that with the next event, and gives its request up; the verdict stays."""
    source: Subject[ChatEvent] = Subject()
    async with published(source, lease=LONG) as (journal, task):
        seen = subscriber()
        arrived = seen.arrived(1)
        seen.to(follow(journal, ID))
        source.on_next(TEXT.events[0])
        await waiting(arrived)
        await journal.close(ID, Verdict())
        await seen.end()
        assert (seen.completed, len(seen.values)) == (True, 1)
        source.on_next(TEXT.events[1])
        async with asyncio.timeout(HANG):
            verdict = await task
        assert isinstance(verdict.error, StreamAbandonedError)
        assert verdict.error.partial == response_of(TEXT.events[:2])
        assert source.observers == []
        assert (await journal.read(ID)).verdict == Verdict()


async def test_a_living_producer_keeps_its_lease(subscriber: Subscribers) -> None:
    """A silent stream outlives one that was begun with the same lease and is not renewed."""
    async with served(faults=[Stall(after_events=6)]) as (_, co):
        async with published(co.chat_stream(**ASK), lease=1.0) as (journal, task):
            seen = subscriber().to(follow(journal, ID))
            await journal.begin("other", 1.0)
            await journal.tail("other")
            assert (await journal.read(ID)).verdict is None
            assert seen.is_silent
            assert not task.done()
            seen.dispose()


async def test_a_journal_that_fails(subscriber: Subscribers) -> None:
    """The publication fails with it, and the request is given up."""
    async with served(faults=[Stall(after_events=6)]) as (server, co):
        with pytest.raises(Boom):
            await publish(Full(), ID, co.chat_stream(**ASK))
        await server.until(was_aborted)


async def test_a_journal_that_refuses_is_heard_of_at_once(subscriber: Subscribers) -> None:
    """Its followers get what it said, and do not wait for the lease to run out."""

    class Refusing(Relay):
        async def append(self, stream_id: str, events: Sequence[ChatEvent], at: int) -> None:
            raise JournalError("no room")

    journal, source = Refusing(), rx.from_iterable(TEXT.events)
    async with published(source, journal, lease=LONG) as (_, task):
        seen = await subscriber().to(follow(journal, ID)).end()
        assert (type(seen.error), str(seen.error)) == (JournalError, "no room")
        with pytest.raises(JournalError, match="no room"):
            await task


async def test_the_verdict_that_counts_is_the_one_that_is_given(subscriber: Subscribers) -> None:
    """A producer whose stream was abandoned just before its end learns what readers were told."""

    class TooLate(MemoryJournal):
        async def close(self, stream_id: str, verdict: Verdict) -> Verdict:
            await super().close(stream_id, Verdict(StreamAbandonedError("the lease ran out")))
            return await super().close(stream_id, verdict)

    async with published(rx.from_iterable(TEXT.events), TooLate()) as (journal, task):
        verdict = await task
        seen = await subscriber().to(follow(journal, ID)).end()
        assert type(verdict.error) is type(seen.error) is StreamAbandonedError
        assert str(verdict.error) == str(seen.error) == "the lease ran out"
        assert text_of(events_of(seen)) == ANSWER


async def test_cancelling_comes_too_late_for_a_stream_that_is_being_closed(
    subscriber: Subscribers,
) -> None:
    """All of it was written: its readers complete, whatever becomes of the task."""

    class Slow(MemoryJournal):
        def __init__(self) -> None:
            super().__init__()
            self.closing, self.may_close = asyncio.Event(), asyncio.Event()

        async def close(self, stream_id: str, verdict: Verdict) -> Verdict:
            self.closing.set()
            await self.may_close.wait()
            return await super().close(stream_id, verdict)

    journal = Slow()
    async with published(rx.from_iterable(TEXT.events), journal, lease=LONG) as (_, task):
        seen = subscriber().to(follow(journal, ID))
        async with asyncio.timeout(HANG):
            await journal.closing.wait()
            task.cancel()
            await some_turns()
            assert seen.is_silent
            journal.may_close.set()
            await asyncio.wait([task])
        await seen.end()
        assert (seen.completed, text_of(events_of(seen))) == (True, ANSWER)
        assert task.cancelled()


# Batches -----------------------------------------------------------------------------------------


async def test_the_first_event_is_written_at_once_and_others_in_batches() -> None:
    """A batch waits for its number of events or the end; its deltas are one event."""
    source: Subject[ChatEvent] = Subject()
    events = parsed(text_stream("Emperor", " ", "penguins", ".", "!"))
    journal = Recorder()
    async with published(source, journal, batch_seconds=HANG, batch_events=4) as (_, task):
        source.on_next(events[0])
        await journal.has(1)
        for event in events[1:4]:
            source.on_next(event)
        await some_turns()
        assert journal.batches == [events[:1]]
        source.on_next(events[4])
        await journal.has(2)
        assert journal.batches[1] == parsed([*text_stream("Emperor penguins")[1:3]])
        for event in events[5:]:
            source.on_next(event)
        source.on_completed()
        assert (await task) == Verdict()
        assert len(journal.batches) == 3
        assert text_of(journal.batches[2]) == ".!"


async def test_a_batch_does_not_wait_for_its_number() -> None:
    """When its time has come, it is written, though the stream goes on."""
    source: Subject[ChatEvent] = Subject()
    journal = Recorder()
    async with published(source, journal, batch_seconds=0.01) as (_, task):
        for count, event in enumerate(TEXT.events[:4], 1):
            source.on_next(event)
            await journal.has(count)
        assert not task.done()
        assert [len(batch) for batch in journal.batches] == [1] * 4


async def test_a_source_in_another_thread() -> None:
    """What it brings, as fast as it can, is written in order and whole."""
    source: Subject[ChatEvent] = Subject()
    events = parsed(text_stream(*(f"{n} " for n in range(2000))))

    def produce() -> None:
        for event in events:
            source.on_next(event)
        source.on_completed()

    async with published(source, batch_seconds=0.001, batch_events=7) as (journal, task):
        await in_thread(produce)
        assert (await task) == Verdict()
        written = list((await journal.read(ID)).events)
        assert text_of(written) == text_of(events)
        assert response_of(written) == response_of(events)


# Arguments ---------------------------------------------------------------------------------------


def test_following_in_the_last_turn_of_a_loop(subscriber: Subscribers) -> None:
    """Who never gets to read anything is told that the loop was closed."""
    seen = subscriber()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: seen.to(follow(MemoryJournal(), ID)))

    run(work())
    assert isinstance(seen.error, StreamCancelledError)
    assert seen.error.partial is None


def test_following_needs_a_loop(subscriber: Subscribers) -> None:
    """Without one, on_error says so at once."""
    seen = subscriber().to(follow(MemoryJournal(), ID))
    assert isinstance(seen.error, ConfigurationError)


@pytest.mark.parametrize("reason", [None, 7, b"enough", ["enough"]], ids=str)
async def test_a_reason_that_is_no_text(reason: Any) -> None:
    """It is refused, and nobody is asked to give up."""
    journal = MemoryJournal()
    await journal.begin(ID, LONG)
    with pytest.raises(ConfigurationError, match="reason"):
        await abort(journal, ID, reason)
    await abort(journal, ID, "enough")
    assert await journal.abort_requested(ID) == "enough"


@pytest.mark.parametrize("stream_id", NOT_IDS, ids=lambda value: repr(value)[:12])
async def test_what_is_no_id(stream_id: Any) -> None:
    """It is refused by all three, shortened where it is shown, and nothing is asked for."""
    journal = MemoryJournal()
    subscribed: list[None] = []
    source: Any = rx.defer(lambda _: subscribed.append(None) or rx.never())
    with pytest.raises(ConfigurationError) as caught:
        follow(journal, stream_id)
    assert len(str(caught.value)) < 300
    with pytest.raises(ConfigurationError):
        await publish(journal, stream_id, source)
    with pytest.raises(ConfigurationError):
        await abort(journal, stream_id)
    assert subscribed == []


@pytest.mark.parametrize("name", ["lease", "batch_seconds", "batch_events"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "1", None, 0.0])
async def test_bad_arguments_of_publish(name: str, value: Any) -> None:
    """They are named, and no stream has begun."""
    journal, options = MemoryJournal(), {name: value}
    with pytest.raises(ConfigurationError, match=name):
        await publish(journal, ID, rx.never(), **options)
    await journal.begin(ID, HANG)


@pytest.mark.parametrize("stream", [None, "text", TEXT.events, iter(TEXT.events), rx.never])
async def test_what_is_no_stream_is_not_published(stream: Any) -> None:
    """It is refused, and no stream has begun."""
    journal = MemoryJournal()
    with pytest.raises(ConfigurationError, match="Observable"):
        await publish(journal, ID, stream)
    await journal.begin(ID, HANG)


@pytest.mark.parametrize("before", [0, 3])
async def test_a_stream_of_something_else(subscriber: Subscribers, before: int) -> None:
    """What is no event ends it: the verdict says what came, and so do the followers."""
    source: Any = rx.of(*TEXT.events[:before], "text", 7, TEXT.events[before])
    async with published(source, lease=LONG) as (journal, task):
        verdict = await task
        seen = await subscriber().to(follow(journal, ID)).end()
        assert type(verdict.error) is type(seen.error) is ConfigurationError
        assert str(verdict.error) == str(seen.error)
        assert "str" in str(seen.error)
        assert response_of(events_of(seen)) == response_of(TEXT.events[:before])


async def test_an_id_that_is_taken() -> None:
    """`StreamExistsError` comes before the request."""
    journal = MemoryJournal()
    await journal.begin(ID, HANG)
    async with served() as (server, co):
        with pytest.raises(StreamExistsError):
            await publish(journal, ID, co.chat_stream(**ASK))
        assert server.requests == []


async def test_a_stream_that_does_not_appear(subscriber: Subscribers) -> None:
    """When the patience is over, that is the error; nor can it be aborted."""
    journal = MemoryJournal()
    for patience in (0.0, 0.1):
        seen = await subscriber().to(follow(journal, ID, patience=patience)).end()
        assert isinstance(seen.error, StreamNotFoundError)
    with pytest.raises(StreamNotFoundError):
        await abort(journal, ID)


async def test_a_stream_that_appears_later(subscriber: Subscribers) -> None:
    """Who was there before it gets all of it; and who leaves before it is left alone."""
    journal, stream_id = MemoryJournal(), new_stream_id()
    seen, leaves = (subscriber().to(follow(journal, stream_id, patience=HANG)) for _ in range(2))
    await some_turns()
    assert seen.is_silent
    leaves.dispose()
    await publish(journal, stream_id, rx.from_iterable(TEXT.events))
    await seen.end()
    assert (seen.completed, text_of(events_of(seen))) == (True, ANSWER)


@pytest.mark.parametrize("patience", [-1, float("nan"), None, "1"])
def test_a_patience_that_is_none_is_refused_at_the_call(patience: Any) -> None:
    """Nobody waits for ever by mistake."""
    with pytest.raises(ConfigurationError, match="patience"):
        follow(MemoryJournal(), ID, patience=patience)


async def test_a_journal_that_cannot_be_reached_for_a_moment_ends_nothing() -> None:
    """A renewal that fails is tried again, as long as the lease lasts."""
    renewed = asyncio.Event()

    class Shaky(MemoryJournal):
        failures = 1

        async def renew(self, stream_id: str, lease: float) -> None:
            if self.failures:
                self.failures -= 1
                raise OSError("no route to the journal")
            await super().renew(stream_id, lease)
            renewed.set()

    source: Subject[ChatEvent] = Subject()
    publication = asyncio.create_task(publish(Shaky(), ID, source, lease=0.6))
    async with asyncio.timeout(HANG):
        await renewed.wait()
        source.on_completed()
        assert (await publication).error is None
