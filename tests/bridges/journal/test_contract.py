"""What any `Journal` has to do, wherever it keeps its streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import RedisProcess
from samples import Sample, parsed, streams, text_delta, text_stream
from subscribers import HANG

from rxcohere.bridges.journal import (
    Journal,
    MemoryJournal,
    RedisJournal,
    Verdict,
    new_stream_id,
)
from rxcohere.errors import (
    ConfigurationError,
    JournalError,
    StreamAbandonedError,
    StreamCancelledError,
    StreamExistsError,
    StreamNotFoundError,
    StreamTruncatedError,
)
from rxcohere.events import ChatEvent

LEASE = 0.2
EVENTS = parsed(text_stream("Emperor", " ", "penguins", "."))


@asynccontextmanager
async def in_memory() -> AsyncIterator[Journal]:
    yield MemoryJournal()


@asynccontextmanager
async def in_redis() -> AsyncIterator[Journal]:
    async with RedisProcess() as server, RedisJournal(server.url) as journal:
        yield journal


MAKERS = [in_memory, in_redis]


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


async def all_of(journal: Journal, stream_id: str) -> tuple[list[ChatEvent], Verdict]:
    """What tailing a stream to its end brings."""
    events: list[ChatEvent] = []
    while True:
        page = await journal.tail(stream_id, len(events))
        events += page.events
        if page.verdict is not None:
            return events, page.verdict
        assert page.events


async def events_in(journal: Journal, stream_id: str) -> list[ChatEvent]:
    """What is there of a stream now."""
    return list((await journal.read(stream_id)).events)


async def some_turns() -> None:
    """Lets those who wait begin to."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_stream_begins_once(journal: Journal) -> None:
    """A second one of the same id is refused, also when the first has ended, which stays whole."""
    stream_id = await begun(journal)
    await journal.append(stream_id, EVENTS, 0)
    with pytest.raises(StreamExistsError):
        await journal.begin(stream_id, HANG)
    await journal.close(stream_id, Verdict())
    with pytest.raises(StreamExistsError):
        await journal.begin(stream_id, HANG)
    assert (await all_of(journal, stream_id))[0] == EVENTS


@pytest.mark.parametrize(
    "call",
    [
        lambda journal: journal.append("none", EVENTS, 0),
        lambda journal: journal.renew("none", HANG),
        lambda journal: journal.close("none", Verdict()),
        lambda journal: journal.read("none"),
        lambda journal: journal.tail("none"),
        lambda journal: journal.tail("none", 1),
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
    assert (list(page.events), page.verdict) == ([], None)


async def test_events_are_in_order_and_without_a_gap(journal: Journal) -> None:
    """Whatever the batches, after each comes just what follows it, by reading and by waiting."""
    stream_id = await begun(journal)
    for batch in (EVENTS[:1], EVENTS[1:4], EVENTS[4:]):
        await journal.append(stream_id, batch, EVENTS.index(batch[0]))
    await journal.close(stream_id, Verdict())
    for at in range(len(EVENTS) + 1):
        page = await journal.read(stream_id, at)
        assert (list(page.events), page.verdict) == (EVENTS[at:], Verdict())
        page = await journal.tail(stream_id, at)
        assert list(page.events) == EVENTS[at : at + len(page.events)]
        assert page.events or page.verdict == Verdict()
    assert (await all_of(journal, stream_id)) == (EVENTS, Verdict())


async def test_a_long_stream_is_read_at_once(journal: Journal) -> None:
    """However many events there are, from any place on, with the verdict when there is one."""
    stream_id, batch = await begun(journal), parsed([text_delta(str(n)) for n in range(500)])
    for at in range(0, 2500, 500):
        await journal.append(stream_id, batch, at)
    assert await events_in(journal, stream_id) == 5 * batch
    for at in (1, 1500):
        page = await journal.read(stream_id, at)
        assert (list(page.events), page.verdict) == ((5 * batch)[at:], None)
    await journal.close(stream_id, Verdict())
    for at in (500, 2500):
        page = await journal.read(stream_id, at)
        assert (list(page.events), page.verdict) == ((5 * batch)[at:], Verdict())


async def test_a_place_beyond_the_end(journal: Journal) -> None:
    """It is refused, whether the stream runs or has ended."""
    stream_id = await begun(journal)
    await journal.append(stream_id, EVENTS, 0)
    for _ in range(2):
        for call in (journal.read, journal.tail):
            with pytest.raises(ConfigurationError):
                await call(stream_id, len(EVENTS) + 1)
        await journal.close(stream_id, Verdict())


async def test_what_is_appended_twice_is_there_once(journal: Journal) -> None:
    """Who had no answer may try again; what does not fit is refused and adds nothing."""
    stream_id = await begun(journal)
    await journal.append(stream_id, EVENTS[:3], 0)
    await journal.append(stream_id, EVENTS[:3], 0)
    await journal.append(stream_id, EVENTS[3:4], 3)
    await journal.append(stream_id, EVENTS[3:4], 3)
    for at in (0, 2, 5):
        with pytest.raises(JournalError):
            await journal.append(stream_id, EVENTS[:1], at)
    assert await events_in(journal, stream_id) == EVENTS[:4]


async def test_a_stream_is_waited_for(journal: Journal) -> None:
    """Whoever waits for it hears when it begins, not of another, and at once if it has begun."""
    one, other = new_stream_id(), new_stream_id()
    waits = [asyncio.create_task(journal.begun(one)) for _ in range(3)]
    await some_turns()
    await journal.begin(other, HANG)
    await journal.begun(other)
    leaves = waits.pop()
    leaves.cancel()
    await asyncio.wait([leaves])
    assert leaves.cancelled()
    assert not any(wait.done() for wait in waits)
    await journal.begin(one, HANG)
    await asyncio.gather(*waits)
    await journal.begun(one)


async def test_tail_waits_for_an_event(journal: Journal) -> None:
    """At the beginning and later; appending wakes it."""
    stream_id = await begun(journal)
    for at, event in enumerate(EVENTS[:3]):
        tail = asyncio.create_task(journal.tail(stream_id, at))
        await some_turns()
        assert not tail.done()
        await journal.append(stream_id, [event], at)
        page = await tail
        assert (list(page.events), page.verdict) == ([event], None)


async def test_tail_waits_for_the_end(journal: Journal) -> None:
    """Closing the stream wakes it with the verdict."""
    stream_id = await begun(journal)
    tail = asyncio.create_task(journal.tail(stream_id))
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
    await journal.append(stream_id, EVENTS[:2], 0)
    await journal.close(stream_id, Verdict(first))
    await journal.close(stream_id, Verdict(StreamTruncatedError("late")))
    await journal.close(stream_id, Verdict())
    with pytest.raises(StreamAbandonedError):
        await journal.append(stream_id, EVENTS[2:], 2)
    with pytest.raises(StreamAbandonedError):
        await journal.renew(stream_id, HANG)
    events, verdict = await all_of(journal, stream_id)
    assert events == EVENTS[:2]
    assert (type(verdict.error), str(verdict.error)) == (type(first), str(first))
    assert (await journal.read(stream_id)).verdict is not None


async def test_a_lease_runs_out(journal: Journal) -> None:
    """Who waits then hears of it, and so do readers and the producer; it stays abandoned."""
    stream_id = await begun(journal, LEASE)
    await journal.append(stream_id, EVENTS[:2], 0)
    events, verdict = await all_of(journal, stream_id)
    assert events == EVENTS[:2]
    assert isinstance(verdict.error, StreamAbandonedError)
    with pytest.raises(StreamAbandonedError):
        await journal.append(stream_id, EVENTS[2:], 2)
    with pytest.raises(StreamAbandonedError):
        await journal.renew(stream_id, HANG)
    await journal.close(stream_id, Verdict())
    page = await journal.read(stream_id)
    assert list(page.events) == EVENTS[:2]
    assert page.verdict is not None
    assert isinstance(page.verdict.error, StreamAbandonedError)


async def test_renewing_keeps_a_stream_alive(journal: Journal) -> None:
    """It outlives a stream that was begun with the same lease, and later; so does who waits."""
    renewed = await begun(journal, LEASE)
    await journal.renew(renewed, HANG)
    tail = asyncio.create_task(journal.tail(renewed))
    await all_of(journal, await begun(journal, LEASE))
    assert not tail.done()
    await journal.append(renewed, EVENTS, 0)
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
        await journal.append(stream_id, EVENTS[:1], 0)
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
    tail = asyncio.create_task(journal.tail(other))
    asked = asyncio.create_task(journal.abort_requested(other))
    await some_turns()
    await journal.append(one, EVENTS[:3], 0)
    await journal.request_abort(one, "this one")
    await journal.close(one, Verdict())
    await some_turns()
    assert not tail.done()
    assert not asked.done()
    await journal.append(other, EVENTS[3:], 0)
    await journal.request_abort(other, "the other")
    assert list((await tail).events) == EVENTS[3:]
    assert await asked == "the other"
    assert await events_in(journal, one) == EVENTS[:3]


async def test_many_readers_at_once(journal: Journal) -> None:
    """Each has all of it, whether it waited from the beginning or came in between."""
    stream_id = await begun(journal)
    readers = [asyncio.create_task(all_of(journal, stream_id)) for _ in range(20)]
    for at, event in enumerate(EVENTS):
        await journal.append(stream_id, [event], at)
        readers.append(asyncio.create_task(all_of(journal, stream_id)))
        await some_turns()
    await journal.close(stream_id, Verdict())
    for events, verdict in await asyncio.gather(*readers):
        assert (events, verdict) == (EVENTS, Verdict())


async def test_a_reader_that_leaves_is_missed_by_nobody(journal: Journal) -> None:
    """A cancelled wait ends as one, and the others, the producer too, go on."""
    stream_id = await begun(journal)
    leaving = [asyncio.create_task(journal.tail(stream_id)) for _ in range(3)]
    leaving.append(asyncio.create_task(journal.abort_requested(stream_id)))  # type: ignore[arg-type]
    stays = asyncio.create_task(journal.tail(stream_id))
    await some_turns()
    for task in leaving:
        task.cancel()
    await asyncio.wait(leaving)
    assert all(task.cancelled() for task in leaving)
    assert not stays.done()
    await journal.append(stream_id, EVENTS, 0)
    assert list((await stays).events) == EVENTS


async def test_text_of_any_kind_comes_back(journal: Journal) -> None:
    """Line ends, NUL, what is beyond the basic plane, and what looks like an event."""
    events = parsed([text_delta(t) for t in ("", "\r\n\n", "\0", "🐧\u2028", '{"type":"[DONE]"}')])
    stream_id = await begun(journal)
    await journal.append(stream_id, events, 0)
    assert await events_in(journal, stream_id) == events


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sample=streams(), size=st.integers(1, 7))
async def test_any_stream_comes_back(journal: Journal, sample: Sample, size: int) -> None:
    """The events that are read equal those that were appended, unknown ones included."""
    events = parsed(sample.events)
    stream_id = await begun(journal)
    for start in range(0, len(events), size):
        await journal.append(stream_id, events[start : start + size], start)
    await journal.close(stream_id, Verdict())
    found, verdict = await all_of(journal, stream_id)
    assert (found, verdict) == (events, Verdict())
    dumped = [event.model_dump(exclude_unset=True) for event in events]
    assert [event.model_dump(exclude_unset=True) for event in found] == dumped
