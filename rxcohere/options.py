"""How a request is made, apart from what it asks: time limits, retries, additions."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from rxcohere.errors import ConfigurationError

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2


def check_seconds(
    name: str, value: object, *, zero: bool = False, most: float = sys.float_info.max
) -> None:
    """Refuses what is no finite number (a bool is none) or is out of range."""
    if (
        not isinstance(value, (int, float))
        or isinstance(value, bool)
        or not abs(value) <= most  # infinities, NaN, and integers beyond any float
        or value < 0
        or (value == 0 and not zero)
    ):
        raise ConfigurationError(
            f"{name} should be seconds {'from' if zero else 'above'} 0, not {value!r}"
        )


def check_whole(name: str, value: object, least: int) -> None:
    """Refuses what is not a whole number (a bool is none) or is less than the least."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name} should be a whole number from {least}, not {value!r}")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one stream, in seconds above 0; None means none.

    Attributes:
        connect: to reach the server: name, TCP and TLS.
        first_event: from sending the request to the first event.
        idle: from one event to the next. Comments and keep-alives do not count as events, and the
            time the consumer takes does not count as idle.
        total: the whole life of the stream, retries and the consumer's time included.
    """

    connect: float | None = 10.0
    first_event: float | None = 120.0
    idle: float | None = 120.0
    total: float | None = None

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None:
                check_seconds(f"timeouts.{limit.name}", value)


@dataclass(frozen=True, slots=True)
class Retry:
    """When a request is sent again: only before its first event, and only where that can help.

    That is after a failed connection and after status 408, 409, 429 and 5xx. The wait is what the
    server asks for (``retry-after-ms``, ``Retry-After`` in seconds or as a date), else it doubles
    from half a second, with jitter.

    Attributes:
        attempts: requests in all, so 1 means no retry.
        max_wait: the longest wait between two requests, in seconds.
    """

    attempts: int = 3
    max_wait: float = 60.0

    def __post_init__(self) -> None:
        check_whole("retry.attempts", self.attempts, 1)
        check_seconds("retry.max_wait", self.max_wait, zero=True)


def _no_additions() -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """What one call does differently from its client.

    Attributes:
        timeout_in_seconds: one limit for each wait, as in the SDK: to connect, for the first
            event, and from one event to the next. The whole stream may take longer.
        timeouts: the limits one by one, in place of the client's.
        max_retries: requests after the first, in place of the client's ``Retry.attempts - 1``.
        additional_headers: sent too; they replace ours, whatever the case of their names.
        additional_query_parameters: appended to the URL.
        additional_body_parameters: merged into the body; they replace ours.
    """

    timeout_in_seconds: float | None = None
    timeouts: Timeouts | None = None
    max_retries: int | None = None
    additional_headers: Mapping[str, str] = field(default_factory=_no_additions)
    additional_query_parameters: Mapping[str, Any] = field(default_factory=_no_additions)
    additional_body_parameters: Mapping[str, Any] = field(default_factory=_no_additions)

    def __post_init__(self) -> None:
        if self.timeout_in_seconds is not None:
            check_seconds("request_options.timeout_in_seconds", self.timeout_in_seconds)
            if self.timeouts is not None:
                raise ConfigurationError(
                    "request_options has both timeout_in_seconds and timeouts; give one of them"
                )
        timeouts: object = self.timeouts
        if timeouts is not None and not isinstance(timeouts, Timeouts):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"request_options.timeouts should be a Timeouts, not {timeouts!r}"
            )
        if self.max_retries is not None:
            check_whole("request_options.max_retries", self.max_retries, 0)
        self._check_additions()

    def _check_additions(self) -> None:
        for name in ("headers", "query_parameters", "body_parameters"):
            value: object = getattr(self, f"additional_{name}")
            if not isinstance(value, Mapping):
                raise ConfigurationError(
                    f"request_options.additional_{name} should be a mapping, not {value!r}"
                )
        for name, text in self.additional_headers.items():
            if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(
                    f"request_options.additional_headers: {name!r} is no name of a header"
                )
            if name.lower() in ("content-length", "transfer-encoding"):
                raise ConfigurationError(
                    f"request_options.additional_headers: {name} is for the transport to set"
                )
            check_header(f"request_options.additional_headers[{name!r}]", text)

    @classmethod
    def of(cls, options: RequestOptions | Mapping[str, Any] | None) -> RequestOptions:
        """The options given as such, as a mapping of their names, or not at all.

        Raises:
            ConfigurationError: an option is unknown or of the wrong type.
        """
        if options is None:
            return cls()
        if isinstance(options, cls):
            return options
        if not isinstance(options, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"request_options should be a RequestOptions or a mapping, not {options!r}"
            )
        known = [option.name for option in fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigurationError(
                    f"request_options.{name} is not an option; there are {', '.join(known)}"
                )
        return cls(**{name: value for name, value in options.items() if value is not None})

    def timeouts_over(self, timeouts: Timeouts) -> Timeouts:
        """The limits of this call, given those of the client."""
        if self.timeouts is not None:
            return self.timeouts
        if (limit := self.timeout_in_seconds) is not None:
            return replace(timeouts, connect=limit, first_event=limit, idle=limit)
        return timeouts

    def retry_over(self, retry: Retry) -> Retry:
        """The retries of this call, given those of the client."""
        return retry if self.max_retries is None else replace(retry, attempts=self.max_retries + 1)


def is_header_text(value: object) -> bool:
    """Whether the value is a string that can stand in a header, and does not smuggle in another."""
    return isinstance(value, str) and all(31 < ord(c) < 256 and ord(c) != 127 for c in value)


def check_header(name: str, value: object) -> None:
    """Refuses what cannot stand in an HTTP header.

    Args:
        name: what the value is called in the error.
        value: the value of the header.

    Raises:
        ConfigurationError: it is not a string, or holds a control or non-Latin-1 character.
    """
    if not is_header_text(value):
        raise ConfigurationError(
            f"{name} should be a string that an HTTP header can carry, without line breaks, "
            f"not {value!r}"
        )
