"""A FastAPI app that asks, and relays the answers; who is cut off goes on where they were.

Needs ``pip install fastapi uvicorn``. The program serves, and is its own client.
"""

import asyncio
import math
import socket
from typing import Annotated

import uvicorn
from aiohttp import ClientPayloadError, ClientSession
from fastapi import Body, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from rxcohere import (
    CohereClient,
    ConfigurationError,
    ContentDelta,
    SSEDecoder,
    StreamNotFoundError,
    parse_event,
)
from rxcohere.bridges.journal import MemoryJournal, abort, follow, new_stream_id, publish
from rxcohere.bridges.web import event_frames, resumed

from offline import replay_without_key


def application(co: CohereClient) -> FastAPI:
    app, journal = FastAPI(), MemoryJournal()
    publications = set[asyncio.Task[object]]()

    @app.post("/ask")
    async def ask(question: Annotated[str, Body(embed=True, max_length=2000)]) -> str:
        stream = co.chat_stream(
            model="command-a-03-2025", messages=[{"role": "user", "content": question}]
        )
        stream_id = new_stream_id()
        publication = asyncio.create_task(publish(journal, stream_id, stream))
        publications.add(publication)  # asyncio does not hold on to it
        publication.add_done_callback(publications.discard)
        return stream_id

    @app.get("/streams/{stream_id}")
    async def relay(stream_id: str, last_event_id: Annotated[str, Header()] = "") -> Response:
        answer = resumed(follow(journal, stream_id), last_event_id)
        if answer is None:  # it has heard all; only 204 stops a browser
            return Response(status_code=204)
        return StreamingResponse(event_frames(answer), media_type="text/event-stream")

    @app.post("/streams/{stream_id}/abort", status_code=202)
    async def stop(stream_id: str) -> None:
        await abort(journal, stream_id, "the reader has read enough")

    @app.exception_handler(ConfigurationError)
    @app.exception_handler(StreamNotFoundError)
    async def refuse(request: Request, error: Exception) -> Response:
        status = 404 if isinstance(error, StreamNotFoundError) else 400
        return JSONResponse({"message": str(error)}, status)

    return app


async def read(http: ClientSession, path: str, after: str = "", enough: float = math.inf) -> str:
    """Prints the text from after an entry on; gives the id of the last one it has read."""
    decoder, length = SSEDecoder(), 0
    async with http.get(path, headers={"Last-Event-ID": after}) as response:
        async for chunk in response.content.iter_any():
            for frame in decoder.feed(chunk):
                if frame.event == "error":
                    print(frame.data.decode())
                elif frame.event == "content-delta":
                    event = parse_event(frame.data)
                    assert isinstance(event, ContentDelta)
                    print(event.text, end="", flush=True)
                    length += len(event.text)
            if length >= enough:
                break
    return decoder.last_event_id


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with CohereClient() as co, ClientSession(url, raise_for_status=True) as http:
        # Below "critical", uvicorn logs a traceback for each answer that it has to break off.
        server = uvicorn.Server(uvicorn.Config(application(co), log_level="critical"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))

        async with http.post("/ask", json={"question": "What is reactive programming?"}) as asked:
            stream = f"/streams/{await asked.json()}"
        seen = await read(http, stream, enough=100)
        print("|", end="", flush=True)  # the connection is lost
        await read(http, stream, after=seen)
        print("\n")

        async with http.post("/ask", json={"question": "And what is it good for?"}) as asked:
            stream = f"/streams/{await asked.json()}"
        async with http.post(f"{stream}/abort"):
            pass
        try:
            await read(http, stream)
        except ClientPayloadError:  # nobody can take it for a whole answer
            print("broken off")

        server.should_exit = True
        await serving


if __name__ == "__main__":
    with replay_without_key("text", pace=0.02):
        asyncio.run(main())
