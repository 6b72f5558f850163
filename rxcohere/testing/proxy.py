"""`FaultProxy`: a TCP proxy that does to connections what networks do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from rxcohere.errors import ConfigurationError
from rxcohere.testing.counters import Traffic
from rxcohere.testing.link import Link
from rxcohere.testing.running import Running, check_port
from rxcohere.testing.sockets import accept_pending
from rxcohere.testing.wire import UNHARMED, Wire

Wires: TypeAlias = Wire | Sequence[Wire] | Callable[[int], Wire]
"""One for all connections; one for each in turn, the last being repeated; or a function from the
number of the connection, counted from 0."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


class FaultProxy(Traffic, Running):
    """A real TCP proxy between a client and a server, of whatever protocol.

    ::

        async with (
            ReplayServer("text") as server,
            FaultProxy(server.url, Wire(cut_after=700)) as proxy,
            CohereClient("key", base_url=proxy.url) as co,
        ):
            ...

    `ReplayServer` plays what a server may do; this, what may become of it on the way. As an async
    context manager it runs on the running loop; as a plain one in a daemon thread with a loop of
    its own. Leaving the context ends all connections at once.

    It connects with the server once for each client, and forwards both ways what comes, ends and
    resets included. A side that does not read slows the other one down, as no connection has more
    than a megabyte waiting here. What else happens is said by a `Wire`, beforehand; and by `stall`,
    `silence`, `refuse`, `reset` and `heal` at any time, from any thread. In another thread than the
    proxy's, these return when it is done. What it counts, and how to wait for it, is in `Traffic`.

    Args:
        target: the URL of the server, of any scheme, with its port unless that is the one of http
            or https. TLS goes through as it is: the client has to be told which name to expect.
        wire: what happens to the bytes that a connection carries from the server to the client: a
            `Wire` for all; a sequence of them, one for each connection in turn, of which the last
            one is repeated; or a function from the connection's number, 0 for the first one.
            Connections that are refused have no number.
        host: the address to listen on.
        port: the port; 0 takes a free one.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    _thread_name = "rxcohere-proxy"

    def __init__(
        self, target: str, wire: Wires = UNHARMED, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__()
        self._target = _read_target(target)
        self._choose = _chooser(wire)
        check_port(port)
        self._host = host
        self._own_port = port
        self._listener: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._numbered = 0
        self._stalled = False
        self._silent = False
        self._refusing = False
        self._healed = False
        self._stopping = False

    def __repr__(self) -> str:
        """The address, if it runs, and the counters."""
        where = "not running" if self._listener is None else self.url
        return f"<FaultProxy {where}: {self}>"

    @property
    def url(self) -> str:
        """The server's URL with the proxy's address in it, as ``http://127.0.0.1:8080``.

        Raises:
            RuntimeError: the proxy is not running.
        """
        user, at, _ = self._target.netloc.rpartition("@")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return self._target._replace(netloc=f"{user}{at}{host}:{self.port}").geturl()

    @property
    def port(self) -> int:
        """The port on which it listens.

        Raises:
            RuntimeError: the proxy is not running.
        """
        if self._listener is None:
            raise RuntimeError("the proxy is not running: enter its context first")
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    def reset(self) -> None:
        """Resets all connections, both ways; what has not been sent yet is lost."""
        self._on_its_loop(lambda: self._each(Link.reset))

    def stall(self) -> None:
        """Nothing goes on, either way, on all connections and on new ones, until `heal`.

        It is as if a cable were pulled: nobody hears anything, and nothing is lost if it is put
        back. Clients can connect. One that leaves takes its connection along, and the server hears
        of that; unless 128 KiB of its request are held, beyond which nobody looks.
        """

        def stall() -> None:
            self._stalled = True
            self._each(Link.stall)

        self._on_its_loop(stall)

    def silence(self) -> None:
        """Drops what comes, either way, on all connections, for good, and on new ones until `heal`.

        It is as if a firewall had forgotten them: nobody hears anything, and a connection on which
        nothing has been heard stays dead. Clients can connect, and it ends when they leave.
        """

        def silence() -> None:
            self._silent = True
            self._each(Link.silence)

        self._on_its_loop(silence)

    def refuse(self) -> None:
        """Resets new connections at once, until `heal`; those that are open go on."""

        def refuse() -> None:
            self._refusing = True

        self._on_its_loop(refuse)

    def heal(self) -> None:
        """From now on everything is carried as it is.

        What is stalled goes on, also by a wire's ``ending="stall"``; new connections are taken, and
        wires do nothing any more, on connections that are open either. What was silenced stays
        silent, and what has ended is over.
        """

        def heal() -> None:
            self._stalled = self._silent = self._refusing = False
            self._healed = True
            self._each(Link.heal)

        self._on_its_loop(heal)

    def _each(self, action: Callable[[Link], None]) -> None:
        for link in list(self._links):
            action(link)

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopping = False
        self._listener = await loop.create_server(
            lambda: Link(self._count, self._made, self._over).client, self._host, self._own_port
        )

    async def _stop(self) -> None:
        assert self._listener is not None
        self._stopping = True
        await accept_pending()
        self._listener.close()
        self._listener = None
        self._each(Link.abort)
        while self._links:  # noqa: ASYNC110 - they need a few turns of the loop to be gone
            await asyncio.sleep(0)

    def _made(self, link: Link) -> None:
        """A client has connected."""
        self._links.add(link)
        self._count("connections")
        self._count("open")
        if self._stopping:
            link.abort()
        elif self._refusing:
            self._count("refused")
            link.reset()
        elif self._silent:
            link.silence()
        else:
            self._connect(link)

    def _connect(self, link: Link) -> None:
        number = self._numbered
        self._numbered += 1
        try:
            wire = UNHARMED if self._healed else self._choose(number)
        except BaseException:
            link.abort(by_reset=True)
            raise
        if self._stalled:
            link.stall()
        host, port = self._target.hostname, self._target.port
        assert host is not None
        link.connect(host, port or _DEFAULT_PORTS[self._target.scheme], wire)

    def _over(self, link: Link) -> None:
        self._links.discard(link)
        self._count("open", -1)


def _read_target(target: object) -> SplitResult:
    problem = f"expected target to be the URL of a server, with its port, got {target!r}"
    if not isinstance(target, str):
        raise ConfigurationError(problem)
    try:
        url = urlsplit(target)
        known = url.port is not None or url.scheme in _DEFAULT_PORTS
        (url.hostname or "").encode("idna")
    except ValueError as error:
        raise ConfigurationError(problem) from error
    if not url.scheme or not url.hostname or not known:
        raise ConfigurationError(problem)
    return url


def _chooser(wires: Wires) -> Callable[[int], Wire]:
    if isinstance(wires, Wire):
        return lambda number: wires
    if callable(wires):
        return lambda number: _a_wire(wires(number))
    each = [_a_wire(wire) for wire in wires] if isinstance(wires, Iterable) else []  # pyright: ignore[reportUnnecessaryIsInstance]
    if not each:
        raise ConfigurationError(f"expected a wire, several or a function, got {wires!r}")
    return lambda number: each[min(number, len(each) - 1)]


def _a_wire(wire: object) -> Wire:
    if not isinstance(wire, Wire):
        raise ConfigurationError(f"expected a Wire, got {wire!r}")
    return wire
