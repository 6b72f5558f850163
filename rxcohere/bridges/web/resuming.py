"""Where a client that comes back goes on: after the id that it was given last."""

from __future__ import annotations

import re

from aiohttp import web

from rxcohere.bridges.journal import FollowedStream
from rxcohere.bridges.web.frames import FAILED
from rxcohere.bridges.web.pulling import Source
from rxcohere.errors import ConfigurationError

_TOLD_OF_FAILURE = re.compile(r"([1-9][0-9]{0,17})?" + FAILED, re.ASCII)


def source_asked_for(request: web.Request, source: Source) -> Source | None:
    """The source, from after the id that the request names; None if nothing can come after it.

    The id is in the header ``Last-Event-ID``, or in the query as ``after``.

    Raises:
        ConfigurationError: it is the id of no entry of any stream, or the source has no ids.
    """
    last = request.headers.get("Last-Event-ID") or request.query.get("after") or ""
    if not last:
        return source
    if _TOLD_OF_FAILURE.fullmatch(last):
        return None
    if not isinstance(source, FollowedStream):
        raise ConfigurationError(f"this stream has no ids, so {last!r:.80} is none of them")
    return source.after(last)
