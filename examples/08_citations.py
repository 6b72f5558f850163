"""An answer grounded in documents: citations as they come, and the list of sources at the end."""

import asyncio

from offline import replay_without_key

from rxcohere import CohereClient
from rxcohere import operators as rxc

DOCUMENTS = [
    {"id": "tall", "data": {"title": "Tall penguins", "text": "Emperor penguins are the tallest."}},
    {"id": "home", "data": {"title": "Where they live", "text": "Emperors live in Antarctica."}},
]


async def main() -> None:
    async with CohereClient() as co:
        answer = (
            await co.chat_stream(
                model="command-a-03-2025",
                messages=[{"role": "user", "content": "Where do the tallest penguins live?"}],
                documents=DOCUMENTS,
            )
            .pipe(rxc.attach_citations())
            .do_action(
                lambda cited: print(
                    f" [{cited.citation.text}]" if cited.citation else cited.delta,
                    end="",
                    flush=True,
                )
            )
        )

    print("\n")
    for segment in answer.segments():
        marks = [source.id for citation in segment.citations for source in citation.sources or ()]
        print(f"{segment.text!r:60} {marks or ''}")
    print("\nSources")
    for source in answer.sources:
        print(f"  {source.id}: {source.document}")


if __name__ == "__main__":
    with replay_without_key("rag"):
        asyncio.run(main())
