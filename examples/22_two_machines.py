"""The model's answer on one machine, its readers on others: all that they share is a Redis.

Needs ``pip install redis``. The other machines are processes that this one starts of itself.
"""

import asyncio
import json
import math
import os
import sys
from asyncio.subprocess import PIPE, Process

from rxcohere import CohereClient, ContentDelta, StreamCancelledError
from rxcohere.bridges.journal import RedisJournal, abort, follow, new_stream_id, publish

from offline import redis_without_url, replay_without_key


async def read(stream_id: str, after: str = "", enough: str = "inf") -> None:
    """Writes the text out, with the ids of its entries; stops the model once that is enough."""
    length = 0
    async with RedisJournal(os.environ["REDIS_URL"]) as journal:
        async for entry in follow(journal, stream_id, after or None):
            if isinstance(entry.event, ContentDelta):
                print(json.dumps([entry.id, entry.event.text]), flush=True)
                length += len(entry.event.text)
                if length >= float(enough):
                    await abort(journal, stream_id, "the reader has read enough")


async def other_machine(*arguments: str) -> None:
    print("ready", flush=True)
    try:
        await read(*arguments)
    except StreamCancelledError as error:
        print(json.dumps([None, f" … {error}"]))


async def reader(*arguments: str) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, *arguments, stdout=PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    return process


async def show(process: Process, kill_after: float = math.inf) -> str:
    """Prints what a reader says; gives the id of the last entry, of so many characters if any."""
    assert process.stdout is not None
    length, seen = 0, ""
    async for line in process.stdout:
        seen, text = json.loads(line)
        print(text, end="", flush=True)
        length += len(text)
        if length >= kill_after:
            process.kill()
            break
    await process.communicate()
    return seen


async def main() -> None:
    async with RedisJournal(os.environ["REDIS_URL"], keep=600) as journal, CohereClient() as co:
        stream = co.chat_stream(
            model="command-a-03-2025",
            messages=[{"role": "user", "content": "What is reactive programming?"}],
        )
        stream_id = new_stream_id()
        first = await reader(stream_id)
        publication = asyncio.create_task(publish(journal, stream_id, stream, lease=5))
        seen = await show(first, kill_after=100)
        print("|", end="", flush=True)  # it died; another one goes on after the entry it saw last
        await show(await reader(stream_id, seen))
        await publication
        print("\n")

        stream_id = new_stream_id()
        first = await reader(stream_id, "", "20")
        verdict = await publish(journal, stream_id, stream, lease=5)
        await show(first)
        print(f"\nthe producer: {type(verdict.error).__name__}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(other_machine(*sys.argv[1:]))
    else:
        with redis_without_url(), replay_without_key("text", pace=0.03):
            asyncio.run(main())
