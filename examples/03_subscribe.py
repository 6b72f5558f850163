"""The Rx way: a pipeline of our operators and stock ones, and a subscription."""

import asyncio

import reactivex.operators as ops

from rxcohere import CohereClient
from rxcohere import operators as rxc

from offline import replay_without_key


async def main() -> None:
    async with CohereClient() as co:
        stream = co.chat_stream(
            model="command-a-03-2025",
            messages=[{"role": "user", "content": "What is reactive programming?"}],
        )
        words = stream.pipe(
            rxc.text_deltas(),
            ops.map(str.upper),
            ops.take(12),  # which gives the connection up after twelve fragments
        )
        done = asyncio.get_running_loop().create_future()
        words.subscribe(
            on_next=lambda word: print(word, end="", flush=True),
            on_error=done.set_exception,
            on_completed=lambda: done.set_result(None),
        )
        await done
    print(" …")


if __name__ == "__main__":
    with replay_without_key("text"):
        asyncio.run(main())
