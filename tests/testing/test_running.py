"""What runs on a loop, and is told what to do from another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from subscribers import HANG, Boom, boom, in_thread, started

from rxcohere import ConfigurationError
from rxcohere.testing import FaultProxy, ReplayServer
from rxcohere.testing.running import Running


class Idle(Running):
    """What does nothing while it runs, but what it is told."""

    _thread_name = "idle"

    async def _start(self) -> None:
        pass

    async def _stop(self) -> None:
        pass

    def act(self, action: Callable[[], None]) -> None:
        """Does it on its loop."""
        self._on_its_loop(action)


class Announcing(asyncio.SelectorEventLoop):
    """A loop that says when it was asked for something, or looked after, from another thread."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.looked_after = threading.Event()

    def is_closed(self) -> bool:
        """Says that somebody has looked."""
        self.looked_after.set()
        return super().is_closed()

    def call_soon_threadsafe(self, *arguments: Any, **options: Any) -> asyncio.Handle:
        """Asks."""
        handle = super().call_soon_threadsafe(*arguments, **options)
        self.asked.set()
        return handle


async def test_an_action_happens_on_the_loop() -> None:
    """Whichever thread asks for it, and before the call returns."""
    there: list[int] = []
    async with asyncio.timeout(HANG), Idle() as idle:
        await in_thread(lambda: idle.act(lambda: there.append(threading.get_ident())))
    assert there == [threading.get_ident()]


async def test_what_an_action_raises_is_the_callers() -> None:
    """It is raised where the action was asked for, and nowhere else."""
    async with asyncio.timeout(HANG), Idle() as idle:
        with pytest.raises(Boom):
            await in_thread(lambda: idle.act(boom))


def test_an_action_may_take_its_time() -> None:
    """Whoever asked for it waits, though he looks now and then whether the loop is still there."""
    loop = Announcing()
    seen: list[bool] = []

    async def work() -> None:
        async with Idle() as idle:
            loop.looked_after.clear()
            await in_thread(lambda: idle.act(lambda: seen.append(loop.looked_after.wait(HANG))))
            seen.append(False)

    loop.run_until_complete(work())
    loop.close()
    assert seen == [True, False]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_loop_that_is_closed_without_a_word(when: str) -> None:
    """What was to happen on it happens in the thread that asked."""
    loop, idle = Announcing(), Idle()
    loop.run_until_complete(idle.__aenter__())
    there: list[int] = []

    def ask() -> None:
        idle.act(lambda: there.append(threading.get_ident()))

    if when == "before":
        loop.close()
    asking = started(ask)
    if when == "meanwhile":
        assert loop.asked.wait(HANG)
        loop.close()
    asking.result(HANG)
    assert there
    assert there != [threading.get_ident()]


@pytest.mark.parametrize("port", [-1, 65_536, 1.0, "80", True])
def test_what_is_no_port_is_refused_at_once(port: Any) -> None:
    """Before anything listens."""
    with pytest.raises(ConfigurationError, match="port should be"):
        ReplayServer(port=port)
    with pytest.raises(ConfigurationError, match="port should be"):
        FaultProxy("http://127.0.0.1:80", port=port)
