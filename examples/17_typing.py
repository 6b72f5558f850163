"""Answers while somebody types: each new question gives up the answer to the one before."""

import asyncio

import reactivex.operators as ops
from reactivex import Observable
from reactivex.scheduler.eventloop import AsyncIOScheduler
from reactivex.subject import Subject

from rxcohere import CohereClient
from rxcohere import operators as rxc

from offline import replay_without_key

KEYSTROKES = ["What", "What is", "What is reactive", "What is reactive programming?"]


async def main() -> None:
    loop = asyncio.get_running_loop()
    typed = Subject[str]()
    async with CohereClient() as co:

        def answer_to(question: str) -> Observable[str]:
            print(f"\n\n> {question}")
            stream = co.chat_stream(
                model="command-a-03-2025", messages=[{"role": "user", "content": question}]
            )
            return stream.pipe(rxc.text_deltas())

        answers = typed.pipe(
            # A stock operator that keeps time has to be told of the loop.
            ops.debounce(0.05, scheduler=AsyncIOScheduler(loop)),
            # The answer to an outdated question is cancelled: the model stops writing it.
            ops.switch_map(answer_to),
        )
        done = loop.create_future()
        answers.subscribe(
            lambda text: print(text, end="", flush=True),
            done.set_exception,
            lambda: done.set_result(None),
        )
        for keystrokes in KEYSTROKES:
            typed.on_next(keystrokes)
            await asyncio.sleep(0.1 if keystrokes == "What is" else 0.02)
        typed.on_completed()  # the last answer still comes to its end
        await done
    print()


if __name__ == "__main__":
    with replay_without_key("text"):
        asyncio.run(main())
