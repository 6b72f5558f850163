"""`ChatStream` on real loops and sockets: subscribing, iterating, awaiting, disposing, failing."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Any

import aiohttp
import pytest
import reactivex as rx
from reactivex import operators as ops
from subscribers import (
    ANSWER,
    ASK,
    EVENTS,
    HANG,
    TEXT,
    Boom,
    Reports,
    Subscriber,
    Subscribers,
    boom,
    bound_to_background,
    in_thread,
    run,
    served,
    serving,
    started,
    waiting,
    was_aborted,
)

from rxcohere import CohereClient, Retry
from rxcohere import operators as rxc
from rxcohere.errors import (
    BlockingCallError,
    ConnectionFailedError,
    EventDecodeError,
    GenerationError,
    StreamCancelledError,
    StreamTruncatedError,
    UnprocessableEntityError,
)
from rxcohere.events import ChatEvent, ContentDelta, MessageEnd, MessageStart
from rxcohere.response import ChatResponse
from rxcohere.stream import ChatStream
from rxcohere.testing import (
    Corrupt,
    Cut,
    DelayHeaders,
    Fault,
    ReplayServer,
    Stall,
    Status,
    Transcript,
)

# Cold: one subscription is one request -----------------------------------------------------------


async def test_nothing_is_sent_before_somebody_subscribes() -> None:
    """Making streams and deriving from them sends nothing; the first subscription sends one."""
    async with served() as (server, co):
        stream = co.chat_stream(**ASK)
        stream.text()
        stream.response()
        stream.pipe(rxc.collect_text())
        other = co.chat_stream(**ASK)
        assert await other.pipe(rxc.collect_text()) == ANSWER
        assert len(server.requests) == 1


async def test_a_subscription_is_a_request_that_brings_all_events(subscriber: Subscribers) -> None:
    """One subscription brings every event of one request, then completes."""
    async with served() as (server, co):
        seen = await subscriber().to(co.chat_stream(**ASK)).end()
        assert [event.type for event in seen.values] == [event.type for event in TEXT.events]
        assert seen.completed
        assert len(server.requests) == 1
        assert server.requests[0].json["stream"] is True


async def test_two_subscriptions_are_two_requests(subscriber: Subscribers) -> None:
    """A stream subscribed twice sends two requests, and both bring everything."""
    async with served() as (server, co):
        stream = co.chat_stream(**ASK)
        first, second = subscriber().to(stream), subscriber().to(stream)
        await first.end()
        await second.end()
        assert len(first.values) == len(second.values) == EVENTS
        assert len(server.requests) == 2


async def test_events_come_serially_on_the_loop_that_subscribed(subscriber: Subscribers) -> None:
    """Inside a loop, events come in its thread, one after the other."""
    async with served() as (_, co):
        seen = [subscriber().to(co.chat_stream(**ASK)) for _ in range(3)]
        for each in seen:
            await each.end()
            assert each.threads == {threading.get_ident()}


async def test_on_next_sees_the_context_of_the_subscriber() -> None:
    """A context variable has in on_next the value that it had at subscribe, for each its own."""
    who = contextvars.ContextVar("who", default="nobody")
    seen: dict[str, set[str]] = {"ann": set(), "bob": set()}
    async with served() as (_, co):
        ended: list[asyncio.Future[None]] = []
        for name in seen:
            future = asyncio.get_running_loop().create_future()
            ended.append(future)
            token = who.set(name)
            co.chat_stream(**ASK).subscribe(
                lambda _, name=name: seen[name].add(who.get()),
                on_completed=lambda future=future: future.set_result(None),
            )
            who.reset(token)
        await asyncio.gather(*ended)
    assert seen == {"ann": {"ann"}, "bob": {"bob"}}


def test_on_next_sees_the_context_of_a_subscriber_in_another_thread(
    subscriber: Subscribers,
) -> None:
    """The subscriber's context also goes along to the background loop."""
    who = contextvars.ContextVar("who", default="nobody")
    seen: set[str] = set()
    with serving() as (_, co):
        token = who.set("ann")
        watching = subscriber(lambda _: seen.add(who.get())).to(co.chat_stream(**ASK))
        who.reset(token)
        watching.wait_for_end()
    assert seen == {"ann"}


async def test_disposed_in_the_same_turn_nothing_is_sent(subscriber: Subscribers) -> None:
    """The request starts a turn after subscribe, so disposing at once sends none."""
    async with served() as (server, co):
        given_up = subscriber().to(co.chat_stream(**ASK))
        given_up.dispose()
        await subscriber().to(co.chat_stream(**ASK)).end()
        assert len(server.requests) == 1
        assert given_up.values == []
        assert given_up.is_silent


async def switch_over_three_prompts() -> None:
    async with served() as (server, co):
        prompts = rx.of("one", "two", "three")
        seen = Subscriber().to(
            prompts.pipe(
                ops.switch_map(
                    lambda prompt: co.chat_stream(
                        model="m", messages=[{"role": "user", "content": prompt}]
                    )
                )
            )
        )
        await seen.end()
        assert (len(seen.values), seen.completed, seen.breaches) == (EVENTS, True, [])
        assert [each.json["messages"][0]["content"] for each in server.requests] == ["three"]


async def test_switch_map_over_three_prompts_sends_one_request() -> None:
    """Prompts that are switched away from in the same turn cost nothing."""
    await switch_over_three_prompts()


@pytest.mark.usefixtures("eager_tasks")
async def test_switch_map_sends_one_request_under_eager_tasks_too() -> None:
    """A task factory that starts tasks at once does not make the request start at once."""
    await switch_over_three_prompts()


@pytest.mark.parametrize(
    ("fault", "expected", "count"),
    [
        (Status(422, {"message": "no"}), UnprocessableEntityError, 0),
        (Cut(after_events=5, how="eof"), StreamTruncatedError, 5),
        (Cut(after_events=5, how="close"), StreamTruncatedError, 5),
        (Cut(after_events=5, how="reset"), ConnectionFailedError, 5),
        (Corrupt(5), EventDecodeError, 5),
    ],
    ids=["status", "eof", "close", "reset", "corrupt"],
)
async def test_a_broken_stream_ends_once_with_its_error(
    subscriber: Subscribers, fault: Fault, expected: type[Exception], count: int
) -> None:
    """What came whole is delivered, then the one typed error; the connection is not kept."""
    async with served(faults=[fault]) as (server, co):
        seen = await subscriber().to(co.chat_stream(**ASK)).end()
        assert type(seen.error) is expected
        assert len(seen.values) == count
        await server.until(lambda s: s.open == 0)


async def test_a_failed_generation_delivers_message_end_first(subscriber: Subscribers) -> None:
    """`MessageEnd` comes before the error that its reason means."""
    async with served("error") as (_, co):
        seen = await subscriber().to(co.chat_stream(**ASK)).end()
        assert type(seen.values[-1]) is MessageEnd
        assert type(seen.error) is GenerationError


# Other threads, background loop ------------------------------------------------------------------


def test_subscribing_in_a_plain_script_works_on_a_background_loop(subscriber: Subscribers) -> None:
    """Without a loop, events come in one thread that is not the subscriber's."""
    with serving() as (server, co):
        seen = subscriber().to(co.chat_stream(**ASK)).wait_for_end()
        assert (len(seen.values), seen.completed) == (EVENTS, True)
        assert len(seen.threads) == 1
        assert seen.threads != {threading.get_ident()}
        assert len(server.requests) == 1


def test_subscribers_of_several_threads_share_one_loop(subscriber: Subscribers) -> None:
    """Threads that subscribe at once get their own events, all in one and the same thread."""
    with serving() as (server, co):
        barrier = threading.Barrier(8)
        seen = [subscriber() for _ in range(8)]

        def subscribe(each: Subscriber) -> None:
            barrier.wait(HANG)
            each.to(co.chat_stream(**ASK))

        for future in [started(lambda each=each: subscribe(each)) for each in seen]:
            future.result(HANG)
        for each in seen:
            each.wait_for_end()
            assert len(each.values) == EVENTS
        assert len({thread for each in seen for thread in each.threads}) == 1
        assert len(server.requests) == 8


async def test_a_thread_subscribes_on_the_loop_of_the_client(subscriber: Subscribers) -> None:
    """Once bound to a loop, the client delivers there, whoever subscribes."""
    async with served() as (_, co):
        await co.chat_stream(**ASK)
        seen = subscriber()
        await in_thread(lambda: seen.to(co.chat_stream(**ASK)))
        await seen.end()
        assert len(seen.values) == EVENTS
        assert seen.threads == {threading.get_ident()}


# async for ---------------------------------------------------------------------------------------


async def test_async_for_gives_all_events_and_stops() -> None:
    """Iterating to the end gives every event of one request."""
    async with served() as (server, co):
        events = [event async for event in co.chat_stream(**ASK)]
        assert [event.type for event in events] == [event.type for event in TEXT.events]
        assert len(server.requests) == 1
        await server.until(lambda s: s.completed == 1)


async def test_two_iterations_are_two_requests() -> None:
    """Each iteration sends its own request."""
    async with served() as (server, co):
        stream = co.chat_stream(**ASK)
        first = [event async for event in stream]
        second = [event async for event in stream]
        assert first == second
        assert len(server.requests) == 2


async def test_async_for_raises_the_verdict_after_the_events() -> None:
    """A cut stream raises when what came of it has been read, with the response so far."""
    async with served(faults=[Cut(after_events=6)]) as (_, co):
        events: list[ChatEvent] = []
        with pytest.raises(StreamTruncatedError) as caught:
            async for event in co.chat_stream(**ASK):
                events.append(event)  # noqa: PERF401 - kept up to the error
        assert len(events) == 6
        assert caught.value.partial is not None
        assert ANSWER.startswith(caught.value.partial.text)


async def test_break_in_async_for_gives_the_connection_up() -> None:
    """Leaving the loop is enough: the server sees the client go."""
    async with served(faults=[Stall(after_events=3)]) as (server, co):
        async for event in co.chat_stream(**ASK):
            assert type(event) is MessageStart
            break
        await server.until(was_aborted)


async def test_an_exception_in_the_body_gives_the_connection_up() -> None:
    """An exception inside ``async for`` comes through, and the server sees the client go."""
    async with served(faults=[Stall(after_events=3)]) as (server, co):
        with pytest.raises(LookupError):
            async for _ in co.chat_stream(**ASK):
                raise LookupError
        await server.until(was_aborted)


@pytest.mark.parametrize("fault", [DelayHeaders(), Stall(after_events=0), Stall(after_events=3)])
async def test_cancelling_the_task_that_iterates_gives_the_connection_up(fault: Fault) -> None:
    """A cancelled iteration ends with `CancelledError`, wherever it waited."""

    async def iterate(stream: ChatStream) -> None:
        async for _ in stream:
            pass

    async with served(faults=[fault]) as (server, co):
        task = asyncio.create_task(iterate(co.chat_stream(**ASK)))
        await server.until(lambda s: s.open == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(was_aborted)


async def test_aclosing_gives_the_connection_up_at_its_end() -> None:
    """With ``aclosing`` the connection is gone when the block is left, not a turn later."""
    async with served(faults=[Stall(after_events=3)]) as (server, co):
        async with aclosing(aiter(co.chat_stream(**ASK))) as events:
            assert type(await anext(events)) is MessageStart
        await server.until(was_aborted)


async def test_an_iterator_never_started_sends_nothing() -> None:
    """``aiter`` alone sends nothing and needs no closing."""
    async with served() as (server, co):
        aiter(co.chat_stream(**ASK))
        await co.chat_stream(**ASK)
        assert len(server.requests) == 1


class Fountain:
    """A server whose one answer is far larger than what sockets buffer; it counts what it wrote."""

    def __init__(self, frames: int, size: int) -> None:
        self.written = 0
        self.size = size
        delta = {"type": "content-delta", "index": 0}
        text = "x" * size
        body = {**delta, "delta": {"message": {"content": {"text": text}}}}
        start = {"type": "message-start", "id": "1", "delta": {"message": {"role": "assistant"}}}
        self._frames = Transcript.of(
            [
                start,
                {"type": "content-start", "index": 0, "delta": {"message": {"content": {}}}},
                *[body] * frames,
                {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
            ]
        ).frames
        self.total = len(self._frames)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            for frame in self._frames:
                writer.write(frame)
                await writer.drain()
                self.written += 1
        except ConnectionError:
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def stands_still(self) -> None:
        """Returns when it has written all, or nothing at all for a thousand turns of the loop.

        A turn serves every socket that has something to read or room to write, so a client that
        went on reading would not let it stand still.
        """
        turns, written = 0, -1
        while self.written < self.total and turns < 1000:
            turns = turns + 1 if written == self.written else 0
            written = self.written
            await asyncio.sleep(0)


async def test_a_consumer_that_does_not_read_stops_the_server() -> None:
    """Pulling is what reads the socket: with a consumer at rest, most of 64 MB is never written."""
    fountain = Fountain(frames=1024, size=65_536)
    async with asyncio.timeout(3 * HANG):
        server = await asyncio.start_server(fountain.answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, CohereClient("", base_url=f"http://127.0.0.1:{port}") as co:
            async with aclosing(aiter(co.chat_stream(**ASK))) as events:
                await anext(events)
                await fountain.stands_still()
                before = fountain.written
                assert before < fountain.total / 2
                count = 1
                async for event in events:
                    count += 1
                    if isinstance(event, ContentDelta):
                        assert len(event.text or "") == fountain.size
                assert count == fountain.total - 1  # all but [DONE]
                assert fountain.written > before


# for ---------------------------------------------------------------------------------------------


def test_for_gives_all_events_and_stops() -> None:
    """Synchronous iteration to the end gives every event of one request."""
    with serving() as (server, co):
        assert [e.type for e in co.chat_stream(**ASK)] == [e.type for e in TEXT.events]
        assert len(server.requests) == 1
        server.wait_until(lambda s: s.completed == 1)


def test_list_of_a_stream_ends() -> None:
    """``list`` does not fall into the endless ``__getitem__`` of observables."""
    with serving() as (_, co):
        assert len(list(co.chat_stream(**ASK))) == EVENTS


def test_break_in_for_gives_the_connection_up() -> None:
    """Leaving the loop is enough: the server sees the client go."""
    with serving(faults=[Stall(after_events=3)]) as (server, co):
        for event in co.chat_stream(**ASK):
            assert type(event) is MessageStart
            break
        server.wait_until(was_aborted)


def test_an_exception_in_the_body_of_for_gives_the_connection_up() -> None:
    """An exception inside ``for`` comes through, and the server sees the client go."""
    with serving(faults=[Stall(after_events=3)]) as (server, co):
        with pytest.raises(LookupError):
            for _ in co.chat_stream(**ASK):
                raise LookupError
        server.wait_until(was_aborted)


def test_for_raises_the_verdict_after_the_events() -> None:
    """A cut stream raises when what came of it has been read, with the response so far."""
    with serving(faults=[Cut(after_events=6)]) as (_, co):
        events: list[ChatEvent] = []
        with pytest.raises(StreamTruncatedError) as caught:
            for event in co.chat_stream(**ASK):
                events.append(event)  # noqa: PERF402 - kept up to the error
        assert len(events) == 6
        assert caught.value.partial is not None


def test_in_looks_for_a_value_and_gives_the_rest_up() -> None:
    """``in`` is true as soon as the value comes, false when the stream ends without it."""
    with serving(faults=[Stall(after_events=3, times=1)]) as (server, co):
        assert TEXT.events[0] in co.chat_stream(**ASK)
        server.wait_until(was_aborted)
        assert "nothing like it" not in co.chat_stream(**ASK)
        assert len(server.requests) == 2


def test_threads_iterate_at_the_same_time() -> None:
    """Several threads iterate over streams of one client without getting mixed up."""
    with serving() as (server, co):
        futures = [started(lambda: list(co.chat_stream(**ASK))) for _ in range(6)]
        texts = {
            "".join(e.text or "" for e in f.result(HANG) if isinstance(e, ContentDelta))
            for f in futures
        }
        assert texts == {ANSWER}
        assert len(server.requests) == 6


async def test_a_thread_iterates_over_a_stream_of_a_running_loop() -> None:
    """A client bound to a running loop hands its events over to a thread's ``for``."""
    async with served() as (server, co):
        await co.chat_stream(**ASK)
        events = await in_thread(lambda: list(co.chat_stream(**ASK)))
        assert len(events) == EVENTS
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "block",
    [
        iter,
        list,
        lambda stream: stream.run(),
        lambda stream: stream.text().run(),
        lambda stream: stream.response().run(),
        lambda stream: stream.pipe(rxc.collect_text()).run(),
        lambda stream: "x" in stream,
    ],
    ids=["iter", "list", "run", "text-run", "response-run", "pipe-run", "in"],
)
async def test_blocking_the_running_loop_is_refused(block: Callable[[ChatStream], Any]) -> None:
    """What would block a running loop raises at once, says what to use, and sends nothing."""
    async with served() as (server, co):
        with pytest.raises(BlockingCallError, match=r"await|async for"):
            block(co.chat_stream(**ASK))
        await co.chat_stream(**ASK)
        assert len(server.requests) == 1


def test_run_gives_the_last_value() -> None:
    """``run()`` blocks a plain thread until the end, on a stream and on what derives from it."""
    with serving() as (server, co):
        stream = co.chat_stream(**ASK)
        assert type(stream.run()) is MessageEnd
        assert stream.response().run().text == ANSWER
        assert stream.pipe(rxc.collect_text()).run() == ANSWER
        assert len(server.requests) == 3


def test_run_raises_the_verdict() -> None:
    """``run()`` raises the error that a subscriber would get."""
    with serving(faults=[Status(422)]) as (_, co):
        with pytest.raises(UnprocessableEntityError):
            co.chat_stream(**ASK).response().run()


# await -------------------------------------------------------------------------------------------


async def test_await_gives_the_last_event_and_derived_values() -> None:
    """A stream gives its `MessageEnd`, a derived observable its last value; each is a request."""
    async with served() as (server, co):
        stream = co.chat_stream(**ASK)
        assert type(await stream) is MessageEnd
        response = await stream.response()
        assert type(response) is ChatResponse
        assert response.text == ANSWER
        assert await stream.pipe(rxc.accumulate_text()) == ANSWER
        assert len(server.requests) == 3


@pytest.mark.parametrize("transcript", ["reasoning-rag", "parallel-tools"])
@pytest.mark.parametrize(
    ("shortcut", "operator"),
    [
        (ChatStream.text, rxc.text_deltas),
        (ChatStream.thinking, rxc.thinking_deltas),
        (ChatStream.tool_calls, rxc.assemble_tool_calls),
        (ChatStream.citations, rxc.citations),
        (ChatStream.cited_text, rxc.attach_citations),
        (ChatStream.response, rxc.collect_response),
    ],
    ids=lambda function: function.__name__,
)
async def test_a_shortcut_brings_what_its_operator_does(
    transcript: str, shortcut: Callable[..., Any], operator: Callable[..., Any]
) -> None:
    """Without an observable in between, on a stream that has such values and on one without."""
    expected: list[Any] = []
    rx.from_iterable(Transcript.load(transcript).events).pipe(operator()).subscribe(expected.append)
    async with served(transcript) as (_, co):
        assert [value async for value in shortcut(co.chat_stream(**ASK))] == expected


async def test_await_raises_the_verdict() -> None:
    """``await`` raises the error that a subscriber would get."""
    async with served(faults=[Status(422)]) as (_, co):
        with pytest.raises(UnprocessableEntityError):
            await co.chat_stream(**ASK)


async def test_await_of_nothing_says_so() -> None:
    """An observable without a value raises what reactivex raises for it."""
    async with served() as (_, co):
        with pytest.raises(Exception, match="no elements") as caught:
            await co.chat_stream(**ASK).tool_calls()
        assert type(caught.value).__name__ == "SequenceContainsNoElementsError"


async def test_gather_of_several_streams() -> None:
    """Streams can be awaited together; each sends its request."""
    async with served() as (server, co):
        stream = co.chat_stream(**ASK)
        responses = await asyncio.gather(stream.response(), stream.response(), stream.response())
        assert [response.text for response in responses] == [ANSWER] * 3
        assert len(server.requests) == 3


@pytest.mark.parametrize("fault", [DelayHeaders(), Stall(after_events=0), Stall(after_events=3)])
async def test_a_cancelled_await_gives_the_connection_up(fault: Fault) -> None:
    """Cancelling whoever awaits disposes of the subscription, wherever it waited."""

    async def ask(co: CohereClient) -> ChatResponse:
        return await co.chat_stream(**ASK).response()

    async with served(faults=[fault]) as (server, co):
        task = asyncio.create_task(ask(co))
        await server.until(lambda s: s.open == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(was_aborted)


async def test_wait_for_that_expires_gives_the_connection_up() -> None:
    """A timeout around an ``await`` disposes of the subscription."""
    async with served(faults=[Stall(after_events=3)]) as (server, co):
        waits = asyncio.ensure_future(asyncio.wait_for(co.chat_stream(**ASK).response(), 0.05))
        with pytest.raises(TimeoutError):
            await waits
        await server.until(lambda s: s.open == 0)


# Another loop than the client's ------------------------------------------------------------------


def test_await_and_async_for_from_a_foreign_loop() -> None:
    """On another loop than the client's, ``await`` and ``async for`` are handed their values."""

    async def work(co: CohereClient) -> None:
        stream = co.chat_stream(**ASK)
        assert type(await stream) is MessageEnd
        assert (await stream.response()).text == ANSWER
        assert await stream.pipe(rxc.collect_text()) == ANSWER
        assert (await co.chat(**ASK)).text == ANSWER
        assert len([event async for event in stream]) == EVENTS
        texts = await asyncio.gather(*(stream.pipe(rxc.collect_text()) for _ in range(4)))
        assert texts == [ANSWER] * 4

    with bound_to_background() as (_, co):
        run(work(co))
        assert len(list(co.chat_stream(**ASK))) == EVENTS


def test_errors_cross_to_a_foreign_loop() -> None:
    """The verdict of a stream is raised on another loop as on the client's own."""

    async def work(co: CohereClient) -> None:
        with pytest.raises(UnprocessableEntityError):
            await co.chat_stream(**ASK)
        with pytest.raises(UnprocessableEntityError):
            async for _ in co.chat_stream(**ASK):
                pass

    with bound_to_background([Status(422)]) as (_, co):
        run(work(co))


@pytest.mark.parametrize("events", [0, 3])
def test_giving_up_on_a_foreign_loop_gives_the_connection_up(events: int) -> None:
    """A break, a cancelled iteration and a cancelled await all reach the client's loop."""

    async def iterate(stream: ChatStream, once: bool) -> None:
        async for _ in stream:
            if once:
                break

    async def work(server: ReplayServer, co: CohereClient) -> None:
        stream = co.chat_stream(**ASK)
        if events:
            await iterate(stream, once=True)
            await server.until(lambda s: s.aborted == 1)
        expected = server.aborted
        for waits in (iterate(stream, once=False), stream.response()):
            requests = len(server.requests)
            task = asyncio.ensure_future(waits)
            await server.until(lambda s, n=requests: len(s.requests) == n + 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            expected += 1
            await server.until(lambda s, n=expected: s.aborted == n and s.open == 0)

    with bound_to_background([Stall(after_events=events)]) as (server, co):
        run(work(server, co))


def test_a_subscriber_on_a_foreign_loop_is_called_on_the_clients(subscriber: Subscribers) -> None:
    """Subscribing (not awaiting) elsewhere changes nothing: events come on the client's loop."""
    seen = [subscriber(), subscriber()]

    async def work(co: CohereClient) -> None:
        await seen[1].to(co.chat_stream(**ASK)).end()

    with bound_to_background() as (_, co):
        seen[0].to(co.chat_stream(**ASK)).wait_for_end()
        run(work(co))
        assert seen[0].threads == seen[1].threads
        assert len(seen[1].threads) == 1


# Disposal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [DelayHeaders(), Stall(after_events=0), Stall(after_events=3)], ids=str
)
@pytest.mark.parametrize("where", ["loop", "thread"])
async def test_disposed_while_the_server_is_silent(
    subscriber: Subscribers, fault: Fault, where: str
) -> None:
    """Before the headers, before the first event and in mid-stream: the request is gone at once."""
    async with served(faults=[fault]) as (server, co):
        seen = subscriber()
        count = fault.after_events if isinstance(fault, Stall) else 0
        arrived = seen.arrived(count)
        seen.to(co.chat_stream(**ASK))
        await server.until(lambda s: s.open == 1)
        if count:
            await waiting(arrived)
        if where == "loop":
            seen.dispose()
        else:
            await in_thread(seen.dispose)
        await server.until(was_aborted)
        assert len(seen.values) == count
        assert seen.is_silent
        seen.dispose()
        assert len(server.requests) == 1


def test_disposed_in_a_plain_script(subscriber: Subscribers) -> None:
    """Disposing of a subscription of the background loop, twice, gives its connection up."""
    with serving(faults=[Stall(after_events=3)]) as (server, co):
        seen = subscriber()
        arrived = seen.arrived(3)
        seen.to(co.chat_stream(**ASK))
        arrived.result(HANG)
        seen.dispose()
        seen.dispose()
        server.wait_until(was_aborted)
        assert seen.is_silent


async def test_disposed_while_connecting(subscriber: Subscribers) -> None:
    """A connection that is not made yet is given up, without a word."""
    connecting = asyncio.Event()
    trace = aiohttp.TraceConfig()

    async def begun(*_: Any) -> None:
        connecting.set()

    trace.on_connection_create_start.append(begun)
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for each in (first, second):  # they fill its queue, so that further ones get no answer
            each.setblocking(False)
            each.connect_ex(deaf.getsockname())
        async with asyncio.timeout(HANG), aiohttp.ClientSession(trace_configs=[trace]) as session:
            url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
            async with CohereClient("", base_url=url, session=session) as co:
                seen = subscriber().to(co.chat_stream(**ASK))
                await connecting.wait()
                seen.dispose()
        assert seen.values == []
        assert seen.is_silent


@pytest.mark.parametrize("raw", [False, True], ids=["subscribe", "source"])
@pytest.mark.parametrize("index", [0, EVENTS // 2, EVENTS - 1], ids=["first", "middle", "last"])
async def test_disposed_inside_on_next(subscriber: Subscribers, index: int, raw: bool) -> None:
    """Disposing in on_next makes that the last call, also of the bare source, without guards."""
    async with served() as (server, co):
        stream = co.chat_stream(**ASK)

        def react(_: object) -> None:
            if len(seen.values) == index + 1:
                seen.dispose()

        seen = subscriber(react)
        arrived = seen.arrived(index + 1)
        if raw:
            seen.subscription = stream._subscribe_core(seen)
        else:
            seen.to(stream)
        await waiting(arrived)
        await server.until(lambda s: s.open == 0)
        assert len(seen.values) == index + 1
        assert seen.is_silent


async def test_take_disposes_and_completes(subscriber: Subscribers) -> None:
    """``take(1)`` completes its subscriber, and the server sees the client go."""
    async with served(faults=[Stall(after_events=3)]) as (server, co):
        seen = await subscriber().to(co.chat_stream(**ASK).pipe(ops.take(1))).end()
        assert (len(seen.values), seen.completed) == (1, True)
        await server.until(was_aborted)


async def test_disposed_inside_on_completed() -> None:
    """Disposing in on_completed, which has happened already, does nothing."""
    async with served() as (server, co):
        ended = asyncio.get_running_loop().create_future()

        def on_completed() -> None:
            subscription.dispose()
            ended.set_result(None)

        subscription = co.chat_stream(**ASK).subscribe(on_completed=on_completed)
        await ended
        subscription.dispose()
        await server.until(lambda s: s.completed == 1)


def test_disposed_when_the_loop_is_closed(subscriber: Subscribers) -> None:
    """After ``asyncio.run`` has ended, disposing is allowed and does nothing."""
    seen = subscriber()

    async def work(co: CohereClient) -> None:
        arrived = seen.arrived(3)
        seen.to(co.chat_stream(**ASK))
        await waiting(arrived)

    with serving(faults=[Stall(after_events=3)]) as (server, co):
        run(work(co))
        seen.dispose()
        assert type(seen.error) is StreamCancelledError
        server.wait_until(was_aborted)


def test_disposed_in_each_of_the_last_turns_of_a_loop(subscriber: Subscribers) -> None:
    """A thread that subscribes and leaves as the loop ends hears nothing after it has left."""
    seen: list[Subscriber] = []

    async def work(co: CohereClient) -> None:
        loop = asyncio.get_running_loop()
        co.chat_stream(**ASK).subscribe().dispose()  # binds the client to this loop

        def come_and_go() -> None:
            one = subscriber().to(co.chat_stream(**ASK))
            one.dispose()
            seen.append(one)

        def each_turn() -> None:
            started(come_and_go).result(HANG)  # blocks the loop meanwhile
            loop.call_soon(each_turn)

        loop.call_soon(each_turn)
        await asyncio.sleep(0)

    with serving() as (server, co):
        run(work(co))
        assert len(server.requests) == 0
    assert len(seen) > 3
    told = [one.error for one in seen if not one.is_silent]  # before they could leave
    assert {type(error) for error in told} <= {StreamCancelledError}
    assert len(told) < len(seen)


async def test_disposed_during_the_wait_for_a_retry(subscriber: Subscribers) -> None:
    """A subscription disposed of between two attempts makes no second one."""
    busy = Status(503, headers={"retry-after": "3600"})
    async with served(faults=[busy], retry=Retry(attempts=9, max_wait=3600)) as (server, co):
        seen = subscriber().to(co.chat_stream(**ASK))
        await server.until(lambda s: len(s.requests) == 1 and s.open == 0)
        seen.dispose()
        assert len(server.requests) == 1
        assert seen.is_silent


async def test_disposed_while_waiting_for_a_connection(subscriber: Subscribers) -> None:
    """Whoever gives up in the queue for a connection sends nothing and takes no slot along."""
    async with served(faults=[Stall(after_events=3, times=1)], max_connections=1) as (server, co):
        first = subscriber().to(co.chat_stream(**ASK))
        await server.until(lambda s: s.open == 1)
        queue = [subscriber().to(co.chat_stream(**ASK)) for _ in range(3)]
        for _ in range(10):  # they come to stand in the queue
            await asyncio.sleep(0)
        queue[0].dispose()
        queue[1].dispose()
        first.dispose()
        await queue[2].end()
        assert queue[2].completed
        assert len(server.requests) == 2
        assert await co.chat_stream(**ASK).pipe(rxc.collect_text()) == ANSWER
        assert all(each.is_silent for each in (first, *queue[:2]))


async def test_a_slot_that_was_just_given_is_passed_on(subscriber: Subscribers) -> None:
    """Disposing of the one in the queue whose turn has just come wakes the next one."""
    async with served(faults=[Stall(after_events=3, times=1)], max_connections=1) as (server, co):
        first = subscriber().to(co.chat_stream(**ASK))
        await server.until(lambda s: s.open == 1)
        queue = [subscriber().to(co.chat_stream(**ASK)) for _ in range(2)]
        for _ in range(10):
            await asyncio.sleep(0)
        first.dispose()
        await asyncio.sleep(0)  # now the slot is on its way to the second
        queue[0].dispose()
        await queue[1].end()
        assert queue[1].completed


async def test_disposed_at_every_turn_of_the_loop(subscriber: Subscribers) -> None:
    """However many turns after subscribe it comes, disposal leaves neither task nor connection."""
    async with served(max_connections=2) as (server, co):
        for turns in range(0, 60):
            seen = subscriber().to(co.chat_stream(**ASK))
            for _ in range(turns):
                await asyncio.sleep(0)
            seen.dispose()
        assert await co.chat_stream(**ASK).pipe(rxc.collect_text()) == ANSWER
        await server.until(lambda s: s.open == 0)


def test_disposed_from_another_thread_at_any_moment(subscriber: Subscribers) -> None:
    """Threads that dispose while events arrive get nothing more, and disturb nobody."""
    with serving(max_connections=4) as (server, co):
        for count in range(0, 40):
            seen = subscriber()
            arrived = seen.arrived(count)
            seen.to(co.chat_stream(**ASK))
            if count:
                arrived.result(HANG)
            seen.dispose()
        assert co.chat_stream(**ASK).pipe(rxc.collect_text()).run() == ANSWER
        server.wait_until(lambda s: s.open == 0)


async def test_a_failure_after_disposal_is_nobodys_business() -> None:
    """A request that fails in the very moment of its disposal says nothing, not even to the log."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    failed = asyncio.Event()
    trace = aiohttp.TraceConfig()

    async def dispose_elsewhere(*_: Any) -> None:
        started(seen.dispose).result(HANG)
        failed.set()

    trace.on_request_exception.append(dispose_elsewhere)
    async with asyncio.timeout(HANG), aiohttp.ClientSession(trace_configs=[trace]) as session:
        url = f"http://127.0.0.1:{port}"
        async with CohereClient("", base_url=url, session=session, retry=Retry(attempts=1)) as co:
            seen = Subscriber().to(co.chat_stream(**ASK))
            await failed.wait()
    assert seen.is_silent
    assert reports == []


# Subscribers that raise --------------------------------------------------------------------------


async def test_a_raising_on_next_gets_its_own_error(
    subscriber: Subscribers, reports: Reports
) -> None:
    """Whoever raises and has an on_error gets the error there, once; the connection is released."""
    async with served(faults=[Stall(after_events=3)]) as (server, co):
        seen = await subscriber(boom).to(co.chat_stream(**ASK)).end()
        assert type(seen.error) is Boom
        assert len(seen.values) == 1
        await server.until(was_aborted)
    assert reports == []


async def test_a_raising_on_next_without_on_error_reaches_the_loop(reports: Reports) -> None:
    """Whoever raises and has no on_error: the loop's exception handler hears of it, once."""
    async with served(faults=[Stall(after_events=3)]) as (server, co):
        co.chat_stream(**ASK).subscribe(boom)
        await server.until(was_aborted)
    assert [type(report) for report in reports] == [Boom]


async def test_a_raising_operator_gives_its_error_downstream(
    subscriber: Subscribers, reports: Reports
) -> None:
    """An operator's callback that raises becomes the on_error of those below it."""
    async with served(faults=[Stall(after_events=3)]) as (server, co):
        seen = await subscriber().to(co.chat_stream(**ASK).pipe(ops.map(boom))).end()
        assert type(seen.error) is Boom
        await server.until(was_aborted)
    assert reports == []


@pytest.mark.parametrize(
    "operator",
    [ops.map(boom), ops.filter(boom), ops.scan(boom, 0), ops.do_action(boom), rxc.text_deltas()],
    ids=["map", "filter", "scan", "do_action", "lifted"],
)
async def test_a_raising_operator_without_on_error_reaches_the_loop(
    reports: Reports, operator: Any
) -> None:
    """With nobody to tell below, an operator's error does not vanish: the loop hears of it."""
    async with served(faults=[Stall(after_events=5)]) as (server, co):
        co.chat_stream(**ASK).pipe(operator).subscribe(boom)
        await server.until(was_aborted)
    assert [type(report) for report in reports] == [Boom]


@pytest.mark.parametrize("fault", [Status(422), Cut(after_events=3, how="eof")], ids=str)
async def test_an_error_without_on_error_reaches_the_loop(reports: Reports, fault: Fault) -> None:
    """A stream that fails and has nobody to tell it to is reported, not lost."""
    async with served(faults=[fault]) as (server, co):
        co.chat_stream(**ASK).subscribe()
        await server.until(lambda s: len(s.requests) == 1 and s.open == 0)
        await reports.first()
    assert type(reports[0]) in (UnprocessableEntityError, StreamTruncatedError)
    assert len(reports) == 1


async def test_a_raising_on_error_reaches_the_loop(reports: Reports) -> None:
    """An on_error that raises is reported; the task does not die of it."""
    async with served(faults=[Status(422)]) as (_, co):
        co.chat_stream(**ASK).subscribe(on_error=boom)
        await reports.first()
    assert [type(report) for report in reports] == [Boom]


async def test_a_raising_on_completed_reaches_the_loop(reports: Reports) -> None:
    """An on_completed that raises is reported, and on_error is not called after it."""
    errors: list[Exception] = []
    async with served() as (server, co):
        co.chat_stream(**ASK).subscribe(on_error=errors.append, on_completed=boom)
        await reports.first()
        await server.until(lambda s: s.completed == 1)
    assert [type(report) for report in reports] == [Boom]
    assert errors == []


async def test_on_next_that_disposes_and_then_raises_reaches_the_loop(
    subscriber: Subscribers, reports: Reports
) -> None:
    """An error raised after disposal has no subscriber left, so the loop hears of it."""

    def dispose_and_raise(_: object) -> None:
        seen.dispose()
        raise Boom

    async with served(faults=[Stall(after_events=3)]) as (server, co):
        seen = subscriber(dispose_and_raise).to(co.chat_stream(**ASK))
        await server.until(was_aborted)
    assert [type(report) for report in reports] == [Boom]
    assert seen.is_silent


async def test_a_raising_subscriber_disturbs_no_other(
    subscriber: Subscribers, reports: Reports
) -> None:
    """Streams of one client do not feel each other's failures."""
    async with served() as (_, co):
        stream = co.chat_stream(**ASK)
        stream.subscribe(boom)
        healthy = await subscriber().to(stream).end()
        assert healthy.completed
        assert len(healthy.values) == EVENTS
    assert [type(report) for report in reports] == [Boom]


def test_a_raising_subscriber_in_a_plain_script_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Without a handler of its own, the background loop logs the error with its traceback."""
    with serving(faults=[Stall(after_events=3)]) as (server, co):
        co.chat_stream(**ASK).subscribe(boom)
        server.wait_until(was_aborted)
    logged = [record for record in caplog.records if record.name == "asyncio"]
    assert [record.exc_info and record.exc_info[0] for record in logged] == [Boom]
    caplog.clear()


def test_keyboard_interrupt_in_on_next_is_not_swallowed() -> None:
    """`KeyboardInterrupt` leaves ``asyncio.run``, and the subscriber hears that its loop ends."""
    script = """
import asyncio, sys
from rxcohere import CohereClient

def interrupt(event):
    raise KeyboardInterrupt

async def main():
    async with CohereClient("", base_url=sys.argv[1]) as co:
        stream = co.chat_stream(model="m", messages=[{"role": "user", "content": "hi"}])
        stream.subscribe(interrupt, print, print)
        await asyncio.Event().wait()

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    with ReplayServer("text", faults=[Stall(after_events=3)]) as server:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", script, server.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        server.wait_until(was_aborted)
    # What asyncio itself has to say of a task that was interrupted is not ours to judge.
    said = ["the event loop was closed under a live stream", "interrupted"]
    assert (done.returncode, done.stdout.splitlines()) == (0, said)


@pytest.mark.parametrize("name", ["rag", "reasoning", "tools"])
async def test_its_methods_are_its_operators(name: str) -> None:
    """Each gives what the operator in its docstring gives, without the detour."""
    async with served(name) as (_, co):
        stream = co.chat_stream(**ASK)
        for short, operator in (
            (stream.text(), rxc.text_deltas()),
            (stream.thinking(), rxc.thinking_deltas()),
            (stream.tool_calls(), rxc.assemble_tool_calls()),
            (stream.citations(), rxc.citations()),
            (stream.cited_text(), rxc.attach_citations()),
            (stream.response(), rxc.collect_response()),
        ):
            assert await short.pipe(ops.to_list()) == await stream.pipe(operator, ops.to_list())
