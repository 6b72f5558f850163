"""The session beneath a client: whose it is, which loop it belongs to, and when it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp
import pytest
from subscribers import ANSWER, ASK, HANG, client_of, run, serving

from rxcohere import CohereClient
from rxcohere.errors import ConfigurationError, StreamCancelledError
from rxcohere.options import RequestOptions, Retry, Timeouts
from rxcohere.request import ChatRequest
from rxcohere.testing import ReplayServer, Stall
from rxcohere.transport import EventExchange, ReplyExchange, Secret, Transport


async def test_a_given_session_that_is_closed() -> None:
    """A request over it fails, and says whose session that was."""
    async with ReplayServer() as server, aiohttp.ClientSession() as session:
        async with client_of(server, session=session) as co:
            await co.chat_stream(**ASK)
            await session.close()
            for ask in (co.chat_stream, co.chat):
                with pytest.raises(ConfigurationError, match="session that was given"):
                    await ask(**ASK)
        assert len(server.requests) == 1


def test_a_given_session_whose_loop_has_ended() -> None:
    """A client that outlives the loop of its session says so, and sends nothing."""
    clients: list[CohereClient] = []

    async def first(server: ReplayServer) -> None:
        async with aiohttp.ClientSession() as session:
            clients.append(client_of(server, session=session))
            assert (await clients[0].chat_stream(**ASK).response()).text == ANSWER

    async def second() -> None:
        with pytest.raises(ConfigurationError, match="loop that has ended"):
            await clients[0].chat_stream(**ASK)
        await clients[0].aclose()

    with ReplayServer() as server:
        run(first(server))
        run(second())
        assert len(server.requests) == 1


def test_a_question_of_what_outlives_the_session() -> None:
    """What is asked while the loop finishes its generators off is told that the loop ends."""
    told: list[BaseException] = []

    async def parting(co: CohereClient) -> AsyncGenerator[str, None]:
        try:
            yield (await co.chat_stream(**ASK).response()).text
        finally:
            for _ in range(10):  # until the client's own have been finished off
                await asyncio.sleep(0)
            with pytest.raises(StreamCancelledError) as caught:
                await co.chat_stream(**ASK)
            told.append(caught.value)

    async def work() -> None:
        generators.append(parting(co))
        assert await anext(generators[0]) == ANSWER

    generators: list[AsyncGenerator[str, None]] = []
    with serving() as (server, co):
        run(work())
        assert [str(error) for error in told] == ["the event loop was closed under a live stream"]
        assert len(server.requests) == 1


async def test_any_number_of_streams_at_a_time() -> None:
    """More than the hundred that aiohttp has by default are open, unless there is a limit."""
    async with (
        asyncio.timeout(HANG),
        ReplayServer(faults=[Stall(after_events=1)]) as server,
        client_of(server) as co,
    ):
        streams = [co.chat_stream(**ASK).subscribe() for _ in range(120)]
        await server.until(lambda s: s.open == len(streams))
        for each in streams:
            each.dispose()
        await server.until(lambda s: s.open == 0)


@pytest.mark.parametrize("kind", [EventExchange, ReplyExchange])
async def test_an_exchange_that_is_given_up_before_it_begins(
    kind: type[EventExchange] | type[ReplyExchange],
) -> None:
    """It sends nothing: a consumer elsewhere may have left before the client's loop got to it."""
    async with ReplayServer() as server:
        transport = Transport(
            base_url=server.url,
            secret=Secret("key"),
            client_name=None,
            timeouts=Timeouts(),
            retry=Retry(),
            session=None,
            max_connections=None,
            max_event_bytes=1_000,
        )
        call = transport.call(ChatRequest.of(ASK), RequestOptions(), stream=kind is EventExchange)
        exchange = kind(transport, call)
        exchange.close()
        with pytest.raises(StreamCancelledError, match="given up"):
            await exchange.next_batch()
        await transport.aclose()
        assert server.requests == []
