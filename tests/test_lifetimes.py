"""How long things live: loops, closings that are interrupted, subscriptions of the last moment."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from rxcohere import CohereClient, StreamCancelledError
from rxcohere.testing import ReplayServer, Stall

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def test_a_loop_that_has_ended_is_not_kept_alive() -> None:
    """Neither the loops of `asyncio.run` nor background loops pile up."""
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def work(url: str) -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        async with CohereClient("", base_url=url) as co:
            await co.chat_stream(**ASK)

    with ReplayServer("text") as server:
        for _ in range(3):
            asyncio.run(work(server.url))
            with CohereClient("", base_url=server.url) as co:
                loops.append(weakref.ref(co._transport.acquire_loop()))
                co.chat_stream(**ASK).run()
            del co
    gc.collect()
    assert [loop() for loop in loops] == [None] * 6


def test_a_subscription_in_the_last_turn_of_a_loop_hears_of_its_end() -> None:
    """Its task is cancelled before its first step, and yet there is one verdict."""
    heard: list[Exception] = []

    async def work(co: CohereClient) -> None:
        await co.chat_stream(**ASK)
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: co.chat_stream(**ASK).subscribe(on_error=heard.append))

    with ReplayServer("text") as server:
        asyncio.run(work(CohereClient("", base_url=server.url)))
    assert [type(error) for error in heard] == [StreamCancelledError]


def test_a_subscriber_that_exits_in_on_completed_harms_no_other_stream(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The background loop goes on, and its exception handler hears of it."""

    def leave() -> None:
        raise SystemExit(3)

    with ReplayServer("text") as server, CohereClient("", base_url=server.url) as co:
        co.chat_stream(**ASK).subscribe(on_completed=leave)
        server.wait_until(lambda s: s.completed == 1)
        assert co.chat_stream(**ASK).response().run().finish_reason == "COMPLETE"
    assert "a subscriber raised SystemExit" in caplog.text
    caplog.clear()


async def test_a_closing_that_is_interrupted_goes_on() -> None:
    """Who stops waiting is told so at once; the connections are closed all the same."""
    async with ReplayServer("text", faults=[Stall(after_events=2)]) as server:
        co = CohereClient("", base_url=server.url)
        stream = aiter(co.chat_stream(**ASK))
        await anext(stream)
        waiting = asyncio.ensure_future(co.aclose())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await co.aclose()
        await server.until(lambda s: s.open == 0)
        with pytest.raises(StreamCancelledError):
            async for _ in stream:
                pass
