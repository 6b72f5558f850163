"""`to_async_iterator`: when it subscribes, how it ends, where its values may come from."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
import reactivex as rx
from hypothesis import given, settings
from hypothesis import strategies as st
from reactivex import Observable
from reactivex import operators as ops
from reactivex.disposable import Disposable
from reactivex.subject import Subject
from samples import (
    Sample,
    citation,
    citation_end,
    citation_start,
    content_end,
    content_start,
    document,
    message_end,
    message_start,
    parsed,
    streams,
    text_delta,
)
from subscribers import (
    ANSWER,
    ASK,
    HANG,
    TEXT,
    Boom,
    bound_to_background,
    in_thread,
    run,
    served,
    started,
    waiting,
    was_aborted,
)

from rxcohere import (
    BufferOverflowError,
    ChatEvent,
    ChatResponse,
    CohereClient,
    ConfigurationError,
    ContentDelta,
    MessageStart,
    ObservableIterator,
    Overflow,
    StreamCancelledError,
    StreamTruncatedError,
    compact,
    to_async_iterator,
)
from rxcohere import operators as rxc
from rxcohere.bridges.journal import JournalEntry
from rxcohere.testing import Cut, DelayHeaders, Fault, Linger, ReplayServer, Stall

POLICIES: list[Overflow] = ["pause", "merge", "error", "drop_oldest", "drop_newest"]


async def asking(values: AsyncIterator[Any]) -> asyncio.Future[Any]:
    """The next value, which has been asked for; so there is a subscription."""
    value = asyncio.ensure_future(anext(values))
    await asyncio.sleep(0)
    return value


async def rest(values: AsyncIterator[Any], first: asyncio.Future[Any]) -> list[Any]:
    """All values, the first of which has been asked for."""
    async with asyncio.timeout(HANG):
        return [await first, *[value async for value in values]]


async def until_error(
    values: AsyncIterator[Any], first: asyncio.Future[Any] | None = None
) -> tuple[list[Any], Exception]:
    """The values that come before the error, and the error."""
    taken: list[Any] = []
    try:
        async with asyncio.timeout(HANG):
            if first is not None:
                taken.append(await first)
            async for value in values:
                taken.append(value)  # noqa: PERF401 - kept up to the error
    except Exception as error:
        return taken, error
    pytest.fail(f"no error came, but {taken} and the end")


def text_of(events: list[ChatEvent]) -> str:
    return "".join(event.text or "" for event in events if isinstance(event, ContentDelta))


def response_of(events: list[ChatEvent]) -> ChatResponse | None:
    return rx.from_iterable(events).pipe(rxc.collect_response(), ops.default_if_empty(None)).run()


# Subscribing, values, the end --------------------------------------------------------------------


async def test_values_come_in_order_then_the_end() -> None:
    """Every event of one request comes, in order, and then the iteration stops."""
    async with served() as (server, co):
        events = [event async for event in to_async_iterator(co.chat_stream(**ASK))]
        assert [event.type for event in events] == [event.type for event in TEXT.events]
        assert text_of(events) == ANSWER
        assert len(server.requests) == 1
        await server.until(lambda s: s.completed == 1)


async def test_it_subscribes_when_the_first_value_is_asked_for() -> None:
    """Making the iterator, and asking it for itself, subscribes to nothing."""
    subject: Subject[int] = Subject()
    values = to_async_iterator(subject)
    assert aiter(values) is values
    await asyncio.sleep(0)
    assert subject.observers == []
    subject.on_next(0)
    first = await asking(values)
    assert len(subject.observers) == 1
    subject.on_next(1)
    subject.on_completed()
    assert await rest(values, first) == [1]


async def test_two_iterators_of_a_cold_stream_are_two_requests() -> None:
    """Each iterator is a subscription of its own."""
    async with served() as (server, co):
        stream = co.chat_stream(**ASK)
        for _ in range(2):
            assert text_of([event async for event in to_async_iterator(stream)]) == ANSWER
        assert len(server.requests) == 2


@pytest.mark.parametrize("overflow", POLICIES)
async def test_the_error_comes_after_all_values(overflow: Overflow) -> None:
    """A cut stream raises once what came of it has been taken, with the response so far."""
    async with served(faults=[Cut(after_events=6)]) as (_, co):
        values = to_async_iterator(co.chat_stream(**ASK), overflow=overflow)
        taken, error = await until_error(values)
        assert [event.type for event in taken] == [event.type for event in TEXT.events[:6]]
        assert type(error) is StreamTruncatedError
        assert error.partial is not None
        with pytest.raises(StopAsyncIteration):
            await anext(values)


async def test_the_error_waits_for_values_that_nobody_has_taken() -> None:
    """An error that comes while values wait does not overtake them."""
    subject: Subject[int] = Subject()
    values = to_async_iterator(subject)
    first = await asking(values)
    for number in range(3):
        subject.on_next(number)
    subject.on_error(Boom())
    taken, error = await until_error(values, first)
    assert (taken, type(error)) == ([0, 1, 2], Boom)
    assert values.dropped == 0


async def test_falsy_values_are_values() -> None:
    """None, zero and the empty list come out like anything else."""
    falsy: list[Any] = [None, 0, "", [], False]
    assert [value async for value in to_async_iterator(rx.from_iterable(falsy))] == falsy


@pytest.mark.parametrize("overflow", POLICIES[2:] + POLICIES[:1])
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (rx.of(1, 2, 3), [1, 2, 3]),
        (rx.from_iterable(range(256)), list(range(256))),
        (rx.empty(), []),
        (rx.of(1, 2).pipe(ops.concat(rx.of(3))), [1, 2, 3]),
    ],
    ids=["of", "from_iterable", "empty", "concat"],
)
async def test_a_synchronous_source_brings_all_that_there_is_room_for(
    source: Observable[int], expected: list[int], overflow: Overflow
) -> None:
    """What comes inside ``subscribe`` waits in the buffer, and fills it to the last place."""
    values = to_async_iterator(source, overflow=overflow)
    assert [value async for value in values] == expected
    assert values.dropped == 0


async def test_a_source_that_fails_while_it_is_subscribed_to() -> None:
    """An error inside ``subscribe`` comes after the values, too."""
    taken, error = await until_error(to_async_iterator(rx.concat(rx.of(1, 2), rx.throw(Boom()))))
    assert (taken, type(error)) == ([1, 2], Boom)


async def test_a_raising_operator_ends_the_iteration() -> None:
    """What an operator raises ends the iteration after the values before it."""

    def fragile(value: int) -> int:
        if value == 3:
            raise Boom
        return value

    chain = rx.of(1, 2, 3, 4).pipe(ops.map(fragile))
    taken, error = await until_error(to_async_iterator(chain))
    assert (taken, type(error)) == ([1, 2], Boom)


async def test_the_end_stays_the_end() -> None:
    """An iterator that has ended gives nothing more, and may be closed."""
    values = to_async_iterator(rx.of(1))
    assert [value async for value in values] == [1]
    with pytest.raises(StopAsyncIteration):
        await anext(values)
    await values.aclose()
    await values.aclose()


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_pending", [0, -1, True, 1.5, None, "16"])
async def test_an_impossible_max_pending_is_refused_at_the_call(max_pending: Any) -> None:
    """`ConfigurationError` names the argument and what came, before anything is subscribed to."""
    with pytest.raises(ConfigurationError, match="max_pending") as caught:
        to_async_iterator(rx.never(), max_pending=max_pending)
    assert repr(max_pending) in str(caught.value)


@pytest.mark.parametrize("overflow", ["", "PAUSE", "drop", None, 0, []])
async def test_an_unknown_policy_is_refused_at_the_call(overflow: Any) -> None:
    """`ConfigurationError` lists the policies that there are."""
    with pytest.raises(ConfigurationError, match=", ".join(POLICIES)) as caught:
        to_async_iterator(rx.never(), overflow=overflow)
    assert repr(overflow) in str(caught.value)


# Ways out ----------------------------------------------------------------------------------------


async def test_break_and_closing_disposes_of_the_subscription() -> None:
    """With ``aclosing``, subscription and request are gone when the block is left."""
    async with served(faults=[Stall(after_events=3)]) as (server, co):
        async with aclosing(to_async_iterator(co.chat_stream(**ASK))) as values:
            async for event in values:
                assert type(event) is MessageStart
                break
        await server.until(was_aborted)


async def test_break_alone_disposes_of_the_subscription() -> None:
    """``break`` is enough where nobody else refers to the iterator."""
    subject: Subject[int] = Subject()
    asyncio.get_running_loop().call_soon(subject.on_next, 1)
    async for value in to_async_iterator(subject):
        assert value == 1
        break
    gc.collect()
    for _ in range(3):  # the loop closes what the collector found
        await asyncio.sleep(0)
    assert subject.observers == []


async def test_break_alone_gives_the_request_up() -> None:
    """The server, too, notices a ``break``."""
    async with served(faults=[Stall(after_events=3)]) as (server, co):
        async for event in to_async_iterator(co.chat_stream(**ASK)):
            assert type(event) is MessageStart
            break
        await server.until(was_aborted)


async def test_an_exception_in_the_body_disposes_of_the_subscription() -> None:
    """An exception inside ``async for`` comes through, and the server sees the client go."""

    async def iterate(stream: Observable[ChatEvent]) -> None:
        async for _ in to_async_iterator(stream):
            raise Boom

    async with served(faults=[Stall(after_events=3)]) as (server, co):
        with pytest.raises(Boom):
            await iterate(co.chat_stream(**ASK))
        await server.until(was_aborted)


@pytest.mark.parametrize("fault", [DelayHeaders(), Stall(after_events=0), Stall(after_events=3)])
async def test_cancelling_the_task_disposes_of_the_subscription(fault: Fault) -> None:
    """A cancelled iteration ends with `CancelledError`, wherever it waited."""

    async def iterate(stream: Observable[ChatEvent]) -> None:
        async for _ in to_async_iterator(stream):
            pass

    async with served(faults=[fault]) as (server, co):
        task = asyncio.create_task(iterate(co.chat_stream(**ASK)))
        await server.until(lambda s: s.open == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(was_aborted)


async def test_aclose_disposes_of_the_subscription_at_once() -> None:
    """After `aclose` nothing listens to the source any more, and no value comes."""
    subject: Subject[int] = Subject()
    values = to_async_iterator(subject)
    first = await asking(values)
    subject.on_next(1)
    subject.on_next(2)
    assert await first == 1
    await values.aclose()
    assert subject.observers == []
    with pytest.raises(StopAsyncIteration):
        await anext(values)


@pytest.mark.parametrize("max_pending", [1, 256], ids=["paused", "not paused"])
async def test_dropping_the_iterator_disposes_of_the_subscription(max_pending: int) -> None:
    """An iterator that nobody refers to any more gives its request up."""
    async with served(faults=[Stall(after_events=6)]) as (server, co):
        values = to_async_iterator(co.chat_stream(**ASK), max_pending=max_pending)
        assert type(await anext(values)) is MessageStart
        del values
        gc.collect()
        await server.until(was_aborted)


@pytest.mark.parametrize("closed", [False, True], ids=["dropped", "closed"])
async def test_an_iterator_never_started_sends_nothing(closed: bool) -> None:
    """It needs no closing, and closing it makes it give nothing."""
    async with served() as (server, co):
        values = to_async_iterator(co.chat_stream(**ASK))
        if closed:
            await values.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(values)
        del values
        gc.collect()
        await co.chat_stream(**ASK)
        assert len(server.requests) == 1


# Loops and threads -------------------------------------------------------------------------------


async def test_values_from_another_thread_come_in_order() -> None:
    """What a thread pushes, as fast as it can, arrives complete and in order."""
    count = 20_000
    subject: Subject[int] = Subject()
    values = to_async_iterator(subject, max_pending=count)
    first = await asking(values)

    def push() -> None:
        for number in range(count):
            subject.on_next(number)
        subject.on_completed()

    pushed = started(push)
    assert await rest(values, first) == list(range(count))
    await waiting(pushed)


async def test_one_value_at_a_time_from_another_thread_wakes_the_loop() -> None:
    """A value that comes while the loop has nothing else to do is not left lying."""
    subject: Subject[int] = Subject()
    values = to_async_iterator(subject, max_pending=1)
    asked, taken = threading.Semaphore(0), []
    first = await asking(values)

    def push() -> None:
        for number in range(200):
            assert asked.acquire(timeout=HANG)
            subject.on_next(number)

    pushed = started(push)
    async with asyncio.timeout(HANG):
        asked.release()
        taken.append(await first)
        for _ in range(199):
            asked.release()
            taken.append(await anext(values))
    await waiting(pushed)
    await values.aclose()
    assert taken == list(range(200))


async def test_an_error_and_the_end_from_another_thread_wake_the_loop() -> None:
    """Terminals, too, arrive from a thread while the loop is idle."""
    subject: Subject[int] = Subject()
    first = await asking(to_async_iterator(subject))
    await waiting(started(subject.on_completed))
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(first, HANG)
    subject = Subject()
    first = await asking(to_async_iterator(subject))
    await waiting(started(lambda: subject.on_error(Boom())))
    with pytest.raises(Boom):
        await asyncio.wait_for(first, HANG)


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_what_a_thread_pushes_is_taken_or_counted(overflow: Overflow) -> None:
    """However the threads interleave: values stay in order, and each is taken or dropped."""
    count = 20_000
    subject: Subject[int] = Subject()
    values = to_async_iterator(subject, max_pending=3, overflow=overflow)
    first = await asking(values)

    def push() -> None:
        for number in range(count):
            subject.on_next(number)
        subject.on_completed()

    pushed = started(push)
    taken = await rest(values, first)
    await waiting(pushed)
    assert taken == sorted(set(taken))
    assert len(taken) + values.dropped == count


@pytest.mark.parametrize("overflow", ["merge", "pause"])
async def test_events_that_a_thread_pushes_are_merged_without_loss(overflow: Overflow) -> None:
    """Merging and taking at the same time, in two threads, loses and swaps no character."""
    fragments = [f"{number} " for number in range(5_000)]
    events = parsed(map(text_delta, fragments))
    subject: Subject[ChatEvent] = Subject()
    values = to_async_iterator(subject, max_pending=2, overflow=overflow)
    first = await asking(values)

    def push() -> None:
        for event in events:
            subject.on_next(event)
        subject.on_completed()

    pushed = started(push)
    assert text_of(await rest(values, first)) == "".join(fragments)
    await waiting(pushed)
    assert values.dropped == 0


@pytest.mark.parametrize("overflow", ["pause", "merge"])
def test_values_come_from_a_client_on_another_loop(overflow: Overflow) -> None:
    """A client bound to its background loop serves an iteration on any loop, through operators."""

    async def work(co: CohereClient) -> None:
        stream = co.chat_stream(**ASK)
        values = to_async_iterator(stream, max_pending=4, overflow=overflow)
        assert text_of([event async for event in values]) == ANSWER
        fragments = stream.pipe(rxc.text_deltas(), ops.map(str.upper))
        if overflow == "pause":
            taken = [text async for text in to_async_iterator(fragments, max_pending=4)]
            assert "".join(taken) == ANSWER.upper()

    with bound_to_background() as (server, co):
        run(work(co))
        server.wait_until(lambda s: s.open == 0)


def test_giving_up_on_another_loop_gives_the_request_up() -> None:
    """`aclose` and cancelling reach a client on another loop."""

    async def work(server: ReplayServer, co: CohereClient) -> None:
        values = to_async_iterator(co.chat_stream(**ASK))
        assert type(await anext(values)) is MessageStart
        await values.aclose()
        await server.until(was_aborted)
        values = to_async_iterator(co.chat_stream(**ASK))
        for _ in range(3):
            await anext(values)
        task = await asking(values)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda s: s.aborted == 2 and s.open == 0)

    with bound_to_background([Stall(after_events=3)]) as (server, co):
        run(work(server, co))


def test_closed_on_another_loop_at_any_moment() -> None:
    """However many values were taken, paused or not, closing leaves no request behind."""

    async def work(server: ReplayServer, co: CohereClient) -> None:
        for count in range(1, 40):
            values = to_async_iterator(co.chat_stream(**ASK), max_pending=1 + count % 3)
            for _ in range(count):
                await anext(values)
            await values.aclose()
        await server.until(lambda s: s.open == 0)
        assert (
            text_of([event async for event in to_async_iterator(co.chat_stream(**ASK))]) == ANSWER
        )

    with bound_to_background() as (server, co):
        run(work(server, co))


@pytest.mark.parametrize("waits", [False, True], ids=["between values", "waiting"])
def test_the_end_of_the_loop_disposes_of_the_subscription(waits: bool) -> None:
    """An iterator that its loop leaves behind gives up its request at a client elsewhere."""
    kept: list[Any] = []

    async def work(co: CohereClient) -> None:
        values = to_async_iterator(co.chat_stream(**ASK), max_pending=1)
        kept.append(values)
        for _ in range(3):
            await anext(values)
        if waits:
            kept.append(await asking(values))

    with bound_to_background([Stall(after_events=3 if waits else 9)]) as (server, co):
        run(work(co))
        server.wait_until(was_aborted)


async def test_closing_the_client_ends_the_iteration() -> None:
    """Values that came before the client was closed come out, then `StreamCancelledError`."""
    brought: list[ChatEvent] = []
    all_here = asyncio.Event()

    def count(event: ChatEvent) -> None:
        brought.append(event)
        if len(brought) == 6:
            all_here.set()

    async with served(faults=[Stall(after_events=6)]) as (server, co):
        values = to_async_iterator(co.chat_stream(**ASK).pipe(ops.do_action(count)))
        first = await anext(values)
        await all_here.wait()
        await co.aclose()
        taken, error = await until_error(values)
        assert [first, *taken] == brought
        assert type(error) is StreamCancelledError
        await server.until(was_aborted)


def test_closing_a_client_on_another_loop_ends_the_iteration() -> None:
    """Whoever waits for a value hears of the end of a loop that is not its own."""

    async def work(co: CohereClient) -> None:
        values = to_async_iterator(co.chat_stream(**ASK))
        for _ in range(3):
            await anext(values)
        value = await asking(values)
        await in_thread(co.close)
        with pytest.raises(StreamCancelledError):
            await value

    with bound_to_background([Stall(after_events=3)]) as (server, co):
        run(work(co))
        server.wait_until(was_aborted)


def test_a_loop_that_is_closed_without_a_word_ends_the_subscription() -> None:
    """The next value that finds the loop closed disposes of the subscription."""
    subject: Subject[int] = Subject()
    values = to_async_iterator(subject)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it says that the task was pending; so it was
    first = loop.run_until_complete(asking(values))
    loop.close()
    assert len(subject.observers) == 1
    subject.on_next(1)
    assert subject.observers == []
    assert not first.done()


# Overflow, exactly -------------------------------------------------------------------------------


async def overflowing(
    values: ObservableIterator[Any], subject: Subject[Any], brought: Iterator[Any]
) -> asyncio.Future[Any]:
    """The first value, after the subject has brought everything in a single turn."""
    first = await asking(values)
    for value in brought:
        subject.on_next(value)
    return first


@pytest.mark.parametrize("max_pending", [1, 3])
@pytest.mark.parametrize("overflow", ["error", "pause"])
async def test_overflow_of_plain_values_is_an_error_after_those_that_waited(
    max_pending: int, overflow: Overflow
) -> None:
    """As many values as there was room for, then `BufferOverflowError`; the source is let go."""
    subject: Subject[int] = Subject()
    values = to_async_iterator(subject, max_pending=max_pending, overflow=overflow)
    first = await overflowing(values, subject, iter(range(6)))
    assert subject.observers == []
    taken, error = await until_error(values, first)
    assert taken == list(range(max_pending))
    assert type(error) is BufferOverflowError
    assert error.partial is None
    assert str(max_pending) in str(error)
    assert repr(overflow) in str(error)
    assert values.dropped == 1


@pytest.mark.parametrize(
    ("overflow", "max_pending", "expected"),
    [
        ("drop_oldest", 1, [5]),
        ("drop_oldest", 3, [3, 4, 5]),
        ("drop_newest", 1, [0]),
        ("drop_newest", 3, [0, 1, 2]),
    ],
)
async def test_dropping_keeps_the_newest_or_the_oldest(
    overflow: Overflow, max_pending: int, expected: list[int]
) -> None:
    """The values that are left are exactly those that the policy names, and the rest is counted."""
    subject: Subject[int] = Subject()
    values = to_async_iterator(subject, max_pending=max_pending, overflow=overflow)
    first = await overflowing(values, subject, iter(range(6)))
    assert values.dropped == 6 - max_pending
    assert len(subject.observers) == 1
    subject.on_completed()
    assert await rest(values, first) == expected


async def test_room_that_was_made_is_used_again() -> None:
    """What was taken makes room: with one place, a value a turn is never too many."""
    subject: Subject[int] = Subject()
    values = to_async_iterator(subject, max_pending=1, overflow="error")
    value = await asking(values)
    taken: list[int] = []
    for number in range(5):
        subject.on_next(number)
        taken.append(await value)
        value = await asking(values)
    subject.on_completed()
    with pytest.raises(StopAsyncIteration):
        await value
    assert taken == [0, 1, 2, 3, 4]
    assert values.dropped == 0


PENGUIN = citation(0, 2, "ab", document("doc:0"))
BROUGHT = [
    message_start(),
    content_start(),
    *map(text_delta, "abcdef"),
    citation_start(PENGUIN),
    citation_end(),
    *map(text_delta, "ghi"),
    content_end(),
    message_end(),
]


def merged_after(count: int) -> list[ChatEvent]:
    """What comes out if so many had room."""
    letters = "abcdef"[max(count - 2, 0) :]
    head = BROUGHT[: max(count, 2)]
    middle = [text_delta(letters), citation_start(PENGUIN), citation_end(), text_delta("ghi")]
    return parsed([*head, *middle, content_end(), message_end()])


@pytest.mark.parametrize("max_pending", [1, 2, 4])
@pytest.mark.parametrize("overflow", ["merge", "pause"])
async def test_overflow_of_events_is_merged(max_pending: int, overflow: Overflow) -> None:
    """Those that have room come as they are, the rest with its deltas merged, all in order."""
    subject: Subject[ChatEvent] = Subject()
    values = to_async_iterator(subject, max_pending=max_pending, overflow=overflow)
    first = await overflowing(values, subject, iter(parsed(BROUGHT)))
    assert len(subject.observers) == 1
    subject.on_completed()
    assert await rest(values, first) == merged_after(max_pending)
    assert values.dropped == 0


@pytest.mark.parametrize("overflow", ["merge", "pause"])
async def test_the_error_comes_after_what_was_merged(overflow: Overflow) -> None:
    """An error of the source leaves what is merged in its place, before it."""
    subject: Subject[ChatEvent] = Subject()
    values = to_async_iterator(subject, max_pending=1, overflow=overflow)
    first = await overflowing(values, subject, iter(parsed(BROUGHT)))
    subject.on_error(Boom())
    taken, error = await until_error(values, first)
    assert taken == merged_after(1)
    assert type(error) is Boom


async def test_overflow_of_entries_is_merged() -> None:
    """Entries of a journal, too; each has the id of the last of those that it was made of."""
    subject: Subject[JournalEntry] = Subject()
    values = to_async_iterator(subject, max_pending=2, overflow="merge")
    events = enumerate(parsed(BROUGHT), 1)
    first = await overflowing(values, subject, (JournalEntry(str(n), each) for n, each in events))
    subject.on_completed()
    taken = await rest(values, first)
    assert [entry.event for entry in taken] == merged_after(2)
    # Two had room; then six letters, a citation, three letters and the end.
    assert [entry.id for entry in taken] == ["1", "2", "8", "9", "10", "13", "14", "15"]
    assert values.dropped == 0


@pytest.mark.parametrize("entry_first", [True, False])
async def test_entries_and_events_do_not_merge(entry_first: bool) -> None:
    """Mixed in one source they are an error, after what had been merged; the source is let go."""
    subject: Subject[Any] = Subject()
    values = to_async_iterator(subject, max_pending=1, overflow="merge")
    a, b, c = parsed(map(text_delta, "abc"))
    entry = JournalEntry("7", c)
    brought: list[Any] = [a, entry, b] if entry_first else [a, b, entry]
    first = await overflowing(values, subject, iter(brought))
    assert subject.observers == []
    taken, error = await until_error(values, first)
    assert taken == brought[:2]
    assert type(error) is BufferOverflowError
    assert values.dropped == 1


async def test_events_with_room_are_not_merged() -> None:
    """While there is room, ``merge`` changes nothing, not even deltas of one block."""
    subject: Subject[ChatEvent] = Subject()
    values = to_async_iterator(subject, max_pending=len(BROUGHT), overflow="merge")
    first = await overflowing(values, subject, iter(parsed(BROUGHT)))
    subject.on_completed()
    assert await rest(values, first) == parsed(BROUGHT)


@pytest.mark.parametrize("position", [0, 2])
@pytest.mark.parametrize("stranger", ["text", None, 7, ChatResponse.model_construct()], ids=str)
async def test_merge_refuses_what_is_no_event(stranger: Any, position: int) -> None:
    """Whether there is room or not: `ConfigurationError` after the events, the source let go."""
    subject: Subject[Any] = Subject()
    values = to_async_iterator(subject, max_pending=1, overflow="merge")
    brought = [*parsed(BROUGHT[:position]), stranger, *parsed(BROUGHT[position:])]
    first = await overflowing(values, subject, iter(brought))
    assert subject.observers == []
    taken, error = await until_error(values, first)
    assert taken == parsed(BROUGHT[:position])
    assert type(error) is ConfigurationError
    assert type(stranger).__name__ in str(error)


async def test_merge_refuses_once_a_source_that_cannot_be_stopped() -> None:
    """Strangers that come out of ``subscribe`` itself are one error, after what was before them."""

    def bring(observer: Any, _: object) -> Any:
        for value in (*parsed(BROUGHT[:1]), 7, 8, *parsed(BROUGHT[1:])):
            observer.on_next(value)
        return Disposable()

    values = to_async_iterator(rx.create(bring), overflow="merge")
    taken, error = await until_error(values)
    assert taken == parsed(BROUGHT[:1])
    assert type(error) is ConfigurationError
    assert values.dropped == len(BROUGHT) - 1


@pytest.mark.parametrize("overflow", ["error", "pause"])
async def test_overflow_stops_a_synchronous_source(overflow: Overflow) -> None:
    """A source that brings all it has inside ``subscribe`` is not run to its end for nothing."""
    pulled: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(1_000):
            pulled.append(number)
            yield number

    values = to_async_iterator(rx.from_iterable(numbers()), max_pending=3, overflow=overflow)
    taken, error = await until_error(values)
    assert taken == [0, 1, 2]
    assert type(error) is BufferOverflowError
    assert len(pulled) < 10


# Merging loses nothing ---------------------------------------------------------------------------


async def passed_through(
    events: list[ChatEvent], takes: list[int], max_pending: int, overflow: Overflow
) -> list[ChatEvent]:
    """What comes out when so many are asked for after each one that comes in."""
    subject: Subject[ChatEvent] = Subject()
    values = to_async_iterator(subject, max_pending=max_pending, overflow=overflow)
    out: list[ChatEvent] = []
    asked = await asking(values)
    for event, count in zip(events, takes, strict=True):
        subject.on_next(event)
        for _ in range(count):
            await asyncio.sleep(0)
            if not asked.done():
                break
            out.append(asked.result())
            asked = await asking(values)
    subject.on_completed()
    try:
        out.append(await asked)
    except StopAsyncIteration:
        return out
    return [*out, *[event async for event in values]]


@settings(deadline=None)
@given(
    sample=streams(),
    max_pending=st.integers(1, 5),
    overflow=st.sampled_from(["merge", "pause"]),
    data=st.data(),
)
def test_merging_loses_nothing_however_it_is_taken(
    sample: Sample, max_pending: int, overflow: Overflow, data: st.DataObject
) -> None:
    """What comes out adds up to the same response, and to the same events once all is merged."""
    events = parsed(sample.events)
    counts = st.lists(st.integers(0, 3), min_size=len(events), max_size=len(events))
    takes = data.draw(counts)
    out = run(passed_through(events, takes, max_pending, overflow))
    assert len(out) <= len(events)
    assert response_of(out) == response_of(events)
    assert text_of(out) == text_of(events)
    assert compact(out) == compact(events)


async def test_a_slow_reader_of_a_live_stream_loses_nothing_by_merging() -> None:
    """Over a socket, too: fewer events, each character."""
    async with served(faults=[Linger()]) as (_, co):
        seen = asyncio.Event()
        source = co.chat_stream(**ASK).pipe(ops.do_action(on_completed=seen.set))
        async with aclosing(to_async_iterator(source, max_pending=2, overflow="merge")) as values:
            events = [await anext(values)]
            await seen.wait()
            events += [event async for event in values]
        assert text_of(events) == ANSWER
        assert len(events) < len(TEXT.events)
