"""Two prompts at once, merged into one stream that tells them apart."""

import asyncio

import reactivex as rx
import reactivex.operators as ops
from reactivex import Observable

from rxcohere import CohereClient

from offline import replay_without_key


async def main() -> None:
    async with CohereClient() as co:

        def ask(name: str, question: str) -> Observable[tuple[str, str]]:
            stream = co.chat_stream(
                model="command-a-03-2025", messages=[{"role": "user", "content": question}]
            )
            return stream.text().pipe(ops.map(lambda text: (name, text)))

        both = rx.merge(
            ask("sky", "What is reactive programming?"), ask("sea", "Why is the sea blue?")
        )
        answers: dict[str, str] = {}
        done = asyncio.get_running_loop().create_future()

        def on_next(part: tuple[str, str]) -> None:
            name, text = part
            answers[name] = answers.get(name, "") + text
            print(f"{name}: {text!r}")

        both.subscribe(on_next, done.set_exception, lambda: done.set_result(None))
        await done
    for name, answer in answers.items():
        print(f"\n{name}: {answer}")


if __name__ == "__main__":
    with replay_without_key("text", "max-tokens"):
        asyncio.run(main())
