"""What tests of live streams share: subscribers that know the Rx grammar, served clients, waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from reactivex import Observable, abc

from rxcohere import CohereClient, ContentDelta, Retry, StreamTimeoutError, Timeouts
from rxcohere.testing import Fault, ReplayServer, Transcript

ASK: dict[str, Any] = {
    "model": "command-a-03-2025",
    "messages": [{"role": "user", "content": "Where do the tallest penguins live?"}],
}
TEXT = Transcript.load("text")
EVENTS = len(TEXT.events)
ANSWER = "".join(event.text or "" for event in TEXT.events if isinstance(event, ContentDelta))
HANG = 10.0
"""Seconds after which a test that hangs fails; nothing is timed with it."""

LIMITS = Timeouts(connect=HANG, first_event=HANG, idle=HANG, total=HANG)


class Subscriber(abc.ObserverBase[Any]):
    """Keeps what one subscription brings, and notes each breach of the Rx grammar.

    The grammar: ``on_next* (on_error | on_completed)?``, one call at a time, none that begins after
    the terminal or after `dispose` has returned.
    """

    def __init__(self, react: Callable[[Any], None] | None = None) -> None:
        self.values: list[Any] = []
        self.error: Exception | None = None
        self.completed = False
        self.threads: set[int] = set()
        self.breaches: list[str] = []
        self.subscription: abc.DisposableBase | None = None
        self._react = react
        self._disposed = False
        self._one_at_a_time = threading.Lock()
        self._ended: Future[None] = Future()
        self._arrivals: list[tuple[int, Future[None]]] = []

    def to(self, source: Observable[Any], **options: Any) -> Subscriber:
        """Subscribes to the source."""
        self.subscription = source.subscribe(self, **options)
        return self

    def on_next(self, value: Any) -> None:
        with self._call("on_next"):
            self.values.append(value)
            for count, future in self._arrivals:
                if count == len(self.values):
                    future.set_result(None)
            if self._react is not None:
                self._react(value)

    def on_error(self, error: Exception) -> None:
        with self._call("on_error"):
            self.error = error
        self._ended.set_result(None)

    def on_completed(self) -> None:
        with self._call("on_completed"):
            self.completed = True
        self._ended.set_result(None)

    def dispose(self) -> None:
        """Disposes of the subscription; from then on any call is a breach."""
        assert self.subscription is not None
        self.subscription.dispose()
        self._disposed = True

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        if self._disposed:
            self.breaches.append(f"{name} after dispose")
        if self.error is not None or self.completed:
            self.breaches.append(f"{name} after the terminal")
        if not self._one_at_a_time.acquire(blocking=False):
            self.breaches.append(f"{name} during another call")
            yield
            return
        try:
            self.threads.add(threading.get_ident())
            yield
        finally:
            self._one_at_a_time.release()

    def arrived(self, count: int) -> Future[None]:
        """Is done when so many values have come; ask before you subscribe."""
        future: Future[None] = Future()
        self._arrivals.append((count, future))
        return future

    async def end(self) -> Subscriber:
        """Waits for the terminal, on any loop."""
        await waiting(self._ended)
        return self

    def wait_for_end(self) -> Subscriber:
        """Waits for the terminal, in a plain thread."""
        self._ended.result(HANG)
        return self

    @property
    def is_silent(self) -> bool:
        """No terminal has come."""
        return self.error is None and not self.completed


Subscribers = Callable[..., Subscriber]


async def waiting(future: Future[Any]) -> Any:
    """The result of what another thread or loop brings about."""
    async with asyncio.timeout(HANG):
        return await asyncio.wrap_future(future)


def started(work: Callable[[], Any]) -> Future[Any]:
    """What work in a thread of its own comes to."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


async def in_thread(work: Callable[[], Any]) -> Any:
    """The same, awaited."""
    return await waiting(started(work))


def client_of(server: ReplayServer, **options: Any) -> CohereClient:
    """A client of the server, which gives up rather than hang."""
    options = {"timeouts": LIMITS, "retry": Retry(attempts=1), **options}
    return CohereClient("a-key", base_url=server.url, **options)


@asynccontextmanager
async def served(
    transcript: Any = "text", faults: list[Fault] | None = None, **options: Any
) -> AsyncIterator[tuple[ReplayServer, CohereClient]]:
    """A server and a client of it, on the running loop."""
    async with asyncio.timeout(3 * HANG), ReplayServer(transcript, faults=faults or []) as server:
        async with client_of(server, **options) as co:
            yield server, co


@contextmanager
def serving(
    transcript: Any = "text", faults: list[Fault] | None = None, **options: Any
) -> Iterator[tuple[ReplayServer, CohereClient]]:
    """A server in a thread, and a client of it for synchronous code."""
    with (
        ReplayServer(transcript, faults=faults or []) as server,
        client_of(server, **options) as co,
    ):
        yield server, co


def was_aborted(server: ReplayServer) -> bool:
    """Whether the one request was given up by the client."""
    return server.aborted == 1 and server.open == 0


class Boom(Exception):
    """What the subscribers of these tests raise."""


class Reports(list[Any]):
    """The exceptions that a loop's exception handler hears of."""

    def __init__(self) -> None:
        super().__init__()
        self._heard = asyncio.Event()

    def hear(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.append(context.get("exception", context))
        self._heard.set()

    async def first(self) -> None:
        """Waits for one."""
        async with asyncio.timeout(HANG):
            await self._heard.wait()


def boom(*_: object) -> Any:
    raise Boom


def bind(co: CohereClient) -> None:
    """Binds the client to its background loop, without a request that the server would see."""
    at_once = {"timeouts": Timeouts(total=1e-9)}
    with pytest.raises(StreamTimeoutError):
        co.chat_stream(**ASK, request_options=at_once).run()


@contextmanager
def bound_to_background(
    faults: list[Fault] | None = None,
) -> Iterator[tuple[ReplayServer, CohereClient]]:
    """A client that is bound to its background loop already, without having sent anything."""
    with serving(faults=faults) as (server, co):
        bind(co)
        yield server, co


def run(work: Any) -> Any:
    """Runs a coroutine on a loop of its own, not for ever."""

    async def guarded() -> Any:
        async with asyncio.timeout(3 * HANG):
            return await work

    return asyncio.run(guarded(), debug=True)
