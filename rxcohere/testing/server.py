"""`ReplayServer`: Cohere's chat endpoint, played from transcripts, with faults on demand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from http import HTTPStatus

from aiohttp import web

from rxcohere.errors import ConfigurationError
from rxcohere.testing.counters import Counters
from rxcohere.testing.faults import Fault
from rxcohere.testing.playbook import Chooser, Playbook
from rxcohere.testing.reply import Chunking, Framing, Performed, perform
from rxcohere.testing.requests import read_request
from rxcohere.testing.running import Running, check_port
from rxcohere.testing.sockets import accept_pending
from rxcohere.testing.transcripts import Playable

_CHUNKINGS = ("whole", "event", "byte", "random")
_FRAMINGS = ("chunked", "close", "content-length")


class ReplayServer(Counters, Running):
    """A real HTTP server that speaks ``POST /v2/chat``, streaming and not, from transcripts.

    As an async context manager it runs on the running loop; as a plain one it runs in a daemon
    thread with a loop of its own, for synchronous code. Leaving the context ends everything at
    once, stalled replies too. It asks for no key, any path that ends in ``/v2/chat`` will do, and
    requests are refused as the API does: 400 for a body that is no chat request, 422 for an unknown
    field. What it counts, and how to wait for it, is in `Counters`.

    Args:
        transcript: what is played: a `Transcript`, the name of a shipped one (see
            `transcript_names`), a path, or a whole body as bytes; a sequence of them, of which each
            reply plays one and the last one is repeated; or a function from the request to one. By
            default the request decides:
            ``tool-answer`` where it has a tool message, then ``tools``, ``rag``, ``reasoning`` and
            ``logprobs`` where it asks for these, else ``text``.
        chunking: how the body is cut into writes: ``whole``, one ``event`` or one ``byte`` a write,
            ``random`` sizes of 1 to 64 bytes, or a number of bytes. Writes are chunks of their own,
            and what follows the last event is sent without a turn of the loop.
        pace: seconds between frames; where a write is not one frame, between writes that begin one.
        framing: how the body's end is told: ``chunked``, by the connection's ``close``, or by a
            ``content-length``.
        faults: what goes wrong, applied in this order to each reply.
        seed: of the random sizes and of the trace ids.
        host: the address to listen on.
        port: the port; 0 takes a free one.

    Raises:
        ConfigurationError: an argument is wrong, or there is no such transcript.
    """

    _thread_name = "rxcohere-replay"

    def __init__(
        self,
        transcript: Playable | Sequence[Playable] | Chooser | None = None,
        *,
        chunking: Chunking = "event",
        pace: float = 0.0,
        framing: Framing = "chunked",
        faults: Iterable[Fault] = (),
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if not (chunking in _CHUNKINGS if isinstance(chunking, str) else chunking > 0):
            raise ConfigurationError(
                f"expected chunking to be {', '.join(_CHUNKINGS)} or a positive number of bytes, "
                f"got {chunking!r}"
            )
        if framing not in _FRAMINGS:
            raise ConfigurationError(
                f"expected framing to be {', '.join(_FRAMINGS)}, got {framing!r}"
            )
        if not pace >= 0:
            raise ConfigurationError(f"expected pace to be 0 or more seconds, got {pace!r}")
        check_port(port)
        super().__init__()
        self._playbook = Playbook(transcript, faults, seed)
        self._chunking: Chunking = chunking
        self._pace = pace
        self._framing: Framing = framing
        self._seed = seed
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._stopping = False

    def __repr__(self) -> str:
        """The address, if it runs, and the counters."""
        where = "not running" if self._site is None else self.url
        return f"<ReplayServer {where}: {self}>"

    @property
    def url(self) -> str:
        """The base URL, as ``http://127.0.0.1:8080``.

        Raises:
            RuntimeError: the server is not running.
        """
        if self._site is None:
            raise RuntimeError("the replay server is not running: enter its context first")
        return self._site.name

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        recorded = await read_request(request)
        self.requests.append(recorded)
        reply = self._playbook.reply(recorded)
        self.open += 1
        self._changed()
        outcome = ""
        try:
            response = await perform(
                reply,
                request,
                chunking=self._chunking,
                pace=self._pace,
                framing=self._framing,
                rng=random.Random(f"{self._seed} {len(self.requests)}"),
            )
            if reply.ending != "eof":
                outcome = "cut"
            elif reply.status == HTTPStatus.OK:
                outcome = "completed"
            return response
        except asyncio.CancelledError:
            outcome = "cut" if self._stopping else "aborted"
            raise
        except ConnectionError:
            outcome = "cut" if self._stopping else "aborted"
            return Performed(keep_alive=False)
        finally:
            self.open -= 1
            self.aborted += outcome == "aborted"
            self.completed += outcome == "completed"
            self.cut += outcome == "cut"
            self._changed()

    async def _start(self) -> None:
        self._stopping = False
        # Documents and images come in the body: no limit of its size.
        application = web.Application(client_max_size=0)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, handler_cancellation=True, access_log=None)
        try:
            await self._runner.setup()
            site = web.TCPSite(self._runner, self._host, self._port)
            await site.start()
        except BaseException:
            await self._runner.cleanup()
            self._runner = None
            raise
        self._site = site

    async def _stop(self) -> None:
        runner, site = self._runner, self._site
        assert runner is not None
        assert site is not None
        assert runner.server is not None
        self._stopping = True
        await accept_pending()
        await site.stop()
        for connection in runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        # aiohttp's own shutdown waits for its handlers to finish, which a stalled one does not.
        # Aborting cancels them; they need a few turns of the loop to be gone.
        while runner.server.connections:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await runner.cleanup()
        self._runner = self._site = None
