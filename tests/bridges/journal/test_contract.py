"""What any `Journal` has to do, wherever it keeps its streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import Sample, parsed, streams, text_delta, text_stream
from subscribers import HANG

from rxcohere.bridges.journal import (
    Journal,
    JournalEntry,
    MemoryJournal,
    Verdict,
    new_stream_id,
)
from rxcohere.errors import (
    StreamAbandonedError,
    StreamCancelledError,
    StreamExistsError,
    StreamNotFoundError,
    StreamTruncatedError,
)

LEASE = 0.2
EVENTS = parsed(text_stream("Emperor", " ", "penguins", "."))


@asynccontextmanager
async def in_memory() -> AsyncIterator[Journal]:
    yield MemoryJournal()


MAKERS = [in_memory]


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
async def journal(request: pytest.FixtureRequest) -> AsyncIterator[Journal]:
    """Each kind of journal in turn."""
    async with asyncio.timeout(3 * HANG), request.param() as made:
        yield made


async def begun(journal: Journal, lease: float = HANG) -> str:
    """The id of a new stream."""
    stream_id = new_stream_id()
    await journal.begin(stream_id, lease)
    return stream_id


async def all_of(journal: Journal, stream_id: str) -> tuple[list[JournalEntry], Verdict]:
    """What tailing a stream to its end brings."""
    entries: list[JournalEntry] = []
    while True:
        page = await journal.tail(stream_id, entries[-1].id if entries else None)
        entries += page.entries
        if page.verdict is not None:
            return entries, page.verdict
        assert page.entries


def events_of(entries: list[JournalEntry]) -> list[Any]:
    return [entry.event for entry in entries]


async def some_turns() -> None:
    """Lets those who wait begin to."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_stream_begins_once(journal: Journal) -> None:
    """A second one of the same id is refused, also when the first has ended, which stays whole."""
    stream_id = await begun(journal)
    await journal.append(stream_id, EVENTS)
    with pytest.raises(StreamExistsError):
        await journal.begin(stream_id, HANG)
    await journal.close(stream_id, Verdict())
    with pytest.raises(StreamExistsError):
        await journal.begin(stream_id, HANG)
    assert events_of((await all_of(journal, stream_id))[0]) == EVENTS


@pytest.mark.parametrize(
    "call",
    [
        lambda journal: journal.append("none", EVENTS),
        lambda journal: journal.renew("none", HANG),
        lambda journal: journal.close("none", Verdict()),
        lambda journal: journal.read("none"),
        lambda journal: journal.tail("none", None),
        lambda journal: journal.tail("none", "1"),
        lambda journal: journal.request_abort("none", "why not"),
        lambda journal: journal.abort_requested("none"),
    ],
    ids=["append", "renew", "close", "read", "tail", "tail after", "request", "requested"],
)
async def test_there_is_no_such_stream(
    journal: Journal, call: Callable[[Journal], Awaitable[Any]]
) -> None:
    """Each method says so, and makes none."""
    with pytest.raises(StreamNotFoundError):
        await call(journal)
    await journal.begin("none", HANG)


async def test_a_new_stream_is_empty(journal: Journal) -> None:
    """Reading does not wait, and there is neither an entry nor a verdict."""
    page = await journal.read(await begun(journal))
    assert (page.entries, page.verdict) == ([], None)


async def test_entries_are_in_order_and_without_a_gap(journal: Journal) -> None:
    """Whatever the batches, each id is another, and after each comes just what follows it."""
    stream_id = await begun(journal)
    for batch in (EVENTS[:1], EVENTS[1:4], EVENTS[4:]):
        await journal.append(stream_id, batch)
    entries = (await journal.read(stream_id)).entries
    assert events_of(entries) == EVENTS
    assert len({entry.id for entry in entries}) == len(EVENTS)
    await journal.close(stream_id, Verdict())
    for position, entry in enumerate(entries, 1):
        page = await journal.tail(stream_id, entry.id)
        assert page.entries == entries[position : position + len(page.entries)]
        assert page.entries or page.verdict == Verdict()
    assert (await all_of(journal, stream_id)) == (entries, Verdict())


async def test_tail_waits_for_an_entry(journal: Journal) -> None:
    """At the beginning and after an entry; appending wakes it."""
    stream_id = await begun(journal)
    after = None
    for event in EVENTS[:3]:
        tail = asyncio.create_task(journal.tail(stream_id, after))
        await some_turns()
        assert not tail.done()
        await journal.append(stream_id, [event])
        page = await tail
        assert (events_of(page.entries), page.verdict) == ([event], None)
        after = page.entries[-1].id


async def test_tail_waits_for_the_end(journal: Journal) -> None:
    """Closing the stream wakes it with the verdict."""
    stream_id = await begun(journal)
    tail = asyncio.create_task(journal.tail(stream_id, None))
    await some_turns()
    assert not tail.done()
    await journal.close(stream_id, Verdict(StreamTruncatedError("too short")))
    page = await tail
    assert page.verdict is not None
    assert isinstance(page.verdict.error, StreamTruncatedError)
    assert str(page.verdict.error) == "too short"


@pytest.mark.parametrize("first", [None, StreamCancelledError("enough")], ids=["whole", "failed"])
async def test_the_first_verdict_counts(journal: Journal, first: Any) -> None:
    """Another one is no error and changes nothing; nor does anything else after the end."""
    stream_id = await begun(journal)
    await journal.append(stream_id, EVENTS[:2])
    await journal.close(stream_id, Verdict(first))
    await journal.close(stream_id, Verdict(StreamTruncatedError("late")))
    await journal.close(stream_id, Verdict())
    with pytest.raises(StreamAbandonedError):
        await journal.append(stream_id, EVENTS[2:])
    with pytest.raises(StreamAbandonedError):
        await journal.renew(stream_id, HANG)
    entries, verdict = await all_of(journal, stream_id)
    assert events_of(entries) == EVENTS[:2]
    assert (type(verdict.error), str(verdict.error)) == (type(first), str(first))
    assert (await journal.read(stream_id)).verdict is not None


async def test_a_lease_runs_out(journal: Journal) -> None:
    """Who waits then hears of it, and so do readers and the producer; it stays abandoned."""
    stream_id = await begun(journal, LEASE)
    await journal.append(stream_id, EVENTS[:2])
    entries, verdict = await all_of(journal, stream_id)
    assert events_of(entries) == EVENTS[:2]
    assert isinstance(verdict.error, StreamAbandonedError)
    with pytest.raises(StreamAbandonedError):
        await journal.append(stream_id, EVENTS[2:])
    with pytest.raises(StreamAbandonedError):
        await journal.renew(stream_id, HANG)
    await journal.close(stream_id, Verdict())
    page = await journal.read(stream_id)
    assert events_of(page.entries) == EVENTS[:2]
    assert page.verdict is not None
    assert isinstance(page.verdict.error, StreamAbandonedError)


async def test_renewing_keeps_a_stream_alive(journal: Journal) -> None:
    """It outlives a stream that was begun with the same lease, and later; so does who waits."""
    renewed = await begun(journal, LEASE)
    await journal.renew(renewed, HANG)
    tail = asyncio.create_task(journal.tail(renewed, None))
    await all_of(journal, await begun(journal, LEASE))
    assert not tail.done()
    await journal.append(renewed, EVENTS)
    assert (await tail).verdict is None


@pytest.mark.parametrize("early", [True, False])
async def test_an_abort_is_heard_of(journal: Journal, early: bool) -> None:
    """Whether it was asked for before or is while one waits; the first reason stays."""
    stream_id = await begun(journal)
    if early:
        await journal.request_abort(stream_id, "enough — 足够")
    asked = asyncio.create_task(journal.abort_requested(stream_id))
    await some_turns()
    if not early:
        assert not asked.done()
        await journal.append(stream_id, EVENTS[:1])
        await some_turns()
        assert not asked.done()
        await journal.request_abort(stream_id, "enough — 足够")
    await journal.request_abort(stream_id, "later")
    assert await asked == "enough — 足够"
    assert await journal.abort_requested(stream_id) == "enough — 足够"
    assert (await journal.read(stream_id)).verdict is None


async def test_streams_do_not_mix(journal: Journal) -> None:
    """Neither entries nor verdicts nor aborts of one are those of another."""
    one, other = await begun(journal), await begun(journal)
    tail = asyncio.create_task(journal.tail(other, None))
    asked = asyncio.create_task(journal.abort_requested(other))
    await some_turns()
    await journal.append(one, EVENTS[:3])
    await journal.request_abort(one, "this one")
    await journal.close(one, Verdict())
    await some_turns()
    assert not tail.done()
    assert not asked.done()
    await journal.append(other, EVENTS[3:])
    await journal.request_abort(other, "the other")
    assert events_of((await tail).entries) == EVENTS[3:]
    assert await asked == "the other"
    assert events_of((await journal.read(one)).entries) == EVENTS[:3]


async def test_many_readers_at_once(journal: Journal) -> None:
    """Each has all of it, whether it waited from the beginning or came in between."""
    stream_id = await begun(journal)
    readers = [asyncio.create_task(all_of(journal, stream_id)) for _ in range(20)]
    for event in EVENTS:
        await journal.append(stream_id, [event])
        readers.append(asyncio.create_task(all_of(journal, stream_id)))
        await some_turns()
    await journal.close(stream_id, Verdict())
    for entries, verdict in await asyncio.gather(*readers):
        assert (events_of(entries), verdict) == (EVENTS, Verdict())


async def test_a_reader_that_leaves_is_missed_by_nobody(journal: Journal) -> None:
    """A cancelled wait ends as one, and the others, the producer too, go on."""
    stream_id = await begun(journal)
    leaving = [asyncio.create_task(journal.tail(stream_id, None)) for _ in range(3)]
    leaving.append(asyncio.create_task(journal.abort_requested(stream_id)))  # type: ignore[arg-type]
    stays = asyncio.create_task(journal.tail(stream_id, None))
    await some_turns()
    for task in leaving:
        task.cancel()
    await asyncio.wait(leaving)
    assert all(task.cancelled() for task in leaving)
    assert not stays.done()
    await journal.append(stream_id, EVENTS)
    assert events_of((await stays).entries) == EVENTS


async def test_text_of_any_kind_comes_back(journal: Journal) -> None:
    """Line ends, NUL, what is beyond the basic plane, and what looks like an event."""
    events = parsed([text_delta(t) for t in ("", "\r\n\n", "\0", "🐧\u2028", '{"type":"[DONE]"}')])
    stream_id = await begun(journal)
    await journal.append(stream_id, events)
    assert events_of((await journal.read(stream_id)).entries) == events


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sample=streams(), size=st.integers(1, 7))
async def test_any_stream_comes_back(journal: Journal, sample: Sample, size: int) -> None:
    """The events that are read equal those that were appended, unknown ones included."""
    events = parsed(sample.events)
    stream_id = await begun(journal)
    for start in range(0, len(events), size):
        await journal.append(stream_id, events[start : start + size])
    await journal.close(stream_id, Verdict())
    entries, verdict = await all_of(journal, stream_id)
    assert (events_of(entries), verdict) == (events, Verdict())
    dumped = [event.model_dump(exclude_unset=True) for event in events]
    assert [event.model_dump(exclude_unset=True) for event in events_of(entries)] == dumped
