"""What a chat window needs: callbacks for tokens, the end and failure, and a way to stop."""

import asyncio
from collections.abc import Callable
from typing import Any

from reactivex.abc import DisposableBase

from rxcohere import ChatResponse, CohereClient, ContentDelta, MessageEnd
from rxcohere import operators as rxc

from offline import replay_without_key


def chat(
    co: CohereClient,
    messages: list[Any],
    on_token: Callable[[str], None],
    on_complete: Callable[[ChatResponse], None],
    on_error: Callable[[Exception], None],
) -> DisposableBase:
    """Streams one answer; dispose of what it returns to stop it. Call it from any thread."""

    def on_next(event: ContentDelta | MessageEnd) -> None:
        if isinstance(event, ContentDelta):
            on_token(event.text)
        elif event.response is not None and not event.error:
            on_complete(event.response)

    return (
        co.chat_stream(model="command-a-03-2025", messages=messages)
        .pipe(
            rxc.coalesce_deltas(1 / 30),  # a screen shows no more than so many frames a second
            rxc.events_of(ContentDelta, MessageEnd),
        )
        .subscribe(on_next, on_error)
    )


async def main() -> None:
    messages: list[Any] = [{"role": "user", "content": "What is reactive programming?"}]
    finished = asyncio.get_running_loop().create_future()
    async with CohereClient() as co:
        chat(
            co,
            messages,
            on_token=lambda token: print(token, end="|", flush=True),
            on_complete=finished.set_result,
            on_error=finished.set_exception,
        )
        response = await finished
    messages.append(response.message)
    print("\nturns so far:", len(messages))


if __name__ == "__main__":
    with replay_without_key("text"):
        asyncio.run(main())
