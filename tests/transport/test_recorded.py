"""Recorded streams, served over a socket in random chunks, come out event for event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from samples import frames_of

from rxcohere import ChatEvent, CohereClient, GenerationError, MessageEnd, StreamError
from rxcohere.testing import ReplayServer

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_recorded_stream_comes_out_as_it_went_in(
    recorded: Path, framing: Any, seed: int
) -> None:
    """Each event equals its JSON; only the error ends fail, and after message-end."""
    sent = [json.loads(frame) for frame in frames_of(recorded)]
    got: list[ChatEvent] = []
    verdict: StreamError | None = None
    async with (
        ReplayServer(recorded, chunking="random", framing=framing, seed=seed) as server,
        CohereClient("key", base_url=server.url) as co,
    ):
        try:
            async for event in co.chat_stream(**ASK):
                got.append(event)  # noqa: PERF401  # those before an error count
        except StreamError as error:
            verdict = error
    assert [event.model_dump(exclude_unset=True) for event in got] == sent
    end = got[-1]
    assert isinstance(end, MessageEnd)
    assert end.response is not None
    if "error-end" in recorded.name:
        assert isinstance(verdict, GenerationError)
        assert verdict.error_type == "INVALID_TOOL_GENERATION"
        assert verdict.partial == end.response
    else:
        assert verdict is None
        assert end.response.finish_reason == end.finish_reason


async def test_the_non_streaming_reply_of_a_recorded_stream_is_the_streams_own(
    recorded: Path,
) -> None:
    """chat() and a stream give the same reply, but for the text of tool arguments."""
    if "error-end" in recorded.name:
        pytest.skip("a failed generation has no non-streaming reply")
    async with (
        ReplayServer(recorded) as server,
        CohereClient("key", base_url=server.url) as co,
    ):
        streamed = await co.chat_stream(**ASK).response()
        assert (await co.chat(**ASK)) == streamed.normalized()
