"""When a stream fails: one typed error, and what was received is not lost."""

import asyncio

from rxcohere import (
    ApiError,
    CohereClient,
    GenerationError,
    StreamError,
    StreamTimeoutError,
    Timeouts,
    TooManyRequestsError,
)
from rxcohere.testing import Cut, Status

from offline import replay_without_key


async def ask(co: CohereClient) -> str:
    try:
        response = await co.chat_stream(
            model="command-a-03-2025",
            messages=[{"role": "user", "content": "What is reactive programming?"}],
        ).response()
        return f"whole: {response.text}"
    except TooManyRequestsError as error:
        return f"try again in {error.retry_after or 60:.0f} s"
    except ApiError as error:
        return f"refused with {error.status_code}: {error.body}"
    except GenerationError as error:
        return f"the model failed: {error.error}"
    except StreamTimeoutError as error:
        return f"too slow ({error.phase}), so far: {error.partial.text if error.partial else ''}"
    except StreamError as error:
        # Any other way a stream can break off. It is never mistaken for a short answer.
        return f"{type(error).__name__}, so far: {error.partial.text if error.partial else ''}"


async def main() -> None:
    async with CohereClient(timeouts=Timeouts(first_event=60, idle=30)) as co:
        for _ in range(4):
            print(await ask(co))


FAULTS = [
    Status(429, headers={"retry-after": "0"}, times=2),  # the client tries again by itself
    Status(422, body={"message": "unknown field"}, times=1),
    Cut(after_events=9, times=1),
]

if __name__ == "__main__":
    with replay_without_key("text", "error", "text", faults=FAULTS):
        asyncio.run(main())
