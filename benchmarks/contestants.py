"""Who is compared: each takes the events of one stream in, as its users would.

The floor is the least that typed events can cost here: aiohttp, a split on blank lines, and
pydantic's ``validate_json`` of our own union, up to ``message-end``. The helpers of the ``openai``
and ``anthropic`` packages read the same text on their own wires, where they are installed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeAlias

import aiohttp
from pydantic import TypeAdapter
from reactivex import Observable

from rxcohere import ChatEvent, ChatStream, CohereClient, MessageEnd
from rxcohere import operators as rxc

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Count."}]
ASK: dict[str, Any] = {"model": "m", "messages": MESSAGES}
SUBSCRIBERS = 10

Contestant: TypeAlias = Callable[[], Awaitable[None]]
"""Asks for one stream and takes it in, to its end."""

FLOOR = "floor"
ITERATE, TEXT, COLLECT, SHARE = (
    "rxcohere, async for",
    "rxcohere, text()",
    "rxcohere, collect_response()",
    f"rxcohere, share_response(), {SUBSCRIBERS} subscribers",
)
SDK, SDK_SYNC = "cohere SDK, async for", "cohere SDK, for"
OPENAI, ANTHROPIC = "openai, stream helper", "anthropic, stream helper"

validate: Callable[[bytes], Any] = TypeAdapter[Any](ChatEvent).validate_json


async def floor(
    session: aiohttp.ClientSession, url: str, take: Callable[[ChatEvent], object] | None = None
) -> None:
    """Reads one stream; what takes its events, if anybody does, gets them one by one."""
    rest = b""
    async with session.post(f"{url}/v2/chat", json={**ASK, "stream": True}) as response:
        async for chunk in response.content.iter_any():
            *frames, rest = (rest + chunk).split(b"\n\n")
            for frame in frames:
                event = validate(frame[frame.index(b"data: ") + 6 :])
                if take is not None:
                    take(event)
                if type(event) is MessageEnd:
                    return


async def iterate(stream: ChatStream) -> None:
    async for _ in stream:
        pass


async def subscribe(observable: Observable[Any], subscribers: int = 1) -> None:
    """Subscribes so many times, and waits until all have heard of the end."""
    loop = asyncio.get_running_loop()
    ends: list[asyncio.Future[None]] = []
    for _ in range(subscribers):
        end: asyncio.Future[None] = loop.create_future()
        ends.append(end)
        observable.subscribe(lambda _: None, end.set_exception, partial(end.set_result, None))
    await asyncio.gather(*ends)


@asynccontextmanager
async def contestants(url: str) -> AsyncGenerator[dict[str, Contestant]]:
    """All that are installed, against the server at this URL."""
    async with AsyncExitStack() as stack:
        # aiohttp's own limit of 100 connections would make further streams wait.
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        co = await stack.enter_async_context(CohereClient("key", base_url=url))

        async def collect() -> None:
            await co.chat_stream(**ASK).pipe(rxc.collect_response())

        found: dict[str, Contestant] = {
            FLOOR: lambda: floor(session, url),
            ITERATE: lambda: iterate(co.chat_stream(**ASK)),
            TEXT: lambda: subscribe(co.chat_stream(**ASK).text()),
            COLLECT: collect,
            SHARE: lambda: subscribe(co.chat_stream(**ASK).share_response(), SUBSCRIBERS),
        }
        if find_spec("cohere"):
            found |= _cohere(url, stack)
        if find_spec("openai"):
            found |= await _openai(url, stack)
        if find_spec("anthropic"):
            found |= await _anthropic(url, stack)
        yield found


def _cohere(url: str, stack: AsyncExitStack) -> dict[str, Contestant]:
    import cohere

    asynchronous = cohere.AsyncClientV2("key", base_url=url)
    synchronous = cohere.ClientV2("key", base_url=url)
    threads = stack.enter_context(ThreadPoolExecutor(1_000))

    async def iterate_async() -> None:
        async for _ in asynchronous.chat_stream(**ASK):
            pass

    def iterate_sync() -> None:
        for _ in synchronous.chat_stream(**ASK):
            pass

    async def in_thread() -> None:
        await asyncio.get_running_loop().run_in_executor(threads, iterate_sync)

    return {SDK: iterate_async, SDK_SYNC: in_thread}


async def _openai(url: str, stack: AsyncExitStack) -> dict[str, Contestant]:
    import openai

    client = await stack.enter_async_context(openai.AsyncOpenAI(api_key="key", base_url=url))

    async def iterate_helper() -> None:
        async with client.chat.completions.stream(**ASK) as events:
            async for _ in events:
                pass

    return {OPENAI: iterate_helper}


async def _anthropic(url: str, stack: AsyncExitStack) -> dict[str, Contestant]:
    import anthropic

    client = await stack.enter_async_context(anthropic.AsyncAnthropic(api_key="key", base_url=url))

    async def iterate_helper() -> None:
        async with client.messages.stream(**ASK, max_tokens=1_000_000) as events:
            async for _ in events:
                pass

    return {ANTHROPIC: iterate_helper}
