"""Server-sent events: a stream as the answer to an HTTP request."""

from __future__ import annotations

from contextlib import aclosing

from aiohttp import web

from rxcohere.bridges.journal import FollowedStream
from rxcohere.bridges.web.connection import (
    Connection,
    connected,
    is_open,
)
from rxcohere.bridges.web.failures import error_response, report_unless_told
from rxcohere.bridges.web.frames import Frames
from rxcohere.bridges.web.pulling import Source, check_arguments
from rxcohere.bridges.web.resuming import source_asked_for
from rxcohere.errors import ConfigurationError

_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # or nginx would collect events before it passes them on
}


async def event_stream(
    request: web.Request,
    source: Source,
    *,
    heartbeat: float = 15.0,
    send_timeout: float = 30.0,
) -> web.StreamResponse:
    """The answer to the request: server-sent events, which browsers and Cohere's clients read.

    See `event_frames` for what is sent. A client that comes back with ``Last-Event-ID``, or
    ``?after=`` in the query, goes on after that entry if the source is what `follow` returns. If
    there is nothing after it, because the stream is complete or the client has been told that it
    failed, the answer is 204, after which browsers ask no more. Without a journal nothing can be
    resumed: a page has to close its ``EventSource`` at ``message-end``, or it will ask for another
    stream.

    The answer begins with the first event, or after ``heartbeat`` seconds. An error before that is
    an HTTP status with a JSON body: the one of an `ApiError`, with its body; 404 for
    `StreamNotFoundError`, 400 for an id that is not valid, 503 for `JournalError`, 502 for any
    other `StreamError`, 500 for the rest. After an error later on, the connection is broken off, so
    that the answer is incomplete.

    A slow client gets fewer and larger deltas, and holds up nobody else. When it leaves, the
    subscription is disposed of at once (with the next event or heartbeat, if it has sent so much
    more than its request that aiohttp reads no further). To ``HEAD`` the answer is the same without
    a body; a source that is not in a journal is not subscribed to then.

    Args:
        request: of an aiohttp.web server.
        source: the events of a stream, or the entries of one in a journal.
        heartbeat: seconds, 15 by default; a comment is sent when nothing else was for as long.
        send_timeout: seconds, 30 by default, after which a client that reads nothing is
            disconnected.

    Raises:
        ConfigurationError: at the call, if an argument is wrong.
    """
    check_arguments(source, heartbeat, send_timeout)
    try:
        wanted = source_asked_for(request, source)
    except ConfigurationError as error:
        return error_response(error)
    if wanted is None:
        return _nothing_more()
    response = web.StreamResponse(headers=_HEADERS)
    if request.method == "HEAD" and not isinstance(wanted, FollowedStream):
        return response
    if is_open(request):
        async with connected(request, send_timeout) as connection:
            async with aclosing(Frames(wanted, heartbeat)) as frames:
                try:
                    chunk = await frames.next()
                except Exception as error:
                    return error_response(error)
                if isinstance(wanted, FollowedStream) and frames.ended and not frames.began:
                    return _nothing_more()
                if request.method == "HEAD":
                    return response
                await response.prepare(request)
                failure = await _send(response, connection, frames, chunk)
            if failure is not None:
                report_unless_told(failure)
                await response.write(frames.error_frame(failure))
                await connection.break_off()
            else:
                await response.write_eof()
                await connection.flushed()
    return response  # aiohttp takes note if the client has gone, and logs nothing


async def _send(
    response: web.StreamResponse, connection: Connection, frames: Frames, chunk: bytes
) -> Exception | None:
    """Sends the chunk and all that comes after it; returns what the source failed with."""
    while chunk:
        await response.write(chunk)
        await connection.drained()
        try:
            chunk = await frames.next()
        except Exception as error:
            return error
    return None


def _nothing_more() -> web.Response:
    return web.Response(status=204, headers={"Cache-Control": "no-store"})
