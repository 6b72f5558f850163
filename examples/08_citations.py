"""An answer grounded in documents: citations as they come, and the list of sources at the end."""

import asyncio

from rxcohere import CitedText, CohereClient

from offline import replay_without_key

DOCUMENTS = [
    {"id": "tall", "data": {"title": "Tall penguins", "text": "Emperor penguins are the tallest."}},
    {"id": "home", "data": {"title": "Where they live", "text": "Emperors live in Antarctica."}},
]


def show(cited: CitedText) -> None:
    new = f" [{cited.citation.text}]" if cited.citation else cited.delta
    print(new, end="", flush=True)


async def main() -> None:
    async with CohereClient() as co:
        stream = co.chat_stream(
            model="command-a-03-2025",
            messages=[{"role": "user", "content": "Where do the tallest penguins live?"}],
            documents=DOCUMENTS,
        )
        answer = await stream.cited_text().do_action(show)

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
