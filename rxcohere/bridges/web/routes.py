"""Ready-made routes: all streams of a journal, to follow and to abort."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

from aiohttp import web

from rxcohere.bridges.journal import FollowedStream, Journal, abort, follow
from rxcohere.bridges.journal.journal import check_stream_id
from rxcohere.bridges.web.event_stream import event_stream
from rxcohere.bridges.web.failures import error_response, refusal, refused
from rxcohere.bridges.web.websocket import websocket
from rxcohere.errors import ConfigurationError, RxCohereError
from rxcohere.options import check_seconds, check_whole

Authorize: TypeAlias = Callable[
    [web.Request, str, Literal["follow", "abort"]], Awaitable[bool | None]
]
"""Whether this request may do that with the stream of this id."""

_Answer: TypeAlias = Callable[..., Awaitable[web.StreamResponse]]

_MOST_CHARACTERS_OF_A_REASON = 1000
_MOST_BYTES_OF_A_BODY = 16 * 1024  # a character may be twelve bytes of JSON
_COME_BACK_AFTER = "5"


class _Relay:
    """The handlers of the routes.

    Args:
        journal: where the streams are.
        authorize: who may do what; None for whoever knows the id.
        max_followers: how many may follow at once.
        patience: seconds to wait for a stream that is not there.
        times: ``heartbeat`` and ``send_timeout`` of the answers.
    """

    def __init__(
        self,
        journal: Journal,
        authorize: Authorize | None,
        max_followers: int,
        patience: float,
        times: dict[str, float],
    ) -> None:
        self._journal = journal
        self._authorize = authorize
        self._max_followers = max_followers
        self._patience = patience
        self._times = times
        self._followers = 0

    async def event_stream(self, request: web.Request) -> web.StreamResponse:
        """Answers with server-sent events."""
        return await self._follow(request, event_stream)

    async def websocket(self, request: web.Request) -> web.StreamResponse:
        """Answers with a WebSocket."""
        return await self._follow(request, websocket)

    async def abort(self, request: web.Request) -> web.StreamResponse:
        """Aborts the stream, for the reason in the body if there is one."""
        refused_with = await self._refusal(request, "abort")
        if refused_with is not None:
            return refused_with
        try:
            async with asyncio.timeout(self._times["send_timeout"]):
                body = await _body(request)
        except TimeoutError:
            return refused("the body of the request did not come in time", 408)
        except web.RequestPayloadError:
            return refused("the body of the request is not encoded as its headers say")
        except ConnectionError:
            return web.Response()  # to nobody
        if body is None:
            return refused(f"the body has more than {_MOST_BYTES_OF_A_BODY} bytes", 413)
        try:
            reason = _reason_in(body)
            await abort(self._journal, request.match_info["stream_id"], *reason)
        except RxCohereError as error:
            return error_response(error)
        return web.Response(status=202)

    async def _follow(self, request: web.Request, answer: _Answer) -> web.StreamResponse:
        refused_with = await self._refusal(request, "follow")
        if refused_with is not None:
            return refused_with
        if self._followers >= self._max_followers:
            return refusal(
                503,
                "TooManyFollowersError",
                "as many as may are following streams: try again later",
                Retry_After=_COME_BACK_AFTER,
            )
        self._followers += 1
        try:
            return await answer(request, self._stream(request), **self._times)
        finally:
            self._followers -= 1

    def _stream(self, request: web.Request) -> FollowedStream:
        return follow(self._journal, request.match_info["stream_id"], patience=self._patience)

    async def _refusal(
        self, request: web.Request, action: Literal["follow", "abort"]
    ) -> web.Response | None:
        """Why the request cannot be granted, if so. Nobody is asked about what is no id."""
        try:
            stream_id = check_stream_id(request.match_info["stream_id"])
        except ConfigurationError as error:
            return error_response(error)
        if self._authorize is not None and not await self._authorize(request, stream_id, action):
            return refusal(403, "ForbiddenError", f"you may not {action} this stream")
        return None


async def _body(request: web.Request) -> bytes | None:
    """The body of the request; None if it is too large."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > _MOST_BYTES_OF_A_BODY:
            return None
    return bytes(body)


def _reason_in(body: bytes) -> list[str]:
    """The reason in the JSON body, if any.

    Raises:
        ConfigurationError: it is not such a body.
    """
    if not body.strip():
        return []
    try:
        told: Any = json.loads(body)
        reason = told.get("reason") or ""
        reason.encode()  # halves of surrogate pairs cannot be written anywhere
    except (ValueError, AttributeError, RecursionError):
        raise ConfigurationError(
            'expected no body, or a JSON object like {"reason": "…"}'
        ) from None
    if len(reason) > _MOST_CHARACTERS_OF_A_REASON:
        raise ConfigurationError(
            f"expected a reason of at most {_MOST_CHARACTERS_OF_A_REASON} characters, "
            f"got {len(reason)}"
        )
    return [reason] if reason else []


def relay_routes(
    journal: Journal,
    prefix: str = "/streams",
    *,
    authorize: Authorize | None = None,
    max_followers: int = 1000,
    patience: float = 5.0,
    heartbeat: float = 15.0,
    send_timeout: float = 30.0,
) -> list[web.RouteDef]:
    """Routes to follow and abort the streams of a journal, for ``app.add_routes``.

    - ``GET {prefix}/{stream_id}``: `event_stream`, resumable by ``Last-Event-ID``.
    - ``GET {prefix}/{stream_id}/websocket``: `websocket`, resumable by ``?after=<id>``.
    - ``POST {prefix}/{stream_id}/abort``: `abort`, for the ``reason`` in the JSON body if there is
      one, of at most 1,000 characters; answers 202 once the producer has been asked.

    Errors are JSON objects with ``error`` and ``message``. Answers are 400 for an id that is not
    valid, 403 for who may not, 404 for a stream that is not there, 503 if the journal cannot be
    reached, or too many follow. Names of streams are secrets where ``authorize`` is None: see
    `new_stream_id`. Where it relies on cookies, it has to look at ``Origin`` too: browsers send
    them along when a page of somebody else posts to these routes, or opens a WebSocket.

    Args:
        journal: where the streams are.
        prefix: of all the paths.
        authorize: is awaited with the request, the id and ``"follow"`` or ``"abort"``, before the
            stream is looked for; anything false it returns is 403, and it may raise a
            ``web.HTTPException`` of its own.
        max_followers: how many may follow at once, over all these routes.
        patience: seconds to wait for a stream that is not there (yet). Keep it below
            ``heartbeat``, or the answer has begun before it can be 404.
        heartbeat: see `event_stream`.
        send_timeout: see `event_stream`; also the time for the body of a request to come.

    Raises:
        ConfigurationError: an argument is wrong.
    """
    if not prefix.startswith("/") or prefix.endswith("/"):
        raise ConfigurationError(f"expected a prefix like '/streams', got {prefix!r}")
    if authorize is not None and not callable(authorize):
        raise ConfigurationError(f"expected authorize to be an async function, got {authorize!r}")
    check_whole("max_followers", max_followers, 1)
    check_seconds("heartbeat", heartbeat, most=threading.TIMEOUT_MAX)
    check_seconds("send_timeout", send_timeout, most=threading.TIMEOUT_MAX)
    check_seconds("patience", patience, zero=True)
    times = {"heartbeat": heartbeat, "send_timeout": send_timeout}
    relay = _Relay(journal, authorize, max_followers, patience, times)
    path = prefix + "/{stream_id:[^/]+}"
    return [
        web.get(path, relay.event_stream),
        web.get(f"{path}/websocket", relay.websocket, allow_head=False),
        web.post(f"{path}/abort", relay.abort),
    ]
