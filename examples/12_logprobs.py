"""How sure the model was: log probabilities beside the text."""

import asyncio
import math

from rxcohere import CohereClient
from rxcohere import operators as rxc
from rxcohere.events import ContentDelta

from offline import replay_without_key


async def main() -> None:
    async with CohereClient() as co:
        stream = co.chat_stream(
            model="command-a-03-2025",
            messages=[{"role": "user", "content": "Name a colour."}],
            logprobs=True,
        )
        await stream.pipe(rxc.events_of(ContentDelta)).do_action(show)


def show(event: ContentDelta) -> None:
    item = event.logprobs
    if item is not None and item.logprobs:
        sure = math.exp(sum(item.logprobs))
        print(f"{event.text!r:12} {sure:6.1%} {'#' * round(sure * 40)}")


if __name__ == "__main__":
    with replay_without_key("logprobs"):
        asyncio.run(main())
