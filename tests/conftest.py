"""What every test is held to: it leaves no task, thread or socket behind, and asyncio stays silent."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

STREAMS = Path(__file__).resolve().parents[2] / "shared" / "streams"


def open_sockets() -> int:
    """How many sockets this process has open; 0 where the system does not tell."""
    count = 0
    descriptors = Path("/proc/self/fd")
    for descriptor in descriptors.iterdir() if descriptors.exists() else ():
        try:
            count += os.readlink(descriptor).startswith("socket:")
        except FileNotFoundError:  # the descriptor that lists the folder
            continue
    return count


@pytest.fixture(autouse=True)
def nothing_is_left(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Fails a test that leaves a thread, a socket or a task, or an error in asyncio's log.

    A test that means to make asyncio report an error clears ``caplog`` once it has looked at it.
    """
    threads, sockets = set(threading.enumerate()), open_sockets()
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("no_task_is_left")
    yield
    reports = [
        record.getMessage()
        for when in ("setup", "call")
        for record in caplog.get_records(when)
        if record.name == "asyncio" and record.levelno >= logging.ERROR
    ]
    assert not reports
    left = set(threading.enumerate()) - threads
    for thread in left:
        thread.join(5)  # one that is ending may end
    assert not [thread for thread in left if thread.is_alive()]
    assert open_sockets() <= sockets


@pytest.fixture
async def no_task_is_left() -> AsyncIterator[None]:
    """Fails a test whose loop still has tasks, other than its own, when it ends."""
    before = asyncio.all_tasks()
    yield
    for _ in range(20):  # tasks that were cancelled need a few turns to end
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    pytest.fail(f"tasks are left: {left}")


@pytest.fixture(params=sorted(STREAMS.glob("*.sse")) or [None], ids=lambda p: p.stem if p else "-")
def recorded(request: pytest.FixtureRequest) -> Path:
    """Each recorded stream in turn."""
    if request.param is None:
        pytest.skip("the folder of recorded streams, shared/streams, is not here")
    path: Path = request.param
    return path
