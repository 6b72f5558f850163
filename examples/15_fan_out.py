"""One answer for many: the console, a file and a websocket each get all of it, from one request."""

import asyncio
from tempfile import TemporaryFile
from typing import TextIO

import reactivex.operators as ops
from reactivex import Observable

from rxcohere import ChatEvent, CohereClient, ContentDelta, subscribe_async
from rxcohere import operators as rxc

from offline import replay_without_key


class WebSocket:
    """Stands for the connection of a browser, which takes its time."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send_str(self, data: str) -> None:
        """Sends a frame."""
        await asyncio.sleep(0.01)
        self.sent.append(data)


def send_to(socket: WebSocket, answer: Observable[ChatEvent]) -> asyncio.Future[None]:
    """Sends all events to the socket; is done when the last one is sent."""
    sent = asyncio.get_running_loop().create_future()

    async def send(event: ChatEvent) -> None:
        await socket.send_str(event.model_dump_json(exclude_unset=True))

    def end() -> None:
        sent.set_result(None)

    # A slow socket slows nobody down: what it has not taken yet is merged.
    sending = subscribe_async(answer, send, sent.set_exception, end, max_pending=4)
    sent.add_done_callback(lambda _: sending.dispose())  # also when nobody waits for it any more
    return sent


async def main(file: TextIO) -> None:
    socket, late = WebSocket(), WebSocket()
    async with CohereClient() as co:
        answer = co.chat_stream(
            model="command-a-03-2025",
            messages=[{"role": "user", "content": "What is reactive programming?"}],
        ).share_response()

        answer.pipe(rxc.text_deltas()).subscribe(lambda text: print(text, end="", flush=True))
        answer.pipe(rxc.text_deltas()).subscribe(lambda text: print(text, end="", file=file))
        sent = send_to(socket, answer)

        # Who comes later gets what was said so far, as one delta, and then the rest.
        await answer.pipe(rxc.events_of(ContentDelta), ops.take(20))
        await asyncio.gather(sent, send_to(late, answer))
    print(f"\n\nin the file: {file.tell()} bytes")
    print(f"over the websockets: {len(socket.sent)} frames, {len(late.sent)} to the later one")


if __name__ == "__main__":
    with replay_without_key("text"), TemporaryFile("w", encoding="utf-8") as file:
        asyncio.run(main(file))
