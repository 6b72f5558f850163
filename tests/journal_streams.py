"""Streams that a test speaks word by word into a journal, and readers that it can wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import reactivex as rx
from reactivex import Observable
from reactivex.subject import Subject
from samples import parsed, text_delta, text_stream
from subscribers import HANG, Subscriber, Subscribers

from rxcohere import ContentDelta
from rxcohere.bridges.journal import Journal, Verdict, follow, publish
from rxcohere.errors import JournalError, RxCohereError, StreamError
from rxcohere.events import ChatEvent
from rxcohere.folds import ResponseFold

ID = "answer-1"


def text_of(events: list[ChatEvent]) -> str:
    """The text of all deltas."""
    return "".join(event.text or "" for event in events if isinstance(event, ContentDelta))


def response_of(events: list[ChatEvent]) -> Any:
    """The response that the events say."""
    fold = ResponseFold()
    for event in events:
        fold.add(event)
    return fold.response()


class Talk:
    """A stream of one text, of which a test says each word.

    Attributes:
        stream: what to publish.
        text: what was said.
    """

    def __init__(self) -> None:
        self.stream: Subject[ChatEvent] = Subject()
        self.text = ""

    def begin(self) -> None:
        """What comes before the text."""
        for event in parsed(text_stream())[:2]:
            self.stream.on_next(event)

    def say(self, word: str) -> None:
        """One delta."""
        self.text += word
        self.stream.on_next(parsed([text_delta(word)])[0])

    def end(self) -> None:
        """What comes after the text."""
        for event in parsed(text_stream())[2:]:
            self.stream.on_next(event)
        self.stream.on_completed()


class Reader:
    """A follower that one can wait for.

    Attributes:
        seen: the subscriber.
    """

    def __init__(self, subscriber: Subscribers, journal: Journal, stream_id: str = ID) -> None:
        self._changed = asyncio.Event()
        self.seen: Subscriber = subscriber(lambda _: self._changed.set())
        self.seen.to(follow(journal, stream_id, patience=HANG))

    @property
    def events(self) -> list[ChatEvent]:
        """What has come, as it came."""
        return [entry.event for entry in self.seen.values]

    @property
    def text(self) -> str:
        """The text that has come."""
        return text_of(self.events)

    async def has(self, length: int) -> None:
        """Waits for so many characters."""
        async with asyncio.timeout(HANG):
            while len(self.text) < length:
                assert self.seen.is_silent, self.seen.error
                self._changed.clear()
                await self._changed.wait()

    async def completes(self, text: str) -> None:
        """Waits for the end, before which just this text has come."""
        await self.seen.end()
        assert self.seen.error is None, repr(self.seen.error)
        assert self.text == text, f"{len(self.text)} characters, expected {len(text)}"
        assert self.seen.values[-1].event.response == response_of(self.events)

    async def fails(self, kind: type[StreamError] = JournalError) -> None:
        """Waits for the end, which is such an error with what came."""
        await self.seen.end()
        assert type(self.seen.error) is kind, repr(self.seen.error)
        assert self.seen.error.partial == response_of(self.events)  # type: ignore[attr-defined]
        assert self.events


@asynccontextmanager
async def publishing(
    journal: Journal, stream: Observable[ChatEvent], stream_id: str = ID, **options: Any
) -> AsyncIterator[asyncio.Task[Verdict]]:
    """The task of a publication that has sent its request, which is cancelled at the end."""
    subscribed = asyncio.Event()

    def subscribe(_: object) -> Observable[ChatEvent]:
        subscribed.set()
        return stream

    options = {"batch_seconds": 0.001, **options}
    task = asyncio.create_task(publish(journal, stream_id, rx.defer(subscribe), **options))
    try:
        async with asyncio.timeout(6 * HANG):
            await subscribed.wait()
            yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(check: Callable[[], Awaitable[object]]) -> None:
    """Asks again and again, until the answer is yes; for what a server cannot tell by itself."""
    async with asyncio.timeout(HANG):
        while not await check():  # noqa: ASYNC110 - it has no way to call back
            await asyncio.sleep(0.005)


async def outcome_of(task: asyncio.Task[Verdict]) -> Exception | None:
    """What a publication came to: what it raised, or what it says that its stream ended with."""
    async with asyncio.timeout(HANG):
        try:
            return (await task).error
        except RxCohereError as error:
            return error
