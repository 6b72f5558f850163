"""Basic streaming without asyncio: the client runs an event loop of its own in the background."""

from rxcohere import CohereClient, ContentDelta
from rxcohere import operators as rxc

from offline import replay_without_key


def main() -> None:
    with CohereClient() as co:
        stream = co.chat_stream(
            model="command-a-03-2025",
            messages=[{"role": "user", "content": "What is reactive programming?"}],
        )
        for event in stream:
            if isinstance(event, ContentDelta):
                print(event.text, end="", flush=True)
        print()

        # A stream is cold: this asks once more, and blocks until the whole text is there.
        text = stream.pipe(rxc.collect_text()).run()
        print(len(text), "characters")


if __name__ == "__main__":
    with replay_without_key("text"):
        main()
