"""Pausing over real sockets: a consumer that is stuck makes its sources wait, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import pytest
import reactivex as rx
from reactivex import Observable
from reactivex import operators as ops
from reactivex.subject import Subject
from samples import text_stream
from subscribers import (
    ASK,
    HANG,
    LIMITS,
    Subscriber,
    Subscribers,
    bind,
    client_of,
    in_thread,
    run,
    serving,
    waiting,
    was_aborted,
)

from rxcohere import (
    BufferOverflowError,
    ChatEvent,
    CohereClient,
    ContentDelta,
    StreamCancelledError,
    StreamTimeoutError,
    Timeouts,
    subscribe_async,
    to_async_iterator,
)
from rxcohere import operators as rxc
from rxcohere.pausing import Gate, current_gate, subscribing_through
from rxcohere.testing import Cut, Fault, ReplayServer, Stall, Transcript

FRAGMENTS = [f"{number} " for number in range(2_000)]
WORDS = "".join(FRAGMENTS)
LONG = Transcript.of(text_stream(*FRAGMENTS))
COUNT = len(LONG.events)
FEW = 16
"""Values that may wait."""


@asynccontextmanager
async def served(
    faults: Iterable[Fault] = (), **options: Any
) -> AsyncIterator[tuple[ReplayServer, CohereClient]]:
    """A server of long streams, in pieces that bring many events at once, and a client of it."""
    async with (
        asyncio.timeout(3 * HANG),
        ReplayServer(LONG, chunking=8192, faults=faults) as server,
    ):
        async with client_of(server, **options) as co:
            yield server, co


class Counter:
    """Counts what a source brings, or several together."""

    def __init__(self) -> None:
        self.brought = 0

    def __call__(self, source: Observable[ChatEvent]) -> Observable[ChatEvent]:
        """The operator."""
        return source.pipe(ops.do_action(self._add))

    def _add(self, _: object) -> None:
        self.brought += 1

    async def stands_still(self) -> int:
        """How many have come, once hundreds of turns of the loop have brought no more.

        The server and the clients share the loop, so a source that went on would have its turn.
        """
        turns, brought = 0, -1
        while turns < 300:
            turns = turns + 1 if brought == self.brought else 0
            brought = self.brought
            await asyncio.sleep(0)
        return brought


async def on_the_loop_of(co: CohereClient, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Waits for work on the loop of a client, from another loop."""
    await waiting(asyncio.run_coroutine_threadsafe(work(), co._transport.acquire_loop()))


def text_of(events: Iterable[Any]) -> str:
    return "".join(event.text or "" for event in events if isinstance(event, ContentDelta))


async def taken_slowly(chain: Observable[Any], counter: Counter, room: int = FEW) -> list[Any]:
    """All values, by a consumer that gets stuck now and then, and looks how many wait."""
    taken: list[Any] = []
    stuck: list[int] = []
    async with aclosing(to_async_iterator(chain, max_pending=room)) as values:
        async for value in values:
            taken.append(value)
            assert counter.brought - len(taken) <= room
            if len(taken) % 97 == 1:
                stuck.append(await counter.stands_still() - len(taken))
                assert stuck[-1] <= room
    assert min(stuck[:-1]) > room // 2 - 2  # it had gone on, as far as it could
    return taken


# One source --------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_pending", [1, 2, FEW, 256])
async def test_a_stuck_consumer_makes_the_source_wait(max_pending: int) -> None:
    """No more events come than there is room for, and all of them once they are taken."""
    counter = Counter()
    async with served() as (server, co):
        taken = await taken_slowly(co.chat_stream(**ASK).pipe(counter), counter, max_pending)
        assert text_of(taken) == WORDS
        assert len(taken) == COUNT
        assert len(server.requests) == 1


async def test_a_buffer_that_is_full_is_full() -> None:
    """The source is stopped by the event that takes the last place, and not before."""
    counter = Counter()
    async with served() as (_, co):
        async with aclosing(
            to_async_iterator(co.chat_stream(**ASK).pipe(counter), max_pending=FEW)
        ) as values:
            await anext(values)
            assert await counter.stands_still() == FEW
            for _ in range(FEW // 2 - 2):
                await anext(values)
            assert await counter.stands_still() == FEW
            await anext(values)  # now half of it is free
            assert await counter.stands_still() == FEW + FEW // 2


async def test_it_works_behind_operators() -> None:
    """Stock operators do not stand between the consumer and the source."""
    counter = Counter()
    async with served() as (_, co):
        chain = co.chat_stream(**ASK).pipe(
            counter,
            ops.filter(lambda event: isinstance(event, ContentDelta)),
            ops.map(lambda event: event.text),
            ops.map(str.strip),
        )
        taken: list[str] = []
        async for value in to_async_iterator(chain, max_pending=FEW):
            taken.append(value)
            if len(taken) % 100 == 1:
                # The first two events and the last two are no text.
                assert await counter.stands_still() - len(taken) <= FEW + 2
        assert taken == WORDS.split()


async def test_it_works_behind_operators_of_ours() -> None:
    """Lifted operators carry it to the source as well, and so do a client's shortcuts."""
    counter = Counter()
    async with served() as (_, co):
        stream = co.chat_stream(**ASK)
        chain = stream.pipe(counter, rxc.text_deltas())
        async with aclosing(to_async_iterator(chain, max_pending=FEW)) as values:
            await anext(values)
            assert await counter.stands_still() == FEW + 2
            assert "".join([FRAGMENTS[0], *[text async for text in values]]) == WORDS
        fragments = stream.text().pipe(counter)
        counter.brought = 0
        async with aclosing(to_async_iterator(fragments, max_pending=FEW)) as values:
            await anext(values)
            assert await counter.stands_still() == FEW


async def test_an_operator_may_make_many_values_of_one_event() -> None:
    """What comes of the event that filled the buffer finds room, and the source waits after it."""
    counter = Counter()
    async with served() as (_, co):
        chain = co.chat_stream(**ASK).pipe(
            counter,
            ops.take(20),
            ops.flat_map(lambda event: rx.from_iterable([event.type] * 300)),
        )
        async with aclosing(to_async_iterator(chain, max_pending=FEW)) as values:
            await anext(values)
            assert await counter.stands_still() == 1
            assert len([value async for value in values]) == 20 * 300 - 1
        assert values.dropped == 0


async def test_an_operator_may_not_make_any_number_of_values_of_one_event() -> None:
    """What a paused source had under way has its limit, and the error says that this was it."""
    under_way = 1000
    async with served() as (server, co):
        numbers = co.chat_stream(**ASK).pipe(ops.flat_map(lambda _: rx.range(9 * under_way)))
        values = to_async_iterator(numbers, max_pending=FEW)
        taken: list[int] = []
        with pytest.raises(BufferOverflowError, match=r"source is paused.* under way is too much"):
            async for value in values:
                taken.append(value)  # noqa: PERF401 - kept up to the error
        assert taken == list(range(len(taken)))
        assert under_way <= len(taken) < 2 * under_way
        await server.until(was_aborted)


async def test_a_subscriber_that_awaits_makes_the_source_wait() -> None:
    """`subscribe_async` pauses like the iterator does."""
    counter = Counter()
    release = asyncio.Event()
    ended = asyncio.get_running_loop().create_future()
    seen: list[ChatEvent] = []

    async def on_next(event: ChatEvent) -> None:
        seen.append(event)
        await release.wait()

    async with served() as (_, co):
        stream = co.chat_stream(**ASK).pipe(counter)
        subscription = subscribe_async(
            stream, on_next, ended.set_exception, lambda: ended.set_result(None), max_pending=FEW
        )
        await counter.stands_still()
        assert (len(seen), counter.brought) == (1, FEW)
        release.set()
        await ended
        assert text_of(seen) == WORDS
        assert subscription.dropped == 0


async def test_coalesced_deltas_survive_a_pause() -> None:
    """What a window holds back while the source waits comes in its place."""
    counter = Counter()
    async with served() as (_, co):
        chain = co.chat_stream(**ASK).pipe(counter, rxc.coalesce_deltas(1e-4, max_chars=8))
        taken: list[ChatEvent] = []
        async for event in to_async_iterator(chain, max_pending=2):
            taken.append(event)
            if len(taken) % 50 == 1:
                brought = await counter.stands_still()
                assert brought < COUNT or len(taken) > COUNT / 5
        assert text_of(taken) == WORDS


async def test_iterators_of_one_cold_stream_pause_separately() -> None:
    """One that is stuck does not hold up another one, which has a request of its own."""
    counters: list[Counter] = []
    async with served() as (server, co):
        stream = co.chat_stream(**ASK)

        def counted(_: object) -> Observable[ChatEvent]:
            counters.append(Counter())
            return stream.pipe(counters[-1])

        chain = rx.defer(counted)
        async with aclosing(to_async_iterator(chain, max_pending=FEW)) as stuck:
            first = [await anext(stuck)]
            others = [to_async_iterator(chain, max_pending=FEW) for _ in range(2)]
            for other in others:
                assert text_of([event async for event in other]) == WORDS
            assert await counters[0].stands_still() == FEW
            assert [counter.brought for counter in counters[1:]] == [COUNT, COUNT]
            assert text_of(first + [event async for event in stuck]) == WORDS
        assert len(server.requests) == 3


@pytest.mark.parametrize("overflow", ["merge", "error", "drop_oldest", "drop_newest"])
async def test_no_other_policy_makes_the_source_wait(overflow: Any) -> None:
    """With any other policy the source runs on, whatever becomes of its events."""
    counter = Counter()
    ended = asyncio.Event()
    async with served() as (_, co):
        chain = co.chat_stream(**ASK).pipe(counter, ops.finally_action(ended.set))
        values = to_async_iterator(chain, max_pending=FEW, overflow=overflow)
        async with aclosing(values):
            await anext(values)
            await ended.wait()
            assert counter.brought == FEW + 1 if overflow == "error" else COUNT


# Several sources ---------------------------------------------------------------------------------


async def test_streams_that_are_merged_all_wait() -> None:
    """One buffer, two streams: both stop, and no event of either comes while there is no room."""
    counter = Counter()
    async with served() as (server, co):
        stream = co.chat_stream(**ASK).pipe(counter)
        taken = await taken_slowly(rx.merge(stream, stream), counter)
        assert len(taken) == 2 * COUNT
        assert sorted(text_of(taken).split()) == sorted(WORDS.split() * 2)
        assert len(server.requests) == 2


async def test_a_stream_that_waits_for_its_next_chunk_when_it_is_paused_waits() -> None:
    """A source that was idle when the buffer filled brings nothing when something arrives."""
    ours, theirs = Counter(), Counter()
    first: Subject[int] = Subject()
    async with served() as (server, co):
        filler = first.pipe(ops.do_action(ours._add))
        chain = rx.merge(filler, co.chat_stream(**ASK).pipe(theirs))
        async with aclosing(to_async_iterator(chain, max_pending=FEW)) as values:
            asked = asyncio.ensure_future(anext(values))
            await server.until(lambda s: len(s.requests) == 1)
            assert theirs.brought == 0
            for number in range(FEW):
                first.on_next(number)
            assert await asked == 0
            assert await theirs.stands_still() == 0
            for number in range(1, FEW):
                assert await anext(values) == number
            assert type(await anext(values)) is not int


async def test_streams_one_after_the_other_all_wait() -> None:
    """With ``concat``, the second request is sent only when the first stream has been taken in."""
    first, second = Counter(), Counter()
    async with served() as (server, co):
        stream = co.chat_stream(**ASK)
        chain = rx.concat(stream.pipe(first), stream.pipe(second))
        taken: list[ChatEvent] = []
        async for event in to_async_iterator(chain, max_pending=FEW):
            taken.append(event)
            if len(taken) % 97 == 1:
                await first.stands_still()
                assert await second.stands_still() + first.brought - len(taken) <= FEW
                if first.brought < COUNT:
                    assert len(server.requests) == 1
        assert text_of(taken) == WORDS * 2
        assert len(server.requests) == 2


@pytest.mark.parametrize("what", ["stream", "values"])
async def test_a_stream_whose_turn_comes_while_the_buffer_is_full_sends_nothing(what: str) -> None:
    """A source that ends by filling the buffer is followed by one that waits with its request."""
    counter = Counter()
    async with served() as (server, co):
        stream = co.chat_stream(**ASK)
        first: Observable[Any] = rx.from_iterable(range(FEW + 2))
        if what == "stream":
            first = stream.pipe(ops.take_last(FEW + 2))
        expected = int(what == "stream")
        chain = rx.concat(first, stream.pipe(counter))
        async with aclosing(to_async_iterator(chain, max_pending=FEW + 2)) as values:
            await anext(values)
            await server.until(lambda s: len(s.requests) == expected and s.open == 0)
            assert await counter.stands_still() == 0
            assert len(server.requests) == expected
            for _ in range(FEW + 1):
                await anext(values)
            assert text_of([event async for event in values]) == WORDS
        assert len(server.requests) == expected + 1


async def test_streams_that_flat_map_subscribes_to_at_the_start_all_wait() -> None:
    """``flat_map`` over prompts that are there already is part of subscribing."""
    counter = Counter()
    prompts = ["one", "two", "three"]
    async with served() as (server, co):

        def ask(prompt: str) -> Observable[ChatEvent]:
            messages = [{"role": "user", "content": prompt}]
            return co.chat_stream(model="m", messages=messages).pipe(counter)

        chain = rx.from_iterable(prompts).pipe(ops.flat_map(ask))
        taken = await taken_slowly(chain, counter)
        assert sorted(text_of(taken).split()) == sorted(WORDS.split() * 3)
        asked = [request.json["messages"][0]["content"] for request in server.requests]
        assert sorted(asked) == sorted(prompts)


async def test_a_stream_that_is_sent_again_waits() -> None:
    """After ``retry``, the new subscription has the same consumer."""
    counter = Counter()
    cut = 301
    async with served([Cut(after_events=cut, how="eof", times=1)]) as (server, co):
        chain = co.chat_stream(**ASK).pipe(counter, ops.retry(2))
        taken = await taken_slowly(chain, counter)
        assert len(taken) == cut + COUNT
        assert text_of(taken[cut:]) == WORDS
        assert len(server.requests) == 2


async def test_a_stream_that_takes_the_place_of_another_waits() -> None:
    """With ``catch``, whatever comes after the error waits, too."""
    counter = Counter()
    cut = 301
    async with served([Cut(after_events=cut, how="eof", times=1)]) as (server, co):
        stream = co.chat_stream(**ASK).pipe(counter)
        chain = stream.pipe(ops.catch(lambda error, source: stream))
        taken = await taken_slowly(chain, counter)
        assert len(taken) == cut + COUNT
        assert text_of(taken[cut:]) == WORDS
        assert len(server.requests) == 2


# Sources that cannot be reached, and those that must not be --------------------------------------


@pytest.mark.parametrize("outer", ["subject", "stream"])
async def test_a_stream_that_flat_map_subscribes_to_later_is_merged(outer: str) -> None:
    """Inside a live ``on_next`` the gate is out of reach: nothing waits, and nothing is lost."""
    counter = Counter()
    ended = asyncio.Event()
    prompts: Subject[Any] = Subject()
    async with served() as (_, co):
        stream = co.chat_stream(**ASK)
        counted = stream.pipe(counter, ops.do_action(on_completed=ended.set))
        outside = prompts if outer == "subject" else stream.pipe(ops.take(1))
        chain = outside.pipe(ops.flat_map(lambda _: counted))
        values = to_async_iterator(chain, max_pending=FEW)
        async with aclosing(values):
            asked = asyncio.ensure_future(anext(values))
            await asyncio.sleep(0)
            prompts.on_next("one")
            prompts.on_completed()
            events = [await asked]
            await ended.wait()
            assert counter.brought == COUNT
            events += [event async for event in values]
        assert text_of(events) == WORDS
        assert len(events) < COUNT
        assert values.dropped == 0


async def test_other_values_that_cannot_wait_overflow() -> None:
    """Where neither waiting nor merging is possible, the consumer is told, after what waited."""
    prompts: Subject[Any] = Subject()
    async with served([Stall(after_events=COUNT - 3)]) as (server, co):
        words = co.chat_stream(**ASK).pipe(rxc.text_deltas())
        values = to_async_iterator(prompts.pipe(ops.flat_map(lambda _: words)), max_pending=FEW)
        asked = asyncio.ensure_future(anext(values))
        await asyncio.sleep(0)
        prompts.on_next("one")
        taken = [await asked]
        await server.until(was_aborted)
        with pytest.raises(BufferOverflowError):
            async for text in values:
                taken.append(text)  # noqa: PERF401 - kept up to the error
        assert taken[:FEW] == FRAGMENTS[:FEW]
        assert len(taken) <= FEW + 1
        assert prompts.observers == []


async def test_a_stream_that_on_next_subscribes_to_for_somebody_else_goes_on(
    subscriber: Subscribers,
) -> None:
    """What has another consumer does not wait for this one."""
    counter = Counter()
    others: list[Subscriber] = []
    async with served() as (_, co):

        def ask_another(_: object) -> None:
            if not others:
                others.append(subscriber().to(co.chat_stream(**ASK)))

        chain = co.chat_stream(**ASK).pipe(counter, ops.do_action(ask_another))
        async with aclosing(to_async_iterator(chain, max_pending=FEW)) as values:
            await anext(values)
            await others[0].end()
            assert others[0].completed
            assert text_of(others[0].values) == WORDS
            assert await counter.stands_still() == FEW


async def test_what_a_stuck_handler_subscribes_to_goes_on() -> None:
    """Inside ``on_next`` of `subscribe_async`, a stream has that handler as its consumer."""
    counter = Counter()
    answers: asyncio.Queue[str] = asyncio.Queue()

    async def on_next(_: ChatEvent) -> None:
        await answers.put(await co.chat_stream(**ASK).pipe(rxc.collect_text()))
        await asyncio.get_running_loop().create_future()

    async with served() as (_, co):
        subscription = subscribe_async(
            co.chat_stream(**ASK).pipe(counter), on_next, max_pending=FEW
        )
        assert await answers.get() == WORDS
        assert await counter.stands_still() == FEW
        subscription.dispose()


async def test_a_handler_that_is_subscribed_while_another_chain_is_has_its_own_gate() -> None:
    """`subscribe_async` is a consumer, not a source: nobody further down makes it wait."""

    async def ignore(_: object) -> None:
        pass

    gate = Gate()
    with subscribing_through(gate):
        subscription = subscribe_async(rx.never(), ignore)
    assert not gate.reached
    subscription.dispose()


@pytest.mark.parametrize("order", ["stuck first", "stuck last"])
async def test_a_shared_stream_is_never_paused(subscriber: Subscribers, order: str) -> None:
    """Others get everything while one is stuck, whose events are merged without loss."""
    counter = Counter()
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).pipe(counter, rxc.share_response())
        values = to_async_iterator(shared, max_pending=FEW, overflow="pause")
        other = subscriber()
        if order == "stuck last":
            other.to(shared)
        events = [await anext(values)]
        if order == "stuck first":
            other.to(shared)
        await other.end()
        assert other.completed
        assert text_of(other.values) == WORDS
        assert counter.brought == COUNT
        events += [event async for event in values]
        assert text_of(events) == WORDS
        assert len(events) < COUNT
        assert values.dropped == 0
        assert len(server.requests) == 1


# Disposing while paused --------------------------------------------------------------------------


async def close_iterator(stream: Observable[Any]) -> Callable[[], Awaitable[None]]:
    values = to_async_iterator(stream, max_pending=FEW)
    await anext(values)
    return values.aclose


async def cancel_task(stream: Observable[Any]) -> Callable[[], Awaitable[None]]:
    async def iterate() -> None:
        async for _ in to_async_iterator(stream, max_pending=FEW):
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(iterate())

    async def cancel() -> None:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    return cancel


async def dispose_handler(stream: Observable[Any]) -> Callable[[], Awaitable[None]]:
    async def on_next(_: object) -> None:
        await asyncio.get_running_loop().create_future()

    subscription = subscribe_async(stream, on_next, max_pending=FEW)

    async def dispose() -> None:
        subscription.dispose()

    return dispose


@pytest.mark.parametrize("way", [close_iterator, cancel_task, dispose_handler])
async def test_disposing_of_paused_sources_ends_them(way: Any) -> None:
    """Two streams that wait for their consumer are gone with it, tasks and connections."""
    counter = Counter()
    async with served([Stall(after_events=COUNT - 3)]) as (server, co):
        stream = co.chat_stream(**ASK).pipe(counter)
        leave = await way(rx.merge(stream, stream))
        await counter.stands_still()
        assert server.open == 2
        assert counter.brought < COUNT
        await leave()
        await server.until(lambda s: s.aborted == 2 and s.open == 0)


@pytest.mark.parametrize("count", [FEW - 1, FEW, FEW + 1])
async def test_a_source_that_is_disposed_of_by_the_value_that_fills_the_buffer(count: int) -> None:
    """``take`` ends the stream inside the very ``on_next`` that pauses it: it does not wait."""
    async with served([Stall(after_events=COUNT - 3)]) as (server, co):
        ended = asyncio.Event()
        chain = co.chat_stream(**ASK).pipe(ops.finally_action(ended.set), ops.take(count))
        values = to_async_iterator(chain, max_pending=FEW)
        events = [await anext(values)]
        if count <= FEW:
            await ended.wait()
            await server.until(was_aborted)
        events += [event async for event in values]
        assert len(events) == count
        await server.until(was_aborted)


async def test_closing_the_client_reaches_a_paused_source() -> None:
    """A stream that waits for its consumer ends with the client, after what was waiting."""
    counter = Counter()
    async with served([Stall(after_events=COUNT - 3)]) as (server, co):
        chain = co.chat_stream(**ASK).pipe(counter)
        async with aclosing(to_async_iterator(chain, max_pending=FEW)) as values:
            events = [await anext(values)]
            await counter.stands_still()
            await asyncio.wait_for(co.aclose(), HANG)
            await server.until(was_aborted)
            with pytest.raises(StreamCancelledError):
                async for event in values:
                    events.append(event)  # noqa: PERF401 - kept up to the error
            assert len(events) >= FEW


async def test_closing_the_client_reaches_a_source_that_has_sent_nothing_yet() -> None:
    """A stream that waits with its request ends with the client, and never sends it."""
    async with served() as (server, co):
        chain = rx.concat(rx.from_iterable(range(FEW)), co.chat_stream(**ASK))
        async with aclosing(to_async_iterator(chain, max_pending=FEW)) as values:
            taken = [await anext(values)]
            await asyncio.wait_for(co.aclose(), HANG)
            with pytest.raises(StreamCancelledError):
                async for value in values:
                    taken.append(value)  # noqa: PERF401 - kept up to the error
            assert taken == list(range(FEW))
        assert server.requests == []


def test_closing_a_client_in_a_plain_thread_reaches_a_paused_source() -> None:
    """`close` does not wait for a consumer, on another loop, that may never take anything."""
    counter = Counter()

    async def work(server: ReplayServer, co: CohereClient) -> None:
        chain = co.chat_stream(**ASK).pipe(counter)
        async with aclosing(to_async_iterator(chain, max_pending=FEW)) as values:
            await anext(values)
            await on_the_loop_of(co, counter.stands_still)
            await in_thread(co.close)
            await server.until(was_aborted)

    with serving(LONG, [Stall(after_events=COUNT - 3)]) as (server, co):
        bind(co)
        run(work(server, co))


# Other loops, clocks -----------------------------------------------------------------------------


def test_a_consumer_on_another_loop_makes_the_source_wait() -> None:
    """The client's loop stops bringing events and goes on at a word from the consumer's."""
    counter = Counter()

    async def work(co: CohereClient) -> None:
        chain = co.chat_stream(**ASK).pipe(counter, ops.map(lambda event: event))
        values = to_async_iterator(chain, max_pending=FEW)
        taken: list[ChatEvent] = []
        async for event in values:
            taken.append(event)
            if len(taken) % 211 == 1:
                await on_the_loop_of(co, counter.stands_still)
                assert counter.brought - len(taken) <= FEW
        assert text_of(taken) == WORDS
        assert len(taken) == COUNT

    with serving(LONG) as (_, co):
        bind(co)
        run(work(co))


def test_pausing_and_going_on_from_another_loop_as_fast_as_it_goes() -> None:
    """A buffer of one or two, emptied on another loop: no wake-up is lost, and no event."""

    async def work(co: CohereClient) -> None:
        for max_pending in (1, 2):
            values = to_async_iterator(co.chat_stream(**ASK), max_pending=max_pending)
            events = [event async for event in values]
            assert text_of(events) == WORDS
            assert len(events) == COUNT

    with serving(LONG) as (_, co):
        bind(co)
        run(work(co))


async def test_time_that_the_consumer_takes_is_not_idle() -> None:
    """A paused stream outlives its idle limit, which holds again once it has gone on."""
    # More than sockets buffer: a connection that were given up meanwhile would lose some of it.
    large = Transcript.of(text_stream(*["x" * 65_536] * 200))
    sent, idle = len(large.events) - 2, 0.5
    limits = Timeouts(connect=HANG, first_event=HANG, idle=idle, total=LIMITS.total)
    async with (
        asyncio.timeout(3 * HANG),
        ReplayServer(large, faults=[Stall(after_events=sent)]) as server,
        client_of(server, timeouts=limits) as co,
    ):
        counter = Counter()
        values = to_async_iterator(co.chat_stream(**ASK).pipe(counter), max_pending=4)
        taken = [await anext(values) for _ in range(20)]  # so that the idle clock has been set
        held = asyncio.Event()
        asyncio.get_running_loop().call_later(2 * idle, held.set)
        await held.wait()
        assert counter.brought - len(taken) <= 4
        with pytest.raises(StreamTimeoutError) as caught:
            async for event in values:
                taken.append(event)  # noqa: PERF401 - kept up to the error
        assert caught.value.phase == "idle"
        assert len(taken) == sent


# The gate itself ---------------------------------------------------------------------------------


class Waiter:
    """A source that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")


def test_a_gate_tells_each_source_once() -> None:
    """Closing twice, or opening what is open, tells nobody anything."""
    gate, first, second = Gate(), Waiter(), Waiter()
    assert not gate.reached
    gate.enter(first)
    gate.enter(second)
    assert gate.reached
    gate.open()
    gate.close()
    gate.close()
    gate.open()
    gate.open()
    assert first.told == second.told == ["pause", "resume"]


def test_whoever_enters_a_closed_gate_waits_and_whoever_leaves_is_left_alone() -> None:
    """A latecomer is told at once; one that has left is told nothing."""
    gate, early, late = Gate(), Waiter(), Waiter()
    gate.enter(early)
    gate.close()
    gate.enter(late)
    gate.leave(early)
    gate.leave(early)
    gate.open()
    assert early.told == ["pause"]
    assert late.told == ["pause", "resume"]
    assert gate.reached


def test_a_gate_is_current_inside_its_block_alone() -> None:
    """Blocks nest, None hides what is outside, and an exception puts it back as well."""

    @contextmanager
    def unchanged() -> Iterator[None]:
        before = current_gate()
        yield
        assert current_gate() is before

    outer, inner = Gate(), Gate()
    assert current_gate() is None
    with unchanged(), subscribing_through(outer):
        assert current_gate() is outer
        with unchanged(), subscribing_through(inner):
            assert current_gate() is inner
        with unchanged(), subscribing_through(None):
            assert current_gate() is None
        with pytest.raises(LookupError), subscribing_through(inner):
            raise LookupError
        assert current_gate() is outer
    assert current_gate() is None


# Whoever outlives the consumer -------------------------------------------------------------------


async def test_a_source_that_outlives_its_slow_reader_goes_on(subscriber: Subscribers) -> None:
    """Behind a stock share, one who leaves while the source waits for it lets the others hear."""
    async with served() as (server, co):
        hot = co.chat_stream(**ASK).pipe(ops.share())
        stuck = to_async_iterator(hot, max_pending=1)
        first = await anext(stuck)
        other = subscriber().to(hot)
        await stuck.aclose()
        await other.end()
        assert other.completed
        assert first not in other.values
        assert text_of(other.values) == WORDS
        assert len(server.requests) == 1


async def test_closing_a_client_hands_over_all_that_arrived() -> None:
    """However many fragments had arrived for a slow reader, it gets them, then the verdict."""
    async with served([Stall(after_events=COUNT - 3)]) as (_, co):
        texts = to_async_iterator(co.chat_stream(**ASK).text(), max_pending=4)
        taken = [await anext(texts)]
        await Counter().stands_still()  # by then all of it has arrived
        await co.aclose()
        with pytest.raises(StreamCancelledError) as caught:
            async for text in texts:
                taken += [text]
        assert caught.value.partial is not None
        assert caught.value.partial.text == "".join(taken)
        assert len(taken) > 1_000 + 4


async def test_sources_wait_also_when_subscribed_to_inside_a_trampoline() -> None:
    """In the on_next of a synchronous source, ``concat`` is subscribed to later, but waits too."""
    counter = Counter()
    async with served() as (_, co):
        stream = co.chat_stream(**ASK).text().pipe(ops.do_action(counter._add))
        stuck = asyncio.Event()
        handled: list[str] = []
        ended = asyncio.get_running_loop().create_future()

        async def handle(text: str) -> None:
            await stuck.wait()
            handled.append(text)

        def subscribe(_: int) -> None:
            both = rx.concat(stream, stream)
            done = lambda: ended.set_result(None)  # noqa: E731
            subscribe_async(both, handle, ended.set_exception, done, max_pending=FEW)

        rx.of(1).subscribe(subscribe)
        assert await counter.stands_still() <= FEW + 1
        stuck.set()
        await ended
        assert "".join(handled) == WORDS * 2


async def test_a_paused_stream_past_its_total_limit_gives_up_its_slot() -> None:
    """The connection is gone, so somebody else may have one, before the slow reader notices."""
    options = {
        "timeouts": Timeouts(connect=HANG, first_event=HANG, total=0.3),
        "max_connections": 1,
    }
    async with served([Stall(after_events=COUNT - 3, times=1)], **options) as (server, co):
        stuck = to_async_iterator(co.chat_stream(**ASK), max_pending=1)
        await anext(stuck)
        await server.until(was_aborted)
        response = await co.chat_stream(**ASK, request_options={"timeouts": LIMITS}).response()
        assert response.text == WORDS
        with pytest.raises(StreamTimeoutError):
            async for _ in stuck:
                pass
