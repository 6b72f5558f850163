"""A worker between two queues: questions come in, the pieces of the answers go out."""

import asyncio
from dataclasses import dataclass

from reactivex import Observable

from rxcohere import CohereClient, subscribe_async
from rxcohere.testing import Cut

from offline import replay_without_key


@dataclass
class Piece:
    """A part of the text of an answer."""

    question: str
    text: str


@dataclass
class End:
    """The last message about a question."""

    question: str
    error: Exception | None


async def feed(question: str, answer: Observable[str], out: asyncio.Queue[Piece | End]) -> None:
    """Puts the pieces of an answer into the queue, and how it ended."""
    ended = asyncio.get_running_loop().create_future()

    async def put(text: str) -> None:
        await out.put(Piece(question, text))

    # While the queue is full, four pieces wait here, and then the server waits.
    feeding = subscribe_async(
        answer, put, ended.set_result, lambda: ended.set_result(None), max_pending=4
    )
    try:
        await out.put(End(question, await ended))
    finally:
        feeding.dispose()  # also when the worker is cancelled


async def work(
    co: CohereClient, questions: asyncio.Queue[str], out: asyncio.Queue[Piece | End]
) -> None:
    while True:
        question = await questions.get()
        stream = co.chat_stream(
            model="command-a-03-2025", messages=[{"role": "user", "content": question}]
        )
        await feed(question, stream.text(), out)


async def main() -> None:
    asked = ["What is reactive programming?", "What is back-pressure?"]
    questions = asyncio.Queue[str]()
    out = asyncio.Queue[Piece | End](maxsize=8)
    for question in asked:
        questions.put_nowait(question)
    async with CohereClient() as co:
        worker = asyncio.create_task(work(co, questions, out))
        while asked:
            match await out.get():
                case Piece(_, text):
                    print(text, end="", flush=True)
                    await asyncio.sleep(0.02)  # slower than the model
                case End(question, error):
                    print(f"\n-- {question} {error or 'complete'}\n")
                    asked.remove(question)
        worker.cancel()
        await asyncio.wait([worker])


if __name__ == "__main__":
    with replay_without_key("text", faults=[Cut(after_events=30, times=1)]):
        asyncio.run(main())
