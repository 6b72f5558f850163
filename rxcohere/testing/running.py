"""A server that runs on the loop that is there, or in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from types import TracebackType
from typing import ClassVar, Self, cast

from rxcohere.errors import ConfigurationError
from rxcohere.options import check_whole
from rxcohere.testing.waiting import Watchable, running_loop

_LOOK = 0.1  # seconds after which to see whether a loop is closed, which tells nobody


def check_port(port: object) -> None:
    """Refuses what is no port to listen on."""
    check_whole("port", port, 0)
    if cast("int", port) > 65_535:
        raise ConfigurationError(f"port should be a whole number up to 65535, not {port!r}")


class Running(Watchable):
    """What listens while its context is entered.

    As an async context manager it runs on the running loop; as a plain one in a daemon thread with
    a loop of its own. Subclasses say in `_start` and `_stop` what that means.
    """

    _thread_name: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._thread: threading.Thread | None = None
        self._leave: asyncio.Event | None = None

    @abstractmethod
    async def _start(self) -> None:
        """Listens; what raises has undone what it did."""

    @abstractmethod
    async def _stop(self) -> None:
        """Ends everything at once, and leaves nothing."""

    def _on_its_loop(self, action: Callable[[], None]) -> None:
        """Acts on the loop, and returns when that is done; here, where it does not run.

        Raises:
            Exception: what the action raised.
        """
        loop = self._loop
        if loop is None or loop is running_loop():
            action()
            return
        done = Future[None]()

        def act() -> None:
            try:
                action()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(act)
        while not wait([done], _LOOK).done:
            if loop.is_closed() and not done.done():  # it did not get to it
                action()
                return
        done.result()

    async def __aenter__(self) -> Self:
        """Starts on the running loop."""
        if self._loop is not None:
            raise RuntimeError(f"{self._called} is running already")
        self._loop = asyncio.get_running_loop()
        try:
            await self._start()
        except BaseException:
            self._loop = None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops, and ends all that is under way."""
        if self._loop is None:
            return
        try:
            await self._stop()
        finally:
            self._loop = None

    def __enter__(self) -> Self:
        """Starts in a thread of its own."""
        if self._thread is not None:
            raise RuntimeError(f"{self._called} is running already")
        started = Future[None]()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name=self._thread_name, daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join()
            self._thread = None
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops, and ends the thread."""
        thread, loop, leave = self._thread, self._loop, self._leave
        if thread is None or loop is None or leave is None:
            return
        loop.call_soon_threadsafe(leave.set)
        thread.join()
        self._thread = self._leave = None

    async def _serve(self, started: Future[None]) -> None:
        try:
            self._leave = asyncio.Event()
            await self.__aenter__()
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        await self._leave.wait()
        await self.__aexit__(None, None, None)
