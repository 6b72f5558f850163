"""What one event costs: CPU time of rxcohere beside the floor and beside the official SDK.

Run it with ``pip install -e '.[bench]'`` and ``python benchmarks/cost_per_event.py``. A server in a
process of its own sends one answer of many deltas as fast as it is read. The contestants take
turns, for several rounds; what is printed is the median CPU time of an event in this process, and
the median over the rounds of its ratio to the floor of the same round.

The floor is the least that typed events can cost here: aiohttp, a split on blank lines, and
pydantic's ``validate_json`` of our own union, up to ``message-end``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from pydantic import TypeAdapter

from rxcohere import ChatEvent, ChatStream, CohereClient, MessageEnd
from rxcohere import operators as rxc
from rxcohere.testing import ReplayServer, Transcript

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Count."}]
CHUNK = 16_384  # bytes the server writes at a time


def events(deltas: int) -> list[dict[str, Any]]:
    message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []}

    def content(value: dict[str, str]) -> dict[str, Any]:
        return {"index": 0, "delta": {"message": {"content": value}}}

    return [
        {"id": "benchmark", "type": "message-start", "delta": {"message": message}},
        {"type": "content-start", **content({"type": "text", "text": ""})},
        *({"type": "content-delta", **content({"text": f" {n % 997}"})} for n in range(deltas)),
        {"type": "content-end", "index": 0},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": {}}},
    ]


async def serve(deltas: int) -> None:
    async with ReplayServer(Transcript.of(events(deltas)), chunking=CHUNK) as server:
        print(server.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def floor(url: str, validate: Callable[[bytes], Any]) -> None:
    rest = b""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v2/chat", json=body()) as response,
    ):
        async for chunk in response.content.iter_any():
            *frames, rest = (rest + chunk).split(b"\n\n")
            for frame in frames:
                event = validate(frame[frame.index(b"data: ") + 6 :])
                if type(event) is MessageEnd:
                    return


def body() -> dict[str, Any]:
    return {"model": "m", "messages": MESSAGES, "stream": True}


async def iterate(stream: ChatStream) -> None:
    async for _ in stream:
        pass


async def subscribe_to_text(stream: ChatStream) -> None:
    done = asyncio.get_running_loop().create_future()
    stream.text().subscribe(lambda _: None, done.set_exception, lambda: done.set_result(None))
    await done


def sdk_contestants(url: str) -> dict[str, Callable[[], Awaitable[None]]]:
    try:
        import cohere
    except ImportError:
        print("the SDK is not installed, so it is left out: pip install -e '.[bench]'")
        return {}

    asynchronous = cohere.AsyncClientV2("key", base_url=url)
    synchronous = cohere.ClientV2("key", base_url=url)

    async def sdk_async() -> None:
        async for _ in asynchronous.chat_stream(model="m", messages=MESSAGES):
            pass

    async def sdk_sync() -> None:
        for _ in synchronous.chat_stream(model="m", messages=MESSAGES):
            pass

    return {"cohere SDK, async for": sdk_async, "cohere SDK, for": sdk_sync}


async def measure(url: str, deltas: int, rounds: int) -> dict[str, list[float]]:
    validate = TypeAdapter[Any](ChatEvent).validate_json
    async with CohereClient("key", base_url=url) as co:
        stream = co.chat_stream(model="m", messages=MESSAGES)

        async def collect() -> None:
            await stream.pipe(rxc.collect_response())

        contestants: dict[str, Callable[[], Awaitable[None]]] = {
            "floor": lambda: floor(url, validate),
            "rxcohere, async for": lambda: iterate(stream),
            "rxcohere, text()": lambda: subscribe_to_text(stream),
            "rxcohere, collect_response()": collect,
            **sdk_contestants(url),
        }
        costs: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, run in contestants.items():
                gc.collect()
                before = time.process_time()
                await run()
                costs[name].append((time.process_time() - before) / deltas * 1e6)
    return costs


def report(costs: dict[str, list[float]]) -> None:
    floors = costs["floor"]
    print(f"{'':30} {'µs an event':>12} {'times the floor':>16}")
    for name, values in costs.items():
        ratio = statistics.median(a / b for a, b in zip(values, floors, strict=True))
        print(f"{name:30} {statistics.median(values):12.2f} {ratio:16.2f}")
    texts = costs["rxcohere, text()"]
    for name, values in costs.items():
        if name.startswith("cohere SDK"):
            ratio = statistics.median(a / b for a, b in zip(values, texts, strict=True))
            print(f"{name} costs {ratio:.0f} times rxcohere's text()")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deltas", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.deltas))
        return
    command = [sys.executable, __file__, "--serve", f"--deltas={options.deltas}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        report(asyncio.run(measure(url, options.deltas, options.rounds)))


if __name__ == "__main__":
    main()
