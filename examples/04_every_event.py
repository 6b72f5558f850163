"""Every event type of a stream, told apart with ``match``."""

import asyncio

from rxcohere import (
    ChatEvent,
    CitationEnd,
    CitationGeneration,
    CitationStart,
    CohereClient,
    ContentDelta,
    ContentEnd,
    ContentStart,
    Debug,
    MessageEnd,
    MessageStart,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    ToolPlanDelta,
    UnknownEvent,
)

from offline import replay_without_key


def describe(event: ChatEvent) -> str:
    match event:
        case MessageStart(id=reply_id):
            return f"reply {reply_id}"
        case ContentStart(index=index):
            return f"content block {index} begins"
        case ContentDelta():
            return f"thinking {event.thinking!r}" if event.thinking else f"text {event.text!r}"
        case ContentEnd(index=index):
            return f"content block {index} is complete"
        case ToolPlanDelta():
            return f"plan {event.text!r}"
        case ToolCallStart(index=index, tool_call=call):
            return f"tool call {index}: {call.name if call else 'unnamed'}"
        case ToolCallDelta():
            return f"arguments {event.arguments!r}"
        case ToolCallEnd(index=index):
            return f"tool call {index} is complete"
        case CitationStart(citation=citation):
            return f"citation of {citation.text if citation else 'nothing'!r}"
        case CitationEnd() | CitationGeneration() | Debug():
            return event.type
        case MessageEnd():
            return f"ended with {event.finish_reason}"
        case UnknownEvent():
            return f"a type this version does not know: {event.raw}"


async def main() -> None:
    async with CohereClient() as co:
        for question in (
            "How many days are there from 20 March to 1 May?",
            "What is the weather in Paris?",
            "Where do they live?",
        ):
            messages = [{"role": "user", "content": question}]
            async for event in co.chat_stream(model="command-a-03-2025", messages=messages):
                print(f"{event.type:18} {describe(event)}")


if __name__ == "__main__":
    with replay_without_key("reasoning", "tools", "rag"):
        asyncio.run(main())
