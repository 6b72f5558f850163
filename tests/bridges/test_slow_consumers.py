"""Consumers that fall behind a long stream which another process serves: memory, and no loss."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from reactivex import operators as ops
from subscribers import ASK

from rxcohere import (
    ChatEvent,
    CohereClient,
    ContentDelta,
    Retry,
    Timeouts,
    subscribe_async,
    to_async_iterator,
)
from rxcohere import operators as rxc

DELTAS = 60_000
EVENTS = DELTAS + 4
WORDS = "".join(f"{number} " for number in range(DELTAS))
MEMORY = 12 * 2**20
"""Bytes. What comes while a consumer sleeps would take several times that, the text takes less."""

LONG_WAIT = 60.0
"""Seconds after which a test that hangs fails."""

SERVER = f"""
import sys
from rxcohere.testing import ReplayServer, Transcript

start = {{"type": "message-start", "id": "1", "delta": {{"message": {{"role": "assistant"}}}}}}
block = {{"type": "content-start", "index": 0, "delta": {{"message": {{"content": {{}}}}}}}}
end = {{"type": "message-end", "delta": {{"finish_reason": "COMPLETE"}}}}

def delta(text):
    content = {{"content": {{"text": text}}}}
    return {{"type": "content-delta", "index": 0, "delta": {{"message": content}}}}

deltas = [delta(f"{{number}} ") for number in range({DELTAS})]
stop = {{"type": "content-end", "index": 0}}
with ReplayServer(Transcript.of([start, block, *deltas, stop, end]), chunking=16384) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server in a process of its own, so that its memory is not ours."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[CohereClient]:
    """A client of it, on a loop in its everyday mode, which is several times as fast."""
    asyncio.get_running_loop().set_debug(False)
    limits = Timeouts(connect=LONG_WAIT, first_event=LONG_WAIT, idle=LONG_WAIT, total=None)
    async with asyncio.timeout(LONG_WAIT):
        async with CohereClient("", base_url=url, timeouts=limits, retry=Retry(attempts=1)) as co:
            yield co


@contextmanager
def memory_stays_below(limit: int) -> Iterator[None]:
    """Fails if what is allocated inside ever takes more than that, beyond what was there before."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < limit


async def fall_behind(taken: int) -> None:
    """Sleeps after some of the values. It is time itself that this file is about."""
    if taken in (1, DELTAS // 3, DELTAS // 2):
        await asyncio.sleep(0.5)


class Count:
    """How many values passed a place in a chain."""

    def __init__(self) -> None:
        self.value = 0

    def __call__(self, _: object) -> None:
        self.value += 1


def text_of(event: Any) -> str:
    return event.text or "" if isinstance(event, ContentDelta) else ""


async def test_iterating_over_the_stream_itself(url: str) -> None:
    """``async for`` pulls: a consumer that sleeps holds next to nothing, and misses nothing."""
    async with client_of(url) as co:
        count = 0
        words: list[str] = []
        with memory_stays_below(MEMORY):
            async for event in co.chat_stream(**ASK):
                count += 1
                words.append(text_of(event))
                await fall_behind(count)
        assert "".join(words) == WORDS
        assert count == EVENTS


async def test_pausing_behind_operators(url: str) -> None:
    """Behind three operators, too, no more than the buffer is held, and nothing is missed."""
    async with client_of(url) as co:
        brought = Count()
        taken, most = 0, 0
        words: list[str] = []
        chain = co.chat_stream(**ASK).pipe(
            ops.do_action(brought),
            ops.filter(lambda event: isinstance(event, ContentDelta)),
            ops.filter(text_of),
            ops.map(lambda event: event),
        )
        with memory_stays_below(MEMORY):
            async for event in to_async_iterator(chain):
                taken += 1
                words.append(text_of(event))
                await fall_behind(taken)
                most = max(most, brought.value - taken)
        assert "".join(words) == WORDS
        assert taken == DELTAS
        assert most <= 256 + 4  # those that are no text do not wait in the buffer


async def test_a_handler_that_falls_behind(url: str) -> None:
    """`subscribe_async` holds no more than its buffer either."""
    async with client_of(url) as co:
        brought, taken = Count(), Count()
        most = 0
        words: list[str] = []
        ended = asyncio.get_running_loop().create_future()

        async def on_next(event: ChatEvent) -> None:
            nonlocal most
            taken(event)
            words.append(text_of(event))
            await fall_behind(taken.value)
            most = max(most, brought.value - taken.value)

        with memory_stays_below(MEMORY):
            subscribe_async(
                co.chat_stream(**ASK).pipe(ops.do_action(brought)),
                on_next,
                ended.set_exception,
                lambda: ended.set_result(None),
                max_pending=64,
            )
            await ended
        assert "".join(words) == WORDS
        assert taken.value == EVENTS
        assert most <= 64


@pytest.mark.parametrize("shared", [False, True], ids=["merge", "pause behind a share"])
async def test_merging_while_the_source_runs_on(url: str, shared: bool) -> None:
    """The source is through while the consumer sleeps; then fewer events bring all the text."""
    async with client_of(url) as co:
        brought = Count()
        through = asyncio.Event()
        chain = co.chat_stream(**ASK).pipe(ops.do_action(brought, on_completed=through.set))
        if shared:
            values = to_async_iterator(chain.pipe(rxc.share_response()))
        else:
            values = to_async_iterator(chain, overflow="merge")
        count = 0
        words: list[str] = []
        with memory_stays_below(MEMORY):
            async for event in values:
                count += 1
                words.append(text_of(event))
                if count == 10:
                    await through.wait()
                    assert brought.value == EVENTS
        assert "".join(words) == WORDS
        assert count < 1_000
        assert values.dropped == 0
