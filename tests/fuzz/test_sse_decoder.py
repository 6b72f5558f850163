"""The decoder, chunk by chunk, against the standard's steps over all that came so far."""

from random import Random
from typing import Any

from fuzz.amounts import fuzzed
from fuzz.wire import LINE_ENDS, chunkings, cut
from hypothesis import strategies as st
from reference_decoder import BOM, read

from rxcohere.sse import ServerSentEvent, SSEDecoder, comment, encode

_NAMES = st.sampled_from([b"data", b"data", b"data", b"event", b"id", b"retry", b"", b"Data", b"x"])
_SEPARATORS = st.sampled_from([b": ", b": ", b":", b":  ", b"", b" :", b":\t", b"::"])
_VALUES = st.one_of(
    st.sampled_from([b"", b" ", b"{}", b"[DONE]", b"message", b"a: b", BOM, BOM[:2], b"\xe2\x80"]),
    st.sampled_from(
        [b"\0", b"7\x00", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\x85"]
    ),
    st.sampled_from([b"0", b"007", b"+5", b"1_0", b"\xef\xbc\x95", b"9" * 640, b"9" * 641]),
    st.just(b"1" * 5000),
    st.binary(max_size=8),
)
_LINES = st.one_of(
    st.builds(lambda *parts: b"".join(parts), _NAMES, _SEPARATORS, _VALUES),
    st.sampled_from([b"", b"", b"", b"data: x", b"event: e", b"id: 1", b": comment", BOM]),
)
_COMMON = st.sampled_from(
    [b"event: e\ndata: {}\n\n", b"data: [DONE]\n\n", b"data: x\n\ndata: y\n\n"]
)
_PIECES = st.builds(lambda line, end: line + end, _LINES, LINE_ENDS) | _COMMON

BODIES = st.one_of(
    st.builds(
        lambda *parts: b"".join(parts),
        st.sampled_from([b"", b"", BOM, BOM + BOM, BOM[:1]]),
        st.lists(_PIECES, max_size=30).map(b"".join),
        st.sampled_from([b"", b"data: lost", b"id: 2", b"\r", BOM]),
    ),
    st.binary(max_size=200),
)


@fuzzed(few=200, many=50_000, chunks=chunkings(BODIES), how=st.randoms(use_true_random=False))
def test_every_chunk_brings_what_it_completes(chunks: list[bytes], how: Random) -> None:
    """After each chunk, by either call: the events so far, the ids, the times, what is held."""
    decoder = SSEDecoder()
    so_far = b""
    events: list[ServerSentEvent | bytes] = []
    for chunk in chunks:
        so_far += chunk
        events += decoder.feed_data(chunk) if how.random() < 0.5 else decoder.feed(chunk)
        want = read(so_far)
        assert len(events) == len(want.events)
        for event, wanted in zip(events, want.events, strict=True):
            assert event == (wanted.data if isinstance(event, bytes) else wanted)
        assert decoder.last_event_id == want.last_event_id
        assert decoder.retry == want.retry
        assert decoder.pending == want.held
    assert decoder.close() == []
    assert decoder.pending == 0


_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=8)
_LINES_OF_DATA = st.lists(st.binary(max_size=8).filter(lambda b: not {10, 13} & set(b)), min_size=1)


@fuzzed(
    few=100,
    many=20_000,
    frames=st.lists(
        st.fixed_dictionaries(
            {"data": _LINES_OF_DATA},
            optional={
                "event": _TEXTS,
                "id": _TEXTS,
                "retry": st.integers(0, 10**30),
                "comment": _TEXTS,
            },
        ),
        max_size=8,
    ),
    end=LINE_ENDS,
    data=st.data(),
)
def test_what_was_written_is_read(
    frames: list[dict[str, Any]], end: bytes, data: st.DataObject
) -> None:
    """Frames written one after another, with comments, give their events, and the ids they keep."""
    body, want, last_id = b"", [], ""
    for frame in frames:
        fields = {name: frame[name] for name in ("event", "id", "retry") if name in frame}
        body += comment(frame.get("comment", "")) + encode(end.join(frame["data"]), **fields)
        last_id = fields.get("id", last_id)
        lines = b"\n".join(frame["data"])
        event = fields.get("event") or "message"
        want.append(ServerSentEvent(event, lines, last_id, fields.get("retry")))
    decoder = SSEDecoder()
    chunks = cut(data.draw, body.replace(b"\n", end))
    assert [event for chunk in chunks for event in decoder.feed(chunk)] == want
    assert decoder.pending == 0
