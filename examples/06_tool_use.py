"""Tool use: plan and calls are streamed, the tools run, and the answer cites their results."""

import asyncio
import json
from typing import Any

from rxcohere import (
    ChatResponse,
    CitationStart,
    CohereClient,
    ContentDelta,
    MessageEnd,
    ToolPlanDelta,
)

from offline import replay_without_key

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    for name, description in (
        ("get_weather", "The weather in a city now."),
        ("get_time", "The local time in a city."),
    )
]


def run_tool(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"tool": name, **arguments, "result": "sunny, 21 °C"}


async def main() -> None:
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Lisbon?"}]
    reply = ChatResponse()
    async with CohereClient() as co:
        for _ in range(5):  # steps, so that a model that never stops calling does
            async for event in co.chat_stream(
                model="command-a-03-2025", messages=messages, tools=TOOLS
            ):
                match event:
                    case ContentDelta() | ToolPlanDelta():
                        print(event.text, end="", flush=True)
                    case CitationStart(citation=citation) if citation is not None:
                        print(f" [{citation.text}]", end="", flush=True)
                    case MessageEnd(response=response) if response is not None:
                        reply = response.normalized()  # its arguments are safe to send back
                    case _:
                        pass
            print()
            if not reply.tool_calls:
                break
            messages.append(reply.message)
            for call in reply.tool_calls:
                print(f"  {call.name}({call.parsed})")
                result = json.dumps(run_tool(call.name, call.parsed))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


if __name__ == "__main__":
    with replay_without_key("tools", "tool-answer"):
        asyncio.run(main())
