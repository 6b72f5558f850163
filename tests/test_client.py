"""`CohereClient`: what it sends, whose loop it works on, how it ends, what it keeps to itself."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from programs import SLOW
from subscribers import (
    ANSWER,
    ASK,
    EVENTS,
    HANG,
    TEXT,
    Subscriber,
    Subscribers,
    bind,
    bound_to_background,
    client_of,
    in_thread,
    run,
    served,
    serving,
    started,
    waiting,
    was_aborted,
)

import rxcohere
from rxcohere import CohereClient, Retry, Timeouts
from rxcohere import operators as rxc
from rxcohere.errors import (
    ApiError,
    BlockingCallError,
    ConfigurationError,
    ConnectionFailedError,
    EventDecodeError,
    StreamCancelledError,
    StreamError,
    StreamTimeoutError,
    TooManyRequestsError,
    UnauthorizedError,
    UnexpectedContentError,
)
from rxcohere.response import ChatResponse
from rxcohere.testing import (
    ContentType,
    Cut,
    DelayHeaders,
    Fault,
    HangUp,
    ReplayServer,
    Stall,
    Status,
    Transcript,
)

STALL = 20
"""Events that the live streams of these tests bring before they fall silent."""

BEGINNING = "".join(
    getattr(event, "text", None) or ""
    for event in Transcript.load("text").events[:STALL]
    if event.type == "content-delta"
)


def stalling() -> list[Fault]:
    return [Stall(after_events=STALL)]


def check_cancelled(error: BaseException | None, text: str = BEGINNING) -> None:
    """The error of a live stream whose client went away, with what came of the response."""
    assert type(error) is StreamCancelledError
    assert error.partial is not None
    assert error.partial.text == text


# Loops -------------------------------------------------------------------------------------------


def test_one_client_in_two_runs_without_being_closed() -> None:
    """The first ``asyncio.run`` closes its connections itself; the client goes on in the second."""

    async def ask(co: CohereClient) -> str:
        return (await co.chat_stream(**ASK).response()).text

    with ReplayServer("text") as server:
        co = client_of(server)
        assert run(ask(co)) == ANSWER
        resources = co._transport._resources
        assert resources is not None
        assert resources.session.closed
        assert run(ask(co)) == ANSWER
        assert len(server.requests) == 2


def test_a_client_used_in_plain_code_first_works_inside_a_loop() -> None:
    """It stays on its background loop; ``await`` and ``async for`` are handed over."""

    async def ask(co: CohereClient) -> None:
        assert (await co.chat_stream(**ASK).response()).text == ANSWER
        assert len([event async for event in co.chat_stream(**ASK)]) == EVENTS

    with serving() as (server, co):
        assert len(list(co.chat_stream(**ASK))) == EVENTS
        run(ask(co))
        assert len(list(co.chat_stream(**ASK))) == EVENTS
        assert len(server.requests) == 4


async def test_a_client_used_inside_a_loop_first_works_in_a_thread(
    subscriber: Subscribers,
) -> None:
    """A thread's ``for``, ``run()`` and subscriptions are served by the loop."""
    async with served() as (server, co):
        await co.chat_stream(**ASK)

        def use() -> None:
            assert len(list(co.chat_stream(**ASK))) == EVENTS
            assert co.chat_stream(**ASK).response().run().text == ANSWER
            assert subscriber().to(co.chat_stream(**ASK)).wait_for_end().completed

        await in_thread(use)
        assert len(server.requests) == 4


def test_a_client_whose_loop_has_ended_goes_on_in_plain_code() -> None:
    """After ``asyncio.run``, plain code gets a background loop, on which the client then stays."""

    async def ask(co: CohereClient) -> str:
        return (await co.chat_stream(**ASK).response()).text

    with serving() as (server, co):
        run(ask(co))
        assert co.chat_stream(**ASK).response().run().text == ANSWER
        run(ask(co))
        assert len(server.requests) == 3


# Closing under live streams ----------------------------------------------------------------------


async def iterate(stream: Any) -> None:
    async for _ in stream:
        pass


async def ask_for(stream: Any) -> Any:
    return await stream


CONSUMERS: dict[str, Callable[[CohereClient], Awaitable[Any]]] = {
    "async for": lambda co: iterate(co.chat_stream(**ASK)),
    "await": lambda co: ask_for(co.chat_stream(**ASK)),
    "derived": lambda co: ask_for(co.chat_stream(**ASK).pipe(rxc.collect_text())),
}


@asynccontextmanager
async def consuming(
    server: ReplayServer, co: CohereClient, arrived: Subscriber
) -> AsyncIterator[list[BaseException | None]]:
    """Consumers of every kind, all in mid-stream; gives the errors they end with."""
    errors: list[BaseException | None] = []
    tasks = [asyncio.ensure_future(consume(co)) for consume in CONSUMERS.values()]
    came = arrived.arrived(STALL)
    arrived.to(co.chat_stream(**ASK))
    await waiting(came)
    await server.until(lambda s: s.open == len(tasks) + 1)
    await settled(tasks)
    yield errors
    await asyncio.wait(tasks, timeout=HANG)
    errors += [task.exception() for task in tasks if task.done()]
    assert len(errors) == len(tasks)


async def settled(tasks: list[Any]) -> None:
    """Lets what the server has sent on its sockets arrive: many turns of the loop."""
    for _ in range(300):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


@pytest.mark.parametrize("how", ["aclose", "exit", "thread"])
async def test_closing_in_the_loop_ends_every_consumer(
    subscriber: Subscribers,
    how: str,
) -> None:
    """``aclose``, the end of ``async with``, ``close()`` of another thread: all are told."""
    async with served(faults=stalling()) as (server, co):
        seen = subscriber()
        async with consuming(server, co, seen) as errors:
            if how == "aclose":
                await co.aclose()
            elif how == "exit":
                async with co:
                    pass
            else:
                await in_thread(co.close)
        for error in errors:
            check_cancelled(error)
        check_cancelled(seen.error)
        await server.until(lambda s: s.open == 0)
        assert server.aborted == len(errors) + 1


async def test_closing_ends_a_consumer_that_is_busy() -> None:
    """An iteration that does not wait when the client is closed gets its error at the next step."""
    async with served(faults=stalling()) as (server, co):
        count = 0
        with pytest.raises(StreamCancelledError) as caught:
            async for _ in co.chat_stream(**ASK):
                count += 1
                if count == 2:
                    await co.aclose()
        assert caught.value.partial is not None
        assert ANSWER.startswith(caught.value.partial.text)
        await server.until(was_aborted)


@pytest.mark.parametrize("turns", range(6))
async def test_closing_ends_a_consumer_that_asks_for_more_meanwhile(turns: int) -> None:
    """Whoever asks for the next event while the client is being closed gets its error as well."""
    async with served(faults=stalling()) as (server, co):
        count = 0
        with pytest.raises(StreamCancelledError) as caught:
            async for _ in co.chat_stream(**ASK):
                count += 1
                if count == STALL:
                    closing = asyncio.create_task(co.aclose())
                    for _ in range(turns):
                        await asyncio.sleep(0)
        check_cancelled(caught.value)
        await closing
        await server.until(was_aborted)


@pytest.mark.parametrize("fault", [DelayHeaders(), Stall(after_events=0)], ids=str)
async def test_closing_before_the_first_event_has_no_partial(
    subscriber: Subscribers,
    fault: Fault,
) -> None:
    """Where nothing came, the error says so: its ``partial`` is None."""
    async with served(faults=[fault]) as (server, co):
        seen = subscriber().to(co.chat_stream(**ASK))
        await server.until(lambda s: s.open == 1)
        await co.aclose()
        await seen.end()
        assert type(seen.error) is StreamCancelledError
        assert seen.error.partial is None
        await server.until(was_aborted)


async def test_closing_ends_those_who_wait_for_a_connection_or_a_retry(
    subscriber: Subscribers,
) -> None:
    """A stream in the queue or between two attempts ends at once as well."""
    busy = Status(503, headers={"retry-after": "3600"})
    retry = Retry(attempts=3, max_wait=3600)
    async with served(faults=[busy], retry=retry, max_connections=1) as (server, co):
        seen = [subscriber().to(co.chat_stream(**ASK)) for _ in range(3)]
        await server.until(lambda s: len(s.requests) == 1 and s.open == 0)
        await co.aclose()
        for each in seen:
            await each.end()
            assert type(each.error) is StreamCancelledError
        assert len(server.requests) == 1


async def test_closing_at_every_turn_of_the_loop(subscriber: Subscribers) -> None:
    """However many turns after subscribe it comes, closing ends the stream, once, and its task."""
    async with asyncio.timeout(3 * HANG), ReplayServer("text", faults=stalling()) as server:
        for turns in range(0, 60):
            co = client_of(server)
            seen = subscriber().to(co.chat_stream(**ASK))
            for _ in range(turns):
                await asyncio.sleep(0)
            await co.aclose()
            await seen.end()
            assert type(seen.error) is StreamCancelledError
        await server.until(lambda s: s.open == 0)


@pytest.mark.parametrize("turns", range(6))
async def test_closing_while_the_time_is_up(
    subscriber: Subscribers,
    turns: int,
) -> None:
    """A total limit that runs out in the moment of closing does not make closing fail."""
    timeouts = Timeouts(total=1e-9)
    async with served(faults=[DelayHeaders()], timeouts=timeouts) as (_, co):
        seen = subscriber().to(co.chat_stream(**ASK))
        for _ in range(turns):
            await asyncio.sleep(0)
        await co.aclose()
        await seen.end()
        assert type(seen.error) in (StreamCancelledError, StreamTimeoutError)


def test_closing_in_plain_code_ends_every_consumer(
    subscriber: Subscribers,
) -> None:
    """``close()`` ends subscribers, ``for`` loops and ``run()`` of other threads."""
    with serving(faults=stalling()) as (server, co):
        seen = subscriber()
        arrived = seen.arrived(STALL)
        looping = [
            started(lambda: list(co.chat_stream(**ASK))),
            started(lambda: co.chat_stream(**ASK).response().run()),
        ]
        seen.to(co.chat_stream(**ASK))
        arrived.result(HANG)
        server.wait_until(lambda s: s.open == 3)
        co.close()
        check_cancelled(seen.wait_for_end().error)
        for future in looping:
            error = future.exception(HANG)
            assert type(error) is StreamCancelledError
        server.wait_until(lambda s: s.aborted == 3)


def test_closing_inside_a_for_loop_ends_it_with_the_partial() -> None:
    """A ``for`` loop whose body closes the client gets its error at a later step."""
    with serving(faults=stalling()) as (server, co):
        count = 0
        with pytest.raises(StreamCancelledError) as caught:
            for _ in co.chat_stream(**ASK):
                count += 1
                if count == 2:
                    co.close()
        assert caught.value.partial is not None
        assert ANSWER.startswith(caught.value.partial.text)
        server.wait_until(was_aborted)


async def test_closing_takes_nothing_away_from_who_has_it_all() -> None:
    """Who is still reading what has come already reads it to its end, and hears of nothing else."""
    async with ReplayServer("text", chunking="whole") as server, client_of(server) as co:
        got: list[Any] = []
        async for event in co.chat_stream(**ASK):
            got.append(event)
            if len(got) == 1:
                await server.until(lambda s: s.completed == 1)
                for _ in range(100):  # until the end of the body has come, too
                    await asyncio.sleep(0)
                await co.aclose()
        assert [event.type for event in got] == [event.type for event in TEXT.events]
        assert got[-1].response.text == ANSWER


def test_closing_ends_consumers_on_a_foreign_loop() -> None:
    """Those who are handed their values from the client's loop end with the same error."""

    async def work(server: ReplayServer, co: CohereClient) -> None:
        tasks = [asyncio.ensure_future(consume(co)) for consume in CONSUMERS.values()]
        await server.until(lambda s: s.open == len(tasks))
        await co.aclose()
        await asyncio.wait(tasks, timeout=HANG)
        for task in tasks:
            assert type(task.exception()) is StreamCancelledError
        await server.until(lambda s: s.aborted == len(tasks))

    with bound_to_background(stalling()) as (server, co):
        run(work(server, co))


def test_closing_in_plain_code_ends_an_await_on_a_foreign_loop() -> None:
    """``close()`` of a thread reaches an ``await`` in the loop of another, at whatever moment."""

    async def work(co: CohereClient) -> None:
        with pytest.raises(StreamCancelledError):
            await co.chat_stream(**ASK)

    with ReplayServer("text", faults=stalling()) as server:
        for count in range(1, 21):
            with client_of(server) as co:
                bind(co)
                future = started(lambda co=co: run(work(co)))
                server.wait_until(lambda s, n=count: len(s.requests) == n)
                started(co.close).result(HANG)
                future.result(HANG)


def test_the_end_of_run_ends_a_live_subscription(subscriber: Subscribers) -> None:
    """When ``asyncio.run`` ends over it, a subscriber is told, and the connection is given up."""
    seen = subscriber()

    async def work(co: CohereClient) -> None:
        arrived = seen.arrived(STALL)
        seen.to(co.chat_stream(**ASK))
        await waiting(arrived)

    with serving(faults=stalling()) as (server, co):
        run(work(co))
        assert type(seen.error) is StreamCancelledError
        server.wait_until(was_aborted)


def test_the_end_of_run_gives_what_came(subscriber: Subscribers) -> None:
    """The error that the end of ``asyncio.run`` brings has the response so far."""
    seen = subscriber()

    async def work(co: CohereClient) -> None:
        arrived = seen.arrived(STALL)
        seen.to(co.chat_stream(**ASK))
        await waiting(arrived)

    with serving(faults=stalling()) as (_, co):
        run(work(co))
        check_cancelled(seen.error)


def test_the_end_of_run_ends_a_reply(subscriber: Subscribers) -> None:
    """Whoever waits for ``chat`` hears it too; of a reply there is nothing before all of it."""
    seen = subscriber()

    async def work(server: ReplayServer, co: CohereClient) -> None:
        seen.to(co.chat(**ASK))
        await server.until(lambda s: s.open == 1)

    with serving(faults=[DelayHeaders()]) as (server, co):
        run(work(server, co))
        assert isinstance(seen.error, StreamCancelledError)
        assert seen.error.partial is None
        server.wait_until(was_aborted)


def test_the_end_of_run_right_after_subscribe(subscriber: Subscribers) -> None:
    """A subscription whose request never got its turn still ends with an error."""
    seen = subscriber()

    async def work(co: CohereClient) -> None:
        seen.to(co.chat_stream(**ASK))

    with serving() as (server, co):
        run(work(co))
        assert type(seen.error) is StreamCancelledError
        assert len(server.requests) == 0


def test_the_end_of_run_ends_a_thread_that_iterates() -> None:
    """A thread in a ``for`` loop over a loop that ends is not left waiting."""
    futures: list[Any] = []

    async def work(server: ReplayServer, co: CohereClient) -> None:
        co.chat_stream(**ASK).subscribe().dispose()  # binds the client to this loop
        futures.append(started(lambda: list(co.chat_stream(**ASK))))
        await server.until(lambda s: s.open == 1)

    with serving(faults=stalling()) as (server, co):
        run(work(server, co))
        assert type(futures[0].exception(HANG)) is StreamCancelledError
        server.wait_until(was_aborted)


# Closed clients ----------------------------------------------------------------------------------


async def test_a_closed_client_makes_no_streams() -> None:
    """After ``aclose``, ``chat_stream`` and ``chat`` raise and say what to do."""
    async with served() as (server, co):
        await co.aclose()
        for method in (co.chat_stream, co.chat):
            with pytest.raises(ConfigurationError, match="closed"):
                method(**ASK)
        assert len(server.requests) == 0


async def test_a_stream_of_a_closed_client_fails(subscriber: Subscribers) -> None:
    """A stream that was made before sends nothing any more, however it is consumed."""
    async with served() as (server, co):
        stream = co.chat_stream(**ASK)
        await co.aclose()
        seen = await subscriber().to(stream).end()
        assert type(seen.error) is StreamCancelledError
        with pytest.raises(StreamCancelledError):
            await stream
        with pytest.raises(StreamCancelledError):
            await iterate(stream)
        assert len(server.requests) == 0


def test_a_closed_client_starts_no_thread(subscriber: Subscribers) -> None:
    """A stream of a closed client fails in plain code too, and leaves no thread behind."""
    with serving() as (server, co):
        stream = co.chat_stream(**ASK)
        assert len(list(stream)) == EVENTS
        co.close()
        threads = set(threading.enumerate())
        with pytest.raises(StreamCancelledError):
            list(stream)
        with pytest.raises(StreamCancelledError):
            stream.run()
        assert type(subscriber().to(stream).wait_for_end().error) is StreamCancelledError
        assert set(threading.enumerate()) <= threads
        assert len(server.requests) == 1


async def test_closing_twice_is_closing_once() -> None:
    """``aclose`` may be called again, also at the same time."""
    async with served() as (_, co):
        await co.chat_stream(**ASK)
        await asyncio.gather(co.aclose(), co.aclose())
        await co.aclose()


def test_closing_twice_in_plain_code() -> None:
    """``close`` may be called again, and before any use."""
    with serving() as (_, co):
        co.chat_stream(**ASK).run()
        co.close()
        co.close()
    unused = CohereClient("")
    unused.close()
    unused.close()


def test_threads_close_at_the_same_time() -> None:
    """Several threads may close one client at once; none fails, none hangs."""
    with ReplayServer("text", faults=stalling()) as server:
        for _ in range(20):
            co = client_of(server)
            seen = Subscriber()
            arrived = seen.arrived(STALL)
            seen.to(co.chat_stream(**ASK))
            arrived.result(HANG)
            barrier = threading.Barrier(4)

            def close(co: CohereClient = co, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(HANG)
                co.close()

            for future in [started(close) for _ in range(4)]:
                future.result(HANG)


async def test_close_is_refused_inside_a_loop() -> None:
    """``close()`` and ``with`` would block a running loop; they say to use ``aclose``."""
    async with served() as (_, co):
        with pytest.raises(BlockingCallError, match="aclose"):
            co.close()
        assert (await co.chat_stream(**ASK).response()).text == ANSWER


async def test_a_client_is_closed_from_another_thread() -> None:
    """``close()`` in a thread closes a client that works on a running loop."""
    async with served() as (server, co):
        await co.chat_stream(**ASK)
        await in_thread(co.close)
        with pytest.raises(ConfigurationError, match="closed"):
            co.chat_stream(**ASK)
        assert server.open == 0


def test_a_client_is_closed_from_another_loop() -> None:
    """``aclose()`` on another loop closes a client that works on its background loop."""

    async def work(co: CohereClient) -> None:
        assert (await co.chat_stream(**ASK).response()).text == ANSWER
        await co.aclose()

    with bound_to_background() as (_, co):
        run(work(co))
        with pytest.raises(ConfigurationError, match="closed"):
            co.chat_stream(**ASK)


# Clients that nobody closes ----------------------------------------------------------------------


SCRIPTS = {
    "plain": """
co = CohereClient("", base_url=url)
print(co.chat_stream(**ask).response().run().text[:3])
for event in co.chat_stream(**ask):
    break
""",
    "plain, forgotten": """
print(CohereClient("", base_url=url).chat_stream(**ask).response().run().text[:3])
""",
    "run": """
async def main():
    co = CohereClient("", base_url=url)
    print((await co.chat_stream(**ask).response()).text[:3])
    async for event in co.chat_stream(**ask):
        break

asyncio.run(main())
""",
    "two runs": """
async def main():
    await co.chat_stream(**ask)
    return (await co.chat_stream(**ask).response()).text[:3]

co = CohereClient("", base_url=url)
asyncio.run(main())
print(asyncio.run(main()))
""",
    "run, global": """
async def main():
    print((await co.chat_stream(**ask).response()).text[:3])

co = CohereClient("", base_url=url)
asyncio.run(main())
""",
    "plain, then run": """
async def main():
    print((await co.chat_stream(**ask).response()).text[:3])
    async for event in co.chat_stream(**ask):
        break

co = CohereClient("", base_url=url)
co.chat(**ask).run()
asyncio.run(main())
""",
}

PREAMBLE = """
import asyncio, sys, threading
from rxcohere import CohereClient
url = sys.argv[1]
ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
"""


def run_script(script: str, server: ReplayServer) -> tuple[int, str, str]:
    """Exit code, output and error output of a program that is strict about warnings."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PREAMBLE + script, server.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, SLOW.sub("", done.stderr)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_client_that_nobody_closes_ends_quietly(name: str) -> None:
    """A program that forgets to close its client ends without a warning."""
    with ReplayServer("text") as server:
        assert run_script(SCRIPTS[name], server) == (0, f"{ANSWER[:3]}\n", "")
        server.wait_until(lambda s: s.open == 0)


LIVE_SCRIPTS = {
    "plain": """
came = threading.Event()
co = CohereClient("", base_url=url)
co.chat_stream(**ask).subscribe(
    lambda event: came.set(), lambda error: print(type(error).__name__), lambda: print("completed")
)
came.wait()
""",
    "plain, in a for loop": """
co = CohereClient("", base_url=url)
events = iter(co.chat_stream(**ask))
print(next(events).type)
""",
    "run": """
async def main():
    came = asyncio.Event()
    co = CohereClient("", base_url=url)
    co.chat_stream(**ask).subscribe(
        lambda event: came.set(),
        lambda error: print(type(error).__name__),
        lambda: print("completed"),
    )
    await came.wait()

asyncio.run(main())
""",
    "run, with an iterator": """
async def main():
    global events
    co = CohereClient("", base_url=url)
    events = aiter(co.chat_stream(**ask))
    print((await anext(events)).type)

asyncio.run(main())
""",
}


@pytest.mark.parametrize("name", LIVE_SCRIPTS)
def test_a_program_that_ends_over_a_live_stream_ends_quietly(name: str) -> None:
    """A live stream does not keep a program from ending; its subscriber is told first."""
    with ReplayServer("text", faults=stalling()) as server:
        expected = "message-start" if "iter" in name or "for" in name else "StreamCancelledError"
        assert run_script(LIVE_SCRIPTS[name], server) == (0, f"{expected}\n", "")
        server.wait_until(was_aborted)


# What is sent ------------------------------------------------------------------------------------


async def test_the_headers_that_are_sent() -> None:
    """Accept, Content-Type, User-Agent, Authorization and the client's name go along."""
    async with served(client_name="penguins") as (server, co):
        await co.chat_stream(**ASK)
        request = server.requests[0]
        assert (request.method, request.path) == ("POST", "/v2/chat")
        assert request.headers["Accept"] == "text/event-stream"
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers["User-Agent"] == f"rxcohere/{rxcohere.__version__}"
        assert request.headers["Authorization"] == "Bearer a-key"
        assert request.headers["X-Client-Name"] == "penguins"
        assert request.json == {**ASK, "stream": True}


async def test_an_empty_key_and_no_name_send_no_header() -> None:
    """With "" there is no Authorization, without a name no X-Client-Name."""
    async with ReplayServer() as server, CohereClient("", base_url=server.url) as co:
        await co.chat_stream(**ASK)
        assert "Authorization" not in server.requests[0].headers
        assert "X-Client-Name" not in server.requests[0].headers


async def test_key_and_url_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """CO_API_KEY and CO_API_URL stand in for arguments that are not given."""
    async with ReplayServer() as server:
        monkeypatch.setenv("CO_API_KEY", "key-of-environment")
        monkeypatch.setenv("CO_API_URL", f"{server.url}/prefix")
        async with CohereClient() as co:
            await co.chat_stream(**ASK)
        assert server.requests[0].path == "/prefix/v2/chat"
        assert server.requests[0].headers["Authorization"] == "Bearer key-of-environment"


async def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicit key, even an empty one, and an explicit URL are what counts."""
    monkeypatch.setenv("CO_API_KEY", "key-of-environment")
    monkeypatch.setenv("CO_API_URL", "http://127.0.0.1:9")
    async with ReplayServer() as server, CohereClient("", base_url=server.url) as co:
        await co.chat_stream(**ASK)
        assert "Authorization" not in server.requests[0].headers


def test_without_a_key_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key at all is a `ConfigurationError` that names CO_API_KEY."""
    monkeypatch.delenv("CO_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="CO_API_KEY"):
        CohereClient()


def test_without_a_url_it_is_coheres_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is the public API."""
    monkeypatch.delenv("CO_API_URL", raising=False)
    assert repr(CohereClient("")) == "CohereClient(base_url='https://api.cohere.com')"


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("", "/v2/chat"),
        ("/", "/v2/chat"),
        ("/deploy/cohere", "/deploy/cohere/v2/chat"),
        ("/deploy/cohere/", "/deploy/cohere/v2/chat"),
        ("/with%20space", "/with space/v2/chat"),
    ],
)
async def test_a_path_prefix_is_kept(base: str, path: str) -> None:
    """The URL of a private deployment may have a path, with or without a slash at its end."""
    async with ReplayServer() as server, CohereClient("", base_url=server.url + base) as co:
        await co.chat_stream(**ASK)
        assert server.requests[0].path == path


@pytest.mark.parametrize(
    "url",
    [
        "api.cohere.com",
        "ftp://host",
        "http://host\n/",
        "http://ho\r\nst",
        "https://",
        "http://host?x=1",
        "http://host#x",
        "http://a:b@c",
        "http://host:99999",
        "http://two..dots",
        f"http://{'long' * 16}.example",
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    """A base URL without scheme or host, or with a query, fragment or login, is an error."""
    with pytest.raises(ConfigurationError, match="base_url"):
        CohereClient("", base_url=url)


@pytest.mark.parametrize(
    "options",
    [
        {"timeouts": 3},
        {"retry": 3},
        {"session": "session"},
        {"max_connections": 0},
        {"max_connections": True},
        {"max_connections": "4"},
        {"max_event_bytes": 0},
        {"client_name": "two\nlines"},
        {"client_name": 3},
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any]) -> None:
    """A wrong option is a `ConfigurationError` that names it, at the constructor."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        CohereClient("", **options)


@pytest.mark.parametrize("value", [object(), float("nan"), True, None], ids=str)
def test_a_query_parameter_that_cannot_be_sent_is_refused(value: Any) -> None:
    """What no URL can carry is a `ConfigurationError` that names the option, at the call."""
    options = {"additional_query_parameters": {"a": value}}
    for ask in (CohereClient("").chat_stream, CohereClient("").chat):
        with pytest.raises(ConfigurationError, match="additional_query_parameters"):
            ask(**ASK, request_options=options)


@pytest.mark.parametrize("method", ["chat_stream", "chat"])
async def test_additions_of_a_request_are_sent(method: str) -> None:
    """Additional headers and body parameters replace ours, query parameters are appended."""
    options = {
        "additional_headers": {"x-trace": "t1", "authorization": "Bearer other"},
        "additional_query_parameters": {"debug": "yes & no", "n": 1},
        "additional_body_parameters": {"seed": 7, "model": "another"},
    }
    async with served() as (server, co):
        await getattr(co, method)(**ASK, seed=1, request_options=options)
        request = server.requests[0]
        assert request.headers["X-Trace"] == "t1"
        assert request.headers.getall("Authorization") == ["Bearer other"]
        assert dict(request.query) == {"debug": "yes & no", "n": "1"}
        assert (request.json["seed"], request.json["model"]) == (7, "another")


async def test_retries_and_limits_of_one_request() -> None:
    """``max_retries`` and ``timeouts`` of a request stand in for those of its client."""
    busy = Status(503, headers={"retry-after-ms": "0"})
    async with served(faults=[busy]) as (server, co):
        with pytest.raises(ApiError):
            await co.chat_stream(**ASK, request_options={"max_retries": 2})
        assert len(server.requests) == 3
    async with served(faults=[DelayHeaders()]) as (_, co):
        options = {"timeouts": Timeouts(first_event=0.01)}
        with pytest.raises(StreamTimeoutError) as caught:
            await co.chat_stream(**ASK, request_options=options)
        assert caught.value.phase == "first_event"


async def test_a_request_is_what_it_was_when_the_stream_was_made() -> None:
    """Changing the messages afterwards changes no request."""
    ask = copy.deepcopy(ASK)
    async with served() as (server, co):
        stream = co.chat_stream(**ask)
        ask["messages"][0]["content"] = "something else"
        await stream
        assert server.requests[0].json["messages"] == ASK["messages"]


# Sessions and connections ------------------------------------------------------------------------


async def test_a_session_of_the_user_is_used_and_left_open() -> None:
    """Requests go through the given session; closing the client does not close it."""
    requests: list[str] = []
    trace = aiohttp.TraceConfig()

    async def begun(_: Any, __: Any, started: aiohttp.TraceRequestStartParams) -> None:
        requests.append(started.url.path)

    trace.on_request_start.append(begun)
    async with ReplayServer() as server, aiohttp.ClientSession(trace_configs=[trace]) as session:
        async with CohereClient("", base_url=server.url, session=session) as co:
            await co.chat_stream(**ASK)
        assert requests == ["/v2/chat"]
        assert not session.closed
        async with session.get(f"{server.url}/elsewhere") as response:
            assert response.status == 404


async def test_a_session_keeps_its_loop() -> None:
    """A client with a session of a running loop works on that loop, even if a thread is first."""
    async with ReplayServer() as server, aiohttp.ClientSession() as session:
        async with CohereClient("", base_url=server.url, session=session) as co:
            assert len(await in_thread(lambda: list(co.chat_stream(**ASK)))) == EVENTS


async def test_connections_are_reused() -> None:
    """One stream after another uses one and the same connection."""
    created: list[None] = []
    trace = aiohttp.TraceConfig()

    async def made(*_: Any) -> None:
        created.append(None)

    trace.on_connection_create_end.append(made)
    async with ReplayServer() as server, aiohttp.ClientSession(trace_configs=[trace]) as session:
        async with CohereClient("", base_url=server.url, session=session) as co:
            for _ in range(4):
                await co.chat_stream(**ASK)
            assert len(created) == 1


async def test_more_streams_than_connections_wait_their_turn(
    subscriber: Subscribers,
) -> None:
    """Of three streams with two connections, the third starts when one of the others ends."""
    async with served(faults=stalling(), max_connections=2) as (server, co):
        first, second, third = (subscriber().to(co.chat_stream(**ASK)) for _ in range(3))
        await server.until(lambda s: s.open == 2)
        for _ in range(300):
            await asyncio.sleep(0)
        assert len(server.requests) == 2
        assert third.values == []
        first.dispose()
        await server.until(lambda s: len(s.requests) == 3)
        await server.until(lambda s: s.open == 2)
        second.dispose()
        third.dispose()


@pytest.mark.parametrize("fault", [None, Status(422), Cut(after_events=3), HangUp()], ids=str)
async def test_a_connection_is_free_again_however_its_stream_ended(fault: Fault | None) -> None:
    """Completed, refused or cut: the next in the queue gets its turn."""
    faults = [] if fault is None else [fault]
    async with served(faults=faults, max_connections=1) as (server, co):
        stream = co.chat_stream(**ASK)
        await asyncio.gather(*(ask_for(stream) for _ in range(4)), return_exceptions=True)
        assert len(server.requests) == 4


async def test_on_completed_may_ask_for_the_next_stream() -> None:
    """With one connection, a stream that is asked for in on_completed finds it free."""
    async with served(max_connections=1) as (server, co):
        ended = asyncio.get_running_loop().create_future()
        co.chat_stream(**ASK).subscribe(
            on_completed=lambda: co.chat_stream(**ASK).subscribe(
                on_completed=lambda: ended.set_result(None)
            )
        )
        await ended
        assert len(server.requests) == 2


# The key stays secret ----------------------------------------------------------------------------


KEY = "sk-1234567890abcdefghijklmnopqrstuvwxyz"


def told(error: BaseException) -> str:
    """All that an error tells of itself, with the locals of every frame that it came through."""
    ours = traceback.TracebackException.from_exception(error, capture_locals=True)
    stack: list[traceback.TracebackException] = [ours]
    while stack:  # the frames of the tests hold the key, and nothing can be done about that
        each = stack.pop()
        each.stack = traceback.StackSummary.from_list(
            [frame for frame in each.stack if "/tests/" not in frame.filename]
        )
        stack += [e for e in (each.__cause__, each.__context__) if e is not None]
        stack += each.exceptions or []
    attributes = [str(vars(error)), str(getattr(error, "body", ""))]
    return "\n".join([repr(error), str(error), *ours.format(), *attributes])


ECHO = {"message": f"no such key: {KEY}", "nested": {"key": [KEY]}}
LEAKS: dict[str, tuple[Fault, type[Exception]]] = {
    "status": (Status(401, ECHO), UnauthorizedError),
    "status with headers": (
        Status(401, ECHO, headers={"x-echo": f"Bearer {KEY}"}),
        UnauthorizedError,
    ),
    "status with text": (Status(429, f"key {KEY} is over its limit"), TooManyRequestsError),
    "redirect": (Status(302, "", headers={"location": f"/?key={KEY}"}), ApiError),
    "refused": (HangUp(), ConnectionFailedError),
    "first event": (DelayHeaders(), StreamTimeoutError),
    "content": (ContentType("text/html", f"<p>{KEY}</p>"), UnexpectedContentError),
    "content, cut": (ContentType("text/html", "." * 280 + KEY), UnexpectedContentError),
    "reset": (Cut(after_events=0, how="reset"), StreamError),
}


@pytest.mark.parametrize("consume", ["await", "async for", "chat", "foreign"])
@pytest.mark.parametrize("name", LEAKS)
def test_no_error_tells_the_key(name: str, consume: str) -> None:
    """No error shows the key: not its text, attributes, causes, or the locals of its frames."""
    fault, expected = LEAKS[name]

    async def work(co: CohereClient) -> None:
        if consume == "async for":
            await iterate(co.chat_stream(**ASK))
        elif consume == "chat":
            await co.chat(**ASK)
        else:
            await co.chat_stream(**ASK)

    timeouts = Timeouts(first_event=0.5 if name == "first event" else HANG)
    with ReplayServer("text", faults=[fault]) as server:
        options: dict[str, Any] = {"timeouts": timeouts, "retry": Retry(attempts=1)}
        with CohereClient(KEY, base_url=server.url, **options) as co:
            if consume == "foreign":
                bind(co)
            with pytest.raises(expected) as caught:
                run(work(co))
            assert server.requests[-1].headers["Authorization"] == f"Bearer {KEY}"
    text = told(caught.value)
    assert type(caught.value).__name__ in text
    assert KEY[:12] not in text


async def test_a_refused_connection_does_not_tell_the_key() -> None:
    """An error of a server that is not there shows no header of the request."""
    async with ReplayServer() as server:
        url = server.url
    async with CohereClient(KEY, base_url=url, retry=Retry(attempts=1)) as co:
        with pytest.raises(ConnectionFailedError) as caught:
            await co.chat_stream(**ASK)
    assert caught.value.__cause__ is not None
    assert KEY not in told(caught.value)


async def test_no_repr_tells_the_key() -> None:
    """The client, its streams and what they hold show no key."""
    async with ReplayServer() as server, CohereClient(KEY, base_url=server.url) as co:
        stream = co.chat_stream(**ASK)
        for thing in (co, stream, stream.text(), co.chat(**ASK), co._transport):
            assert KEY not in repr(thing)
            assert KEY not in str(thing)


@pytest.mark.parametrize("key", [f"{KEY}\nX-Evil: yes", f"{KEY}\r", f"{KEY}\0", f"{KEY}\u2028"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    """A key with a line break is an error at once, which does not repeat the key."""
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        CohereClient(key)
    error = caught.value
    assert KEY not in "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))


def test_a_key_of_the_wrong_type_is_refused_and_not_shown() -> None:
    """A key given as bytes is an error that asks for a string and does not repeat it."""
    with pytest.raises(ConfigurationError, match="api_key should be a string") as caught:
        CohereClient(KEY.encode())  # type: ignore[arg-type]
    assert KEY not in repr(caught.value)


async def test_the_key_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Even at the finest level, nothing writes the key to the log."""
    caplog.set_level(0)
    faults: list[Fault] = [Status(503, ECHO, headers={"retry-after-ms": "0"}, times=1)]
    async with asyncio.timeout(HANG), ReplayServer("text", faults=faults) as server:
        async with CohereClient(KEY, base_url=server.url) as co:
            await co.chat_stream(**ASK)
    assert KEY not in caplog.text


# chat --------------------------------------------------------------------------------------------


async def test_chat_gives_one_response(subscriber: Subscribers) -> None:
    """``chat`` is a cold observable of one `ChatResponse`, over the non-streaming call."""
    async with served() as (server, co):
        reply = co.chat(**ASK)
        assert len(server.requests) == 0
        seen = await subscriber().to(reply).end()
        assert [type(value) for value in seen.values] == [ChatResponse]
        assert seen.completed
        assert seen.values[0].text == ANSWER
        assert await reply == seen.values[0]
        assert [value async for value in reply] == seen.values
        assert len(server.requests) == 3
        assert server.requests[0].json == {**ASK, "stream": False}
        assert server.requests[0].headers["Accept"] == "application/json"


async def test_chat_takes_what_chat_stream_takes() -> None:
    """Both calls send the same body, but for ``stream``."""
    more: dict[str, Any] = {
        "temperature": 0.25,
        "max_tokens": 99,
        "stop_sequences": ["."],
        "documents": ["Penguins are birds.", {"id": "1", "data": {"text": "They swim."}}],
        "citation_options": {"mode": "FAST"},
        "seed": 3,
    }
    async with served() as (server, co):
        await co.chat_stream(**ASK, **more)
        await co.chat(**ASK, **more)
        streamed, whole = (request.json for request in server.requests)
        assert streamed.pop("stream") is True
        assert whole.pop("stream", False) is False
        assert streamed == whole == {**ASK, **more}


@pytest.mark.parametrize("method", ["chat_stream", "chat"])
@pytest.mark.parametrize(
    "parameters",
    [
        {"messages": ASK["messages"]},
        {**ASK, "nonsense": 1},
        {**ASK, "temperature": "warm"},
        {**ASK, "messages": "hello"},
        {**ASK, "request_options": {"nonsense": 1}},
        {**ASK, "request_options": {"additional_headers": {"x": "two\nlines"}}},
    ],
    ids=["missing", "unknown", "type", "shape", "option", "header"],
)
async def test_wrong_parameters_are_refused_at_the_call(
    method: str, parameters: dict[str, Any]
) -> None:
    """Both calls raise at once for parameters of the wrong name or shape, and send nothing."""
    async with served() as (server, co):
        with pytest.raises(ConfigurationError):
            getattr(co, method)(**parameters)
        assert len(server.requests) == 0


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Status(401), UnauthorizedError),
        (HangUp(), ConnectionFailedError),
        (ContentType("text/html", "<p>"), UnexpectedContentError),
        (ContentType("application/json", "[1]"), EventDecodeError),
        (ContentType("application/json", "{"), EventDecodeError),
        (Cut(after_bytes=10, how="reset"), ConnectionFailedError),
    ],
    ids=str,
)
async def test_chat_fails_with_a_typed_error(
    subscriber: Subscribers,
    fault: Fault,
    expected: type[Exception],
) -> None:
    """A reply that is refused, cut or none ends in one error and gives no value."""
    async with served(faults=[fault]) as (server, co):
        seen = await subscriber().to(co.chat(**ASK)).end()
        assert type(seen.error) is expected
        assert seen.values == []
        await server.until(lambda s: s.open == 0)


@pytest.mark.parametrize("fault", [DelayHeaders(), Stall()], ids=str)
async def test_chat_is_disposed_of_and_cancelled_like_a_stream(
    subscriber: Subscribers,
    fault: Fault,
) -> None:
    """Disposing of a reply, or closing the client over it, gives its connection up."""
    async with served(faults=[fault]) as (server, co):
        seen = subscriber().to(co.chat(**ASK))
        other = subscriber().to(co.chat(**ASK))
        await server.until(lambda s: s.open == 2)
        seen.dispose()
        await server.until(lambda s: s.aborted == 1)
        await co.aclose()
        await other.end()
        assert type(other.error) is StreamCancelledError
        assert seen.is_silent
        await server.until(lambda s: s.aborted == 2)


async def test_chat_is_retried_like_a_stream() -> None:
    """A busy server is asked again, as often as `Retry` says."""
    busy = Status(503, headers={"retry-after-ms": "0"}, times=2)
    async with served(faults=[busy], retry=Retry(attempts=3)) as (server, co):
        assert (await co.chat(**ASK)).text == ANSWER
        assert len(server.requests) == 3


def test_chat_in_plain_code() -> None:
    """``run()``, ``for`` and ``subscribe`` work on replies as they do on streams."""
    with serving() as (server, co):
        assert co.chat(**ASK).run().text == ANSWER
        assert [reply.text for reply in co.chat(**ASK)] == [ANSWER]
        assert len(server.requests) == 2


async def test_chat_refuses_to_block_a_loop() -> None:
    """``run()`` and ``for`` over a reply are refused inside a running loop."""
    async with served() as (_, co):
        with pytest.raises(BlockingCallError):
            co.chat(**ASK).run()
        with pytest.raises(BlockingCallError):
            list(co.chat(**ASK))


async def test_errors_of_a_client_can_be_pickled() -> None:
    """Errors cross process boundaries with what they say."""
    async with served(faults=[Status(429, {"message": "slow down"})]) as (_, co):
        with pytest.raises(TooManyRequestsError) as caught:
            await co.chat(**ASK)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (TooManyRequestsError, str(caught.value))
