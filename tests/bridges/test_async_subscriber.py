"""`subscribe_async`: one handler at a time, one verdict, and every way to end."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import reactivex as rx
from reactivex import Observable
from reactivex import operators as ops
from reactivex.subject import Subject
from samples import parsed, text_delta
from subscribers import (
    ANSWER,
    ASK,
    EVENTS,
    HANG,
    TEXT,
    Boom,
    Reports,
    boom,
    bound_to_background,
    in_thread,
    run,
    served,
    started,
    was_aborted,
)

from rxcohere import (
    AsyncSubscription,
    BufferOverflowError,
    ChatEvent,
    CohereClient,
    ConfigurationError,
    ContentDelta,
    RxCohereError,
    StreamCancelledError,
    StreamTruncatedError,
    subscribe_async,
    to_async_iterator,
)
from rxcohere import operators as rxc
from rxcohere.testing import Cut, Stall


class Handler:
    """An asynchronous subscriber that keeps what it is given, and notes what must not happen.

    Args:
        gate: what each call waits for; by default, a turn of the loop.
    """

    def __init__(self, gate: asyncio.Future[Any] | None = None) -> None:
        self.begun: list[Any] = []
        self.handled: list[Any] = []
        self.cancelled: list[Any] = []
        self.verdicts: list[Exception | None] = []
        self.breaches: list[str] = []
        self.threads: set[int] = set()
        self.subscription: AsyncSubscription | None = None
        self.is_at_work = asyncio.Event()
        self.is_over = asyncio.Event()
        self._gate = gate
        self._busy = False

    def to(self, source: Observable[Any], **options: Any) -> Handler:
        """Subscribes to the source."""
        self.subscription = subscribe_async(
            source, self.on_next, self.on_error, self.on_completed, **options
        )
        return self

    async def on_next(self, value: Any) -> None:
        if self._busy or self.verdicts:
            self.breaches.append(f"{value!r} during another, or after the verdict")
        self._busy = True
        self.threads.add(threading.get_ident())
        self.begun.append(value)
        self.is_at_work.set()
        try:
            await (self._gate or asyncio.sleep(0))
            self.handled.append(value)
        except asyncio.CancelledError:
            self.cancelled.append(value)
            raise
        finally:
            self._busy = False

    def on_error(self, error: Exception) -> None:
        self._conclude(error)

    def on_completed(self) -> None:
        self._conclude(None)

    def _conclude(self, verdict: Exception | None) -> None:
        if self._busy:
            self.breaches.append("a verdict during a call")
        self.verdicts.append(verdict)
        self.is_over.set()

    async def end(self) -> Handler:
        """Waits for the verdict."""
        async with asyncio.timeout(HANG):
            await self.is_over.wait()
        assert self.breaches == []
        return self

    async def at_work(self) -> None:
        """Waits until it has been called."""
        async with asyncio.timeout(HANG):
            await self.is_at_work.wait()

    def dispose(self) -> None:
        assert self.subscription is not None
        self.subscription.dispose()


async def some_turns() -> None:
    """Lets everything happen that was going to."""
    for _ in range(20):
        await asyncio.sleep(0)


def never() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def text_of(events: Iterable[Any]) -> str:
    return "".join(event.text or "" for event in events if isinstance(event, ContentDelta))


# One at a time, then the verdict -----------------------------------------------------------------


async def test_values_are_handled_one_after_the_other_then_comes_completion() -> None:
    """Each event is awaited before the next, on this thread; on_completed comes after the last."""
    async with served() as (server, co):
        seen = await Handler().to(co.chat_stream(**ASK)).end()
        assert [event.type for event in seen.handled] == [event.type for event in TEXT.events]
        assert seen.verdicts == [None]
        assert seen.threads == {threading.get_ident()}
        assert len(server.requests) == 1
        await server.until(lambda s: s.completed == 1)


async def test_the_error_comes_after_all_handlers() -> None:
    """What came before a cut is handled, then on_error gets the error once."""
    async with served(faults=[Cut(after_events=6)]) as (server, co):
        seen = await Handler().to(co.chat_stream(**ASK)).end()
        assert len(seen.handled) == 6
        assert [type(error) for error in seen.verdicts] == [StreamTruncatedError]
        await server.until(lambda s: s.open == 0)


@pytest.mark.parametrize("error", [None, Boom()], ids=["completed", "error"])
async def test_a_verdict_waits_for_the_handler_that_is_at_work(error: Exception | None) -> None:
    """A source that ends while a handler waits is ended only when all are through."""
    gate = never()
    subject: Subject[int] = Subject()
    seen = Handler(gate).to(subject)
    for number in range(3):
        subject.on_next(number)
    if error is None:
        subject.on_completed()
    else:
        subject.on_error(error)
    await some_turns()
    assert (seen.begun, seen.verdicts) == ([0], [])
    gate.set_result(None)
    await seen.end()
    assert (seen.handled, seen.verdicts) == ([0, 1, 2], [error])


async def test_nothing_is_handled_before_the_caller_gives_way() -> None:
    """Even a source that brings all at once is handled in the next turn, not in the call."""
    seen = Handler().to(rx.of(1, 2, 3))
    assert (seen.begun, seen.verdicts) == ([], [])
    await seen.end()
    assert (seen.handled, seen.verdicts) == ([1, 2, 3], [None])


@pytest.mark.usefixtures("eager_tasks")
async def test_nothing_is_handled_early_under_eager_tasks_either() -> None:
    """A task factory that starts tasks at once does not make handlers start inside the call."""
    seen = Handler().to(rx.of(1, 2, 3))
    assert (seen.begun, seen.verdicts) == ([], [])
    await seen.end()
    assert seen.handled == [1, 2, 3]
    async with served() as (server, co):
        Handler().to(co.chat_stream(**ASK)).dispose()
        seen = await Handler().to(co.chat_stream(**ASK)).end()
        assert text_of(seen.handled) == ANSWER
        assert len(server.requests) == 1


async def test_values_from_another_thread_are_handled_here() -> None:
    """Wherever the values come from, the handlers run on the loop that subscribed."""
    subject: Subject[int] = Subject()
    seen = Handler().to(subject, max_pending=1_000)

    def push() -> None:
        for number in range(1_000):
            subject.on_next(number)
        subject.on_completed()

    await in_thread(push)
    await seen.end()
    assert seen.handled == list(range(1_000))
    assert seen.threads == {threading.get_ident()}


def test_a_client_on_another_loop_is_handled_here() -> None:
    """A client bound to its background loop serves handlers on any loop."""

    async def work(co: CohereClient) -> None:
        seen = await Handler().to(co.chat_stream(**ASK), max_pending=2).end()
        assert text_of(seen.handled) == ANSWER
        assert seen.verdicts == [None]
        assert seen.threads == {threading.get_ident()}

    with bound_to_background() as (_, co):
        run(work(co))


async def test_the_verdict_may_subscribe_anew() -> None:
    """on_completed is called when the first request is over, so the next one can follow."""
    async with served(max_connections=1) as (server, co):
        second = Handler()

        async def ignore(_: ChatEvent) -> None:
            pass

        subscribe_async(
            co.chat_stream(**ASK), ignore, on_completed=lambda: second.to(co.chat_stream(**ASK))
        )
        await second.end()
        assert text_of(second.handled) == ANSWER
        assert len(server.requests) == 2


# Arguments ---------------------------------------------------------------------------------------


async def ignore(_: object) -> None:
    """A handler that does nothing."""


@pytest.mark.parametrize("options", [{"max_pending": 0}, {"max_pending": True}, {"overflow": "x"}])
async def test_an_impossible_buffer_is_refused_at_the_call(options: dict[str, Any]) -> None:
    """`ConfigurationError`, before anything is subscribed to."""
    subject: Subject[int] = Subject()
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        subscribe_async(subject, ignore, **options)
    assert subject.observers == []


async def test_a_thread_without_a_loop_is_refused_at_the_call() -> None:
    """There is nothing that handlers could run on; the message says what to do."""
    subject: Subject[int] = Subject()
    with pytest.raises(ConfigurationError, match="running event loop"):
        await in_thread(lambda: subscribe_async(subject, ignore))
    assert subject.observers == []


def test_a_script_without_a_loop_is_refused_at_the_call() -> None:
    """The same in the main thread."""
    with pytest.raises(ConfigurationError, match="running event loop"):
        subscribe_async(rx.of(1), ignore)


# Overflow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [("drop_oldest", [0, 8, 9]), ("drop_newest", [0, 1, 2])],
)
async def test_what_finds_no_room_is_counted(overflow: Any, expected: list[int]) -> None:
    """The value that a handler is at work on takes no room; `dropped` counts the others lost."""
    gate = never()
    subject: Subject[int] = Subject()
    seen = Handler(gate).to(subject, max_pending=2, overflow=overflow)
    subject.on_next(0)
    await seen.at_work()
    for number in range(1, 10):
        subject.on_next(number)
    assert seen.subscription is not None
    assert seen.subscription.dropped == 7
    subject.on_completed()
    gate.set_result(None)
    await seen.end()
    assert seen.handled == expected


@pytest.mark.parametrize("overflow", ["error", "pause"])
async def test_overflow_reaches_on_error_after_what_waited(overflow: Any) -> None:
    """`BufferOverflowError` comes in its turn, and the source has been let go at once."""
    gate = never()
    subject: Subject[int] = Subject()
    seen = Handler(gate).to(subject, max_pending=2, overflow=overflow)
    subject.on_next(0)
    await seen.at_work()
    for number in range(1, 10):
        subject.on_next(number)
    assert subject.observers == []
    assert seen.verdicts == []
    gate.set_result(None)
    await seen.end()
    assert seen.handled == [0, 1, 2]
    assert [type(error) for error in seen.verdicts] == [BufferOverflowError]
    assert seen.subscription is not None
    assert seen.subscription.dropped == 1


async def test_merge_refuses_what_is_no_event_through_on_error() -> None:
    """`ConfigurationError` reaches on_error, since there is no call that could raise it."""
    seen = await Handler().to(rx.of(1), overflow="merge").end()
    assert seen.handled == []
    assert [type(error) for error in seen.verdicts] == [ConfigurationError]


async def test_events_merge_while_a_handler_is_at_work() -> None:
    """With ``merge``, what waits becomes fewer events with the same text."""
    gate = never()
    subject: Subject[ChatEvent] = Subject()
    seen = Handler(gate).to(subject, max_pending=1, overflow="merge")
    subject.on_next(parsed([text_delta("a")])[0])
    await seen.at_work()
    for event in parsed(map(text_delta, "bcdefg")):
        subject.on_next(event)
    subject.on_completed()
    gate.set_result(None)
    await seen.end()
    assert [event.text for event in seen.handled] == ["a", "b", "cdefg"]


# Handlers that raise -----------------------------------------------------------------------------


async def test_a_raising_handler_gets_its_error_and_the_request_is_gone() -> None:
    """on_error gets what on_next raised, once; no further value is handled."""
    errors: list[Exception] = []
    calls: list[Any] = []

    async def fail(event: ChatEvent) -> None:
        calls.append(event)
        await asyncio.sleep(0)
        raise Boom

    async with served(faults=[Stall(after_events=3)]) as (server, co):
        subscribe_async(co.chat_stream(**ASK), fail, errors.append, lambda: calls.append("end"))
        await server.until(was_aborted)
        await some_turns()
    assert [type(error) for error in errors] == [Boom]
    assert len(calls) == 1


async def test_a_handler_that_raises_before_it_is_awaited() -> None:
    """A plain function that raises is treated like a coroutine that does."""
    errors: list[Exception] = []
    subscribe_async(rx.of(1, 2), boom, errors.append)
    await some_turns()
    assert [type(error) for error in errors] == [Boom]


async def test_a_handler_that_is_not_asynchronous_is_told_so() -> None:
    """What cannot be awaited is an error, and the source is let go."""
    errors: list[Exception] = []
    subject: Subject[str] = Subject()
    not_async: Any = lambda _: None  # noqa: E731
    subscribe_async(subject, not_async, errors.append)
    subject.on_next("handled")
    await some_turns()
    assert [type(error) for error in errors] == [ConfigurationError]
    assert "async def" in str(errors[0])
    assert subject.observers == []


async def test_a_raising_handler_without_on_error_reaches_the_loop(reports: Reports) -> None:
    """With nobody to tell, the loop's exception handler hears of it, once."""

    async def fail(_: ChatEvent) -> None:
        raise Boom

    async with served(faults=[Stall(after_events=3)]) as (server, co):
        subscribe_async(co.chat_stream(**ASK), fail)
        await server.until(was_aborted)
        await reports.first()
    assert [type(report) for report in reports] == [Boom]


async def test_a_raising_verdict_reaches_the_loop(reports: Reports) -> None:
    """An on_error or on_completed that raises is reported, and nothing else is called."""
    errors: list[Exception] = []
    subscribe_async(rx.of(1), ignore, errors.append, boom)
    subscribe_async(rx.throw(LookupError()), ignore, boom)
    await some_turns()
    assert [type(report) for report in reports] == [Boom, Boom]
    assert errors == []


async def test_an_error_without_on_error_reaches_the_loop(reports: Reports) -> None:
    """A stream that fails and has nobody to tell it to is reported, not lost."""
    async with served(faults=[Cut(after_events=3)]) as (_, co):
        subscribe_async(co.chat_stream(**ASK), ignore)
        await reports.first()
    assert [type(report) for report in reports] == [StreamTruncatedError]


@pytest.mark.parametrize("how", ["raises", "awaits"])
async def test_a_handler_that_is_cancelled_by_something_else_fails(how: str) -> None:
    """`CancelledError` that nobody meant for the subscription is an error like others."""
    errors: list[Exception] = []

    async def cancelled(_: int) -> None:
        if how == "raises":
            raise asyncio.CancelledError
        gone = never()
        gone.cancel()
        await gone

    subject: Subject[int] = Subject()
    subscribe_async(subject, cancelled, errors.append)
    subject.on_next(1)
    await some_turns()
    assert [type(error) for error in errors] == [RxCohereError]
    assert type(errors[0].__cause__) is asyncio.CancelledError
    assert subject.observers == []


async def test_a_timeout_inside_a_handler_is_its_own_affair() -> None:
    """``asyncio.timeout`` around something in on_next does not end the subscription."""
    late: list[int] = []

    async def patient(value: int) -> None:
        try:
            async with asyncio.timeout(0):
                await never()
        except TimeoutError:
            late.append(value)

    ended = asyncio.Event()
    subscribe_async(rx.of(1, 2), patient, on_completed=ended.set)
    async with asyncio.timeout(HANG):
        await ended.wait()
    assert late == [1, 2]


# Disposing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_disposing_cancels_a_handler_that_waits(where: str) -> None:
    """The handler sees `CancelledError`, nothing more is called, and the request is gone."""
    async with served(faults=[Stall(after_events=3)]) as (server, co):
        seen = Handler(never()).to(co.chat_stream(**ASK))
        await seen.at_work()
        if where == "here":
            seen.dispose()
        else:
            await in_thread(seen.dispose)
        await server.until(was_aborted)
        await some_turns()
        assert len(seen.begun) == len(seen.cancelled) == 1
        assert seen.verdicts == []
        seen.dispose()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_disposing_between_values(where: str) -> None:
    """With no handler at work, what waits for the next value ends without a word."""
    async with served(faults=[Stall(after_events=3)]) as (server, co):
        three = asyncio.Event()
        seen = Handler()

        async def on_next(event: ChatEvent) -> None:
            await seen.on_next(event)
            if len(seen.handled) == 3:
                three.set()

        subscription = subscribe_async(
            co.chat_stream(**ASK), on_next, seen.on_error, seen.on_completed
        )
        await three.wait()
        await some_turns()
        if where == "here":
            subscription.dispose()
        else:
            await in_thread(subscription.dispose)
        await server.until(was_aborted)
        assert (len(seen.handled), seen.cancelled, seen.verdicts) == (3, [], [])


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_disposed_before_its_first_step_nothing_is_sent(where: str) -> None:
    """Disposing before the loop gets to it sends no request and calls nobody."""
    async with served() as (server, co):
        seen = Handler().to(co.chat_stream(**ASK))
        if where == "here":
            seen.dispose()
        else:
            started(seen.dispose).result(HANG)  # blocks the loop, so that it gets to both at once
        await co.chat_stream(**ASK)
        assert len(server.requests) == 1
        assert (seen.begun, seen.verdicts) == ([], [])


async def test_a_handler_that_disposes_comes_to_its_end() -> None:
    """Done inside on_next, disposing cancels nothing, not even later awaits of that call."""
    steps: list[Any] = []
    async with served(faults=[Stall(after_events=3)]) as (server, co):

        async def dispose(event: ChatEvent) -> None:
            steps.append(event.type)
            subscription.dispose()
            await server.until(was_aborted)
            steps.append("after")

        subscription = subscribe_async(
            co.chat_stream(**ASK), dispose, steps.append, lambda: steps.append("end")
        )
        await server.until(was_aborted)
        await some_turns()
    assert steps == ["message-start", "after"]


async def test_a_handler_that_disposes_and_then_raises_reaches_the_loop(reports: Reports) -> None:
    """An error raised after disposal has no subscriber left, so the loop hears of it."""
    errors: list[Exception] = []
    subject: Subject[int] = Subject()

    async def dispose_and_raise(_: int) -> None:
        subscription.dispose()
        await asyncio.sleep(0)
        raise Boom

    subscription = subscribe_async(subject, dispose_and_raise, errors.append)
    subject.on_next(1)
    subject.on_next(2)
    await reports.first()
    await some_turns()
    assert [type(report) for report in reports] == [Boom]
    assert errors == []


async def test_a_handler_that_swallows_its_cancellation_is_the_last() -> None:
    """It may go on with what it is doing; but no value and no verdict comes after it."""
    swallowed: list[int] = []
    done = asyncio.Event()

    async def stubborn(value: int) -> None:
        try:
            await never()
        except asyncio.CancelledError:
            swallowed.append(value)
        await asyncio.sleep(0)
        done.set()

    subject: Subject[int] = Subject()
    verdicts: list[Any] = []
    subscription = subscribe_async(
        subject, stubborn, verdicts.append, lambda: verdicts.append("end")
    )
    subject.on_next(1)
    subject.on_next(2)
    await some_turns()
    subscription.dispose()
    async with asyncio.timeout(HANG):
        await done.wait()
    await some_turns()
    assert (swallowed, verdicts) == ([1], [])
    assert subject.observers == []


async def test_disposing_after_the_end_does_nothing() -> None:
    """The subscription of a stream that has ended may be disposed of, inside the verdict too."""
    verdicts: list[str] = []

    def on_completed() -> None:
        verdicts.append("end")
        subscription.dispose()

    subscription = subscribe_async(rx.of(1), ignore, on_completed=on_completed)
    await some_turns()
    subscription.dispose()
    await in_thread(subscription.dispose)
    assert verdicts == ["end"]


async def test_disposed_at_every_turn_of_the_loop() -> None:
    """However many turns after subscribe it comes, disposal leaves neither task nor connection."""
    async with served() as (server, co):
        seen: list[Handler] = []
        for turns in range(60):
            seen.append(Handler().to(co.chat_stream(**ASK), max_pending=2))
            for _ in range(turns):
                await asyncio.sleep(0)
            seen[-1].dispose()
        assert await co.chat_stream(**ASK).pipe(rxc.collect_text()) == ANSWER
        await server.until(lambda s: s.open == 0)
        assert [each.breaches for each in seen] == [[]] * 60


# The end of the loop -----------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before its first step", "at work", "between values"])
def test_a_loop_that_ends_gives_a_verdict(moment: str) -> None:
    """on_error gets `StreamCancelledError`, whatever the subscription was doing; nothing is left.

    The client works on another loop, so it is not that one's end which is heard of.
    """
    handlers: list[Handler] = []

    async def work(co: CohereClient) -> None:
        seen = Handler(never() if moment == "at work" else None)
        handlers.append(seen)
        stream = co.chat_stream(**ASK)
        if moment == "before its first step":  # in the last turn of the loop
            asyncio.get_running_loop().call_soon(lambda: seen.to(stream))
            return
        seen.to(stream)
        await seen.at_work()
        if moment == "between values":
            while len(seen.handled) < 3:  # noqa: ASYNC110 - it takes as many turns as it takes
                await asyncio.sleep(0)

    with bound_to_background([Stall(after_events=3)]) as (server, co):
        run(work(co))
        (seen,) = handlers
        assert [type(error) for error in seen.verdicts] == [StreamCancelledError]
        assert seen.breaches == []
        assert len(seen.cancelled) == (moment == "at work")
        server.wait_until(lambda s: s.open == 0)
        seen.dispose()


def test_in_the_last_turn_of_its_loop_a_subscription_lets_its_source_go() -> None:
    """One that never gets to its first step leaves nobody behind at a source that goes on."""
    subject: Subject[int] = Subject()
    verdicts: list[Any] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: subscribe_async(subject, ignore, verdicts.append))

    run(work())
    assert [type(verdict) for verdict in verdicts] == [StreamCancelledError]
    assert subject.observers == []


async def test_a_handler_that_ends_its_own_task_gets_no_more_values() -> None:
    """Without a wait in it, too: what is cancelled does not go on, and on_error is called."""
    begun: list[int] = []

    async def give_up(value: int) -> None:
        begun.append(value)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    seen = Handler()
    subject: Subject[int] = Subject()
    subscribe_async(subject, give_up, seen.on_error, seen.on_completed)
    subject.on_next(1)
    subject.on_next(2)
    await seen.end()
    assert begun == [1]
    assert [type(verdict) for verdict in seen.verdicts] == [StreamCancelledError]
    assert subject.observers == []


async def test_a_source_that_fails_after_its_end() -> None:
    """Subscribed to in an on_next, which is a turn later, it is told as at any other time."""

    def complete_and_fail(observer: Any, _: object) -> Any:
        observer.on_next("value")
        observer.on_completed()
        raise Boom

    handlers: list[Handler] = []
    rx.of(1, 2).subscribe(lambda _: handlers.append(Handler().to(rx.create(complete_and_fail))))
    for seen in handlers:
        await seen.end()
        assert seen.handled == ["value"]
        assert [type(verdict) for verdict in seen.verdicts] == [Boom]
        assert seen.breaches == []
    assert len(handlers) == 2


def test_a_loop_that_ends_with_its_client_gives_one_verdict() -> None:
    """Source and handler end at the same time, and on_error is called once."""
    handlers: list[Handler] = []

    async def work() -> None:
        async with served(faults=[Stall(after_events=3)]) as (_, co):
            seen = Handler().to(co.chat_stream(**ASK))
            handlers.append(seen)
            await seen.at_work()
        await seen.end()

    run(work())
    assert [type(error) for error in handlers[0].verdicts] == [StreamCancelledError]


def test_a_handler_that_swallows_the_end_of_its_loop_does_not_keep_it_alive() -> None:
    """The source that ended with the loop ends the subscription after it."""
    swallowed: list[ChatEvent] = []
    verdicts: list[Any] = []

    async def work() -> None:
        at_work = asyncio.Event()

        async def stubborn(event: ChatEvent) -> None:
            at_work.set()
            try:
                await never()
            except asyncio.CancelledError:
                swallowed.append(event)

        async with served(faults=[Stall(after_events=1)]) as (_, co):
            subscribe_async(
                co.chat_stream(**ASK), stubborn, verdicts.append, lambda: verdicts.append("end")
            )
            await at_work.wait()

    run(work())
    assert len(swallowed) == 1
    assert [type(verdict) for verdict in verdicts] == [StreamCancelledError]


def test_a_handler_that_swallows_the_end_of_its_loop_gets_no_more_values() -> None:
    """Also where the source would go on for ever, the loop can end, and on_error is called."""
    subject: Subject[int] = Subject()
    begun: list[int] = []
    verdicts: list[Any] = []

    async def work() -> None:
        async def stubborn(value: int) -> None:
            begun.append(value)
            with suppress(asyncio.CancelledError):
                await never()

        subscribe_async(subject, stubborn, verdicts.append, lambda: verdicts.append("end"))
        subject.on_next(1)
        subject.on_next(2)
        await some_turns()

    # In a thread, so that a loop that does not end fails the test instead of stopping it.
    started(lambda: run(work())).result(HANG)
    assert begun == [1]
    assert [type(verdict) for verdict in verdicts] == [StreamCancelledError]
    assert subject.observers == []


# Many of them on one shared stream ---------------------------------------------------------------


class Socket:
    """What sends each event to one reader, like a websocket; some are stuck."""

    def __init__(self, stuck_on: asyncio.Future[None] | None) -> None:
        self.sent: list[ChatEvent] = []
        self.queue: asyncio.Queue[ChatEvent] = asyncio.Queue(maxsize=4)
        self.completed = asyncio.Event()
        self.errors: list[Exception] = []
        self._stuck_on = stuck_on

    async def send(self, event: ChatEvent) -> None:
        if self._stuck_on is not None:
            await self._stuck_on
        await self.queue.put(event)

    async def read(self) -> None:
        """The reader at the other end."""
        while True:
            self.sent.append(await self.queue.get())


@asynccontextmanager
async def sockets(stuck: list[asyncio.Future[None] | None]) -> AsyncIterator[list[Socket]]:
    """Sockets, each with a reader at its end."""
    made = [Socket(future) for future in stuck]
    readers = [asyncio.create_task(each.read()) for each in made]
    yield made
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


async def test_a_hundred_sockets_on_one_stream_ten_of_them_stuck() -> None:
    """Ninety get all of it while ten are stuck; one of these is released, and has it all, too."""
    released = never()
    stuck = [released, *(never() for _ in range(9))]
    async with served() as (server, co), sockets([*stuck, *[None] * 90]) as made:
        shared = co.chat_stream(**ASK).share_response()
        subscriptions = [
            subscribe_async(
                shared, each.send, each.errors.append, each.completed.set, max_pending=4
            )
            for each in made
        ]
        async with asyncio.timeout(HANG):
            for each in made[10:]:
                await each.completed.wait()
        await some_turns()
        assert {text_of(each.sent) for each in made[10:]} == {ANSWER}
        assert [each.sent for each in made[:10]] == [[]] * 10
        assert not any(each.completed.is_set() for each in made[:10])

        released.set_result(None)
        async with asyncio.timeout(HANG):
            await made[0].completed.wait()
        await some_turns()
        assert text_of(made[0].sent) == ANSWER
        assert len(made[0].sent) < EVENTS

        for subscription in subscriptions:
            subscription.dispose()
        await some_turns()
        assert [each.sent for each in made[1:10]] == [[]] * 9
        assert all(future.cancelled() for future in stuck[1:])
        assert [each.errors for each in made] == [[]] * 100
        assert sum(subscription.dropped for subscription in subscriptions) == 0
        assert len(server.requests) == 1
        await server.until(lambda s: s.open == 0)


async def test_sockets_that_close_in_the_middle_leave_the_others_alone() -> None:
    """When the last one has gone, and not before, the request of the shared stream is given up."""
    async with served(faults=[Stall(after_events=8)]) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        seen = [Handler(never() if n % 2 else None).to(shared) for n in range(10)]
        for each in seen:
            await each.at_work()
        for each in seen[1:]:
            each.dispose()
        await some_turns()
        assert server.open == 1
        assert seen[0].verdicts == []
        seen[0].dispose()
        await server.until(was_aborted)
        assert [len(each.cancelled) for each in seen[1::2]] == [1] * 5
        assert [(each.verdicts, each.breaches) for each in seen] == [([], [])] * 10


async def test_a_handler_may_iterate_over_another_stream() -> None:
    """What a handler subscribes to has the handler as its consumer, and ends with it."""
    texts: list[str] = []
    async with served() as (server, co):
        ended = asyncio.Event()

        async def on_next(_: ChatEvent) -> None:
            values = to_async_iterator(co.chat_stream(**ASK), max_pending=2)
            texts.append(text_of([event async for event in values]))

        first = co.chat_stream(**ASK).pipe(ops.take(2))
        subscribe_async(first, on_next, on_completed=ended.set, max_pending=1)
        await ended.wait()
        assert texts == [ANSWER, ANSWER]
        assert len(server.requests) == 3


@pytest.mark.parametrize("name", ["on_error", "on_completed"])
async def test_a_terminal_callback_that_is_asynchronous_is_refused(name: str) -> None:
    """Nobody would await it, so the call says so, and subscribes to nothing."""
    subscribed: list[None] = []

    async def close(*_: object) -> None:
        raise AssertionError

    async def handle(_: object) -> None:
        raise AssertionError

    callbacks: dict[str, Any] = {name: close}
    source = rx.defer(lambda _: subscribed.append(None) or rx.never())
    with pytest.raises(ConfigurationError, match="close is an async def"):
        subscribe_async(source, handle, **callbacks)
    assert subscribed == []


async def test_a_terminal_callback_without_a_name_is_refused_as_well() -> None:
    """A partial of an async def would be awaited by nobody either."""

    async def close(*_: object) -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="is an async def"):
        subscribe_async(rx.never(), close, functools.partial(close))


@pytest.mark.parametrize("returned", [None, 5, "text"])
async def test_a_handler_that_gives_nothing_to_await_is_told_what_it_gave(returned: Any) -> None:
    """The error names the value, which says what the handler may have been taken for."""
    errors: list[Exception] = []
    handler: Any = lambda _: returned  # noqa: E731
    subscribe_async(rx.of(1), handler, errors.append)
    await some_turns()
    (error,) = errors
    assert type(error) is ConfigurationError
    assert repr(returned) in str(error)


async def test_what_is_no_observable_or_no_function_is_refused_at_the_call() -> None:
    """Nothing is subscribed to, and no value is taken."""
    wrong: Any = [1]
    nothing: Any = None
    with pytest.raises(ConfigurationError, match="expected an Observable"):
        subscribe_async(wrong, print)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="expected an Observable"):
        to_async_iterator(wrong)
    with pytest.raises(ConfigurationError, match="on_next"):
        subscribe_async(rx.of(1), nothing)
