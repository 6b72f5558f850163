"""Where requests go and what they carry, and which exchanges are live."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from io import BytesIO

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from rxcohere import __version__
from rxcohere.errors import ConfigurationError, StreamCancelledError
from rxcohere.options import RequestOptions, Retry, Timeouts, check_header, check_whole
from rxcohere.request import ChatRequest
from rxcohere.runtime import LoopBinding, Work, refuse_to_block, running_loop, submit
from rxcohere.transport.answer import BROKEN, request_failure
from rxcohere.transport.resources import Cancellable, LoopResources
from rxcohere.transport.secret import Secret

_PATH = "v2/chat"
_IN_ONE_PIECE = 65_536
"""Bytes of a body that are sent at once."""


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


class Transport:
    """Sends requests and knows which exchanges are live.

    Args:
        base_url: scheme, host and an optional path prefix.
        secret: the API key.
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
        secret: Secret,
        client_name: str | None,
        timeouts: Timeouts,
        retry: Retry,
        session: aiohttp.ClientSession | None,
        max_connections: int | None,
        max_event_bytes: int,
    ) -> None:
        _check_kind("timeouts", timeouts, Timeouts)
        _check_kind("retry", retry, Retry)
        if session is not None:
            _check_kind("session", session, aiohttp.ClientSession)
        if max_connections is not None:
            check_whole("max_connections", max_connections, 1)
        check_whole("max_event_bytes", max_event_bytes, 1)
        self.secret = secret
        self.base_url = base_url
        self._url = _endpoint(base_url)
        self._timeouts = timeouts
        self._retry = retry
        self._session = session
        self._max_connections = max_connections
        self.max_event_bytes = max_event_bytes
        self._headers = {"User-Agent": f"rxcohere/{__version__}"}
        if client_name is not None:
            check_header("client_name", client_name)
            self._headers["X-Client-Name"] = client_name
        self._binding = LoopBinding()
        self.at_work: set[Work] = set()
        """Work under way, held here so that the collector does not take it."""
        self._resources: LoopResources | None = None
        self.closed = False
        self._lock = threading.Lock()
        self._closing: Future[None] | None = None
        if session is not None and running_loop() is not None:
            self._binding.acquire()  # a session belongs to the loop it was made in

    def call(self, request: ChatRequest, options: RequestOptions, *, stream: bool) -> Call:
        """The request as it will be sent.

        Raises:
            ConfigurationError: an addition cannot be sent, or the client is closed.
        """
        if self.closed:
            raise ConfigurationError("the client is closed; make a new one")
        try:
            url = self._url.update_query(dict(options.additional_query_parameters))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"request_options.additional_query_parameters: {error}"
            ) from error
        accept = "text/event-stream" if stream else "application/json"
        body = request.body(stream, options.additional_body_parameters)
        # Last, for they hold the key, and a traceback shows what a frame knows.
        headers = CIMultiDict(self._headers)
        headers.update(self.secret.headers())
        headers.update({"Accept": accept, "Content-Type": "application/json"})
        headers.update(options.additional_headers)
        return Call(
            accept=accept,
            url=url,
            headers=headers,
            body=body,
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
        if session.closed:
            if self._session is not None:
                raise ConfigurationError("the session that was given to the client is closed")
            raise StreamCancelledError("the event loop was closed under a live stream")
        # Images make bodies of megabytes, which are sent in pieces.
        data = call.body if len(call.body) <= _IN_ONE_PIECE else BytesIO(call.body)
        try:
            return await session.post(
                call.url,
                data=data,
                headers=call.headers,
                allow_redirects=False,
                raise_for_status=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect),
            )
        except (*BROKEN, ValueError, TypeError) as error:
            failure = request_failure(error, connect, self.secret)
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

    async def _acquire(self) -> LoopResources:
        self._check_open()
        loop = asyncio.get_running_loop()
        resources = self._resources
        if resources is None or resources.loop is not loop:
            if resources is not None and self._session is not None:
                raise ConfigurationError("the session belongs to an event loop that has ended")
            resources = self._resources = LoopResources(self._session, self._max_connections)
            await resources.open()
            self._check_open()
        return resources

    def _check_open(self) -> None:
        if self.closed:
            raise StreamCancelledError("the client is closed")

    async def aclose(self) -> None:
        """Ends live exchanges with `StreamCancelledError` and closes the connections."""
        await asyncio.shield(asyncio.wrap_future(self._start_closing()))

    def close(self) -> None:
        """The same for synchronous code.

        Raises:
            BlockingCallError: an event loop is running in this thread.
        """
        refuse_to_block("close()", "await aclose()")
        self._start_closing().result()

    def _start_closing(self) -> Future[None]:
        """Is done when all is closed. It happens once, whoever asks for it and stops waiting."""
        with self._lock:
            if self._closing is not None:
                return self._closing
            self.closed = True
            closing = self._closing = Future[None]()

        def release(_: object) -> None:
            background = self._binding.release()
            if background is None:
                closing.set_result(None)
            else:
                background.ended.add_done_callback(lambda _: closing.set_result(None))

        loop = self._binding.current
        if loop is None:
            release(None)
        else:
            submit(self._close_here, loop).add_done_callback(release)
        return closing

    async def _close_here(self) -> None:
        resources, self._resources = self._resources, None
        for exchange in list(resources.live) if resources is not None else ():
            exchange.cancel("the client was closed under a live stream")
        at_work = list(self.at_work)
        for work in at_work:
            work.release()  # what it still has is handed over, however slow the consumer
        # Not those of other loops, which only wait for what this one hands over.
        here, own = asyncio.get_running_loop(), asyncio.current_task()
        tasks = {work.task for work in at_work} - {None, own}
        try:
            if tasks := {task for task in tasks if task is not None and task.get_loop() is here}:
                await asyncio.wait(tasks)
        finally:
            if resources is not None:
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
    if any(char < " " for char in base_url):  # which the parser drops without a word
        raise ConfigurationError(problem)
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ConfigurationError(problem)
    try:
        url.host.encode("idna")
    except UnicodeError as error:
        raise ConfigurationError(problem) from error
    if url.user is not None or url.password is not None:
        raise ConfigurationError("base_url should hold no user name or password")
    return url.with_path(f"{url.raw_path.rstrip('/')}/{_PATH}", encoded=True)
