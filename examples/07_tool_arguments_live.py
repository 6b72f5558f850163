"""Tool calls as they form: their arguments, parsed as far as they go, then each complete call."""

import asyncio

from rxcohere import CohereClient
from rxcohere import operators as rxc

from offline import replay_without_key

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


async def main() -> None:
    async with CohereClient() as co:
        stream = co.chat_stream(
            model="command-a-03-2025",
            messages=[{"role": "user", "content": "The weather in Lisbon and Oslo, and the time?"}],
            tools=[WEATHER],
        )
        await stream.pipe(rxc.track_tool_calls()).do_action(
            lambda progress: print(f"{progress.index} {progress.name}: {progress.parsed}")
        )

        # The complete calls; a stream is cold, so this asks once more.
        for call in await stream.tool_calls().to_list():
            print(f"{call.name}({call.parsed})")


if __name__ == "__main__":
    with replay_without_key("parallel-tools"):
        asyncio.run(main())
