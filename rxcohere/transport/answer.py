"""What a response is before its body is read as events: accepted, or one typed error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import aiohttp

from rxcohere.errors import (
    ApiError,
    ConnectionFailedError,
    RxCohereError,
    StreamTimeoutError,
    StreamTruncatedError,
    UnexpectedContentError,
    api_error,
)
from rxcohere.transport.retrying import retry_after
from rxcohere.transport.secret import Secret

BROKEN = (aiohttp.ClientError, OSError, RuntimeError)
"""What aiohttp raises when a connection breaks, the last for one that was closed already."""

RxCohereErrorT = TypeVar("RxCohereErrorT", bound=RxCohereError)

_ERROR_BODY_LIMIT = 65_536  # bytes of an error's body that are worth reading
_ERROR_BODY_PATIENCE = 5.0  # seconds; the status alone already tells what went wrong


async def check_answer(response: aiohttp.ClientResponse, expected: str, secret: Secret) -> None:
    """Accepts a 2xx response of the expected media type.

    Args:
        response: its body must not have been read.
        expected: the media type.
        secret: is blotted out wherever the server repeats it.

    Raises:
        ApiError: the status is not 2xx. Redirects are not followed, so a 3xx is one too.
        UnexpectedContentError: the media type is another.
    """
    if not 200 <= response.status < 300:
        raise await _api_error(response, secret)
    came = response.headers.get("Content-Type", "").partition(";")[0].strip()
    came = secret.blot_out_str(came).lower()
    if came != expected:
        body = secret.blot_out(await _beginning(response, 300)).decode("utf-8", "replace")
        raise UnexpectedContentError(
            f"expected {expected}, but the server answered {response.status} with "
            f"{came or 'no content type'}; is the base URL right? The body begins {body!r}",
            came,
            body,
        )


async def _api_error(response: aiohttp.ClientResponse, secret: Secret) -> ApiError:
    raw = secret.blot_out(await _beginning(response, _ERROR_BODY_LIMIT))
    body: object
    try:
        body = secret.blot_out_json(json.loads(raw))
    except (ValueError, RecursionError):
        body = raw.decode("utf-8", "replace") or None
    headers = {name.lower(): secret.blot_out_str(v) for name, v in response.headers.items()}
    return api_error(response.status, body, headers, retry_after(headers))


async def _beginning(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The first bytes of the body, as far as they come within a few seconds."""
    body = bytearray()
    with suppress(TimeoutError, *BROKEN):
        async with asyncio.timeout(_ERROR_BODY_PATIENCE):
            while len(body) < limit and (chunk := await response.content.readany()):
                body += chunk
    return bytes(body[:limit])


def request_failure(error: Exception, connect: float | None, secret: Secret) -> RxCohereError:
    """The verdict on a request that got no response."""
    failure: RxCohereError
    if isinstance(error, aiohttp.ServerTimeoutError):
        failure = StreamTimeoutError(f"no connection within {connect:g} s", "connect")
    else:
        detail = secret.blot_out_str(str(error)) or type(error).__name__
        failure = ConnectionFailedError(f"the request got no answer: {detail}")
    return chained(failure, error)


def body_failure(
    problem: str, error: Exception | None, closed: asyncio.Future[None] | None
) -> ConnectionFailedError | StreamTruncatedError:
    """The verdict on a body that broke off: a reset, or an end that came too early.

    Args:
        problem: what happened, for an end that came too early.
        error: what the reader raised, if it did.
        closed: as `closing_of` gave it.
    """
    # aiohttp reports both as an incomplete payload, or for a body without a length not at all; what
    # the connection met tells them apart.
    lost = None
    if closed is not None and closed.done() and not closed.cancelled():
        lost = closed.exception()  # cancelled it is when the closing of a session is given up
    met = lost.__cause__ if lost is not None else None
    cause = error or met
    failure: ConnectionFailedError | StreamTruncatedError
    if isinstance(error, OSError) or isinstance(met, OSError):
        failure = ConnectionFailedError(f"the connection was lost: {met or error}")
    else:
        failure = StreamTruncatedError(problem)
    return failure if cause is None else chained(failure, cause)


def closing_of(response: aiohttp.ClientResponse) -> asyncio.Future[None] | None:
    """Is done when the connection is lost, with the reason if there was one.

    To be asked for before the body is read: the response lets go of its connection when it ends.
    """
    connection = response.connection
    protocol = None if connection is None else connection.protocol
    closed = None if protocol is None else protocol.closed
    if closed is not None:
        # Once for a connection, however many responses come over it.
        closed.remove_done_callback(_take_note)
        closed.add_done_callback(_take_note)
    return closed


def _take_note(closed: asyncio.Future[None]) -> None:
    """Keeps asyncio from reporting a reason that nobody asked for."""
    if not closed.cancelled():
        closed.exception()


def chained(failure: RxCohereErrorT, cause: BaseException) -> RxCohereErrorT:
    """The failure with its cause, as far as that does not hold the request's headers."""
    if isinstance(cause, aiohttp.ClientResponseError):
        cause = ConnectionError(f"{type(cause).__name__}: {cause.message}")
    failure.__cause__ = cause.with_traceback(None)
    return failure


def wake_when_lost(
    content: aiohttp.StreamReader, closed: asyncio.Future[None] | None
) -> Callable[[], object]:
    """Has a reader of the body hear that the connection is gone; returns what ends that.

    aiohttp does not tell it when it closes the connection itself, over chunks it cannot make out.
    """

    def wake(_: object) -> None:
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))

    if closed is None:
        return lambda: None
    closed.add_done_callback(wake)
    return partial(closed.remove_done_callback, wake)
