"""A reader slower than the model, and the five things that can happen to what it has not taken."""

import asyncio
from contextlib import aclosing
from typing import get_args

from rxcohere import (
    BufferOverflowError,
    CohereClient,
    ContentDelta,
    Overflow,
    to_async_iterator,
)

from offline import replay_without_key


async def read_slowly(co: CohereClient, overflow: Overflow) -> str:
    stream = co.chat_stream(
        model="command-a-03-2025",
        messages=[{"role": "user", "content": "What is reactive programming?"}],
    )
    events = to_async_iterator(stream, max_pending=4, overflow=overflow)
    taken, text, end = 0, "", "complete"
    try:
        async with aclosing(events):
            async for event in events:
                taken += 1
                text += event.text if isinstance(event, ContentDelta) else ""
                await asyncio.sleep(0.03)  # slower than any model
    except BufferOverflowError:
        end = "overflow"
    return f"{taken:3} events, {len(text):3} characters, {events.dropped:2} dropped, {end}"


async def main() -> None:
    async with CohereClient() as co:
        # "pause" slows the server, "merge" makes fewer and larger events: both lose nothing.
        for overflow in get_args(Overflow):
            print(f"{overflow:>12}: {await read_slowly(co, overflow)}", flush=True)


if __name__ == "__main__":
    with replay_without_key("text", pace=0.005):
        asyncio.run(main())
