"""How a client is told of an error: the HTTP status it has, and the JSON object that describes it.

Neither shows the headers of an upstream answer, which may hold cookies, nor the partial response,
which the client has, nor what an error says of the server's own affairs, its hosts and its bugs;
that is logged.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from aiohttp import web

from rxcohere.bridges.journal.verdicts import Verdict, describe
from rxcohere.delivery import report
from rxcohere.errors import (
    ApiError,
    BufferOverflowError,
    ConfigurationError,
    ConnectionFailedError,
    JournalError,
    RxCohereError,
    StreamError,
    StreamNotFoundError,
)

_MOST_CHARACTERS = 2000
"""Of any one text in an error object; what could not be decoded may be megabytes."""

_NOT_SHOWN = frozenset({"headers", "raw", "content_type"})
"""Fields that are the server's own affair. So is the ``body`` of what was no answer of Cohere's."""

_log = logging.getLogger(__name__)

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _own(error: Exception) -> RxCohereError:
    own = Verdict.of(error).error
    assert own is not None
    return own


def _message_of(error: RxCohereError) -> str:
    """What the client is told. Foreign errors, stores and proxies tell of hosts, files and data."""
    match error:
        case JournalError():
            return "the journal cannot be read now, or has lost part of the stream"
        case ConnectionFailedError():
            return "the model's server could not be reached, or broke the connection off"
        case _ if type(error) is RxCohereError:
            return "the server failed"
        case _:
            return str(error)


def report_unless_told(error: Exception) -> None:
    """Logs what the client is not told; what is no error of ours may be a bug, and is reported."""
    if not isinstance(error, RxCohereError):
        report(error, "what was to be sent to a client raised an error")
    elif _message_of(error) != str(error):
        _log.warning("a client was not told that %s: %s", type(error).__name__, error)


def status_of(error: Exception) -> int:
    """The HTTP status that tells of the error, if nothing has been sent yet."""
    match error:
        case ApiError():
            return error.status_code if 400 <= error.status_code <= 599 else 502
        case StreamNotFoundError():
            return 404
        case ConfigurationError():
            return 400
        case JournalError():
            return 503
        case BufferOverflowError():
            return 500
        case StreamError():
            return 502
        case _:
            return 500


def error_object(error: Exception) -> dict[str, Any]:
    """What an error frame says: ``type`` "error", ``error`` the class, ``message``, its fields.

    The fields are those of the error in a journal, such as ``status_code`` and ``body``.
    """
    own = _own(error)
    fields = {name: value for name, value in describe(own).items() if name not in _NOT_SHOWN}
    if not isinstance(own, ApiError):
        fields.pop("body", None)
    told = {"type": "error", **fields, "message": _message_of(own)}
    return {name: _bounded(value) for name, value in told.items()}


def _bounded(value: Any) -> Any:
    """The value, if it is of moderate size and JSON that a browser can read."""
    if isinstance(value, str):
        return value[:_MOST_CHARACTERS]
    told = _json_of(value)
    return value if told is not None and len(told) <= _MOST_CHARACTERS else None


def _json_of(value: object) -> str | None:
    try:
        return json.dumps(value, default=str, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return None


def error_response(error: Exception) -> web.Response:
    """The answer to a request that failed before anything was sent.

    An `ApiError` is answered as the server did that it came from, so that a client of Cohere sees
    the same. What the client is not told is logged.
    """
    report_unless_told(error)
    status = status_of(error)
    if not isinstance(error, ApiError):
        own = _own(error)
        return refusal(status, type(own).__name__, _message_of(own))
    response = _json_response(status, error.body)
    if error.retry_after is not None and 0 <= error.retry_after < math.inf:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after))
    return response


def refusal(status: int, error: str, message: str, **headers: str) -> web.Response:
    """An answer that says no, in JSON.

    Args:
        status: the HTTP status.
        error: the class of the error.
        message: what it says.
        headers: more headers, ``_`` in their names for ``-``.
    """
    response = _json_response(status, {"error": error, "message": message[:_MOST_CHARACTERS]})
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


def refused(error: RxCohereError | str, status: int = 400) -> web.Response:
    """The same, for what the client did wrong."""
    return refusal(status, ConfigurationError.__name__, str(error))


def _json_response(status: int, body: object) -> web.Response:
    # Not `web.json_response`: its text is Unicode, and halves of surrogate pairs cannot be sent.
    text = _json_of(body) or "null"
    return web.Response(
        status=status, body=text.encode(), content_type="application/json", headers=_HEADERS
    )
