"""One request and its answer: sent, retried before the first event, timed, with one verdict."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import aiohttp
from pydantic import ValidationError

from rxcohere.errors import (
    ConnectionFailedError,
    EventDecodeError,
    GenerationError,
    RxCohereError,
    StreamCancelledError,
    StreamError,
    StreamTimeoutError,
    StreamTruncatedError,
    TimeoutPhase,
)
from rxcohere.events import ChatEvent
from rxcohere.response import ChatResponse, generation_failed
from rxcohere.transport.answer import BROKEN, body_failure, check_answer, closing_of, wake_when_lost
from rxcohere.transport.reader import EventReader
from rxcohere.transport.retrying import retrying
from rxcohere.transport.session import Call, Transport
from rxcohere.transport.watchdog import Watchdog

T = TypeVar("T")


class Exchange(ABC, Generic[T]):
    """A request and what comes back, in batches, on the client's loop.

    `next_batch` opens the exchange at its first call. Afterwards it gives the next values, then an
    empty list, or raises the one verdict.
    """

    def __init__(self, transport: Transport, call: Call) -> None:
        self._transport = transport
        self._call = call
        self._response: aiohttp.ClientResponse | None = None
        self._verdict: StreamError | None = None  # ours, once we broke the exchange off
        self._opening: asyncio.Timeout | None = None
        self._total_at: float | None = None

    @abstractmethod
    async def next_batch(self) -> list[T]:
        """The next values; an empty list when there are no more."""

    @abstractmethod
    async def _first(self, response: aiohttp.ClientResponse) -> list[T]:
        """The first values of an accepted response."""

    def partial(self) -> ChatResponse | None:
        """The response as far as it came."""
        return None

    def cancel(self, reason: str) -> None:
        """Breaks the exchange off; its consumer gets `StreamCancelledError`."""
        self._break_off(StreamCancelledError(reason))

    def close(self) -> None:
        """Gives up the connection at once, unless the body is all there."""
        if self._verdict is None:  # or what now fails would be tried again
            self._verdict = StreamCancelledError("the stream was given up")
        self._abandon()
        self._transport.leave(self)

    def _expire(self, phase: TimeoutPhase) -> None:
        self._break_off(self._timeout(phase))

    def _timeout(self, phase: TimeoutPhase) -> StreamTimeoutError:
        limit = getattr(self._call.timeouts, phase)
        problem = {
            "first_event": f"nothing came within {limit:g} s of the request",
            "idle": f"no event within {limit:g} s of the one before",
            "total": f"not at its end within {limit:g} s",
        }[phase]
        return StreamTimeoutError(f"{problem}; timeouts.{phase} sets the limit", phase)

    def _break_off(self, verdict: StreamError) -> None:
        if self._verdict is not None:
            return
        self._verdict = verdict
        if self._opening is not None and not self._opening.expired():
            self._opening.reschedule(asyncio.get_running_loop().time())
        elif self._response is not None and not self._response.closed:
            self._response.close()  # which wakes the reader
            self._transport.free_slot(self)  # the reader may be waiting for its consumer

    def _own(self, error: StreamError) -> StreamError:
        """The verdict on a broken body: our own, if it was we who broke it."""
        hidden: StreamError | None = None
        if isinstance(error, EventDecodeError):
            hidden = self._transport.secret.blot_out_event(error)
        elif isinstance(error, GenerationError):
            hidden = self._transport.secret.blot_out_failure(error)
        if hidden is not None:
            hidden.partial = error.partial
            return hidden
        if self._verdict is None or not isinstance(
            error, (ConnectionFailedError, StreamTruncatedError)
        ):
            return error
        self._verdict.partial = error.partial
        return self._verdict

    async def _open(self) -> list[T]:
        """The first values, after as many requests as it takes."""
        if self._verdict is not None:
            raise self._verdict
        total = self._call.timeouts.total
        if total is not None:
            self._total_at = asyncio.get_running_loop().time() + total
        opening = self._opening = asyncio.timeout_at(self._total_at)
        try:
            async with opening:
                await self._transport.enter(self)
                values = await retrying(self._attempt, self._call.retry)
        except TimeoutError:
            if not opening.expired():
                raise
        else:
            if self._verdict is not None:  # too late for the timeout to carry it out
                self._abandon()
            return values
        finally:
            self._opening = None
        raise self._verdict or self._timeout("total")

    async def _attempt(self) -> list[T]:
        await self._transport.take_slot(self)
        limit = asyncio.timeout(self._call.timeouts.first_event)
        try:
            async with limit:
                self._response = await self._transport.send(self._call)
                if self._response.status >= 300:
                    limit.reschedule(None)  # the status is known, and its body has its own limit
                await check_answer(self._response, self._call.accept, self._transport.secret)
                return await self._first(self._response)
        except BaseException as error:
            self._abandon()
            failure = self._own(error) if isinstance(error, StreamError) else error
            if limit.expired() and type(error) is TimeoutError:  # and no cancellation
                failure = self._timeout("first_event")
            if isinstance(failure, RxCohereError):
                # The frames further down hold the key, and what may repeat it.
                failure.__traceback__ = None
        try:
            raise failure
        finally:
            del failure  # whose traceback holds this frame

    def _abandon(self) -> None:
        # When the end of the body arrives, aiohttp puts the connection back into its pool by itself
        # and closes the response, which then has nothing left to give up.
        if self._response is not None and not self._response.closed:
            self._response.close()
        self._transport.free_slot(self)


class EventExchange(Exchange[ChatEvent]):
    """The events of one stream, some at a time, in the order in which they came."""

    def __init__(self, transport: Transport, call: Call) -> None:
        super().__init__(transport, call)
        self._reader: EventReader | None = None
        self._watchdog: Watchdog | None = None

    async def next_batch(self) -> list[ChatEvent]:
        """The next events; an empty list after ``message-end``.

        Raises:
            ApiError: the server refused the request.
            StreamError: the stream did not reach its end.
        """
        watchdog = self._watchdog
        if watchdog is None or self._reader is None:
            events = await self._open()
            self._watchdog = Watchdog(self._call.timeouts.idle, self._total_at, self._expire)
            return events
        watchdog.wait()
        try:
            events = await self._reader.read()
        except StreamError as error:
            verdict = self._own(error)
        else:
            watchdog.reset()
            return events
        raise verdict

    def partial(self) -> ChatResponse | None:
        """The response as far as it came."""
        return None if self._reader is None else self._reader.partial()

    async def _first(self, response: aiohttp.ClientResponse) -> list[ChatEvent]:
        self._reader = EventReader(response, self._transport.max_event_bytes)
        return await self._reader.read()

    def close(self) -> None:
        """Gives up the connection at once, unless the body is all there."""
        # Each refers to the other, and only the collector would find that neither is in use.
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.stop()
        if self._reader is not None:
            self._reader.close()
        super().close()


class ReplyExchange(Exchange[ChatResponse]):
    """The reply of one non-streaming request."""

    _is_done = False

    async def next_batch(self) -> list[ChatResponse]:
        """The reply, then an empty list.

        Raises:
            ApiError: the server refused the request.
            StreamError: the reply did not arrive whole, or is none.
        """
        if self._is_done:
            return []
        self._is_done = True
        return await self._open()

    async def _first(self, response: aiohttp.ClientResponse) -> list[ChatResponse]:
        closed = closing_of(response)
        stop_watching = wake_when_lost(response.content, closed)
        body = bytearray()
        try:
            while chunk := await response.content.readany():
                body += chunk
                if len(body) > self._transport.max_event_bytes:
                    raise EventDecodeError("the reply is larger than max_event_bytes allows")
        except BROKEN as error:
            failure: StreamError = body_failure("the reply broke off", error, closed)
        else:
            reply = _parse_reply(bytes(body))
            if not generation_failed(reply.finish_reason):
                return [reply]
            failure = GenerationError(str(reply.finish_reason))
            failure.partial = reply
        finally:
            stop_watching()
        raise failure


def _parse_reply(body: bytes) -> ChatResponse:
    try:
        return ChatResponse.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(step) for step in problem["loc"])
        raise EventDecodeError(
            f"the reply could not be read: {problem['msg']}" + (f" (at {where})" if where else ""),
            body,
        ) from error
