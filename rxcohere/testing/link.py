"""One connection through a proxy: its two sides, and what goes from one to the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import cast

from rxcohere.testing.counters import Count
from rxcohere.testing.flow import End, Flow
from rxcohere.testing.sockets import reset, sent
from rxcohere.testing.wire import Wire


class Side(asyncio.Protocol):
    """One end of a link: the connection with the client, or that with the server.

    Args:
        link: whose side it is.
        outgoing: takes what comes from this side.
        incoming: brings what this side is sent.

    Attributes:
        transport: the connection; None while there is none.
    """

    def __init__(self, link: Link, outgoing: Flow, incoming: Flow) -> None:
        self._link = link
        self.outgoing = outgoing
        self._incoming = incoming
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = connection = cast(asyncio.Transport, transport)
        connection.set_write_buffer_limits(high=0)  # `pause_writing` until the kernel has it all
        self.outgoing.source = self._incoming.sink = connection
        self._link.made(self)
        self._incoming.go_on()

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        self._link.received(self, data)

    def eof_received(self) -> bool:
        """No more will come."""
        self._link.finished(self)
        return True  # what goes the other way goes on

    def pause_writing(self) -> None:
        """The kernel takes no more."""
        self._incoming.wait_for_sink()

    def resume_writing(self) -> None:
        """The kernel has taken everything."""
        self._incoming.sink_has_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.transport = self.outgoing.source = self._incoming.sink = None
        self._link.lost(self, exc)

    def finish(self) -> None:
        """Sends a FIN; what this side still sends is read."""
        assert self.transport is not None  # or its flow would not have come to its end
        with suppress(OSError):  # it was reset after its own end, which asyncio does not notice
            self.transport.write_eof()

    def close(self) -> None:
        """Ends the connection in good order."""
        if self.transport is not None:
            self.finish()  # before closing, which sends an RST where something was not read
            self.transport.close()

    def abort(self, *, by_reset: bool) -> None:
        """Ends the connection at once."""
        if self.transport is not None:
            if by_reset:
                reset(self.transport)
            else:
                self.transport.abort()


class Link:
    """A connection of a client with the proxy, and the proxy's with the server for it.

    Args:
        count: adds to a counter.
        on_made: is told when the client is connected; it admits, silences or resets.
        on_over: is told when both connections are gone.
    """

    def __init__(
        self,
        count: Callable[[Count, int], None],
        on_made: Callable[[Link], None],
        on_over: Callable[[Link], None],
    ) -> None:
        self._count = count
        self._on_made = on_made
        self._on_over = on_over
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: set[Flow] = set()
        self._silent = False
        self._aborted = False
        self._unreachable = False
        self._client_has_finished = False
        self.requests = Flow(self._held, lambda _: None, self._request_ended)
        self.answers = Flow(self._held, self._carried, self._answer_ended)
        self.client = Side(self, self.requests, self.answers)
        self.server = Side(self, self.answers, self.requests)

    # What the proxy does

    def connect(self, host: str, port: int, wire: Wire) -> None:
        """Connects with the server; a link whose server does not answer is reset."""
        self.answers.carry(wire)

        async def connecting() -> None:
            try:
                await asyncio.get_running_loop().create_connection(lambda: self.server, host, port)
            except OSError:
                self._unreachable = True
                if not (self._silent or self.answers.stalled):
                    self.abort(by_reset=True)

        self._spawn(connecting())

    def stall(self) -> None:
        """Nothing goes on, either way, until it is healed."""
        if self._client_has_finished:
            self.abort()  # nobody would notice when it leaves
        self.requests.stalled = self.answers.stalled = True

    def silence(self) -> None:
        """Drops what is held and what comes, for good, until the client leaves."""
        if self._client_has_finished:
            self.abort()
        self._silent = True
        self.requests.drop()
        self.answers.drop()

    def heal(self) -> None:
        """What is stalled goes on; what was silenced is lost."""
        if self._unreachable and not self._silent:
            self.abort(by_reset=True)
        self.requests.heal()
        self.answers.heal()

    def reset(self) -> None:
        """Resets both connections."""
        if not self._aborted:
            self.abort(by_reset=True)
            self._count("resets", 1)

    def abort(self, *, by_reset: bool = False) -> None:
        """Ends both connections at once."""
        self._aborted = True
        for task in self._tasks:
            task.cancel()
        self.requests.drop()
        self.answers.drop()
        self.client.abort(by_reset=by_reset)
        self.server.abort(by_reset=by_reset)

    # What the sides tell

    def made(self, side: Side) -> None:
        """The side is connected."""
        if side is self.client:
            self._on_made(self)

    def received(self, side: Side, data: bytes) -> None:
        """The side has sent something."""
        if self._silent:
            self._count("dropped", len(data))
        else:
            side.outgoing.take(data)

    def finished(self, side: Side) -> None:
        """The side sends no more."""
        self._client_has_finished |= side is self.client
        if side is self.client and (self._silent or self.requests.stalled or self.answers.stalled):
            self.abort()  # nobody would notice
        else:
            side.outgoing.end("eof")

    def lost(self, side: Side, error: Exception | None) -> None:
        """The connection of the side is gone, with an error if it was not we who ended it."""
        if side is self.client:
            self.abort(by_reset=error is not None)
        elif error is not None:
            self.requests.drop()
            self._is_done(self.requests)
            self.answers.end("lost")
        self._check_over()

    # How the flows end

    def _request_ended(self, _: End) -> None:
        self.server.finish()
        self._is_done(self.requests)

    def _answer_ended(self, end: End) -> None:
        match end:
            case "eof":
                self.client.finish()
                self._is_done(self.answers)
            case "half-close":
                self._count("cuts", 1)
                self.client.finish()
                self._is_done(self.answers)
            case "close":
                self._count("cuts", 1)
                self.requests.drop()
                self.client.close()
                self.server.close()
            case "stall":
                self._count("cuts", 1)  # the rest is the flow's own affair
            case "reset" | "lost":  # pragma: no branch - pyright would see another
                self._spawn(self._reset_when_sent(end))

    async def _reset_when_sent(self, end: End) -> None:
        assert self.client.transport is not None  # or this would have been cancelled
        await sent(self.client.transport)
        self.client.abort(by_reset=True)
        self.server.abort(by_reset=True)
        if end == "reset":
            self._count("cuts", 1)
            self._count("resets", 1)

    def _is_done(self, flow: Flow) -> None:
        self._done.add(flow)
        if len(self._done) == 2:
            self.client.close()
            self.server.close()

    def _held(self, by: int) -> None:
        self._count("held", by)

    def _carried(self, by: int) -> None:
        self._count("carried", by)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._check_over()

    def _check_over(self) -> None:
        if self.client.transport is None and self.server.transport is None and not self._tasks:
            self._on_over(self)
