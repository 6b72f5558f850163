"""A model that reasons: its thinking and its answer are streams of their own, from one request."""

import asyncio

from rxcohere import CohereClient, ContentDelta

from offline import replay_without_key


async def main() -> None:
    async with CohereClient() as co:
        stream = co.chat_stream(
            model="command-a-reasoning-08-2025",
            messages=[
                {"role": "user", "content": "How many days are there from 20 March to 1 May?"}
            ],
            thinking={"type": "enabled", "token_budget": 500},
        )
        part = ""
        async for event in stream:
            if isinstance(event, ContentDelta):
                name = "thinking" if event.thinking else "answer"
                if name != part:
                    part = name
                    print(f"\n{name}: ", end="")
                print(event.thinking or event.text, end="", flush=True)
        print()

        # Only the thinking, as one string; a stream is cold, so this asks once more.
        fragments = await stream.thinking().to_list()
        print(len("".join(fragments)), "characters of thinking")


if __name__ == "__main__":
    with replay_without_key("reasoning"):
        asyncio.run(main())
