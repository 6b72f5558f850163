"""What a journal has to be able to do, wherever it keeps its streams."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Protocol

from rxcohere.bridges.journal.entries import JournalPage, Verdict
from rxcohere.errors import ConfigurationError
from rxcohere.events import ChatEvent

_STREAM_ID = re.compile(r"[A-Za-z0-9_.:-]{1,200}", re.ASCII)


class Journal(Protocol):
    """Streams of events, each with one producer and any number of readers.

    The producer holds a lease, which it renews; a stream whose lease has run out is abandoned, and
    stays so. The first verdict on a stream is the one that counts. Any method may be called on any
    loop that the journal works on, and raises `StreamNotFoundError` for a stream that is not there.
    """

    async def begin(self, stream_id: str, lease: float) -> None:
        """Begins a stream, with a lease of so many seconds.

        Raises:
            StreamExistsError: there is one of that id.
        """
        ...

    async def append(self, stream_id: str, events: Sequence[ChatEvent]) -> None:
        """Adds events, which get ids in the order in which they are.

        Raises:
            StreamAbandonedError: the lease has run out, or the stream has ended otherwise.
        """
        ...

    async def renew(self, stream_id: str, lease: float) -> None:
        """Makes the lease last so many seconds from now.

        Raises:
            StreamAbandonedError: it has run out, or the stream has ended otherwise.
        """
        ...

    async def close(self, stream_id: str, verdict: Verdict) -> None:
        """Ends the stream, if it has not ended yet."""
        ...

    async def read(self, stream_id: str) -> JournalPage:
        """All there is now, from the beginning."""
        ...

    async def tail(self, stream_id: str, after: str | None) -> JournalPage:
        """What comes after an entry, or from the beginning; waits until there is something."""
        ...

    async def request_abort(self, stream_id: str, reason: str) -> None:
        """Asks the producer to give the stream up."""
        ...

    async def abort_requested(self, stream_id: str) -> str:
        """Waits until somebody asks for that; gives the reason."""
        ...


def new_stream_id() -> str:
    """An id that nobody can guess."""
    return secrets.token_urlsafe(16)


def check_stream_id(stream_id: str) -> str:
    """The id, if it is one.

    Raises:
        ConfigurationError: it is not 1 to 200 of the characters ``A-Za-z0-9_.:-``.
    """
    if not isinstance(stream_id, str) or not _STREAM_ID.fullmatch(stream_id):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(
            f"a stream id has 1 to 200 characters of A-Za-z0-9_.:-, and this is {stream_id!r:.80}"
        )
    return stream_id
