"""What is read of a body, read by read: the same events and the same verdict for any reads."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fuzz.amounts import fuzzed
from fuzz.broken_streams import LIMIT, broken_bodies
from fuzz.verdicts import json_of, judged
from fuzz.wire import chunkings
from samples import text_delta

from rxcohere import ChatEvent, EventDecodeError, StreamError, StreamTruncatedError
from rxcohere.transport.reader import EventReader


class Reads:
    """A body of which each read gets the next chunk, as from aiohttp."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = iter([chunk for chunk in chunks if chunk])

    async def readany(self) -> bytes:
        return next(self._chunks, b"")


async def read_in(chunks: list[bytes]) -> tuple[list[ChatEvent], StreamError | None]:
    """The events, and the verdict."""
    response: Any = SimpleNamespace(content=Reads(chunks), connection=None)
    reader = EventReader(response, LIMIT)
    events: list[ChatEvent] = []
    try:
        while batch := await reader.read():
            events += batch
    except StreamError as error:
        return events, error
    return events, None


@fuzzed(few=80, many=10_000, chunks=chunkings(broken_bodies()))
async def test_reads_make_no_difference(chunks: list[bytes]) -> None:
    """Which events come, and the verdict, follow from the body alone."""
    want, verdict, _ = judged(b"".join(chunks))
    events, error = await read_in(chunks)
    assert [event.type for event in events] == [json_of(data)["type"] for data in want]
    if verdict == "silent":
        verdict = StreamTruncatedError
    assert (None if error is None else type(error)) == verdict


def of_size(size: int) -> bytes:
    """A frame whose data has so many bytes."""
    room = size - len(json.dumps(text_delta("")))
    return b"data: " + json.dumps(text_delta("x" * room)).encode() + b"\n\n"


DONE_TOO_EARLY = b"data: [DONE]\n\n"
BODIES: dict[str, Callable[[], bytes]] = {
    "at the limit": lambda: of_size(LIMIT),
    "over the limit": lambda: of_size(LIMIT + 1),
    "far over the limit": lambda: of_size(100) + of_size(LIMIT * 2),
    "done, then much more": lambda: of_size(100) + DONE_TOO_EARLY + of_size(LIMIT * 2),
}


@pytest.mark.nightly
@pytest.mark.parametrize("body", [make() for make in BODIES.values()], ids=list(BODIES))
async def test_every_cut_near_the_limit(body: bytes) -> None:
    """One read or two, cut anywhere: the limit is on the data, and the data refused is told."""
    want, verdict, refused = judged(body)
    for place in range(len(body)):
        events, error = await read_in([body[:place], body[place:]])
        assert len(events) == len(want), place
        assert type(error) is (StreamTruncatedError if verdict == "silent" else verdict), place
        if isinstance(error, EventDecodeError):
            assert refused.startswith(error.raw), (place, error.raw[:50])
