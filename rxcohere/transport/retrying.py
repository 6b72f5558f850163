"""Which failures are worth another request, and how long to wait before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar

import tenacity

from rxcohere.errors import ApiError, ConnectionFailedError, RxCohereError, StreamTimeoutError
from rxcohere.options import Retry

T = TypeVar("T")

_FIRST_WAIT = 0.5
_RETRYABLE = frozenset({408, 409, 429})


async def retrying(attempt: Callable[[], Awaitable[T]], retry: Retry) -> T:
    """What the first attempt gives that succeeds; the error of the last one comes as it is."""
    try:
        return await attempt()
    except RxCohereError as error:
        if retry.attempts == 1 or not is_retryable(error):
            raise
        failures = [error]

    # tenacity, which costs a third of a request, comes into it only now, and is told of that one.
    async def attempt_again() -> T:
        if failures:
            raise failures.pop()
        return await attempt()

    return await tenacity.AsyncRetrying(
        sleep=asyncio.sleep,
        stop=tenacity.stop_after_attempt(retry.attempts),
        retry=tenacity.retry_if_exception(is_retryable),
        wait=_Wait(retry.max_wait),
        reraise=True,
    )(attempt_again)


def is_retryable(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, ApiError):
        return error.status_code in _RETRYABLE or error.status_code >= 500
    if isinstance(error, StreamTimeoutError):
        return error.phase == "connect"
    return isinstance(error, ConnectionFailedError)


class _Wait(tenacity.wait.wait_base):
    """What the server asks for, else twice as long each time, with jitter; never above a limit."""

    def __init__(self, max_wait: float) -> None:
        self._max_wait = max_wait
        self._backoff = tenacity.wait_exponential(
            multiplier=_FIRST_WAIT, max=max_wait
        ) + tenacity.wait_random(0, _FIRST_WAIT)

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        error = retry_state.outcome and retry_state.outcome.exception()
        if isinstance(error, ApiError) and error.retry_after is not None:
            return min(error.retry_after, self._max_wait)
        return min(self._backoff(retry_state), self._max_wait)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds a response asks to wait: ``retry-after-ms``, then ``Retry-After``.

    The latter is in seconds or a date. What cannot be read is as if it were absent.
    """
    if (milliseconds := _seconds(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if value is None:
        return None
    if (seconds := _seconds(value)) is not None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _seconds(value: str | None) -> float | None:
    value = (value or "").strip()
    # float() alone would also take "nan", "1_0" and digits of other scripts.
    if not value.isascii() or not value.replace(".", "", 1).isdigit() or len(value) > 18:
        return None
    return float(value)
