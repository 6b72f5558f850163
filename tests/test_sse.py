"""The SSE decoder against the standard's rules, its own examples and a slow decoder."""

import json
import random
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference_decoder import BOM, reference

from rxcohere.sse import ServerSentEvent, SSEDecoder, comment, encode

STREAMS = Path(__file__).resolve().parents[2] / "shared" / "streams"

FRAMES = (
    b'event: content-delta\ndata: {"type":"content-delta","index":0}\n\n',
    b'event: content-delta\ndata: {"text":" 20\xc2\xb0C"}\n\n',
    b"data: [DONE]\n\n",
)

# Every kind of field, line end and oddity that the rules mention, the common frame among them.
RICH = (
    BOM
    + FRAMES[0]
    + b": a comment\n\n"
    + b"event: add\r\ndata: one\r\ndata:  two\r\nid: 7\r\n\r\n"
    + b"data:three\rdata\r\r"
    + FRAMES[1]
    + b"retry: 250\n\n"
    + b"event: \xc3\xa9v\xc3\xa9nement\r\ndata: \xe2\x80\xa8\xf0\x9f\x8e\x89\xff\n\r\n"
    + b"id: x\0y\nevent\nretry: +5\nbogus: 1\ndata:\n\r"
    + b"id\n\n"
    + FRAMES[0]
    + FRAMES[0]
    + b"data: a\ndata: b\n\n"
    + BOM
    + b"data: not a field\n\n"
    + FRAMES[2]
    + b"event: lost\ndata: unfinished"
)


def decode(chunks: Iterable[bytes]) -> list[ServerSentEvent]:
    decoder = SSEDecoder()
    events: list[ServerSentEvent] = []
    for chunk in chunks:
        events += decoder.feed(chunk)
    return events + decoder.close()


def decode_data(chunks: Iterable[bytes]) -> list[bytes]:
    decoder = SSEDecoder()
    return [data for chunk in chunks for data in decoder.feed_data(chunk)]


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def cut_at(body: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(body)) for place in places), len(body)]
    return [body[start:stop] for start, stop in pairwise(edges)]


def data_of(body: bytes) -> list[bytes]:
    return [event.data for event in decode([body])]


# Rule 1: encoding and byte order mark


def test_data_is_the_bytes_of_the_wire() -> None:
    """Valid and invalid UTF-8 alike come out as they went in."""
    assert data_of(b"data: \xc3\xa9\xff\xe2\x82\n\n") == [b"\xc3\xa9\xff\xe2\x82"]


def test_event_name_and_id_replace_invalid_utf8() -> None:
    """Invalid bytes in the type and the id become U+FFFD."""
    for head in (b"", b":\n"):  # by the bulk path, and line by line
        [event] = decode([head + b"event: a\xffb\ndata: x\n\n"])
        assert event.event == "a\ufffdb"
    [event] = decode([b"id: \xc3(\ndata: x\n\n"])
    assert event.id == "\ufffd("


@pytest.mark.parametrize("places", [[], [1], [2], [1, 2], [3], [1, 2, 3], [0, 0, 1, 1, 2, 2]])
def test_one_byte_order_mark_at_the_start_is_stripped(places: list[int]) -> None:
    """The mark is no part of the first field name, however it is split, empty chunks included."""
    assert decode(cut_at(BOM + b"data: x\n\n", places)) == [ServerSentEvent(data=b"x")]


@pytest.mark.parametrize(
    "body",
    [BOM + BOM + b"data: x\n\n", b"\n" + BOM + b"data: x\n\n", b"\xef\xbbdata: x\n\n"],
    ids=["second mark", "mark after the start", "two thirds of a mark"],
)
def test_other_byte_order_marks_are_content(body: bytes) -> None:
    """A mark elsewhere, or a part of one, makes the line an unknown field."""
    assert decode([body]) == []
    assert decode(cut(body, 1)) == []


def test_byte_order_mark_in_data_is_kept() -> None:
    """A mark at the start of data is data."""
    assert data_of(b"data: " + BOM + b"x\n\n") == [BOM + b"x"]


# Rule 2: line ends


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_lines_end_at_lf_cr_and_crlf(end: bytes) -> None:
    """The three line ends mean the same, in one chunk and byte by byte."""
    body = end.join([b"event: e", b"data: a", b"data: b", b"", b"data: c", b"", b""])
    want = [ServerSentEvent("e", b"a\nb"), ServerSentEvent(data=b"c")]
    assert decode([body]) == want
    assert decode(cut(body, 1)) == want


@pytest.mark.parametrize("char", "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e\0", ids=ascii)
def test_nothing_else_ends_a_line(char: str) -> None:
    """What str.splitlines takes for a line end is content."""
    raw = f"a{char}data: b{char}".encode()
    assert data_of(b"data: " + raw + b"\n\n") == [raw]
    assert data_of(b"data:" + raw + b"\ndata: " + raw + b"\n\n") == [raw + b"\n" + raw]


def test_crlf_split_over_chunks_is_one_line_end() -> None:
    """The LF after a CR that ended a chunk makes no blank line, also past an empty chunk."""
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\ndata: b\r") == []
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"\r") == [ServerSentEvent(data=b"a\nb")]
    assert decoder.feed(b"\ndata: c\n\n") == [ServerSentEvent(data=b"c")]


def test_only_one_lf_belongs_to_a_cr() -> None:
    """CR, then LF LF in the next chunk, is a line end and a blank line."""
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"\n\n") == [ServerSentEvent(data=b"a")]


def test_cr_at_the_end_of_input_is_a_line_end() -> None:
    """A blank line made by a CR and the end of input dispatches the event, once."""
    assert decode([b"data: x\n\r"]) == [ServerSentEvent(data=b"x")]
    assert decode([b"data: x\r", b"\r"]) == [ServerSentEvent(data=b"x")]
    assert decode([b"data: x\n\r", b"\n"]) == [ServerSentEvent(data=b"x")]


# Rule 3: what is dispatched


def test_empty_data_field_dispatches_an_empty_string() -> None:
    """`data:`, `data: ` and `data` each are a data field with an empty value."""
    for line in (b"data:", b"data: ", b"data"):
        assert decode([line + b"\n\n"]) == [ServerSentEvent()]
        assert decode([b"event: e\n" + line + b"\n\n"]) == [ServerSentEvent("e")]


@pytest.mark.parametrize(
    "block", [b"event: e", b"id: 1", b"retry: 1", b": c", b"bogus", b"datax: 1"]
)
def test_block_without_data_dispatches_nothing(block: bytes) -> None:
    """No phantom event, neither for a first block nor once an id is set."""
    assert decode([block + b"\n\n"]) == []
    assert decode([b"id: 0\ndata: x\n\n", block + b"\n\n\n\n"]) == [
        ServerSentEvent(data=b"x", id="0")
    ]


def test_block_without_data_clears_the_type_and_commits_the_id() -> None:
    """The next event has the default type and the new id."""
    want = [ServerSentEvent("message", b"x", "1")]
    assert decode([b"event: e\nid: 1\n\ndata: x\n\n"]) == want
    decoder = SSEDecoder()
    assert decoder.feed(b"event: e\nid: 1\n") == []
    assert decoder.last_event_id == ""
    assert decoder.feed(b"\n") == []
    assert decoder.last_event_id == "1"
    assert decoder.feed(b"data: x\n\n") == want


# Rule 4: fields


def test_one_leading_space_is_removed() -> None:
    """Exactly one U+0020 goes; further spaces, tabs and trailing spaces stay."""
    body = b"data:  a \n\ndata:\tb\n\ndata: \tc\n\ndata:   \n\n"
    assert data_of(body) == [b" a ", b"\tb", b"\tc", b"  "]
    assert [e.event for e in decode([b"event:  e \ndata: x\n\n"])] == [" e "]


def test_line_of_spaces_is_not_blank() -> None:
    """A space before the line end makes the line a field of unknown name."""
    assert data_of(b"data: a\n \ndata: b\n\t\n\n") == [b"a\nb"]


def test_line_without_colon_is_a_field_name() -> None:
    """`event` and `id` alone set the type and the id to the empty string."""
    assert decode([b"id: 1\n\nevent: e\nevent\nid\ndata: x\n\n"]) == [ServerSentEvent(data=b"x")]


def test_field_names_are_exact() -> None:
    """Other letter case, a space before the name or the colon: another field."""
    assert data_of(b"Data: a\n\n data: b\n\ndata : c\n\nxdata: d\n\ndata2: e\n\n") == []


def test_only_the_first_colon_separates() -> None:
    """Colons in the value are content."""
    body = b"event: a: b\ndata: c: d:\n\ndata::\n\n"
    assert decode([body]) == [ServerSentEvent("a: b", b"c: d:"), ServerSentEvent(data=b":")]


def test_data_lines_join_with_lf() -> None:
    """Each data field adds a line, empty ones too, whatever stands between."""
    assert data_of(b"data: a\n: c\ndata\nevent: e\ndata:b\ndata:\n\n") == [b"a\n\nb\n"]


def test_last_event_field_wins_and_an_empty_one_resets() -> None:
    """The type is that of the last `event` field; empty means the default type."""
    assert [e.event for e in decode([b"event: a\nevent: b\ndata: x\n\n"])] == ["b"]
    for body in (b"event: \ndata: x\n\n", b"event:\ndata: x\n\n", b"event: a\nevent:\ndata: x\n\n"):
        assert [e.event for e in decode([body])] == ["message"]


def test_event_after_data_counts() -> None:
    """The order of the fields within a block does not matter, nor does a second data line."""
    assert decode([b"data: x\nevent: e\n\n"]) == [ServerSentEvent("e", b"x")]
    assert decode([b"event: e\ndata: x\ndata: y\n\n"]) == [ServerSentEvent("e", b"x\ny")]


# Rule 5: id and retry


def test_id_persists_until_it_is_changed() -> None:
    """Later events carry the last id, also those of the common form; an empty id clears it."""
    body = b"id: 1\ndata: a\n\n" + b"data: b\n\n" + b"event: e\ndata: c\n\n" + b"id:\ndata: d\n\n"
    assert [e.id for e in decode([body])] == ["1", "1", "1", ""]


def test_id_with_nul_is_ignored() -> None:
    """The id before it stays."""
    assert [e.id for e in decode([b"id: 1\nid: 2\x003\ndata: a\n\n"])] == ["1"]


def test_id_of_an_unfinished_block_is_not_committed() -> None:
    """At the end of input the last id is that of the last whole block."""
    decoder = SSEDecoder()
    decoder.feed(b"id: 1\n\nid: 2\ndata: x\n")
    decoder.close()
    assert decoder.last_event_id == "1"


def test_retry_is_reported_by_its_event_and_kept_by_the_decoder() -> None:
    """Leading zeros are digits; the next event does not repeat the value."""
    decoder = SSEDecoder()
    assert decoder.retry is None
    events = decoder.feed(b"retry: 0050\ndata: a\n\ndata: b\n\nretry:7\n\n:\ndata: c\n\n")
    assert [e.retry for e in events] == [50, None, None]
    assert decoder.retry == 7


@pytest.mark.parametrize(
    "value",
    ["", "+5", "-5", "5_000", "5.0", " 5", "5 ", "0x5", "\uff15", "\u0665", "\u00b2", "9" * 5000],
    ids=ascii,
)
def test_retry_takes_ascii_digits_only(value: str) -> None:
    """Anything else, and more digits than a time can have, is ignored and harms nothing."""
    decoder = SSEDecoder()
    events = decoder.feed(f"retry: 1\nretry: {value}\ndata: x\n\n".encode())
    assert events == [ServerSentEvent(data=b"x", retry=1)]
    assert decoder.retry == 1


# Rule 6: any chunking, any size


def test_empty_chunk_is_not_the_end() -> None:
    """Empty chunks anywhere change nothing."""
    chunks = [piece for byte in cut(RICH, 1) for piece in (b"", byte)]
    assert decode(chunks) == reference(RICH)


def test_every_split_of_a_rich_stream() -> None:
    """Two chunks, cut anywhere, give what one chunk gives."""
    want = reference(RICH)
    assert len(want) == 10
    for place in range(len(RICH) + 1):
        chunks = [RICH[:place], RICH[place:]]
        assert decode(chunks) == want, place
        assert decode_data(chunks) == [e.data for e in want], place


def test_every_chunk_size_of_a_rich_stream() -> None:
    """Chunks of one size, from one byte to the whole stream, give the same."""
    want = reference(RICH)
    for size in range(1, len(RICH) + 1):
        assert decode(cut(RICH, size)) == want, size
        assert decode_data(cut(RICH, size)) == [e.data for e in want], size


def test_one_long_line() -> None:
    """A line of 16 MiB in chunks of 4 KiB, and one of 256 KiB byte by byte, come out whole."""
    line = random.Random(0).randbytes(1 << 16).replace(b"\n", b"-").replace(b"\r", b"-")
    for data, size in ((line * 256, 4096), (line * 4, 1)):
        assert decode_data(cut(b"data: " + data + b"\n\n", size)) == [data]


def test_one_event_of_many_lines() -> None:
    """An event of 16 MiB made of short lines comes out whole, from small chunks and from one."""
    line = b"0123456789abcdef"
    count = (1 << 24) // len(line)
    body = (b"data: " + line + b"\n") * count + b"\n"
    want = b"\n".join([line] * count)
    for size in (4096, len(body)):
        assert decode_data(cut(body, size)) == [want]


@pytest.mark.parametrize(
    "block",
    [
        FRAMES[0],
        FRAMES[0].replace(b"\n", b"\r\n"),
        FRAMES[0] + b":\n\n",
        b"id: 1\n" + FRAMES[0],
        b"data: x\r\r" + b"\n" * 5,
    ],
    ids=["common", "CRLF", "heartbeats", "ids", "CR and blank lines"],
)
def test_many_events_in_one_chunk(block: bytes) -> None:
    """50,000 blocks in one chunk give their events, whether or not they have the common form."""
    count = 50_000
    [want] = decode([block])
    assert decode([block * count]) == [want] * count
    assert decode_data([block * count]) == [want.data] * count


# Rule 7: the end of input


@pytest.mark.parametrize(
    "tail", [b"data: b", b"data: b\n", b"event: e\ndata: b\r", b"\xef\xbb", b"d"]
)
def test_unfinished_event_is_discarded_at_the_end(tail: bytes) -> None:
    """Without its blank line an event does not come out; what came before does."""
    for head, want in ((b"", []), (FRAMES[2], [ServerSentEvent(data=b"[DONE]")])):
        decoder = SSEDecoder()
        assert decoder.feed(head + tail) == want
        assert decoder.pending > 0
        assert decoder.close() == []
        assert decoder.pending == 0


def test_closed_decoder_takes_no_more() -> None:
    """Feeding after close raises and says what to do; closing again does nothing."""
    decoder = SSEDecoder()
    assert decoder.close() == []
    assert decoder.close() == []
    for feed in (decoder.feed, decoder.feed_data):
        with pytest.raises(ValueError, match=r"^expected no more input .*: use a new SSEDecoder$"):
            feed(b"data: x\n\n")


# Rule 8: at once


@pytest.mark.parametrize(
    "ends", ["\n\n", "\r\n\r\n", "\n\r\n", "\r\n\n", "\r\r", "\n\r"], ids=ascii
)
@pytest.mark.parametrize("head", [b"", b": c\n", b"data: y\n"], ids=["common", "comment", "lines"])
def test_event_comes_out_with_its_blank_line(head: bytes, ends: str) -> None:
    """The chunk that ends the blank line returns the event, whole or byte by byte."""
    body = head + b"data: x" + ends.encode()
    want = reference(body)
    assert len(want) == 1
    assert SSEDecoder().feed(body) == want
    assert SSEDecoder().feed_data(body) == [want[0].data]
    decoder = SSEDecoder()
    # The LF of a closing CRLF is not waited for: the CR before it has ended the blank line.
    last = -2 if ends.endswith("\r\n") else -1
    for byte in cut(body[:last], 1):
        assert decoder.feed(byte) == []
    assert decoder.feed(body[last:][:1]) == want
    assert decoder.pending == 0
    assert decoder.feed(body[last:][1:]) == []


# What is held


def test_pending_counts_what_the_unfinished_event_holds() -> None:
    """The unfinished line and the data lines with their line ends count; whole events do not."""
    decoder = SSEDecoder()
    held: list[int] = []
    for chunk in (b"", b"\xef", BOM[1:], b"da", b"ta: abc", b"\n", b"data\n", b": c", b"\n", b"\n"):
        decoder.feed(chunk)
        held.append(decoder.pending)
    assert held == [0, 1, 0, 2, 9, 4, 5, 8, 5, 0]


def test_pending_is_zero_between_events_and_grows_within() -> None:
    """A frame and a part of the next hold that part only."""
    decoder = SSEDecoder()
    assert len(decoder.feed_data(FRAMES[0] + FRAMES[1] + b"data: ab")) == 2
    assert decoder.pending == 8
    assert decoder.feed_data(b"c\n\n") == [b"abc"]
    assert decoder.pending == 0


@pytest.mark.parametrize(
    ("fed", "data"),
    [
        (b"", b""),
        (b"data: a\n\n", b""),
        (b"data: a\ndata:b\n", b"a\nb"),
        (b"data: a\ndata: b", b"a\nb"),
        (b"event: x\ndata:  a", b" a"),
        (b"data: a\ndata", b"a"),
        (b": data: a", b""),
        (b"id: 7", b""),
    ],
)
def test_the_data_of_an_unfinished_event(fed: bytes, data: bytes) -> None:
    """It is there as far as it came, without names of fields and without comments."""
    decoder = SSEDecoder()
    for at in range(len(fed)):
        decoder.feed(fed[at : at + 1])
    assert decoder.pending_data == data


def test_pending_sees_a_flood_of_empty_data_lines() -> None:
    """Lines without content still count, so a size limit ends them."""
    decoder = SSEDecoder()
    decoder.feed(b"data\n" * 1000)
    assert decoder.pending == 1000


# The bulk path


@pytest.mark.parametrize(
    "odd",
    [
        b"data: a\ndata: b\n\n",
        b"event: e\n\n",
        b"event: e\nevent: f\ndata: x\n\n",
        b"event: e\ndata:x\n\n",
        b"event:e\ndata: x\n\n",
        b"event: e\ndata: \n\n",
        b"data: x\nevent: e\n\n",
        b"data: x\nid: 1\n\n",
        b"data: x\n: c\n\n",
        b": c\n\n",
        b": event: e\ndata: x\n\n",
        b"\n",
        b"\n\n\n",
        b"junk\n",
        b"junk\n\n",
        b"data: x\r\r",
        b"data: x\ry\n\n",
        b"event: e\rdata: x\n\n",
        b"data: \0\n\n",
        BOM + b"data: x\n\n",
    ],
)
def test_block_of_another_form_between_common_frames(odd: bytes) -> None:
    """Nothing is skipped, merged or reordered around a block that the bulk path leaves alone."""
    for body in (odd + FRAMES[0], FRAMES[0] + FRAMES[1] + odd, (FRAMES[0] + odd) * 3 + FRAMES[2]):
        want = reference(body)
        assert decode([body]) == want
        assert decode_data([body]) == [e.data for e in want]


TOKENS = [
    *FRAMES,
    *(b"data: ", b"data:", b"data", b"event: ", b"event:", b"event", b"id: ", b"id", b"retry: "),
    *(b"\n", b"\n", b"\n\n", b"\r", b"\r\n", b":", b" ", b"x", b"{}", b"12", b"\0"),
    *(BOM, b"\xef", b"\xbb", b"\xff", b"\xc3\xa9", b"\xe2\x80\xa8"),
]
BODIES = st.lists(st.sampled_from(TOKENS), max_size=40).map(b"".join)
PLACES = st.lists(st.integers(0, 300), max_size=12)


@given(body=BODIES, places=PLACES)
@settings(deadline=None, max_examples=400)
@example(body=b"event: a\ndata: x\ndata: \n\nevent: b\n\n", places=[])
@example(body=b"data: x\n\n\ndata: y\n\ndata: z\n\n\n", places=[9])
def test_chunking_and_bulk_path_change_nothing(body: bytes, places: list[int]) -> None:
    """In bulk, cut anywhere or byte by byte, as events or data: always the standard's events."""
    want = reference(body)
    chunks = cut_at(body, places)
    assert decode([body]) == want
    assert decode(chunks) == want
    assert decode(cut(body, 1)) == want  # no chunk holds a frame: line by line throughout
    assert decode_data([body]) == [e.data for e in want]
    assert decode_data(chunks) == [e.data for e in want]


@given(body=BODIES, places=PLACES, choices=st.randoms(use_true_random=False))
@settings(deadline=None)
def test_feed_and_feed_data_may_be_mixed(
    body: bytes, places: list[int], choices: random.Random
) -> None:
    """Either call leaves the decoder in the same state."""
    decoder = SSEDecoder()
    found: list[bytes] = []
    for chunk in cut_at(body, places):
        if choices.random() < 0.5:
            found += decoder.feed_data(chunk)
        else:
            found += [event.data for event in decoder.feed(chunk)]
    assert found == [event.data for event in reference(body)]


@given(body=BODIES, places=PLACES)
@settings(deadline=None)
def test_state_does_not_depend_on_chunking(body: bytes, places: list[int]) -> None:
    """The last id and reconnection time are the same for any chunking, and so is what is held."""
    whole, parts = SSEDecoder(), SSEDecoder()
    whole.feed(body)
    for chunk in cut_at(body, places):
        parts.feed_data(chunk)
    assert parts.last_event_id == whole.last_event_id
    assert parts.retry == whole.retry
    assert parts.pending == whole.pending


# The standard's examples


def test_example_of_one_event_in_three_lines() -> None:
    """The stock ticker: three data lines are one event."""
    assert decode([b"data: YHOO\ndata: +2\ndata: 10\n\n"]) == [
        ServerSentEvent(data=b"YHOO\n+2\n10")
    ]


def test_example_of_four_blocks() -> None:
    """A comment, an event with an id, one that clears it, one whose data starts with a space."""
    body = (
        b": test stream\n\ndata: first event\nid: 1\n\n"
        b"data:second event\nid\n\ndata:  third event\n\n"
    )
    assert decode([body]) == [
        ServerSentEvent(data=b"first event", id="1"),
        ServerSentEvent(data=b"second event"),
        ServerSentEvent(data=b" third event"),
    ]


def test_example_of_empty_data() -> None:
    """One empty line of data, two of them, and a block that the end of input discards."""
    assert data_of(b"data\n\ndata\ndata\n\ndata:") == [b"", b"\n"]


def test_example_of_the_optional_space() -> None:
    """With and without the space after the colon the events are identical."""
    first, second = decode([b"data:test\n\ndata: test\n\n"])
    assert first == second == ServerSentEvent(data=b"test")


def test_example_of_event_types() -> None:
    """Events of two types, each with its data."""
    body = (
        b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n"
    )
    assert decode([body]) == [
        ServerSentEvent("add", b"73857293"),
        ServerSentEvent("remove", b"2153"),
        ServerSentEvent("add", b"113411"),
    ]


# Writing

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=10
)


@given(
    data=st.binary(max_size=30) | BODIES,
    event=st.none() | NAMES,
    id=st.none() | NAMES | st.just(""),
    retry=st.none() | st.integers(0, 10**12),
    places=PLACES,
)
@settings(deadline=None)
def test_decoding_gives_back_what_was_encoded(
    data: bytes, event: str | None, id: str | None, retry: int | None, places: list[int]
) -> None:
    """Any data comes back with its line ends as LF, and so do type, id and retry."""
    frame = encode(data, event=event, id=id, retry=retry)
    lines = re.sub(rb"\r\n?", b"\n", data)
    want = ServerSentEvent(event or "message", lines, id or "", retry)
    assert decode(cut_at(frame, places)) == [want]
    assert decode([frame, frame]) == [want, want]


@given(text=TEXT)
@settings(deadline=None)
def test_text_is_encoded_as_utf8(text: str) -> None:
    """A str gives the frame of its UTF-8 bytes; U+2028 and its like do not split lines."""
    assert encode(text) == encode(text.encode())


def test_encoded_frame_is_the_common_form() -> None:
    """Fields in a fixed order, one space after the colon, one data line per line, a blank line."""
    assert encode(b"{}", event="e") == b"event: e\ndata: {}\n\n"
    assert encode(" a\r\nb\rc\n", event="e", id="", retry=0) == (
        b"event: e\nid: \nretry: 0\ndata:  a\ndata: b\ndata: c\ndata: \n\n"
    )


@pytest.mark.parametrize("bad", ["a\rb", "a\n", "\0"], ids=ascii)
@pytest.mark.parametrize("field", ["event", "id"])
def test_encode_refuses_what_would_break_the_frame(field: str, bad: str) -> None:
    """A line end or a NUL in the type or the id is a ValueError that names the field."""
    with pytest.raises(ValueError, match=f"expected {field} without"):
        encode("x", event=bad if field == "event" else None, id=bad if field == "id" else None)


def test_encode_refuses_a_negative_retry() -> None:
    """A reader would ignore it, so the writer is told."""
    with pytest.raises(ValueError, match="0 or more"):
        encode("x", retry=-1)


@given(text=TEXT | st.sampled_from(["", "a\nb", "\r", "\r\ndata: x\n\n", "ping"]))
@settings(deadline=None)
def test_comment_is_invisible(text: str) -> None:
    """Whatever its text, a comment dispatches nothing and leaves the events around it alone."""
    decoder = SSEDecoder()
    assert decoder.feed(comment(text)) == []
    assert decoder.pending == 0
    assert (
        decoder.feed(FRAMES[2] + comment(text) + FRAMES[2]) == [ServerSentEvent(data=b"[DONE]")] * 2
    )


def test_comment_form() -> None:
    """An empty comment is a lone colon; each line of the text is a comment line."""
    assert comment() == b":\n\n"
    assert comment("a\r\nb") == b": a\n: b\n\n"


# Recorded streams


@pytest.mark.skipif(not STREAMS.is_dir(), reason=f"no recorded streams at {STREAMS}")
def test_recorded_streams() -> None:
    """Each recorded event's type is that of its JSON, in random chunks and as data alone."""
    files = sorted(STREAMS.glob("*.sse"))
    assert files
    rng = random.Random(7)
    for file in files:
        body = file.read_bytes()
        want = reference(body)
        events = [event for event in want if event.data != b"[DONE]"]
        assert events, file.name
        for event in events:
            assert event.event == json.loads(event.data)["type"], file.name
        for count in (0, 1, 5, 50, 500):
            chunks = cut_at(body, (rng.randrange(len(body)) for _ in range(count)))
            assert decode(chunks) == want, file.name
            assert decode_data(chunks) == [event.data for event in want], file.name
