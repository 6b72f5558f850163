"""The text while it streams, then the whole response: one request for both."""

import asyncio

from rxcohere import CohereClient, ContentDelta, MessageEnd

from offline import replay_without_key


async def main() -> None:
    async with CohereClient() as co:
        stream = co.chat_stream(
            model="command-a-03-2025",
            messages=[{"role": "user", "content": "What is reactive programming?"}],
        )
        async for event in stream:
            match event:
                case ContentDelta():
                    print(event.text, end="", flush=True)
                case MessageEnd(response=response) if response is not None:
                    print("\n\nthe response, as co.chat() would have returned it:")
                    print(response.model_dump_json(exclude_unset=True, indent=2))
                case _:
                    pass

        # The same response alone; a stream is cold, so this is a request of its own.
        response = await stream.response()
        print(response.finish_reason, len(response.text), "characters")


if __name__ == "__main__":
    with replay_without_key("text"):
        asyncio.run(main())
