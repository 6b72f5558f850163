"""What happens to the bytes that a connection carries from the server to the client."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from rxcohere.errors import ConfigurationError
from rxcohere.options import check_seconds, check_whole

CutEnding: TypeAlias = Literal["close", "reset", "half-close", "stall"]
"""What comes after the last byte that is let through: FIN both ways; RST both ways; FIN towards the
client only; or nothing, while the connection stays open."""

_ENDINGS: tuple[CutEnding, ...] = get_args(CutEnding)


@dataclass(frozen=True, kw_only=True)
class Wire:
    r"""What happens to the bytes that one connection carries from the server to the client.

    By default nothing does. Offsets count bytes on the wire, from 0: the status line, the headers
    and the framing of the body are bytes like others, and a second response on the same connection
    goes on counting.

    Attributes:
        delay: seconds by which each byte is late. It is latency: one delay for a whole answer, not
            one for each of its pieces; but no more than 128 KiB are under way at a time.
        rate: bytes a second; None for no limit.
        corrupt_at: the offset of the byte that is changed, or the offsets of several.
        flip: which bits of such a byte are flipped, 1 to 255, so that it always becomes another.
        cut_after: how many bytes are let through before the connection is cut, exactly; 0 cuts it
            when the server begins to answer. None never cuts it.
        ending: how it is cut. ``close`` ends it in good order, both ways, as a server does that
            exits; ``reset`` does so with an RST, both ways, once the bytes have been sent;
            ``half-close`` ends the answer only, and goes on forwarding what the client sends;
            ``stall`` says nothing more, until the client leaves or `FaultProxy.heal` is called.
        counted_from: a text; offsets count from behind its first occurrence on the connection, and
            nothing happens before it. ``b"\r\n\r\n"`` counts the bytes of the (first) body.

    Raises:
        ConfigurationError: an attribute is out of its range, or without effect.
    """

    delay: float = 0.0
    rate: float | None = None
    corrupt_at: int | Iterable[int] = ()
    flip: int = 1
    cut_after: int | None = None
    ending: CutEnding = "close"
    counted_from: bytes = b""

    def __post_init__(self) -> None:
        check_seconds("delay", self.delay, zero=True)
        if self.rate is not None:
            _check_rate(self.rate)
        at = self.corrupt_at
        offsets = tuple(at) if isinstance(at, Iterable) else (at,)
        for offset in offsets:
            check_whole("corrupt_at", offset, 0)
        object.__setattr__(self, "corrupt_at", tuple(sorted({*offsets})))
        check_whole("flip", self.flip, 1)
        if self.flip > 255:
            raise ConfigurationError(f"expected flip to be bits of one byte, got {self.flip}")
        if self.cut_after is not None:
            check_whole("cut_after", self.cut_after, 0)
        if self.ending not in _ENDINGS:
            raise ConfigurationError(
                f"expected ending to be {', '.join(_ENDINGS)}, got {self.ending!r}"
            )
        text: object = self.counted_from
        if not isinstance(text, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"expected counted_from to be bytes, got {text!r}")
        if self.ending != "close" and self.cut_after is None:
            raise ConfigurationError(f"expected cut_after with ending={self.ending!r}")
        if self.counted_from and self.cut_after is None and not offsets:
            raise ConfigurationError("expected cut_after or corrupt_at with counted_from")


def _check_rate(rate: object) -> None:
    if (
        not isinstance(rate, (int, float))
        or isinstance(rate, bool)
        or not sys.float_info.min <= rate <= sys.float_info.max
    ):
        raise ConfigurationError(f"expected rate to be above 0 bytes a second, got {rate!r}")


UNHARMED = Wire()
"""Carries everything as it is."""


class Passage:
    """The offsets of one connection: what its wire does to the content of each piece, in turn.

    Args:
        wire: says what.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._position: int | None = None if wire.counted_from else 0
        """The offset of the next byte; None before there are offsets."""
        self._tail = b""
        """The end of what came before, which may hold the beginning of ``counted_from``."""

    def take(self, piece: bytes) -> tuple[bytes, bytes | None]:
        """What is let through of a piece; and what is not, if the connection is cut now."""
        start = 0
        if self._position is None:
            found = self._find(piece)
            if found is None:
                return piece, None
            start, self._position = found, 0
        before = self._position - start  # the offset of the piece's first byte, may be negative
        self._position = before + len(piece)
        rest: bytes | None = None
        cut_after = self._wire.cut_after
        if cut_after is not None and cut_after <= self._position:
            rest = piece[cut_after - before :]
            piece = piece[: cut_after - before]
        return self._corrupted(piece, before, start), rest

    def _find(self, piece: bytes) -> int | None:
        """The position in the piece from which on there are offsets."""
        text = self._wire.counted_from
        seen = self._tail + piece
        at = seen.find(text)
        if at < 0:
            self._tail = seen[max(0, len(seen) - len(text) + 1) :]
            return None
        return at + len(text) - len(self._tail)

    def _corrupted(self, piece: bytes, before: int, start: int) -> bytes:
        offsets = self._wire.corrupt_at
        assert isinstance(offsets, tuple)
        first = bisect_left(offsets, before + start)
        last = bisect_left(offsets, before + len(piece))
        if first == last:
            return piece
        changed = bytearray(piece)
        for offset in offsets[first:last]:
            changed[offset - before] ^= self._wire.flip
        return bytes(changed)
