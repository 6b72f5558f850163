"""What asyncio does not offer for a TCP connection, and a server that breaks one needs."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

_RESET = struct.pack("ii", 1, 0)
"""The SO_LINGER of zero seconds, which turns the FIN of a close into an RST."""

_SIOCOUTQNSD = 0x894B
"""Linux's request for how many bytes of a connection have not been sent yet."""


def reset(transport: asyncio.WriteTransport) -> None:
    """Ends a connection with an RST; what has not been sent yet is lost."""
    connection: socket.socket = transport.get_extra_info("socket")
    with suppress(OSError):  # it is closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


async def sent(transport: asyncio.WriteTransport) -> None:
    """Waits until the kernel has sent all it was given, or the connection is lost.

    Where the kernel does not tell, as outside of Linux, all counts as sent.
    """
    connection: socket.socket = transport.get_extra_info("socket")
    while not transport.is_closing() and unsent(connection):
        # No event tells. Nor does asyncio watch a connection whose other side has ended already.
        await asyncio.sleep(0.001)
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return


def unsent(connection: socket.socket) -> int:
    """How many bytes wait in the kernel until the other side has room; 0 where it cannot tell."""
    with suppress(ImportError, OSError):  # no such module on Windows; no such request elsewhere
        from fcntl import ioctl

        answer: tuple[int] = struct.unpack("i", ioctl(connection.fileno(), _SIOCOUTQNSD, b"\0" * 4))
        return answer[0]
    return 0


async def accept_pending() -> None:
    """Lets connections that are being accepted be so, before their listener is closed.

    asyncio drops them otherwise, without closing them.
    """
    for _ in range(3):
        await asyncio.sleep(0)
