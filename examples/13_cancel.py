"""Stopping early, three ways; each gives the connection up, so the model stops writing."""

import asyncio

import reactivex.operators as ops

from rxcohere import CohereClient, ContentDelta

from offline import replay_without_key


async def main() -> None:
    async with CohereClient() as co:
        stream = co.chat_stream(
            model="command-a-03-2025",
            messages=[{"role": "user", "content": "What is reactive programming?"}],
        )

        # By the pipeline: three fragments, then the request is gone.
        print("take:", await stream.text().pipe(ops.take(3), ops.to_list()))

        # From outside, by disposing of the subscription, from any thread and at any time.
        first = asyncio.Event()
        subscription = stream.text().subscribe(lambda _: first.set())
        await first.wait()
        subscription.dispose()
        print("dispose: stopped after the first fragment")

        # By leaving the loop, or by a timeout around it.
        try:
            async with asyncio.timeout(0.05):
                async for event in stream:
                    if isinstance(event, ContentDelta):
                        print("async for:", repr(event.text))
        except TimeoutError:
            print("async for: out of time")


if __name__ == "__main__":
    with replay_without_key("text", pace=0.02):
        asyncio.run(main())
