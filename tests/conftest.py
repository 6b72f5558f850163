"""What every test is held to: no task, thread or socket is left, and asyncio stays silent."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from subscribers import Reports, Subscriber

STREAMS = Path(__file__).resolve().parents[2] / "shared" / "streams"


class OnUvloop:
    """Gives each asynchronous test a loop of uvloop's making."""

    @pytest.hookimpl
    def pytest_asyncio_loop_factories(self) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
        import uvloop

        return {"uvloop": uvloop.new_event_loop}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Has the asynchronous tests run on uvloop: ``--loop uvloop``."""
    parser.addoption("--loop", choices=("asyncio", "uvloop"), default="asyncio")


def pytest_configure(config: pytest.Config) -> None:
    """Makes the loop the one that was asked for."""
    if config.getoption("--loop") == "uvloop":
        config.pluginmanager.register(OnUvloop())


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
    threads = set(threading.enumerate())
    in_loop = inspect.iscoroutinefunction(getattr(request.node, "obj", None))
    if in_loop:
        request.getfixturevalue("nothing_is_left_on_the_loop")
    sockets = open_sockets()
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
    if not in_loop:
        assert open_sockets() <= sockets


@pytest.fixture
async def nothing_is_left_on_the_loop(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Fails a test whose loop still has tasks, other than its own, or open sockets when it ends."""
    assert type(asyncio.get_running_loop()).__module__.startswith(
        request.config.getoption("--loop")
    )
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    yield
    for _ in range(50):  # what was cancelled or closed needs a few turns to end
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
        if not left and open_sockets() <= sockets:
            return
    pytest.fail(f"tasks are left: {left}; sockets: {open_sockets()}, before {sockets}")


@pytest.fixture(params=sorted(STREAMS.glob("*.sse")) or [None], ids=lambda p: p.stem if p else "-")
def recorded(request: pytest.FixtureRequest) -> Path:
    """Each recorded stream in turn."""
    if request.param is None:
        pytest.skip("the folder of recorded streams, shared/streams, is not here")
    path: Path = request.param
    return path


@pytest.fixture
def subscriber() -> Iterator[Callable[..., Subscriber]]:
    """Makes subscribers, and holds all of them to the grammar when the test is over."""
    made: list[Subscriber] = []

    def make(react: Callable[[Any], None] | None = None) -> Subscriber:
        one = Subscriber(react)
        made.append(one)  # other threads make some too, so the last is not this one
        return one

    yield make
    assert [each.breaches for each in made] == [[] for _ in made]


@pytest.fixture
async def reports() -> AsyncIterator[Reports]:
    """What the running loop's exception handler hears of."""
    loop = asyncio.get_running_loop()
    reports = Reports()
    loop.set_exception_handler(reports.hear)
    yield reports
    loop.set_exception_handler(None)


@pytest.fixture
async def eager_tasks() -> AsyncIterator[None]:
    """The running loop starts tasks at once, before ``create_task`` returns."""
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("this Python has no eager tasks")
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(factory)
    yield
    loop.set_task_factory(before)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate with its key, for nobody."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, which makes the certificate")
    path = tmp_path / "certificate.pem"
    make = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout -"
    made = subprocess.run([openssl, *make.split()], capture_output=True, check=True)
    path.write_bytes(made.stdout)
    return path
