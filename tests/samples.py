"""Chat streams for the tests: builders of wire events, recorded streams and random legal ones.

Everything here is plain JSON, made without the code under test, so that an expected reply owes
nothing to the folds that are to produce it.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from rxcohere.events import ChatEvent, parse_event

JSON = dict[str, Any]

STREAMS = Path(__file__).resolve().parents[2] / "shared" / "streams"
"""Recorded streams; they are no part of the project."""


def recorded_file(name: str) -> Path:
    """The path of one recorded file; skips the test where it is missing."""
    path = STREAMS / name
    if not path.exists():
        pytest.skip("the folder of recorded streams, shared/streams, is not here")
    return path


def frames_of(path: Path) -> list[str]:
    """The JSON texts of a recorded stream, read without the decoder under test."""
    lines = path.read_text("utf-8").splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return data[:-1]


def parsed(events: Iterable[JSON]) -> list[ChatEvent]:
    """The events of wire objects."""
    return [parse_event(event) for event in events]


def run(fold: Any, events: Iterable[ChatEvent]) -> list[Any]:
    """Everything a fold gives out for a whole stream."""
    out = [value for event in events for value in fold.push(event)]
    return [*out, *fold.finish()]


# One builder for each wire type ------------------------------------------------------------------


def message_start(reply_id: str = "reply-1") -> JSON:
    empty: JSON = {"content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    message = {"role": "assistant", **empty}
    return {"id": reply_id, "type": "message-start", "delta": {"message": message}}


def content_start(index: int = 0, kind: str = "text") -> JSON:
    content = {"type": kind, kind: ""}
    return {"type": "content-start", "index": index, "delta": {"message": {"content": content}}}


def text_delta(text: str, index: int = 0) -> JSON:
    message = {"content": {"text": text}}
    return {"type": "content-delta", "index": index, "delta": {"message": message}}


def thinking_delta(thinking: str, index: int = 0) -> JSON:
    message = {"content": {"thinking": thinking}}
    return {"type": "content-delta", "index": index, "delta": {"message": message}}


def content_end(index: int = 0) -> JSON:
    return {"type": "content-end", "index": index}


def tool_plan_delta(text: str) -> JSON:
    return {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": text}}}


def tool_call_start(index: int = 0, name: str = "look_up", arguments: str = "") -> JSON:
    function = {"name": name, "arguments": arguments}
    call = {"id": f"{name}_{index}", "type": "function", "function": function}
    return {"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": call}}}


def tool_call_delta(arguments: str, index: int = 0) -> JSON:
    message = {"tool_calls": {"function": {"arguments": arguments}}}
    return {"type": "tool-call-delta", "index": index, "delta": {"message": message}}


def tool_call_end(index: int = 0) -> JSON:
    return {"type": "tool-call-end", "index": index}


def document(name: str, **fields: object) -> JSON:
    return {"type": "document", "id": name, "document": {"id": name, **fields}}


def citation(start: int, end: int, text: str, *sources: JSON, **more: object) -> JSON:
    return {"start": start, "end": end, "text": text, "sources": list(sources), **more}


def citation_start(cited: JSON, index: int = 0) -> JSON:
    message = {"citations": cited}
    return {"type": "citation-start", "index": index, "delta": {"message": message}}


def citation_end(index: int = 0) -> JSON:
    return {"type": "citation-end", "index": index}


def usage(billed: int = 5, answered: int = 3) -> JSON:
    return {
        "billed_units": {"input_tokens": billed, "output_tokens": answered},
        "tokens": {"input_tokens": billed + 60, "output_tokens": answered + 1},
    }


def message_end(finish_reason: str = "COMPLETE", **more: object) -> JSON:
    delta = {"finish_reason": finish_reason, "usage": usage(), **more}
    return {"type": "message-end", "delta": delta}


def text_stream(*fragments: str) -> list[JSON]:
    """A whole stream of one text block."""
    deltas = [text_delta(fragment) for fragment in fragments]
    return [message_start(), content_start(), *deltas, content_end(), message_end()]


def tool_stream(*calls: tuple[str, list[str]]) -> list[JSON]:
    """A whole stream of a plan and calls one after another: each a name and its fragments."""
    events = [message_start(), tool_plan_delta("I will"), tool_plan_delta(" look.")]
    for index, (name, fragments) in enumerate(calls):
        events.append(tool_call_start(index, name))
        events.extend(tool_call_delta(fragment, index) for fragment in fragments)
        events.append(tool_call_end(index))
    return [*events, message_end("TOOL_CALL")]


# Random legal streams ----------------------------------------------------------------------------


@dataclass
class Sample:
    """A random stream and what has to come of it."""

    events: list[JSON]
    reply: JSON
    """What the non-streaming endpoint would have said."""
    text: str
    tool_calls: list[tuple[str, str, str]]
    """Id, name and arguments as streamed, in the order in which the calls become complete."""
    segments: list[tuple[str, list[JSON]]]
    """The text in stretches, each with the citations that cover it."""


@dataclass
class _Block:
    kind: str
    index: int
    fragments: list[str]
    citations: list[JSON]
    extra: JSON

    @property
    def text(self) -> str:
        return "".join(self.fragments)


@dataclass
class _Call:
    head: JSON
    fragments: list[str]
    compact: str
    ended: bool


@dataclass
class _Writer:
    """Writes the wire events, and notes what the reply says in the order it is written."""

    draw: Callable[..., Any]
    indexed: bool
    logprobs: bool
    events: list[JSON] = field(default_factory=list)
    citations: list[JSON] = field(default_factory=list)
    late: list[JSON] = field(default_factory=list)
    items: list[JSON] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)

    def one_in(self, n: int) -> bool:
        return bool(self.draw(st.integers(0, n - 1)) == 0)

    def write(self, kind: str, index: int | None = None, message: JSON | None = None) -> JSON:
        event: JSON = {"type": kind}
        # An index of 0 may be absent; a stream may also have none at all.
        if self.indexed and index is not None and (index > 0 or not self.one_in(4)):
            event["index"] = index
        if message is not None:
            event["delta"] = {"message": message}
        if self.one_in(8):
            event["x_trace"] = "t-1"
        self.events.append(event)
        return event

    def content(self, block: _Block) -> None:
        fragments = list(block.fragments)
        when_to = st.sampled_from(["inline", "after text", "after block", "late"])
        waiting = [(cited, self.draw(when_to)) for cited in block.citations]
        opening = fragments.pop(0) if fragments and self.one_in(4) else ""
        start = {"type": block.kind, block.kind: opening, **block.extra}
        self.write("content-start", block.index, {"content": start})
        length = len(opening)
        for fragment in fragments:
            event = self.write("content-delta", block.index, {"content": {block.kind: fragment}})
            if self.logprobs:
                item = {"token_ids": [len(self.items)], "text": fragment, "logprobs": [-0.25]}
                event["logprobs"] = item
                self.items.append(item)
            length += len(fragment)
            for cited, when in list(waiting):
                if when == "inline" and cited["end"] <= length:
                    waiting.remove((cited, when))
                    self.cite(cited)
        for cited, when in waiting:
            if when in ("inline", "after text"):
                self.cite(cited)
        self.write("content-end", block.index)
        for cited, when in waiting:
            if when == "after block":
                self.cite(cited)
        self.late.extend(cited for cited, when in waiting if when == "late")

    def cite(self, cited: JSON) -> None:
        if self.one_in(6):
            self.write("citation-generation")["citations"] = [cited]
        else:
            number = len(self.citations)
            self.write("citation-start", number, {"citations": cited})
            self.write("citation-end", number)
        self.citations.append(cited)

    def tool_calls(self, calls: list[_Call], interleaved: bool) -> None:
        steps = [self.steps(number, call) for number, call in enumerate(calls)]
        while steps:
            turn = self.draw(st.integers(0, len(steps) - 1)) if interleaved else 0
            steps[turn].pop(0)()
            if not steps[turn]:
                steps.pop(turn)
        if self.indexed:
            open_at_the_end = [n for n in range(len(calls)) if n not in self.completed]
            self.completed.extend(open_at_the_end)
        else:  # the next start tells that a call without an end is complete
            self.completed = list(range(len(calls)))

    def steps(self, number: int, call: _Call) -> list[Callable[[], object]]:
        def delta(fragment: str) -> Callable[[], object]:
            message = {"tool_calls": {"function": {"arguments": fragment}}}
            return lambda: self.write("tool-call-delta", number, message)

        def end() -> None:
            self.write("tool-call-end", number)
            self.completed.append(number)

        def start() -> None:
            self.write("tool-call-start", number, {"tool_calls": call.head})

        return [start, *map(delta, call.fragments), *([end] if call.ended else [])]


_TEXT = st.text('ab é\n\r\u2028\u0301😀\U0001d4b3"\\{}', max_size=5)
_KEYS = st.text("abcé😀", min_size=1, max_size=3)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.just(0.5) | _TEXT,
    lambda value: st.lists(value, max_size=2) | st.dictionaries(_KEYS, value, max_size=2),
    max_leaves=4,
)
_SOURCES = st.sampled_from(
    [
        document("doc:0", title="Tide table"),
        document("doc:1", title="Pier 😀", x_rank=2),
        {"type": "tool", "id": "look_up_0:0", "tool_output": {"content": "7 °C"}},
        {"type": "tool", "tool_output": {"content": "no id"}},
    ]
)
_UNKNOWN = st.sampled_from(
    [
        {"type": "debug", "prompt": "<|START|>"},
        {"type": "progress-report", "index": 0, "delta": {"message": {"content": {"text": "!"}}}},
        {"type": "keep-warm"},
    ]
)


def _cut(draw: Callable[..., Any], text: str) -> list[str]:
    """The text in fragments, some of them empty."""
    inner = draw(st.lists(st.integers(0, len(text)), max_size=4))
    return [text[a:b] for a, b in pairwise([0, *sorted(inner), len(text)])] if text else []


def _draw_citations(draw: Callable[..., Any], text: str, kind: str, index: JSON) -> list[JSON]:
    cited: list[JSON] = []
    for _ in range(draw(st.integers(0, 3)) if text else 0):
        start = draw(st.integers(0, len(text) - 1))
        end = draw(st.integers(start + 1, len(text)))
        sources = draw(st.lists(_SOURCES, max_size=2))
        tag = {} if kind == "TEXT_CONTENT" and draw(st.booleans()) else {"type": kind}
        cited.append(citation(start, end, text[start:end], *sources, **tag, **index))
    return cited


def _draw_blocks(draw: Callable[..., Any], indexed: bool) -> list[_Block]:
    blocks: list[_Block] = []
    if draw(st.booleans()):
        fragments = draw(st.lists(_TEXT, max_size=4))
        cited = _draw_citations(draw, "".join(fragments), "THINKING_CONTENT", {})
        blocks.append(_Block("thinking", 0, fragments, cited, {}))
    first = len(blocks)
    for index in range(first, first + draw(st.integers(0, 3 if indexed else 1))):
        fragments = draw(st.lists(_TEXT, max_size=5))
        # Only the first text block may be meant by a citation that names none.
        named = indexed and (index > first or draw(st.booleans()))
        place = {"content_index": index} if named else {}
        cited = _draw_citations(draw, "".join(fragments), "TEXT_CONTENT", place)
        extra = draw(st.sampled_from([{}, {"x_language": "en"}]))
        blocks.append(_Block("text", index, fragments, cited, extra))
    return blocks


_STYLES = st.sampled_from([{}, {"indent": 4}, {"ensure_ascii": False}, {"separators": (",", ":")}])


def _draw_calls(draw: Callable[..., Any]) -> list[_Call]:
    calls: list[_Call] = []
    for number in range(draw(st.integers(0, 3))):
        arguments = draw(st.none() | st.dictionaries(_KEYS, _VALUES, max_size=3))
        style = draw(_STYLES)
        fragments = [] if arguments is None else _cut(draw, json.dumps(arguments, **style))
        function: JSON = {"name": f"tool_{number}"}
        opening = draw(st.sampled_from(["", "absent", "first"]))
        if opening != "absent":
            function["arguments"] = fragments.pop(0) if opening == "first" and fragments else ""
        head: JSON = {"id": f"id-{number}", "type": "function", "function": function}
        if draw(st.booleans()):
            head["x_group"] = number
        compact = json.dumps(
            arguments or {}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        calls.append(_Call(head, fragments, compact, ended=draw(st.integers(0, 3)) > 0))
    return calls


def _segments(blocks: list[_Block]) -> list[tuple[str, list[JSON]]]:
    """Code point by code point: neighbours with the same citations make a segment."""
    segments: list[tuple[str, list[JSON]]] = []
    for block in blocks:
        covering = [
            [n for n, c in enumerate(block.citations) if c["start"] <= at < c["end"]]
            for at in range(len(block.text))
        ]
        for numbers, run_of in groupby(range(len(block.text)), key=covering.__getitem__):
            stretch = "".join(block.text[at] for at in run_of)
            segments.append((stretch, [block.citations[n] for n in numbers]))
    return segments


def _message(blocks: list[_Block], plan: str, calls: list[_Call], cited: list[JSON]) -> JSON:
    message: JSON = {"role": "assistant"}
    if content := [{"type": b.kind, b.kind: b.text, **b.extra} for b in blocks if b.text]:
        message["content"] = content
    if plan:
        message["tool_plan"] = plan
    if calls:
        message["tool_calls"] = [
            {**c.head, "function": {"name": c.head["function"]["name"], "arguments": c.compact}}
            for c in calls
        ]
    if cited:
        message["citations"] = cited
    return message


_ENDS = st.sampled_from(
    [
        {"finish_reason": "COMPLETE", "usage": usage()},
        {"finish_reason": "STOP_SEQUENCE", "usage": {**usage(), "cached_tokens": 0, "x_tier": "a"}},
        {"finish_reason": "COMPLETE"},
        {"finish_reason": "COMPLETE", "usage": {"tokens": {"input_tokens": 2.5, "image": 9}}},
        {"finish_reason": "TOOL_CALL", "usage": usage(0, 0)},
    ]
)
_BAD_ENDS = st.sampled_from(
    [
        {"finish_reason": "MAX_TOKENS", "usage": usage()},
        {"finish_reason": "ERROR", "error": "no", "error_type": "HALLUCINATED", "usage": {}},
    ]
)


@st.composite
def streams(draw: Callable[..., Any]) -> Sample:
    """Random legal streams: a list of wire events, and the reply they have to add up to."""
    indexed = draw(st.integers(0, 4)) > 0
    writer = _Writer(draw, indexed, logprobs=draw(st.booleans()))
    start = writer.write("message-start", message={"role": "assistant"})
    start["id"] = "reply-7"
    if draw(st.booleans()):
        start["delta"]["message"].update(content=[], tool_plan="", tool_calls=[], citations=[])

    blocks = _draw_blocks(draw, indexed)
    plan = draw(st.lists(_TEXT, max_size=3))
    calls = _draw_calls(draw)
    for block in blocks:
        writer.content(block)
    for fragment in plan:
        writer.write("tool-plan-delta", message={"tool_plan": fragment})
    for cited in _draw_citations(draw, "".join(plan), "PLAN", {}):
        writer.cite(cited)
    writer.tool_calls(calls, interleaved=indexed and draw(st.booleans()))
    for cited in writer.late:
        writer.cite(cited)
    end = draw(_ENDS if calls else _ENDS | _BAD_ENDS)
    writer.write("message-end")["delta"] = end

    for event in draw(st.lists(_UNKNOWN, max_size=3)):
        writer.events.insert(draw(st.integers(0, len(writer.events))), event)

    reply: JSON = {
        "id": "reply-7",
        "message": _message(blocks, "".join(plan), calls, writer.citations),
        **{key: end[key] for key in ("finish_reason", "usage") if key in end},
    }
    if writer.items:
        reply["logprobs"] = writer.items
    answer = [block for block in blocks if block.kind == "text"]
    # Citations stand in order of arrival, within a segment too.
    arrived = {id(cited): number for number, cited in enumerate(writer.citations)}
    for block in answer:
        block.citations.sort(key=lambda cited: arrived[id(cited)])
    streamed = [c.head["function"].get("arguments", "") + "".join(c.fragments) for c in calls]
    return Sample(
        events=writer.events,
        reply=reply,
        text="".join(block.text for block in answer),
        tool_calls=[
            (calls[n].head["id"], calls[n].head["function"]["name"], streamed[n])
            for n in writer.completed
        ],
        segments=_segments(answer),
    )
