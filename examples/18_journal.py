"""A journal between the model and its readers: they come late, leave, and go on where they were."""

import asyncio

from rxcohere import CohereClient, ContentDelta, StreamCancelledError
from rxcohere.bridges.journal import MemoryJournal, abort, follow, new_stream_id, publish

from offline import replay_without_key


async def main() -> None:
    journal = MemoryJournal()
    async with CohereClient() as co:
        stream = co.chat_stream(
            model="command-a-03-2025",
            messages=[{"role": "user", "content": "What is reactive programming?"}],
        )
        stream_id = new_stream_id()
        publication = asyncio.create_task(publish(journal, stream_id, stream))

        # A reader that goes away after a while. The stream does not mind.
        seen = None
        async for entry in follow(journal, stream_id):
            if isinstance(entry.event, ContentDelta):
                print(entry.event.text, end="", flush=True)
                if len(entry.event.text) > 1:
                    seen = entry.id
                    break
        print("|", end="", flush=True)

        # It comes back, and goes on after the last entry that it saw.
        async for entry in follow(journal, stream_id, after=seen):
            if isinstance(entry.event, ContentDelta):
                print(entry.event.text, end="", flush=True)
        await publication

        # Anybody who knows the id can stop the model.
        stream_id = new_stream_id()
        publication = asyncio.create_task(publish(journal, stream_id, stream))
        try:
            async for entry in follow(journal, stream_id):
                if isinstance(entry.event, ContentDelta):
                    await abort(journal, stream_id, "the reader has read enough")
        except StreamCancelledError as error:
            print(f"\n\n{error}: {error.partial.text if error.partial else ''}…")
        await publication


if __name__ == "__main__":
    with replay_without_key("text", pace=0.02):
        asyncio.run(main())
