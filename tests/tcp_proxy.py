"""A TCP proxy that loses connections in the ways that networks do, for tests."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from types import TracebackType

_RESET = struct.pack("ii", 1, 0)
"""The SO_LINGER with which closing a socket resets its connection."""


class TcpProxy:
    """Forwards what comes on a port of its own to another one; started by ``async with``.

    Args:
        port: where to forward, on 127.0.0.1.
        budget: how many bytes of answers a new connection carries before it is reset, in the middle
            of whatever; None for any number.

    Attributes:
        port: where it listens.
        resets: how many connections it has reset.
        silent: what comes on any connection is dropped, and new ones hear nothing. A connection
            that was silenced once stays so.
        refusing: new connections are reset.
        foiled: is set when a client has tried in vain: what it sent was dropped, or it was refused.
    """

    def __init__(self, port: int, budget: Callable[[], int | None] = lambda: None) -> None:
        self._to = port
        self._budget = budget
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: dict[asyncio.StreamWriter, bool] = {}
        self._listener: asyncio.Server | None = None
        self.port = 0
        self.resets = 0
        self.silent = False
        self.refusing = False
        self.foiled = asyncio.Event()

    @property
    def url(self) -> str:
        """Its address, as a Redis URL."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many connections go through it now."""
        return len(self._clients)

    def reset(self) -> None:
        """Resets all connections."""
        for writer in list(self._clients):
            self._reset(writer)

    def silence(self) -> None:
        """Drops what comes from now on, on all connections and on new ones."""
        self.silent = True
        self._clients = dict.fromkeys(self._clients, True)

    def heal(self) -> None:
        """Has new connections work again."""
        self.silent = self.refusing = False

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        if self._clients.pop(writer, None) is None:
            return
        own: socket.socket = writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
        self.resets += 1

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of its own: asyncio reports it as an error when one that it made is cancelled.
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients[writer] = self.silent
        if self.refusing:
            self._reset(writer)
            self.foiled.set()
        server: asyncio.StreamWriter | None = None
        pumps: list[asyncio.Task[None]] = []
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self._to)
            pumps.append(asyncio.create_task(self._pump(reader, server, writer, None)))
            pumps.append(asyncio.create_task(self._pump(answers, writer, writer, self._budget())))
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # nobody listens there
        finally:
            for pump in pumps:
                pump.cancel()
            if server is not None:
                server.transport.abort()
            if self._clients.pop(writer, None) is not None:
                writer.close()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        to: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        budget: int | None,
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if self._clients.get(client, True):
                    self.foiled.set()
                    continue
                to.write(data[:budget])
                if budget is not None:
                    budget -= len(data)
                    if budget <= 0:
                        await to.drain()
                        self._reset(client)
                        return
                await to.drain()
        except OSError:
            pass  # one of the two is gone

    async def __aenter__(self) -> TcpProxy:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1")
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
