"""Streams as bytes: framed in any way that the standard allows, cut anywhere."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from samples import JSON

Draw = Callable[..., Any]

LINE_ENDS = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\r"])

_BYTES = 150
"""As many chunks of one byte; each costs a turn of the loop."""

_LINE_END = re.compile(rb"\r\n|\r|\n").finditer

_STYLES = st.sampled_from(
    [{"ensure_ascii": False, "separators": (",", ":")}] * 3
    + [{"ensure_ascii": False}, {}, {"indent": 1}, {"sort_keys": True}]
)
_NOISE = st.sampled_from(
    [
        b": keep-alive\n\n",
        b":\n",
        b"id: 7\n",
        b"id\n\n",
        b"retry: 10\n",
        b"x: y\n",
        b"\n",
        b"data: \n\n",
    ]
)


@st.composite
def chunkings(draw: Draw, bodies: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bodies in chunks: as a whole, byte by byte for a while, or cut at places or line ends."""
    return cut(draw, draw(bodies))


def cut(draw: Draw, body: bytes) -> list[bytes]:
    """The body in chunks, some of them empty."""
    how = draw(st.sampled_from(["whole", "bytes", "anywhere", "anywhere", "at lines", "at lines"]))
    places: list[int] = []
    if how == "bytes":
        first = draw(st.integers(0, len(body)))
        places = list(range(first, min(first + _BYTES, len(body))))
    elif how == "anywhere":
        places = draw(st.lists(st.integers(0, len(body)), max_size=12))
    elif how == "at lines" and (ends := [each.end() for each in _LINE_END(body)]):
        places = draw(st.lists(st.sampled_from(ends), max_size=12))
        places = [max(place - draw(st.integers(0, 3)), 0) for place in places]
    return [body[start:stop] for start, stop in pairwise([0, *sorted(places), len(body)])]


def framed(draw: Draw, data: bytes, name: str | None) -> bytes:
    """One frame: its event line before or after the data, or none, and noise between frames."""
    lines = [
        b"data: " + line if draw(st.integers(0, 5)) else b"data:" + line
        for line in data.split(b"\n")
    ]
    if name is not None:
        match draw(st.integers(0, 7)):
            case 0:
                lines.append(b"event: " + name.encode())
            case 1:
                pass
            case _:
                lines.insert(0, b"event: " + name.encode())
    frame = b"\n".join(lines) + b"\n\n"
    if draw(st.integers(0, 9)) == 0:
        frame = draw(_NOISE) + frame
    return frame.replace(b"\n", draw(LINE_ENDS))


def frames_of(draw: Draw, events: list[JSON]) -> list[bytes]:
    """A frame for each event, in whatever form JSON and the standard allow."""
    return [framed(draw, json.dumps(e, **draw(_STYLES)).encode(), e["type"]) for e in events]
