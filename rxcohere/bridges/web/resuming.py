"""Where a client that comes back goes on: after the id that it was given last."""

from __future__ import annotations

import re

from aiohttp import web

from rxcohere.bridges.journal import FollowedStream
from rxcohere.bridges.web.frames import FAILED
from rxcohere.bridges.web.pulling import Source
from rxcohere.errors import ConfigurationError

_TOLD_OF_FAILURE = re.compile(r"([1-9][0-9]{0,17})?" + FAILED, re.ASCII)


def resumed(source: Source, last_event_id: str) -> Source | None:
    """The source, from after an entry on; None if nothing can come after it.

    That is where the client has been told how the stream failed. Answer 204 then, or a browser's
    ``EventSource`` keeps on asking.

    Args:
        source: what to send, as `event_frames` takes it.
        last_event_id: the header ``Last-Event-ID`` of the request, "" where there is none.

    Raises:
        ConfigurationError: it is the id of no entry of any stream, or the source has no ids.
    """
    if not last_event_id:
        return source
    if _TOLD_OF_FAILURE.fullmatch(last_event_id):
        return None
    if not isinstance(source, FollowedStream):
        raise ConfigurationError(
            f"this stream is not in a journal, and cannot go on after {last_event_id!r:.80}"
        )
    return source.after(last_event_id)


def source_asked_for(request: web.Request, source: Source) -> Source | None:
    """The source, `resumed` after the id in ``Last-Event-ID``, or in the query as ``after``."""
    last = request.headers.get("Last-Event-ID") or request.query.get("after") or ""
    return resumed(source, last)
