"""Long answers over a socket: what they cost the client."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
import samples
from long_streams.amounts import SOAK
from long_streams.counting import counting_bytes, counting_steps
from subscribers import ASK

from rxcohere import ChatStream, CohereClient, ContentDelta
from rxcohere import operators as rxc
from rxcohere.testing import ReplayServer, Transcript


async def iterate_over(stream: ChatStream) -> int:
    count = 0
    async for event in stream:
        count += type(event) is ContentDelta
    return count


async def subscribe_to_text(stream: ChatStream) -> int:
    done = asyncio.get_running_loop().create_future()
    lengths = itertools.count()
    stream.text().subscribe(
        lambda _: next(lengths), done.set_exception, lambda: done.set_result(None)
    )
    await done
    return next(lengths)


async def collect(stream: ChatStream) -> int:
    return len((await stream.pipe(rxc.collect_response())).text) // LENGTH


Consumer = Callable[[ChatStream], Awaitable[int]]
LENGTH = 32
"""Characters of a delta, so that what is kept of it for certain is far less than an event."""


def answer(count: int) -> Transcript:
    delta = samples.text_delta("penguin " * (LENGTH // 8))
    return Transcript.of(
        [
            samples.message_start(),
            samples.content_start(),
            *itertools.repeat(delta, count),
            samples.content_end(),
            samples.message_end(),
        ]
    )


def consume(consumer: Consumer, count: int) -> tuple[float, float]:
    """Steps and, in another stream, bytes at most, per event; the server is in another thread."""

    async def work() -> None:
        async with asyncio.timeout(SOAK), CohereClient("a-key", base_url=server.url) as co:
            assert await consumer(co.chat_stream(**ASK)) == count

    with ReplayServer(answer(count), chunking=16_384) as server:
        with counting_steps() as steps:
            asyncio.run(work())
        with counting_bytes():
            asyncio.run(work())
            _, peak = tracemalloc.get_traced_memory()
    return steps[0] / count, peak / count


def check_client(consumer: Consumer, few: int, many: int) -> None:
    steps_of_few, _ = consume(consumer, few)
    steps, peak = consume(consumer, many)
    assert 1 < steps <= steps_of_few * 1.1
    # The transport keeps the text, and so may the consumer; beside it, the server counts its
    # frames, and a few hundred events are on their way.
    assert peak <= 2 * 6 * LENGTH + 50 + 2_000_000 / many


consumers = pytest.mark.parametrize(
    "consumer", [iterate_over, subscribe_to_text, collect], ids=lambda each: each.__name__
)


@consumers
def test_a_long_answer_costs_the_client_its_text(consumer: Consumer) -> None:
    """An event of a long answer takes no more steps; memory is that of the text."""
    check_client(consumer, 1_000, 4_000)


@pytest.mark.soak
@consumers
def test_a_million_events_cost_the_client_their_text(consumer: Consumer) -> None:
    """The same with a million events."""
    check_client(consumer, 10_000, 1_000_000)
