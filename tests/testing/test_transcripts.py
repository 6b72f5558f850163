"""Transcripts: the shipped ones are well-formed, and any body can be cut into frames and joined."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rxcohere.errors import ConfigurationError, EventDecodeError
from rxcohere.events import parse_event
from rxcohere.testing import DONE, Transcript, encode_event, transcript_names
from rxcohere.testing.transcripts import is_done, transcript

STREAMS = Path(__file__).resolve().parents[3] / "shared" / "streams"

# What the recorded streams show only in replies that were not streamed, or not at all.
UNRECORDED = {
    "content-delta.logprobs",
    "content-delta.logprobs.text",
    "content-delta.logprobs.token_ids",
    "content-delta.logprobs.logprobs",
    "citation-start.delta.message.citations.content_index",
}


def payloads(transcript: Transcript) -> list[dict[str, Any]]:
    """The JSON objects of the frames, checked for the wire's form on the way."""
    objects: list[dict[str, Any]] = []
    assert transcript.frames[-1] == DONE == b"data: [DONE]\n\n"
    for frame in transcript.frames[:-1]:
        name, data, *blank = frame.decode().split("\n")
        assert blank == ["", ""]
        payload = json.loads(data.removeprefix("data: "))
        assert name == f"event: {payload['type']}"
        assert data == "data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
        objects.append(payload)
    return objects


def paths(value: Any, prefix: str) -> Iterator[str]:
    """The path of each key, except in the free-form body of a source."""
    if isinstance(value, list):
        yield from chain.from_iterable(paths(item, prefix) for item in value)
    if isinstance(value, dict) and not prefix.endswith((".document", ".tool_output")):
        for key, item in value.items():
            yield f"{prefix}.{key}"
            yield from paths(item, f"{prefix}.{key}")


@pytest.fixture(params=transcript_names())
def shipped(request: pytest.FixtureRequest) -> Transcript:
    """Each shipped transcript in turn."""
    return Transcript.load(request.param)


def test_names() -> None:
    """Every kind of reply has a transcript."""
    assert set(transcript_names()) == {
        "text", "rag", "rag-accurate", "tools", "parallel-tools", "tool-answer", "reasoning",
        "reasoning-rag", "error", "max-tokens", "logprobs",
    }  # fmt: skip


def test_frames_have_the_wire_s_form(shipped: Transcript) -> None:
    """Frames have an event line, one data line of compact JSON and a blank line; then [DONE]."""
    events = payloads(shipped)
    assert shipped.body == b"".join(shipped.frames)
    assert events[0] == {
        "id": events[0]["id"],
        "type": "message-start",
        "delta": {
            "message": {
                "role": "assistant",
                "content": [],
                "tool_plan": "",
                "tool_calls": [],
                "citations": [],
            }
        },
    }
    assert [event["type"] for event in events].count("message-start") == 1
    assert [event["type"] for event in events].index("message-end") == len(events) - 1


def test_key_order_is_the_wire_s(shipped: Transcript) -> None:
    """Keys stand in the order of the recorded events."""
    for event in payloads(shipped)[1:]:
        order = ["type", "index", "delta", "logprobs"]
        assert list(event) == [key for key in order if key in event]
        if event["type"] == "citation-start":
            order = ["start", "end", "text", "sources", "content_index", "type"]
            citation = event["delta"]["message"]["citations"]
            assert list(citation) == [key for key in order if key in citation]


def test_keys_are_those_of_recorded_streams(shipped: Transcript) -> None:
    """No event has a key that no recorded event of its type has."""
    if not STREAMS.exists():
        pytest.skip("the folder of recorded streams, shared/streams, is not here")
    known = set(UNRECORDED)
    for path in STREAMS.glob("wire-*.sse"):
        for event in Transcript.load(path).events:
            known |= set(paths(event.model_dump(exclude_unset=True), event.type))
    tool_source = "citation-start.delta.message.citations.sources.tool_output"
    for payload in payloads(shipped):
        assert set(paths(payload, payload["type"])) <= known | {tool_source}


def test_blocks_open_and_close(shipped: Transcript) -> None:
    """Deltas come inside their block, blocks do not overlap, and their indexes count from 0."""
    opened: list[str] = []
    counts = {"content": 0, "tool-call": 0, "citation": 0}
    for event in payloads(shipped):
        kind, _, step = event["type"].rpartition("-")
        if kind not in counts:
            assert not opened
            continue
        if step == "start":
            assert opened == (["content"] if kind == "citation" else [])
            assert event["index"] == counts[kind]
            opened.append(kind)
        else:
            assert opened[-1] == kind
            assert event["index"] == counts[kind]
        if step == "end":
            opened.pop()
            counts[kind] += 1
    assert not opened


def test_citations_quote_the_text(shipped: Transcript) -> None:
    """At its arrival each citation's offsets, in code points, give its text in the cited block."""
    texts: dict[int, str] = {}
    for event in payloads(shipped):
        message = event.get("delta", {}).get("message", {})
        if event["type"] == "content-delta":
            index = event["index"]
            texts[index] = texts.get(index, "") + "".join(message["content"].values())
        elif event["type"] == "citation-start":
            citation = message["citations"]
            text = texts[citation.get("content_index", 0)]
            assert text[citation["start"] : citation["end"]] == citation["text"]
            assert citation["sources"]


@pytest.mark.parametrize(
    ("name", "inline"),
    [("rag", True), ("rag-accurate", False), ("tool-answer", True), ("reasoning-rag", True)],
)
def test_order_of_citations(name: str, inline: bool) -> None:
    """Citations come between the deltas, or after the last delta and before the block's end."""
    types = [event["type"] for event in payloads(Transcript.load(name))]
    last_delta = len(types) - types[::-1].index("content-delta")
    assert (types.index("citation-start") < last_delta) is inline
    assert types.count("citation-start") > 1
    assert len(types) - types[::-1].index("citation-end") <= types.index("message-end") - 1


@pytest.mark.parametrize("name", ["rag", "tool-answer"])
def test_citations_after_characters_beyond_the_bmp(name: str) -> None:
    """Citations stand behind a character that is one code point, but more in UTF-8 and UTF-16."""
    _, reply = Transcript.load(name).reply()
    text = reply["message"]["content"][0]["text"]
    wide = next(i for i, character in enumerate(text) if ord(character) > 0xFFFF)
    assert any(citation["start"] > wide for citation in reply["message"]["citations"])


def test_deltas_are_of_a_token_s_size(shipped: Transcript) -> None:
    """No delta is longer than a word, and a delta is not always a word."""
    for event in payloads(shipped):
        if event["type"] in ("content-delta", "tool-plan-delta"):
            message = event["delta"]["message"]
            fragment = message.get("tool_plan") or "".join(message["content"].values())
            assert 1 <= len(fragment) <= 10


def test_logprobs_belong_to_their_deltas() -> None:
    """Each delta has the text it brings and as many numbers as token ids."""
    deltas = [e for e in payloads(Transcript.load("logprobs")) if e["type"] == "content-delta"]
    for delta in deltas:
        assert delta["logprobs"]["text"] == delta["delta"]["message"]["content"]["text"]
        assert len(delta["logprobs"]["token_ids"]) == len(delta["logprobs"]["logprobs"]) > 0
    assert len({len(delta["logprobs"]["token_ids"]) for delta in deltas}) > 1


def test_replies_of_tool_calls() -> None:
    """The non-streaming twin has arguments as compact, sorted JSON, and ``{}`` for none."""
    status, reply = Transcript.load("parallel-tools").reply()
    assert (status, list(reply)) == (200, ["id", "message", "finish_reason", "usage"])
    assert list(reply["message"]) == ["role", "tool_plan", "tool_calls"]
    first, second = (call["function"]["arguments"] for call in reply["message"]["tool_calls"])
    assert first == json.dumps(
        json.loads(first), separators=(",", ":"), sort_keys=True, ensure_ascii=False
    )
    assert json.loads(first)["passengers"][0] == {"name": "Zoë", "age": 34}
    assert second == "{}"
    types = [event["type"] for event in payloads(Transcript.load("parallel-tools"))]
    assert types[-3:] == ["tool-call-start", "tool-call-end", "message-end"]


def test_reply_of_an_answer() -> None:
    """The non-streaming twin has the joined text and no empty fields."""
    status, reply = Transcript.load("reasoning-rag").reply()
    assert status == 200
    assert list(reply["message"]) == ["role", "content", "citations"]
    assert [block["type"] for block in reply["message"]["content"]] == ["thinking", "text"]
    assert {citation["content_index"] for citation in reply["message"]["citations"]} == {1}
    assert Transcript.load("max-tokens").reply()[1]["finish_reason"] == "MAX_TOKENS"


def test_reply_of_a_failure() -> None:
    """A failed generation is an HTTP error where nothing is streamed."""
    stream = Transcript.load("error")
    events = payloads(stream)
    assert stream.reply() == (
        422,
        {
            "id": events[0]["id"],
            "message": events[-1]["delta"]["error"],
            "error_type": "INVALID_TOOL_GENERATION",
        },
    )


def test_reply_of_half_a_stream() -> None:
    """A transcript without message-end is a server's failure; one of no events cannot be read."""
    half = Transcript("half", Transcript.load("text").frames[:5])
    assert half.reply()[0] == Transcript.from_bytes(b"").reply()[0] == 500
    with pytest.raises(EventDecodeError):
        Transcript.from_bytes(b"data: {\n\n").reply()


def test_recorded_streams(recorded: Path) -> None:
    """A recorded stream is loaded byte for byte, with one frame an event, and has a twin."""
    stream = Transcript.load(recorded)
    assert stream.name == recorded.stem
    assert stream.body == recorded.read_bytes()
    assert len(stream.frames) == stream.body.count(b"data: ") == len(stream.events) + 1
    status, reply = stream.reply()
    assert reply["id"] == json.loads(stream.frames[0].partition(b"data: ")[2])["id"]
    assert status == (422 if "error" in recorded.stem else 200)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no-such-name", "rag-accurate"),
        ("/no/such/path.sse", "rag-accurate"),
        (Path("/"), "rag-accurate"),
        (3, "got int"),
        (None, "got NoneType"),
    ],
)
def test_no_such_transcript(source: Any, message: str) -> None:
    """What is neither a name nor a readable file is refused, saying what there is."""
    with pytest.raises(ConfigurationError, match=message):
        transcript(source)


def test_round_trip_through_events(shipped: Transcript) -> None:
    """Written from its parsed events, or from their JSON, a transcript says the same."""
    from_models = Transcript.of(shipped.events)
    assert [e.model_dump() for e in from_models.events] == [e.model_dump() for e in shipped.events]
    assert Transcript.of(payloads(shipped)).frames == shipped.frames
    assert from_models.frames[-1] == DONE


def test_round_trip_through_a_file(shipped: Transcript, tmp_path: Path) -> None:
    """A transcript's body is its file."""
    path = tmp_path / "copy.sse"
    path.write_bytes(shipped.body)
    assert Transcript.load(path) == Transcript("copy", shipped.frames)
    assert Transcript.load(str(path)).frames == shipped.frames


def test_an_unknown_event_is_written_as_it_is() -> None:
    """Events of tomorrow have frames too."""
    event = {"type": "tomorrow", "text": "°", "n": [1, 2]}
    frame = b'event: tomorrow\ndata: {"type":"tomorrow","text":"\xc2\xb0","n":[1,2]}\n\n'
    assert encode_event(event) == frame
    assert encode_event(parse_event(event)) == frame


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"data: x", b":", b"\r"])).map(
        b"".join
    )
)
def test_frames_join_to_the_body(body: bytes) -> None:
    """Any body is cut without loss, and each frame but the last ends with a blank line."""
    frames = Transcript.from_bytes(body).frames
    assert b"".join(frames) == body
    assert all(frame.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")) for frame in frames[:-1])
    assert all(frames)


@pytest.mark.parametrize(
    ("frame", "done"),
    [
        (DONE, True),
        (b"data:[DONE]\r\n\r\n", True),
        (b"data: [DONE]", True),
        (b'event: x\ndata: {"text":"[DONE]"}\n\n', False),
        (b"data: [DONE] and more\n\n", False),
    ],
)
def test_is_done(frame: bytes, done: bool) -> None:
    """[DONE] is known with any line ends, and not mistaken for text that mentions it."""
    assert is_done(frame) is done
