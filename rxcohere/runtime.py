"""Which event loop a client works on, and how other threads and loops reach it.

All work of a client happens on one loop: the loop that runs at the first use, else a loop in a
daemon thread that the client owns. Whoever is elsewhere, a thread without a loop or another loop,
has it done there, and hears when that loop ends.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from rxcohere.errors import BlockingCallError, ConnectionFailedError, StreamCancelledError

T = TypeVar("T")


class Work(Protocol):
    """The work of one subscription, which a task does.

    Attributes:
        task: does it; None before it begins.
    """

    task: asyncio.Task[None] | None

    def release(self) -> None:
        """Has it wait for no slow consumer any more. Any thread may call it."""
        ...


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def refuse_to_block(what: str, instead: str) -> None:
    """Refuses a blocking call where it would stop an event loop.

    Raises:
        BlockingCallError: a loop is running in this thread.
    """
    if running_loop() is not None:
        raise BlockingCallError(
            f"{what} would block the event loop that runs in this thread; use {instead}"
        )


class LoopEnd:
    """Whoever in another thread waits for a loop, and has to be told when it ends.

    A loop that ends drops what other threads have scheduled on it, without a word. But it finishes
    off suspended asynchronous generators first, and that is a word.

    Attributes:
        ended: the loop runs nothing any more.
    """

    def __init__(self) -> None:
        self.ended = False
        self._waiting: set[Future[Any]] = set()
        self._guard: AsyncGenerator[None, None] | None = None

    def cancel_at_end(self, future: Future[T]) -> Future[T]:
        """The future, which is cancelled when the loop ends before it is done."""
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        if self.ended:  # it may have looked through those that wait before this one came
            future.cancel()
        return future

    async def _until_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.ended = True
            self._guard = None  # it refers to the loop, which nothing of ours may keep alive
            for future in list(self._waiting):
                future.cancel()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> LoopEnd:
        """The end of this loop. The first who asks must do so in the loop itself."""
        end = _ends.get(loop)
        if end is None:
            end = _ends[loop] = cls()
            end._guard = guard = end._until_end()
            with suppress(StopIteration):
                guard.__anext__().send(None)  # to its yield, where the loop knows of it
        return end


_ends: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopEnd] = weakref.WeakKeyDictionary()


class BackgroundLoop:
    """An event loop in a daemon thread of its own, from construction to `stop`.

    Attributes:
        loop: the loop.
        ended: is done when the loop has closed.
    """

    def __init__(self) -> None:
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self.ended: Future[None] = Future()
        self._thread = threading.Thread(
            target=_run_loop, args=(started, self.ended), name="rxcohere-loop", daemon=True
        )
        self._thread.start()
        self.loop, self._stopped = started.result()

    def stop(self) -> None:
        """Cancels what runs on the loop and has it close; `join` waits for that."""
        with suppress(RuntimeError):  # closed already
            self.loop.call_soon_threadsafe(self._stopped.set)

    def join(self, timeout: float | None = None) -> None:
        """Waits for the thread to end, at most so many seconds, unless this is it."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)


def _run_loop(
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]], ended: Future[None]
) -> None:
    async def until_stopped() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        LoopEnd.of(loop)
        started.set_result((loop, stopped))
        await stopped.wait()

    try:
        with asyncio.Runner() as runner:
            runner.get_loop()  # before there is a coroutine that would never be awaited
            runner.run(until_stopped())
    except BaseException as error:  # such as no more file descriptors
        if started.done():
            raise
        started.set_exception(error)
    finally:
        ended.set_result(None)


def _stop_and_join(background: BackgroundLoop) -> None:
    background.stop()
    background.join(2.0)  # a subscriber that blocks must not keep a program from ending


class LoopBinding:
    """The loop of one client; it is chosen at the first use, and anew when it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._background: BackgroundLoop | None = None
        self._finalizer: weakref.finalize[[BackgroundLoop], LoopBinding] | None = None
        self._released = False

    @property
    def current(self) -> asyncio.AbstractEventLoop | None:
        """The bound loop, None before the first use and after the loop has ended."""
        loop = self._loop
        # A loop that stands still may never run again; waiting for it could take for ever.
        return loop if loop is not None and loop.is_running() else None

    def acquire(self) -> asyncio.AbstractEventLoop:
        """The loop to work on, which is bound now if it was not before.

        Raises:
            StreamCancelledError: it has been released.
        """
        with self._lock:
            if self._released:
                raise StreamCancelledError("the client is closed")
            loop = self.current
            if loop is None:
                loop = self._loop = running_loop() or self._start_background()
                LoopEnd.of(loop)
            return loop

    def _start_background(self) -> asyncio.AbstractEventLoop:
        try:
            background = self._background = BackgroundLoop()
        except (OSError, RuntimeError) as error:
            raise ConnectionFailedError(f"no event loop could be started: {error}") from error
        # Also stops the thread when the client is forgotten, and when the interpreter ends.
        self._finalizer = weakref.finalize(self, _stop_and_join, background)
        return background.loop

    def release(self) -> BackgroundLoop | None:
        """Unbinds for good. A background loop is told to stop, and returned to be waited for."""
        with self._lock:
            self._released = True
            self._loop = None
            background, self._background = self._background, None
            if self._finalizer is not None:
                self._finalizer.detach()
                self._finalizer = None
        if background is not None:
            background.stop()
        return background


def schedule(callback: Callable[[], object], loop: asyncio.AbstractEventLoop) -> bool:
    """Has a loop, this one or another, call back in its next turn; False if it is closed."""
    try:
        if running_loop() is loop:
            loop.call_soon(callback)  # which need not be woken
        else:
            loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return False
    return True


def submit(
    work: Callable[[], Coroutine[Any, Any, T]], loop: asyncio.AbstractEventLoop
) -> Future[T]:
    """The result of work on another loop; cancelled if that ends first.

    Unlike asyncio's own, which leaves whoever waits for a loop that has ended waiting for ever.
    """
    future = LoopEnd.of(loop).cancel_at_end(Future[T]())

    def begin() -> None:
        if future.cancelled():
            return
        task = asyncio.ensure_future(work())
        task.add_done_callback(lambda _: _hand_over(task, future))
        future.add_done_callback(lambda f: f.cancelled() and schedule(task.cancel, loop))

    if not schedule(begin, loop):
        future.cancel()
    return future


def _hand_over(task: asyncio.Future[T], future: Future[T]) -> None:
    """Brings what came of the task to whoever waits in another thread."""
    error = None if task.cancelled() else task.exception()
    with suppress(InvalidStateError):  # nobody waits any more
        if task.cancelled():
            future.cancel()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())
