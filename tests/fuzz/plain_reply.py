"""What a stream says, added up the plain way: JSON objects in, a reply out.

It is written from the description of the wire alone, without a class or a fold of the library, and
reads the whole stream over for each question.
"""

from typing import Any

JSON = dict[str, Any]


def at(event: JSON, *path: str) -> Any:
    """What stands at a path below ``delta.message``; None where nothing does."""
    value: Any = event
    for key in ("delta", "message", *path):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def index_of(event: JSON) -> int:
    return event.get("index", 0)


def text_of(events: list[JSON], kind: str = "text") -> str:
    """All fragments of text, or of thinking, in the order in which they came."""
    deltas = [e for e in events if e["type"] in ("content-start", "content-delta")]
    return "".join(at(event, "content", kind) or "" for event in deltas)


def plan_of(events: list[JSON]) -> str:
    """The tool plan."""
    deltas = [event for event in events if event["type"] == "tool-plan-delta"]
    return "".join(at(event, "tool_plan") or "" for event in deltas)


def citations_of(events: list[JSON]) -> list[JSON]:
    """The citations in order of arrival, of either form."""
    cited: list[JSON] = []
    for event in events:
        if event["type"] == "citation-start":
            cited.append(at(event, "citations"))
        elif event["type"] == "citation-generation":
            cited.extend(event["citations"])
    return cited


def blocks_of(events: list[JSON]) -> list[JSON]:
    """The content blocks that have a text, in the order of their index."""
    blocks: list[tuple[int, JSON]] = []
    for event in events:
        content = at(event, "content")
        if event["type"] == "content-start":
            blocks.append((index_of(event), dict(content)))
        elif event["type"] == "content-delta":
            [kind] = content
            block = [b for index, b in blocks if index == index_of(event) and b["type"] == kind][-1]
            block[kind] += content[kind]
    in_order = sorted(blocks, key=lambda block: block[0])
    return [block for _, block in in_order if block[block["type"]]]


def calls_of(events: list[JSON]) -> list[JSON]:
    """The tool calls in the order of their index, their arguments as streamed.

    Calls without an index come one after another, and all count as call 0.
    """
    calls: list[tuple[int, JSON]] = []
    for event in events:
        if event["type"] == "tool-call-start":
            call = dict(at(event, "tool_calls"))
            call["function"] = dict(call["function"])
            calls.append((index_of(event), call))
        elif event["type"] == "tool-call-delta":
            call = [call for index, call in calls if index == index_of(event)][-1]
            more = at(event, "tool_calls", "function", "arguments")
            arguments = call["function"].get("arguments", "") + more
            if arguments:  # a call without any says nothing of them, or what its start said
                call["function"]["arguments"] = arguments
    return [call for _, call in sorted(calls, key=lambda call: call[0])]


def completed_calls_of(events: list[JSON]) -> list[JSON]:
    """The calls in the order in which they become complete: at their end, or the message's."""
    calls = calls_of(events)
    ended: list[JSON] = []
    if any("index" in event for event in events if event["type"] == "tool-call-start"):
        ends = [event for event in events if event["type"] == "tool-call-end"]
        ended = [calls[index_of(end)] for end in ends]
    return ended + [call for call in calls if not any(call is each for each in ended)]


def reply_of(events: list[JSON]) -> JSON:
    """The reply that the non-streaming call gives, but for arguments, which stay as streamed."""
    start = next(event for event in events if event["type"] == "message-start")
    end = next(event for event in events if event["type"] == "message-end")
    message: JSON = {
        "role": at(start, "role"),
        "content": blocks_of(events),
        "tool_plan": plan_of(events),
        "tool_calls": calls_of(events),
        "citations": citations_of(events),
    }
    reply: JSON = {"id": start["id"], "message": {k: v for k, v in message.items() if v}}
    for name in ("finish_reason", "usage"):
        if name in end["delta"]:
            reply[name] = end["delta"][name]
    if logprobs := [event["logprobs"] for event in events if "logprobs" in event]:
        reply["logprobs"] = logprobs
    return reply


def cited_characters_of(events: list[JSON]) -> list[tuple[str, list[JSON]]]:
    """Each code point of the answer's text, with the citations that cover it.

    Offsets count in one block: the one that the citation names, or else the first that is text.
    """
    cited = [c for c in citations_of(events) if c.get("type", "TEXT_CONTENT") == "TEXT_CONTENT"]
    starts = [event for event in events if event["type"] == "content-start"]
    texts = sorted({index_of(e) for e in starts if at(e, "content", "type") == "text"})
    characters: list[tuple[str, list[JSON]]] = []
    for index in texts:
        of_block = [event for event in events if index_of(event) == index]
        of_text = [e for e in of_block if e["type"] in ("content-start", "content-delta")]
        here = [c for c in cited if c.get("content_index", texts[0]) == index]
        for place, character in enumerate(text_of(of_text)):
            characters.append((character, [c for c in here if c["start"] <= place < c["end"]]))
    return characters


def fails(events: list[JSON]) -> bool:
    """Whether the message ends as a failure of the model's run."""
    [end] = [event for event in events if event["type"] == "message-end"]
    return end["delta"]["finish_reason"] in ("ERROR", "TIMEOUT")
