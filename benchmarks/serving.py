"""The server of the benchmarks: answers of many tokens, on three wires, from a process of its own.

It does as little as a server can, so that it is not what is measured: an answer in one burst is
bytes that were made beforehand. The path says what is asked for, as in
``/tokens=20000/shape=burst/v2/chat``; the part after it is the wire's own, Cohere's, OpenAI's or
Anthropic's. What the path may say is in `Order`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

BURST = 16_384
"""Bytes in an HTTP chunk of a burst."""


@dataclass(frozen=True)
class Order:
    """What a path asks for.

    Attributes:
        wire: the last part of the path, which says whose the events are.
        tokens: how many of them.
        shape: ``burst``, all at once; ``each``, a chunk and a write for each event, as fast as they
            are taken; ``paced``, likewise, but so many a second, each with the time of its writing
            in ns as its text.
        rate: tokens a second of a ``paced`` stream.
        held: 1 sends nothing after the first events until somebody asks for ``/go``.
    """

    wire: str
    tokens: int = 1_000
    shape: str = "burst"
    rate: float = 50.0
    held: int = 0

    @classmethod
    def of(cls, path: str) -> Order:
        """What the path asks for."""
        parts = path.strip("/").split("/")
        said = dict(part.split("=") for part in parts if "=" in part)
        return cls(
            parts[-1],
            int(said.get("tokens", cls.tokens)),
            said.get("shape", cls.shape),
            float(said.get("rate", cls.rate)),
            int(said.get("held", cls.held)),
        )


def path(**said: object) -> str:
    """The path that says so, to be put before the wire's own."""
    return "".join(f"/{name}={value}" for name, value in said.items())


# What is sent ------------------------------------------------------------------------------------


def _frame(event: dict[str, Any], name: str | None = None) -> bytes:
    data = json.dumps(event, separators=(",", ":"))
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {data}\n\n".encode()


def _named(event: dict[str, Any]) -> bytes:
    return _frame(event, event["type"])


def _around(frame: bytes) -> Callable[[str], bytes]:
    """The frame with another text for its ``@``; making the JSON anew would cost the server."""
    before, after = frame.split(b"@")
    return lambda text: before + text.encode() + after


@dataclass(frozen=True)
class WireFormat:
    """How an answer begins, how a token is sent, and how it ends."""

    first: bytes
    opening: bytes
    token: Callable[[str], bytes]
    end: bytes


def _cohere() -> WireFormat:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": [],
        "tool_plan": "",
        "tool_calls": [],
    }

    def content(kind: str, value: dict[str, str]) -> bytes:
        return _named({"type": kind, "index": 0, "delta": {"message": {"content": value}}})

    usage = {"billed_units": {"input_tokens": 9, "output_tokens": 9}}
    end = {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}}
    return WireFormat(
        _named({"id": "benchmark", "type": "message-start", "delta": {"message": message}}),
        content("content-start", {"type": "text", "text": ""}),
        _around(content("content-delta", {"text": "@"})),
        _named({"type": "content-end", "index": 0}) + _named(end) + b"data: [DONE]\n\n",
    )


def _openai() -> WireFormat:
    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _frame(
            {
                "id": "benchmark",
                "object": "chat.completion.chunk",
                "created": 1_700_000_000,
                "model": "m",
                "choices": [choice],
            }
        )

    first = chunk({"role": "assistant", "content": ""})
    end = chunk({}, "stop") + b"data: [DONE]\n\n"
    return WireFormat(first, b"", _around(chunk({"content": "@"})), end)


def _anthropic() -> WireFormat:
    message: dict[str, Any] = {
        "id": "benchmark",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "m",
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 1},
    }
    block = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": "@"}
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    return WireFormat(
        _named({"type": "message_start", "message": message}),
        _named({"type": "content_block_start", "index": 0, "content_block": block}),
        _around(_named({"type": "content_block_delta", "index": 0, "delta": delta})),
        _named({"type": "content_block_stop", "index": 0})
        + _named({"type": "message_delta", "delta": stop, "usage": {"output_tokens": 9}})
        + _named({"type": "message_stop"}),
    )


WIRES = {"chat": _cohere(), "completions": _openai(), "messages": _anthropic()}
"""By the last part of the path."""


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
GONE_ON = b"HTTP/1.1 204 No Content\r\n\r\n"


def text_of(token: int) -> str:
    """The text of a token that is not stamped."""
    return f" {token % 997}"


@cache
def _burst(wire: str, tokens: int) -> bytes:
    of = WIRES[wire]
    body = b"".join([*(of.token(text_of(n)) for n in range(tokens)), of.end])
    chunks = (body[start : start + BURST] for start in range(0, len(body), BURST))
    return b"".join(map(_chunk, chunks))


# The server --------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """One client: reads a request, sends what it asks for, and waits for the next."""

    held: set[Connection] = set()  # noqa: RUF012 - of the whole process
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._request = b""
        self._timer: asyncio.Handle | None = None
        self._is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.held.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if self._order.shape == "each":
            self._send_each()

    def data_received(self, data: bytes) -> None:
        self._request += data
        head, end, body = self._request.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        if len(body) < int(headers.get("content-length", "0")):
            return
        self._request = b""
        target = head.split()[1].decode()
        if target.endswith("/go"):
            self.transport.write(GONE_ON)
            released, waiting = list(self.held), len(self.held)
            self.held.clear()
            for number, each in enumerate(released):
                each._go_on(number / waiting)
        else:
            self._begin(Order.of(target.partition("?")[0]))

    def _begin(self, order: Order) -> None:
        self._order = order
        self._wire = WIRES[order.wire]
        self.transport.write(HEAD + _chunk(self._wire.first + self._wire.opening))
        if order.held:
            self.held.add(self)
        else:
            self._go_on()

    def _go_on(self, share: float = 0.0) -> None:
        """Sends the rest; paced ones begin so much before an interval is over, not all at once."""
        if self._order.shape == "burst":
            self.transport.write(_burst(self._order.wire, self._order.tokens) + LAST_CHUNK)
            return
        self._left = self._order.tokens
        if self._order.shape == "paced":
            self._next = self._loop.time() + (1 - share) / self._order.rate
            self._timer = self._loop.call_at(self._next, self._send_paced)
        else:
            self._send_each()

    def _send_each(self) -> None:
        if self._left and not self._is_full and self._send_one(text_of(self._left)):
            self._timer = self._loop.call_soon(self._send_each)

    def _send_paced(self) -> None:
        if self._send_one(str(time.monotonic_ns())):
            self._next += 1 / self._order.rate
            self._timer = self._loop.call_at(self._next, self._send_paced)

    def _send_one(self, text: str) -> bool:
        """Sends a token, and after the last one the end; tells whether there are more."""
        self.transport.write(_chunk(self._wire.token(text)))
        self._left -= 1
        if not self._left:
            self.transport.write(_chunk(self._wire.end) + LAST_CHUNK)
        return self._left > 0


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=8192)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def serving() -> Generator[str]:
    """Runs the server in another process; gives its address."""
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.communicate()  # ends its input, and with it the server


if __name__ == "__main__":
    asyncio.run(_serve())
