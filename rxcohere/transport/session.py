"""Where requests go and what they carry: URL, headers, the aiohttp session of the client's loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from rxcohere import __version__
from rxcohere.errors import ConfigurationError, StreamCancelledError
from rxcohere.options import RequestOptions, Retry, Timeouts, check_header, check_whole
from rxcohere.request import ChatRequest
from rxcohere.runtime import LoopBinding, refuse_to_block, running_loop
from rxcohere.transport.answer import BROKEN, request_failure

_PATH = "v2/chat"


class Cancellable(Protocol):
    """What can be live: `Transport` tells it when the client is closed."""

    def cancel(self, reason: str) -> None:
        """Breaks off; the consumer gets `StreamCancelledError`."""
        ...


@dataclass(frozen=True, slots=True, repr=False)  # without a repr: the headers hold the key
class Call:
    """A request, ready to be sent any number of times.

    Attributes:
        accept: the media type that is asked for, and the only one that is taken.
    """

    accept: str
    url: URL
    headers: CIMultiDict[str]
    body: bytes
    timeouts: Timeouts
    retry: Retry


class _LoopResources:
    """What belongs to one loop: the session, and who may use a connection."""

    def __init__(self, session: aiohttp.ClientSession | None, max_connections: int | None) -> None:
        self.loop = asyncio.get_running_loop()
        # The slots limit the connections, so aiohttp's own limit of 100 must not: waiting for a
        # slot is not a part of connecting, and has no time limit but the total.
        self.session = session or aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
        )
        self.slots = asyncio.Semaphore(max_connections) if max_connections else None
        self.live: dict[Cancellable, asyncio.Semaphore | None] = {}  # and whose slot each has
        self._guard = _close_with_loop(None if session else self.session, self.live)

    async def open(self) -> None:
        await anext(self._guard)

    async def close(self) -> None:
        await self._guard.aclose()


async def _close_with_loop(
    session: aiohttp.ClientSession | None, live: Iterable[Cancellable]
) -> AsyncGenerator[None, None]:
    """Ends what is live and closes the session, at the latest when the loop ends.

    A suspended asynchronous generator is what a loop finishes off before it closes, and what it
    finishes off when nobody refers to it any more. So connections are closed in good order even if
    nobody closed the client.
    """
    try:
        yield
    finally:
        for exchange in list(live):
            exchange.cancel("the event loop was closed under a live stream")
        if session is not None:
            await session.close()


class Transport:
    """Sends requests and knows which exchanges are live.

    Args:
        base_url: scheme, host and an optional path prefix.
        api_key: "" for none.
        client_name: sent as ``X-Client-Name``; None for none.
        timeouts: limits of each exchange, unless its call has its own.
        retry: retries of each exchange, unless its call has its own.
        session: an aiohttp session to use instead of an own one; it is never closed here.
        max_connections: the most connections at a time; None for no limit.
        max_event_bytes: the most that one event may take.

    Raises:
        ConfigurationError: one of them cannot be used.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        client_name: str | None,
        timeouts: Timeouts,
        retry: Retry,
        session: aiohttp.ClientSession | None,
        max_connections: int | None,
        max_event_bytes: int,
    ) -> None:
        check_header("api_key", api_key, shown=False)
        _check_kind("timeouts", timeouts, Timeouts)
        _check_kind("retry", retry, Retry)
        if session is not None:
            _check_kind("session", session, aiohttp.ClientSession)
        if max_connections is not None:
            check_whole("max_connections", max_connections, 1)
        check_whole("max_event_bytes", max_event_bytes, 1)
        self._secret = api_key
        self.base_url = base_url
        self._url = _endpoint(base_url)
        self._timeouts = timeouts
        self._retry = retry
        self._session = session
        self._max_connections = max_connections
        self.max_event_bytes = max_event_bytes
        self._headers = {"User-Agent": f"rxcohere/{__version__}"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        if client_name is not None:
            check_header("client_name", client_name)
            self._headers["X-Client-Name"] = client_name
        self._binding = LoopBinding()
        self.tasks: set[asyncio.Task[None]] = set()
        """Work under way, held here so that the collector does not take it."""
        self._resources: _LoopResources | None = None
        self.closed = False
        if session is not None and running_loop() is not None:
            self._binding.acquire()  # a session belongs to the loop it was made in

    @property
    def secret(self) -> str:
        """What must not show in anything that is said about an exchange."""
        return self._secret

    def call(self, request: ChatRequest, options: RequestOptions, *, stream: bool) -> Call:
        """The request as it will be sent.

        Raises:
            ConfigurationError: an addition cannot be sent, or the client is closed.
        """
        if self.closed:
            raise ConfigurationError("the client is closed; make a new one")
        accept = "text/event-stream" if stream else "application/json"
        headers = CIMultiDict({**self._headers, "Accept": accept})
        headers["Content-Type"] = "application/json"
        for name, value in options.additional_headers.items():
            headers[name] = value
        try:
            url = self._url.update_query(dict(options.additional_query_parameters))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"request_options.additional_query_parameters: {error}"
            ) from error
        return Call(
            accept=accept,
            url=url,
            headers=headers,
            body=request.body(stream, options.additional_body_parameters),
            timeouts=options.timeouts_over(self._timeouts),
            retry=options.retry_over(self._retry),
        )

    async def send(self, call: Call) -> aiohttp.ClientResponse:
        """The response's head, as it came; redirects are not followed.

        Raises:
            ConnectionFailedError: there was none.
            StreamTimeoutError: no connection in time.
        """
        connect = call.timeouts.connect
        session = (await self._acquire()).session
        try:
            return await session.post(
                call.url,
                data=BytesIO(call.body),  # sent in pieces: images make bodies of megabytes
                headers=call.headers,
                allow_redirects=False,
                raise_for_status=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect),
            )
        except BROKEN as error:
            failure = request_failure(error, connect)
        # Raised outside of the handler, so that no frame that holds the headers hangs on to it.
        raise failure

    def acquire_loop(self) -> asyncio.AbstractEventLoop:
        """The loop to work on.

        Raises:
            StreamCancelledError: the client is closed.
        """
        self._check_open()
        return self._binding.acquire()

    async def enter(self, exchange: Cancellable) -> None:
        """Counts an exchange among the live ones.

        Raises:
            StreamCancelledError: the client is closed.
        """
        (await self._acquire()).live[exchange] = None

    async def take_slot(self, exchange: Cancellable) -> None:
        """Waits until there is a connection to be had."""
        resources = await self._acquire()
        if resources.slots is not None:
            await resources.slots.acquire()
            resources.live[exchange] = resources.slots

    def free_slot(self, exchange: Cancellable) -> None:
        """The exchange has no connection any more."""
        resources = self._resources
        if resources is not None and (slots := resources.live.get(exchange)) is not None:
            resources.live[exchange] = None
            slots.release()

    def leave(self, exchange: Cancellable) -> None:
        """The exchange is over."""
        if self._resources is not None:
            self._resources.live.pop(exchange, None)

    async def _acquire(self) -> _LoopResources:
        self._check_open()
        loop = asyncio.get_running_loop()
        resources = self._resources
        if resources is None or resources.loop is not loop:
            if resources is not None and self._session is not None:
                raise ConfigurationError("the session belongs to an event loop that has ended")
            resources = self._resources = _LoopResources(self._session, self._max_connections)
            await resources.open()
            self._check_open()
        return resources

    def _check_open(self) -> None:
        if self.closed:
            raise StreamCancelledError("the client is closed")

    async def aclose(self) -> None:
        """Ends live exchanges with `StreamCancelledError` and closes the connections."""
        self.closed = True
        here, loop = running_loop(), self._binding.current
        if loop is here:
            await self._close_here()
        elif loop is not None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._close_here(), loop))
        background = self._binding.release()
        if background is not None and background.loop is not here:
            await asyncio.wrap_future(background.ended)

    def close(self) -> None:
        """The same for synchronous code.

        Raises:
            BlockingCallError: an event loop is running in this thread.
        """
        refuse_to_block("close()", "await aclose()")
        self.closed = True
        if (loop := self._binding.current) is not None:
            asyncio.run_coroutine_threadsafe(self._close_here(), loop).result()
        if (background := self._binding.release()) is not None:
            background.join()

    async def _close_here(self) -> None:
        resources, self._resources = self._resources, None
        for exchange in list(resources.live) if resources is not None else ():
            exchange.cancel("the client was closed under a live stream")
        # Not those of other loops, which only wait for what this one hands over.
        here, own = asyncio.get_running_loop(), asyncio.current_task()
        if tasks := [t for t in list(self.tasks) if t.get_loop() is here and t is not own]:
            await asyncio.wait(tasks)
        if resources is not None:
            with suppress(RuntimeError):  # the loop is finishing it off itself
                await resources.close()


def _check_kind(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} should be a {kind.__name__}, not {value!r}")


def _endpoint(base_url: str) -> URL:
    problem = f"base_url should be an http(s) URL such as https://api.cohere.com, not {base_url!r}"
    try:
        url = URL(base_url)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(problem) from error
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ConfigurationError(problem)
    if url.user is not None or url.password is not None:
        raise ConfigurationError("base_url should hold no user name or password")
    return url.with_path(f"{url.raw_path.rstrip('/')}/{_PATH}", encoded=True)
