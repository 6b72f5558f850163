"""Basic streaming: the text as it comes, in asynchronous code."""

import asyncio

from rxcohere import CohereClient, ContentDelta

from offline import replay_without_key


async def main() -> None:
    async with CohereClient() as co:
        stream = co.chat_stream(
            model="command-a-03-2025",
            messages=[{"role": "user", "content": "What is reactive programming?"}],
        )
        async for event in stream:
            if isinstance(event, ContentDelta):
                print(event.text, end="", flush=True)
    print()


if __name__ == "__main__":
    with replay_without_key("text"):
        asyncio.run(main())
