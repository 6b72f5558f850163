"""The errors of rxcohere, one tree.

::

    RxCohereError
    ├── ConfigurationError (ValueError)      bad argument or missing key; raised at the call
    ├── BlockingCallError (RuntimeError)     a blocking call inside a running event loop
    ├── ToolArgumentsError (ValueError)      a tool call whose arguments are not a JSON object
    ├── StreamExistsError (ValueError)       a journal has a stream of that id already
    ├── StreamNotFoundError (LookupError)    a journal has no stream of that id
    ├── ApiError                             the server answered with a status other than 2xx
    │   ├── BadRequestError 400              ├── InvalidTokenError 498
    │   ├── UnauthorizedError 401            ├── ClientClosedRequestError 499
    │   ├── PaymentRequiredError 402         ├── InternalServerError 500
    │   ├── ForbiddenError 403               ├── NotImplementedError 501
    │   ├── NotFoundError 404                ├── ServiceUnavailableError 503
    │   ├── UnprocessableEntityError 422     └── GatewayTimeoutError 504
    │   └── TooManyRequestsError 429
    └── StreamError                          the answer broke off; ``.partial`` is what came
        ├── ConnectionFailedError            DNS, TCP, TLS or a reset; the cause is chained
        ├── UnexpectedContentError           2xx, but not what was asked for
        ├── EventDecodeError                 an event that is not JSON, or not of its type's shape
        ├── StreamTruncatedError             the end, or ``[DONE]``, came before ``message-end``
        ├── StreamTimeoutError (TimeoutError)
        ├── GenerationError                  ``finish_reason`` is ERROR or TIMEOUT
        ├── StreamCancelledError             the client or its loop was closed under a live stream,
        │                                    or a stream that many share was given up
        ├── StreamAbandonedError             the producer of a journal's stream died
        ├── JournalError                     a journal cannot be reached, or has lost something
        └── BufferOverflowError              a bounded hand-over overflowed

`ConfigurationError` and `BlockingCallError` are raised at the call wherever there is one that can
raise them. `ToolArgumentsError` is raised where parsed arguments are read. All others reach a
subscriber through ``on_error``, and an iteration or an ``await`` as an exception.

`NotImplementedError` has the SDK's name for status 501. It is not re-exported by the package, so
that a star import cannot shadow the builtin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from rxcohere.response import ChatResponse

TimeoutPhase: TypeAlias = Literal["connect", "first_event", "idle", "total"]
"""The part of a stream's life that took too long."""


class RxCohereError(Exception):
    """Any error of this library."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ConfigurationError(RxCohereError, ValueError):
    """An argument is wrong or missing; nothing was sent."""


class BlockingCallError(RxCohereError, RuntimeError):
    """A call that blocks was made in a thread whose event loop is running."""


class ToolArgumentsError(RxCohereError, ValueError):
    """The arguments of a tool call are not one JSON object.

    Attributes:
        raw: the arguments as they were streamed.
    """

    def __init__(self, message: str, raw: str = "") -> None:
        super().__init__(message, raw)
        self.raw = raw


class StreamExistsError(RxCohereError, ValueError):
    """There is a stream of that id in the journal already."""


class StreamNotFoundError(RxCohereError, LookupError):
    """There is no stream of that id in the journal, or not any more."""


class ApiError(RxCohereError):
    """The server answered with a status other than 2xx.

    Attributes:
        status_code: the HTTP status.
        body: the parsed JSON body, else its text, else None.
        headers: the response headers, names in lower case.
        request_id: the ``x-debug-trace-id`` header, which Cohere's support asks for.
        retry_after: seconds the server asked to wait, if it did.
    """

    def __init__(
        self,
        status_code: int,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status_code, body, headers, retry_after)
        self.status_code = status_code
        self.body = body
        self.headers: dict[str, str] = {k.lower(): v for k, v in (headers or {}).items()}
        self.retry_after = retry_after

    @property
    def request_id(self) -> str | None:
        """The id of the request at Cohere, None where the answer carries none."""
        return self.headers.get("x-debug-trace-id")

    def __str__(self) -> str:
        text = f"the server answered {self.status_code}"
        if reason := _reason(self.body):
            text += f": {reason}"
        if self.request_id:
            text += f" (request id {self.request_id})"
        return text


def _reason(body: object) -> str:
    if isinstance(body, Mapping):
        return str(body.get("message") or body.get("data") or "")  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return " ".join(body.split())[:200] if isinstance(body, str) else ""


class BadRequestError(ApiError):
    """400: the request is malformed or combines what does not go together."""


class UnauthorizedError(ApiError):
    """401: the API key is missing or not valid."""


class PaymentRequiredError(ApiError):
    """402: the billing limit is reached."""


class ForbiddenError(ApiError):
    """403: the key may not do this."""


class NotFoundError(ApiError):
    """404: no such model or resource."""


class UnprocessableEntityError(ApiError):
    """422: an unknown field, or a generation that failed (then ``body`` has ``error_type``)."""


class TooManyRequestsError(ApiError):
    """429: over the rate limit; see ``retry_after``."""


class InvalidTokenError(ApiError):
    """498: the token is on the server's deny list."""


class ClientClosedRequestError(ApiError):
    """499: the request was cancelled."""


class InternalServerError(ApiError):
    """500: the server failed."""


class NotImplementedError(ApiError):
    """501: the server cannot do this (the SDK's name; it hides the builtin only here)."""


class ServiceUnavailableError(ApiError):
    """503: the server is overloaded."""


class GatewayTimeoutError(ApiError):
    """504: a gateway waited too long for the server."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    402: PaymentRequiredError,
    403: ForbiddenError,
    404: NotFoundError,
    422: UnprocessableEntityError,
    429: TooManyRequestsError,
    498: InvalidTokenError,
    499: ClientClosedRequestError,
    500: InternalServerError,
    501: NotImplementedError,
    503: ServiceUnavailableError,
    504: GatewayTimeoutError,
}


def api_error(
    status_code: int,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    retry_after: float | None = None,
) -> ApiError:
    """The `ApiError` of the class that the status has, plain `ApiError` for one without a class."""
    return _BY_STATUS.get(status_code, ApiError)(status_code, body, headers, retry_after)


class StreamError(RxCohereError):
    """The answer did not reach its end.

    Attributes:
        partial: the `ChatResponse` as far as it was received, None before ``message-start``.
    """

    partial: ChatResponse | None = None


class ConnectionFailedError(StreamError):
    """The connection could not be made, or was reset; the cause is chained."""


class UnexpectedContentError(StreamError):
    """The server answered 2xx with something other than what was asked for.

    Attributes:
        content_type: the media type that came, "" where the header was absent.
        body: the beginning of what came, at most a few hundred characters.
    """

    def __init__(self, message: str, content_type: str = "", body: str = "") -> None:
        super().__init__(message, content_type, body)
        self.content_type = content_type
        self.body = body


class EventDecodeError(StreamError):
    """An event is not JSON, is not of the shape its type has, or is too large.

    Attributes:
        raw: the data of that event (its beginning, if it was too large).
    """

    def __init__(self, message: str, raw: bytes = b"") -> None:
        super().__init__(message, raw)
        self.raw = raw


class StreamTruncatedError(StreamError):
    """The body ended, or said ``[DONE]``, before ``message-end``."""


class StreamTimeoutError(StreamError, TimeoutError):
    """A limit of `Timeouts` was reached.

    Attributes:
        phase: ``connect``, ``first_event``, ``idle`` or ``total``.
    """

    def __init__(self, message: str, phase: TimeoutPhase = "total") -> None:
        super().__init__(message)  # alone: a TimeoutError would take two arguments for an errno
        self.phase: TimeoutPhase = phase


class GenerationError(StreamError):
    """The model's run failed: ``message-end`` came with ERROR or TIMEOUT.

    Attributes:
        finish_reason: as on the wire.
        error: what the server says went wrong, None where it does not.
        error_type: the server's name for it, such as ``INVALID_TOOL_GENERATION``.
    """

    def __init__(
        self, finish_reason: str, error: str | None = None, error_type: str | None = None
    ) -> None:
        super().__init__(finish_reason, error, error_type)
        self.finish_reason = finish_reason
        self.error = error
        self.error_type = error_type

    def __str__(self) -> str:
        kind = f" ({self.error_type})" if self.error_type else ""
        reason = self.error or "no reason given"
        return f"the generation ended with {self.finish_reason}{kind}: {reason}"


class StreamCancelledError(StreamError):
    """The client, or the event loop under it, was closed while the stream was live.

    Or a stream that several share was given up: the last subscriber had left, or it was aborted.
    """


class StreamAbandonedError(StreamError):
    """The producer of a stream in a journal has let its lease run out: it died, or hangs."""


class JournalError(StreamError):
    """A journal cannot be reached, refuses, or has lost part of a stream; the cause is chained."""


class BufferOverflowError(StreamError):
    """A bounded hand-over to a slower consumer was full.

    ``partial`` is None: what is handed over may be anything.
    """
