"""Requests that are sent again: when, how often, after how long, and never once an event came."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from rxcohere import (
    ApiError,
    CohereClient,
    ConfigurationError,
    ConnectionFailedError,
    Retry,
    StreamTruncatedError,
    TooManyRequestsError,
)
from rxcohere.testing import Cut, HangUp, ReplayServer, Stall, Status
from rxcohere.transport.retrying import retry_after

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
NO_WAIT = {"retry-after": "0"}


@pytest.mark.parametrize("status", [408, 409, 429, 500, 501, 502, 503, 504, 529])
async def test_a_passing_fault_is_overcome(status: int) -> None:
    """Two refusals, then the answer: the subscriber notices nothing."""
    fault = Status(status, headers=NO_WAIT, times=2)
    async with (
        ReplayServer("text", faults=[fault]) as server,
        CohereClient("key", base_url=server.url) as co,
    ):
        response = await co.chat_stream(**ASK).response()
        assert response.finish_reason == "COMPLETE"
        assert len(server.requests) == 3
        assert len({str(request.json) for request in server.requests}) == 1


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 422, 498, 499])
async def test_a_lasting_fault_is_not_tried_again(status: int) -> None:
    """Another request would be refused as well."""
    async with (
        ReplayServer("text", faults=[Status(status, headers=NO_WAIT)]) as server,
        CohereClient("key", base_url=server.url) as co,
    ):
        with pytest.raises(ApiError):
            await co.chat_stream(**ASK)
        assert len(server.requests) == 1


@pytest.mark.parametrize(("attempts", "sent"), [(1, 1), (2, 2), (4, 4)])
async def test_attempts_count_every_request(attempts: int, sent: int) -> None:
    """The last refusal is the verdict."""
    async with (
        ReplayServer("text", faults=[Status(429, headers=NO_WAIT)]) as server,
        CohereClient("key", base_url=server.url, retry=Retry(attempts=attempts)) as co,
    ):
        with pytest.raises(TooManyRequestsError):
            await co.chat_stream(**ASK)
        assert len(server.requests) == sent


async def test_max_retries_is_one_less_than_attempts() -> None:
    """The option of one call wins over the client's."""
    async with (
        ReplayServer("text", faults=[Status(503, headers=NO_WAIT)]) as server,
        CohereClient("key", base_url=server.url) as co,
    ):
        for retries, sent in ((0, 1), (1, 3)):
            with pytest.raises(ApiError):
                await co.chat_stream(**ASK, request_options={"max_retries": retries})
            assert len(server.requests) == sent


async def test_the_non_streaming_call_is_retried_alike() -> None:
    """chat() follows the same rules."""
    async with (
        ReplayServer("text", faults=[Status(503, headers=NO_WAIT, times=1)]) as server,
        CohereClient("key", base_url=server.url) as co,
    ):
        assert (await co.chat(**ASK)).finish_reason == "COMPLETE"
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "fault", [HangUp(times=2), Cut(after_events=0, how="reset", times=2)], ids=["refused", "reset"]
)
async def test_a_lost_connection_is_made_again_before_the_first_event(fault: Any) -> None:
    """No answer at all, or a reset before any event, costs the subscriber nothing."""
    async with (
        ReplayServer("text", faults=[fault]) as server,
        CohereClient("key", base_url=server.url, retry=Retry(max_wait=0.01)) as co,
    ):
        assert (await co.chat_stream(**ASK).response()).text
        assert len(server.requests) == 3


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_nothing_is_sent_again_once_an_event_was_delivered(how: Any) -> None:
    """A second answer after part of a first one would be garbled text, paid for twice."""
    async with (
        ReplayServer("text", faults=[Cut(after_events=3, how=how, times=1)]) as server,
        CohereClient("key", base_url=server.url) as co,
    ):
        with pytest.raises((StreamTruncatedError, ConnectionFailedError)):
            await co.chat_stream(**ASK)
        assert len(server.requests) == 1


async def test_the_servers_wish_is_capped() -> None:
    """A server that asks for an hour is asked again after max_wait."""
    fault = Status(429, headers={"retry-after": "3600"}, times=2)
    async with (
        ReplayServer("text", faults=[fault]) as server,
        CohereClient("key", base_url=server.url, retry=Retry(max_wait=0.01)) as co,
        asyncio.timeout(10),
    ):
        await co.chat_stream(**ASK)
        assert len(server.requests) == 3


async def test_disposal_ends_the_wait_between_attempts() -> None:
    """Nobody listens any more, so nothing is sent any more."""
    async with (
        ReplayServer("text", faults=[Status(503, headers={"retry-after": "30"})]) as server,
        CohereClient("key", base_url=server.url) as co,
    ):
        heard: list[Any] = []
        subscription = co.chat_stream(**ASK).subscribe(heard.append, heard.append)
        await server.until(lambda s: len(s.requests) == 1 and s.open == 0)
        subscription.dispose()
    assert heard == []


async def test_a_stall_is_not_retried() -> None:
    """The request may be under way at the server, and paid for."""
    async with (
        ReplayServer("text", faults=[Stall(after_events=0)]) as server,
        CohereClient("key", base_url=server.url) as co,
    ):
        with pytest.raises(TimeoutError):
            await co.chat_stream(**ASK, request_options={"timeout_in_seconds": 0.1})
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1_0"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_retry_after_is_read_in_each_form(headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds win, then seconds or a date; what cannot be read is as if absent."""
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date_counts_from_now() -> None:
    """A date an hour ahead is about 3,600 seconds away."""
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    seconds = retry_after({"retry-after": date})
    assert seconds is not None
    assert 3000 < seconds <= 3600


def test_retries_are_checked_at_the_call() -> None:
    """Nonsense is refused where it is written."""
    for arguments in ({"attempts": 0}, {"attempts": 1.5}, {"attempts": True}, {"max_wait": -1}):
        with pytest.raises(ConfigurationError, match=f"retry.{next(iter(arguments))}"):
            Retry(**arguments)  # type: ignore[arg-type]
