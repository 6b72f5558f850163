"""What a journal has to be able to do, wherever it keeps its streams."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Protocol

from rxcohere.bridges.journal.entries import JournalPage
from rxcohere.bridges.journal.verdicts import Verdict
from rxcohere.errors import ConfigurationError
from rxcohere.events import ChatEvent

_STREAM_ID = re.compile(r"[A-Za-z0-9_.:-]{1,200}", re.ASCII)


class Journal(Protocol):
    """Streams of events, each with one producer and any number of readers.

    The producer holds a lease, which it renews; a stream whose lease has run out is abandoned, and
    stays so. The first verdict on a stream is the one that counts. A place in a stream is told by
    how many events are before it. Any method may be called on any loop that the journal works on;
    all but `begin` and `begun` raise `StreamNotFoundError` for a stream that is not there, and any
    may raise `JournalError` when the journal cannot be reached.
    """

    async def begin(self, stream_id: str, lease: float) -> None:
        """Begins a stream, with a lease of so many seconds.

        Raises:
            StreamExistsError: there is one of that id.
        """
        ...

    async def append(self, stream_id: str, events: Sequence[ChatEvent], at: int) -> None:
        """Adds events, unless they are there already: who heard no answer may try again.

        Args:
            stream_id: which stream.
            events: what to add.
            at: how many events are before them.

        Raises:
            StreamAbandonedError: the lease has run out, or the stream has ended otherwise.
            JournalError: it has lost some of those before them.
        """
        ...

    async def renew(self, stream_id: str, lease: float) -> None:
        """Makes the lease last so many seconds from now.

        Raises:
            StreamAbandonedError: it has run out, or the stream has ended otherwise.
        """
        ...

    async def close(self, stream_id: str, verdict: Verdict) -> Verdict:
        """Ends the stream, if it has not ended yet; gives the verdict that counts."""
        ...

    async def begun(self, stream_id: str) -> None:
        """Waits until there is such a stream."""
        ...

    async def read(self, stream_id: str, at: int = 0) -> JournalPage:
        """All there is now after so many events, which may be nothing.

        Raises:
            ConfigurationError: there are not so many.
        """
        ...

    async def tail(self, stream_id: str, at: int = 0) -> JournalPage:
        """What comes after so many events: some of it at least, for which it waits.

        Raises:
            ConfigurationError: there are not so many.
        """
        ...

    async def request_abort(self, stream_id: str, reason: str) -> None:
        """Asks the producer to give the stream up."""
        ...

    async def abort_requested(self, stream_id: str) -> str:
        """Waits until somebody asks for that; gives the reason, the first if there are several."""
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
