"""A chat in the browser: it survives reloads, lost connections, and, with Redis, its own process.

Open the address that it prints. With ``REDIS_URL`` set, two worker processes share the port: one
asks Cohere, whichever gets a reader's connection serves it.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web

from rxcohere import ChatStream, CohereClient, MessageEnd, RxCohereError
from rxcohere.bridges.journal import (
    Journal,
    MemoryJournal,
    follow,
    new_stream_id,
    publish,
)
from rxcohere.bridges.web import relay_routes

from offline import replay_without_key

PAGE = Path(__file__).with_name("chat_page")
PORT = int(os.environ.get("PORT", "8000"))
WORKERS = 2

DOCUMENTS = [
    {"id": "tall", "data": {"title": "Tall penguins", "snippet": "Emperors are the tallest."}},
    {"id": "home", "data": {"title": "Habitats", "snippet": "Emperors live in Antarctica."}},
]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "The weather in a city.", "parameters": CITY}
TOOLS = [{"type": "function", "function": WEATHER}]
MODEL = {"model": "command-a-03-2025"}
KINDS: dict[str, dict[str, Any]] = {
    "documents": {**MODEL, "documents": DOCUMENTS},
    "tools": {**MODEL, "tools": TOOLS},
    "thinking": {"model": "command-a-reasoning-08-2025", "thinking": {"type": "enabled"}},
    "plain": MODEL,
}


class Chat:
    """Asks the questions of the page. The answers go into the journal, whoever reads them there."""

    def __init__(self, co: CohereClient, journal: Journal) -> None:
        self._co = co
        self._journal = journal
        self._publications: set[asyncio.Task[object]] = set()

    async def ask(self, request: web.Request) -> web.Response:
        """Begins an answer to a question, or goes on after an answer that called tools."""
        if request.content_type != "application/json":  # which other sites cannot send unasked
            raise web.HTTPUnsupportedMediaType
        try:
            asked = json.loads(await request.read())
        except (ValueError, RecursionError):
            asked = None
        match asked:
            case {"kind": str(kind), "question": str(question)} if (
                kind in KINDS and question.strip()
            ):
                messages: list[Any] = [{"role": "user", "content": question[:2000]}]
            case _:
                raise web.HTTPBadRequest(text="expected a question and its kind")
        if asked.get("after"):
            messages += await self._with_results(asked["after"])
        stream_id = self._publish(self._co.chat_stream(messages=messages, **KINDS[kind]))
        return web.json_response({"stream_id": stream_id, "worker": os.getpid()})

    async def aclose(self, _: object = None) -> None:
        """Gives up what is being asked; readers hear of it."""
        for task in self._publications:
            task.cancel()
        await asyncio.gather(*self._publications, return_exceptions=True)

    def _publish(self, stream: ChatStream) -> str:
        stream_id = new_stream_id()
        task = asyncio.create_task(publish(self._journal, stream_id, stream, lease=5))
        self._publications.add(task)
        task.add_done_callback(self._publications.discard)
        return stream_id

    async def _with_results(self, stream_id: str) -> list[Any]:
        """The answer in the journal, and what the tools say that it called."""
        try:
            entry = await follow(self._journal, stream_id)
        except RxCohereError as error:
            raise web.HTTPBadRequest(text=f"that answer is none to go on after: {error}") from None
        if not isinstance(entry.event, MessageEnd) or entry.event.response is None:
            raise web.HTTPBadRequest(text="that answer has not ended")
        reply = entry.event.response.normalized()
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"weather": "21 °C"})}
            for call in reply.tool_calls or ()
        ]
        return [reply.message, *results]


def journal_at(url: str | None) -> Journal:
    """The journal of all worker processes or, without Redis, of this one."""
    if not url:
        return MemoryJournal()
    from rxcohere.bridges.journal import RedisJournal  # needs the redis package

    return RedisJournal(url)


def application() -> web.Application:
    """The page, its questions, and the streams of the journal."""
    co, journal = CohereClient(), journal_at(os.environ.get("REDIS_URL"))
    chat = Chat(co, journal)

    async def page(request: web.Request) -> web.FileResponse:
        return web.FileResponse(PAGE / "index.html")

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        yield
        await co.aclose()
        if close := getattr(journal, "aclose", None):
            await close()

    app = web.Application()
    app.cleanup_ctx.append(lifetime)
    app.on_shutdown.append(chat.aclose)  # before the readers' connections are closed
    app.add_routes([web.get("/", page), web.post("/ask", chat.ask), web.static("/static", PAGE)])
    app.add_routes(relay_routes(journal, "/streams"))
    return app


def serve() -> None:
    """Serves until it is told to stop; several processes may do so on one port."""
    shared = "REDIS_URL" in os.environ
    web.run_app(
        application(),
        host="127.0.0.1",
        port=PORT,
        reuse_port=shared,
        shutdown_timeout=1,
        print=None,
    )


def serve_with_workers() -> None:
    """Has two processes of this program serve, until this one is told to stop."""

    def stop(*_: object) -> None:
        sys.exit()

    signal.signal(signal.SIGTERM, stop)
    command = [sys.executable, __file__, "worker"]
    workers = [subprocess.Popen(command) for _ in range(WORKERS)]
    try:
        for worker in workers:
            worker.wait()
    except KeyboardInterrupt:
        pass
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()


if __name__ == "__main__":
    if "worker" in sys.argv:
        serve()
    else:
        print(f"http://127.0.0.1:{PORT}", flush=True)
        with replay_without_key(pace=0.05):
            serve_with_workers() if "REDIS_URL" in os.environ else serve()
