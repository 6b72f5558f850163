"""The connection to a client: notices at once when the client leaves, and when it does not read.

aiohttp tells a handler neither: one that only waits for the next event would hold its subscription
for as long as none comes.
"""

from __future__ import annotations

import array
import asyncio
import select
import socket
import struct
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

from aiohttp import web
from aiohttp.http import HttpVersion11

_BUFFER = 64 * 1024
"""Bytes that may wait in this process for one client, before nothing more is asked for."""

# Not all systems have them.
_TCP_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
_TCP_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)

_POLLRDHUP: int | None = getattr(select, "POLLRDHUP", None)

_ASK_AGAIN = 0.05
"""Seconds until one asks again what the client has not acknowledged yet."""

_MAX_INT = 2**31 - 1
_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class Connection(asyncio.Protocol):
    """Stands between a transport and its protocol, and passes everything on.

    Args:
        transport: of the connection.
        send_timeout: seconds after which a client that reads nothing is disconnected.
        resets: whether to reset the connection where the body is broken off, because its end is
            that of the connection, as in HTTP/1.0.

    Attributes:
        gone: the client has left, or was disconnected.
    """

    def __init__(self, transport: asyncio.Transport, send_timeout: float, resets: bool) -> None:
        self.gone = False
        self._transport = transport
        self._inner = cast("asyncio.Protocol", transport.get_protocol())
        self._send_timeout = send_timeout
        self._resets = resets
        self._loop = asyncio.get_running_loop()
        self._paused = False
        self._resumed: asyncio.Future[None] | None = None
        self._unsent = 0
        self._watchdog: asyncio.TimerHandle | None = None
        self._on_leave: Callable[[], None] | None = None

    def attach(self, on_leave: Callable[[], None], paused: bool) -> None:
        """Steps in; the callback is called once, when the client has left."""
        self._on_leave = on_leave
        self._transport.set_protocol(self)
        self._transport.set_write_buffer_limits(high=_BUFFER)
        if paused:
            self._watch()
        # A peer that is no longer there is noticed by what it does not acknowledge, and one that
        # does not read by what cannot be sent. What the system takes and cannot send yet is bounded
        # as well: the more waits here, the less of it can be merged.
        milliseconds = min(int(self._send_timeout * 1000) + 1, _MAX_INT)
        self._set_option(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, milliseconds)
        self._set_option(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _BUFFER)

    def detach(self) -> None:
        """Steps back."""
        self._on_leave = None
        self._stop_watching()
        # One that is closing may know of no protocol any more; it says the rest to this one.
        if self._is_open() and self._transport.get_protocol() is self:
            self._transport.set_protocol(self._inner)
            self._transport.set_write_buffer_limits()
            self._set_option(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, 0)

    def leave(self) -> None:
        """Treats the client as gone."""
        if self.gone:
            return
        self.gone = True
        self._stop_watching()
        self._resume()
        if self._on_leave is not None:
            self._on_leave()

    async def drained(self) -> None:
        """Waits until there is room to write, or the client is gone."""
        # aiohttp stops reading where a client sends more than it is asked for, and nobody is told
        # of its end then.
        if self._is_open() and not self._transport.is_reading() and self._has_hung_up():
            self.abort()
            self.leave()
        while self._paused and not self.gone:
            self._resumed = self._loop.create_future()
            await self._resumed

    async def flushed(self) -> None:
        """Waits until all that was written is out of this process, or the client is gone."""
        if self._is_open():
            # Not 0, above which TLS takes an empty buffer to be.
            self._transport.set_write_buffer_limits(high=1, low=0)
            await self.drained()

    async def break_off(self) -> None:
        """Closes the connection, after what has been written, in the middle of the body."""
        await self.flushed()
        if self._resets:
            await self._acknowledged()  # for a reset takes back what is still on its way
            self._reset_when_closed()
        self._transport.close()

    def abort(self) -> None:
        """Closes the connection at once; the client does not get what waits for it."""
        self._reset_when_closed()
        self._transport.abort()

    # What the transport calls --------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Passes it on."""
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Passes it on; the client is gone, and the transport closes then."""
        stays = self._inner.eof_received()
        self.leave()
        return stays

    def connection_lost(self, exc: Exception | None) -> None:
        """Passes it on; the client is gone."""
        if self._resets:
            self._reset_when_closed()  # if it is the server that stops
        self._inner.connection_lost(exc)
        self.leave()

    def pause_writing(self) -> None:
        """Passes it on, and looks after a while whether the client has read anything."""
        self._inner.pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Passes it on."""
        self._inner.resume_writing()
        self._paused = False
        self._stop_watching()
        self._resume()

    def _watch(self) -> None:
        self._paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self._watchdog = self._loop.call_later(self._send_timeout, self._look)

    def _look(self) -> None:
        if self._is_open() and self._transport.get_write_buffer_size() < self._unsent:
            self._watch()
        else:
            self.abort()

    def _stop_watching(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _resume(self) -> None:
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    def _has_hung_up(self) -> bool:
        sock = self._transport.get_extra_info("socket")
        if _POLLRDHUP is None or sock is None:  # nobody can tell
            return False
        poll = select.poll()
        poll.register(sock, _POLLRDHUP)
        return bool(poll.poll(0))

    async def _acknowledged(self) -> None:
        """Waits until the client has what was sent, for as long as a slow one may take."""
        give_up_at = self._loop.time() + self._send_timeout
        while (  # noqa: ASYNC110 - the system has no other way to tell
            not self.gone and self._loop.time() < give_up_at and self._unacknowledged()
        ):
            await asyncio.sleep(_ASK_AGAIN)

    def _unacknowledged(self) -> int:
        """How many bytes the system still holds for the client; 0 where it does not tell."""
        sock = self._transport.get_extra_info("socket")
        if sys.platform != "linux" or sock is None:
            return 0
        import fcntl
        import termios

        count = array.array("i", [0])
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
        return count[0]

    def _reset_when_closed(self) -> None:
        """Has the system tell the client, when it closes the socket, that something is missing."""
        self._set_option(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)

    def _is_open(self) -> bool:
        return not (self.gone or self._transport.is_closing())

    def _set_option(self, level: int, option: int | None, value: int | bytes) -> None:
        # A socket of another family has no such options, and another kind of transport no socket;
        # one that is closing may not know it any more.
        if option is not None:
            with suppress(OSError, AttributeError):
                self._transport.get_extra_info("socket").setsockopt(level, option, value)


def is_open(request: web.Request) -> bool:
    """Whether there is a connection to answer on."""
    return request.transport is not None and not request.transport.is_closing()


@asynccontextmanager
async def connected(request: web.Request, send_timeout: float) -> AsyncGenerator[Connection, None]:
    """Runs the block for as long as the client is there.

    When the client leaves, or is disconnected because it reads nothing, the block is cancelled, and
    what comes after it runs. So it does when writing fails for that reason.
    """
    transport = request.transport
    assert transport is not None
    loop = asyncio.get_running_loop()
    connection = Connection(transport, send_timeout, request.version < HttpVersion11)
    try:
        async with asyncio.timeout(None) as limit:
            connection.attach(
                lambda: limit.reschedule(loop.time()), request.protocol.writing_paused
            )
            try:
                yield connection
            finally:
                connection.detach()
    except (TimeoutError, ConnectionError):
        if not (connection.gone or transport.is_closing()):
            raise
