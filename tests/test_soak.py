"""Many streams of all kinds through one client: in the end nothing is left of them.

The network loses connections all the while, so that any stream may end in any way there is. Each
kind of stream says how it went; all of these ways have to be met, and none may leave anything.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import reactivex.operators as ops
from subscribers import ASK, HANG, Subscriber, boom, in_thread

from rxcohere import ChatStream, CohereClient, Retry, RxCohereError, Timeouts
from rxcohere import operators as rxc
from rxcohere.bridges import subscribe_async, to_async_iterator
from rxcohere.testing import FaultProxy, RecordedRequest, ReplayServer, Transcript, Wire

AT_ONCE = 16
"""Streams under way."""

TEXT = Transcript.load("text")
TRANSCRIPTS = {
    "fail": Transcript.load("error"),
    "garble": Transcript("garbled", (*TEXT.frames[:5], b"data: {\n\n", *TEXT.frames[5:])),
    "stop": Transcript("stopped", TEXT.frames[:5]),
}
WIRES = [
    Wire(),
    Wire(cut_after=9_000),
    Wire(cut_after=12_000, ending="reset"),
    Wire(cut_after=4_000, ending="stall"),
    Wire(cut_after=700, ending="half-close"),
    Wire(corrupt_at=range(15_000, 16_000)),
    Wire(cut_after=100, ending="reset"),
]
LIMITS = Timeouts(connect=HANG, first_event=0.5, idle=0.2, total=HANG)

ALL_WAYS = {
    "completed",
    "disposed",
    "left",
    "cancelled",
    "Boom",
    "StreamTruncatedError",
    "ConnectionFailedError",
    "StreamTimeoutError",
    "GenerationError",
    "EventDecodeError",
    "UnprocessableEntityError",
}


# Kinds of streams --------------------------------------------------------------------------------


def stream_of(co: CohereClient, content: str = "answer", **options: Any) -> ChatStream:
    messages = [{"role": "user", "content": content}]
    return co.chat_stream(**{**ASK, "messages": messages, **options})


def played(request: RecordedRequest) -> Transcript:
    """What the server answers."""
    return TRANSCRIPTS.get(request.json["messages"][0]["content"], TEXT)


def way_of(subscriber: Subscriber) -> str:
    """How it ended for a subscriber."""
    assert subscriber.breaches == []
    return "completed" if subscriber.completed else type(subscriber.error).__name__


async def subscribed(co: CohereClient) -> str:
    return way_of(await Subscriber().to(stream_of(co)).end())


async def failed(co: CohereClient) -> str:
    return way_of(await Subscriber().to(stream_of(co, "fail")).end())


async def garbled(co: CohereClient) -> str:
    return way_of(await Subscriber().to(stream_of(co, "garble")).end())


async def stopped(co: CohereClient) -> str:
    return way_of(await Subscriber().to(stream_of(co, "stop")).end())


async def refused(co: CohereClient) -> str:
    wrong = {"additional_body_parameters": {"nonsense": 1}}
    return way_of(await Subscriber().to(stream_of(co, request_options=wrong)).end())


async def raised_in(co: CohereClient) -> str:
    return way_of(await Subscriber().to(stream_of(co).pipe(ops.map(boom))).end())


async def disposed(co: CohereClient) -> str:
    subscriber = Subscriber(lambda _: len(subscriber.values) == 7 and subscriber.dispose())
    seventh = subscriber.arrived(7)
    ended = asyncio.ensure_future(subscriber.to(stream_of(co)).end())
    arrived = asyncio.wrap_future(seventh)
    await asyncio.wait([ended, arrived], return_when=asyncio.FIRST_COMPLETED)
    for each in (ended, arrived):
        each.cancel()
    await asyncio.gather(ended, arrived, return_exceptions=True)
    return "disposed" if subscriber.is_silent else way_of(subscriber)


async def disposed_at_once(co: CohereClient) -> str:
    Subscriber().to(stream_of(co)).dispose()
    return "disposed"


async def taken(co: CohereClient) -> str:
    return way_of(await Subscriber().to(stream_of(co).pipe(ops.take(3))).end())


async def shared(co: CohereClient) -> str:
    answer = stream_of(co).share_response()
    early = Subscriber().to(answer)
    leaving = Subscriber(lambda _: leaving.dispose()).to(answer)
    await early.end()
    late = await Subscriber().to(answer).end()
    assert leaving.breaches == []
    assert way_of(late) == way_of(early)
    return way_of(early)


async def shared_and_left(co: CohereClient) -> str:
    answer = stream_of(co).share_response()
    for one in [Subscriber().to(answer) for _ in range(3)]:
        one.dispose()
    return "disposed"


async def read_slowly(co: CohereClient) -> str:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def read(_: object) -> None:
        await asyncio.sleep(0)

    with subscribe_async(
        stream_of(co), read, ended.set_exception, lambda: ended.set_result(None), max_pending=2
    ):
        await ended
    return "completed"


async def awaited(co: CohereClient) -> str:
    await stream_of(co).response()
    return "completed"


async def collected(co: CohereClient) -> str:
    await stream_of(co).pipe(rxc.coalesce_deltas(0.01), rxc.collect_cited_text())
    return "completed"


async def iterated(co: CohereClient) -> str:
    async for _ in stream_of(co):
        pass
    return "completed"


async def left(co: CohereClient) -> str:
    async for _ in stream_of(co):
        break
    return "left"


async def left_behind_an_operator(co: CohereClient) -> str:
    async for _ in to_async_iterator(stream_of(co).pipe(rxc.text_deltas())):
        break
    return "left"


async def cancelled(co: CohereClient) -> str:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in stream_of(co):
            begun.set()
            await asyncio.Event().wait()  # for ever

    task = asyncio.ensure_future(read())
    beginning = asyncio.ensure_future(begun.wait())
    await asyncio.wait([task, beginning], return_when=asyncio.FIRST_COMPLETED)
    beginning.cancel()
    if task.done():
        await task
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return "cancelled"


async def without_a_stream(co: CohereClient) -> str:
    await co.chat(**ASK)
    return "completed"


async def read_in_a_thread(co: CohereClient) -> str:
    await in_thread(lambda: [event.type for event in stream_of(co)])
    return "completed"


async def left_in_a_thread(co: CohereClient) -> str:
    await in_thread(lambda: next(iter(stream_of(co).text())))
    return "left"


async def run_in_a_thread(co: CohereClient) -> str:
    await in_thread(lambda: stream_of(co).response().run())
    return "completed"


KINDS: list[Callable[[CohereClient], Awaitable[str]]] = [
    subscribed,
    failed,
    garbled,
    stopped,
    refused,
    raised_in,
    disposed,
    disposed_at_once,
    taken,
    shared,
    shared_and_left,
    read_slowly,
    awaited,
    collected,
    iterated,
    left,
    left_behind_an_operator,
    cancelled,
    without_a_stream,
    read_in_a_thread,
    left_in_a_thread,
    run_in_a_thread,
]


# What is there -----------------------------------------------------------------------------------


def descriptors() -> int:
    """How many files and sockets are open; 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


@dataclass
class Place:
    """Where all of it happens."""

    server: ReplayServer
    proxy: FaultProxy
    co: CohereClient

    async def settled(self) -> None:
        """Waits until nothing is under way; idle connections are ended too."""
        for _ in range(3):  # an iteration that was left ends when the collector finds it
            gc.collect()
            for _ in range(20):
                await asyncio.sleep(0)
        self.proxy.reset()
        await self.proxy.until(lambda p: p.open == 0, HANG)
        await self.server.until(lambda s: s.open == 0, HANG)
        self.server.requests.clear()
        for _ in range(50):
            await asyncio.sleep(0)
        gc.collect()

    async def remains(self) -> dict[str, Any]:
        """What there is, once all has settled."""
        await self.settled()
        own = Counter(
            kind.__qualname__
            for kind in map(type, gc.get_objects())
            if str(kind.__module__).startswith("rxcohere")
        )
        return {
            "descriptors": descriptors(),
            "tasks": len(asyncio.all_tasks()),
            "threads": threading.active_count(),
            "objects": own,
        }


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    wires = cycle(WIRES)
    async with (
        ReplayServer(played) as server,
        FaultProxy(server.url, lambda _: next(wires)) as proxy,
        CohereClient(
            "a-key", base_url=proxy.url, timeouts=LIMITS, retry=Retry(attempts=2, max_wait=0)
        ) as co,
    ):
        yield Place(server, proxy, co)


async def went(kind: Callable[[CohereClient], Awaitable[str]], co: CohereClient) -> str:
    """How a stream of that kind went."""
    try:
        async with asyncio.timeout(3 * HANG):
            return await kind(co)
    except RxCohereError as error:
        return type(error).__name__


async def run_streams(there: Place, count: int) -> Counter[str]:
    """How so many streams went, all kinds in turn, some at a time."""
    ways: Counter[str] = Counter()
    kinds = islice(cycle(KINDS), count)

    async def work() -> None:
        for kind in kinds:
            ways[await went(kind, there.co)] += 1
            there.server.requests.clear()

    async with asyncio.TaskGroup() as workers:
        for _ in range(AT_ONCE):
            workers.create_task(work())
    return ways


async def test_nothing_is_left_of_some_streams() -> None:
    """The long test below in brief; so few need not meet every way in which one can go."""
    async with place() as there:
        await run_streams(there, 2 * len(KINDS))
        before = await there.remains()
        ways = await run_streams(there, 6 * len(KINDS))
        assert ways["completed"]
        assert await there.remains() == before


@pytest.mark.soak
async def test_nothing_is_left_of_ten_thousand_streams() -> None:
    """No descriptor, task, thread or object; and the memory is that which a thousand took."""
    asyncio.get_running_loop().set_debug(False)  # which would keep where each thing was made
    tracemalloc.start()
    try:
        async with place() as there:
            await run_streams(there, 1_000)
            before = await there.remains()
            memory_before, _ = tracemalloc.get_traced_memory()
            ways = await run_streams(there, 9_000)
            assert ways.keys() >= ALL_WAYS
            assert await there.remains() == before
            memory, _ = tracemalloc.get_traced_memory()
            assert memory < memory_before * 1.05 + 100_000
    finally:
        tracemalloc.stop()
