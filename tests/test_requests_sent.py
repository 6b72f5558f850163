"""How many requests a composition sends: each row is played, and counted at the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import reactivex as rx
from reactivex import Observable
from reactivex import operators as ops
from subscribers import ANSWER, ASK, EVENTS, Subscriber, client_of, served, waiting

from rxcohere import ChatStream, CohereClient, MessageEnd, RxCohereError, StreamCancelledError
from rxcohere import operators as rxc
from rxcohere.testing import Cut, Fault, ReplayServer, Stall, Status

Play = Callable[..., Awaitable[None]]
"""Composes and runs it; takes the server, and a client of it on the running loop."""


@dataclass(frozen=True)
class Composition:
    """One row: what is composed, in Markdown, and how many requests it sends.

    Attributes:
        label: what is composed, and who subscribes when.
        requests: how many requests the server gets.
        play: composes and runs it.
        faults: what the server does wrong meanwhile.
    """

    label: str
    requests: int
    play: Play
    faults: tuple[Fault, ...] = ()


COMPOSITIONS: list[Composition] = []
"""The table, in the order in which it is best read."""

MIDDLE = 5
CUT = Cut(after_events=MIDDLE)
CUT_ONCE = Cut(after_events=MIDDLE, times=1)
REFUSED_ONCE = Status(503, headers={"retry-after": "0"}, times=1)
STALL_ONCE = Stall(MIDDLE, times=1)
"""The first reply stays in the middle, so that it can be left there; a further one does not."""


def composition(label: str, requests: int, *faults: Fault) -> Callable[[Play], Play]:
    """Adds a row to the table."""

    def add(play: Play) -> Play:
        COMPOSITIONS.append(Composition(label, requests, play, faults))
        return play

    return add


def ask(co: CohereClient, **parameters: Any) -> ChatStream:
    return co.chat_stream(**{**ASK, **parameters})


async def end(*sources: Observable[Any]) -> list[Subscriber]:
    """Subscribes to all of them in one turn, and waits until all have ended."""
    seen = [Subscriber().to(source) for source in sources]
    return [await each.end() for each in seen]


async def leave_in_the_middle(source: Observable[Any]) -> Subscriber:
    """Subscribes, and leaves when the server has fallen silent."""
    seen = Subscriber()
    arrived = seen.arrived(MIDDLE)
    seen.to(source)
    await waiting(arrived)
    seen.dispose()
    return seen


# Cold --------------------------------------------------------------------------------------------


@composition("`stream.subscribe(…)`", 1)
async def subscribe(_: ReplayServer, co: CohereClient) -> None:
    (seen,) = await end(ask(co))
    assert len(seen.values) == EVENTS


@composition("`stream.subscribe(…)`, twice", 2)
async def subscribe_twice(_: ReplayServer, co: CohereClient) -> None:
    stream = ask(co)
    first, second = await end(stream, stream)
    assert len(first.values) == len(second.values) == EVENTS


@composition("`await stream`, then `async for event in stream`", 2)
async def await_and_iterate(_: ReplayServer, co: CohereClient) -> None:
    stream = ask(co)
    assert type(await stream) is MessageEnd
    assert len([event async for event in stream]) == EVENTS


@composition("`stream.subscribe(…).dispose()`, in one turn of the loop", 0)
async def dispose_at_once(_: ReplayServer, co: CohereClient) -> None:
    seen = Subscriber().to(ask(co))
    seen.dispose()
    assert seen.is_silent


@composition("`prompts.pipe(ops.switch_map(ask))`, three prompts in one turn of the loop", 1)
async def switch_map(_: ReplayServer, co: CohereClient) -> None:
    prompts = rx.of("one", "two", "three")
    ask_one = ops.switch_map(lambda text: ask(co, messages=[{"role": "user", "content": text}]))
    (seen,) = await end(prompts.pipe(ask_one))
    assert len(seen.values) == EVENTS


# One stream used twice ---------------------------------------------------------------------------


@composition("`rx.merge(stream.text(), stream.citations())`", 2)
async def merge(_: ReplayServer, co: CohereClient) -> None:
    stream = ask(co)
    await end(rx.merge(stream.text(), stream.citations()))


@composition("`rx.zip(stream, stream)`", 2)
async def zip_with_itself(_: ReplayServer, co: CohereClient) -> None:
    stream = ask(co)
    (seen,) = await end(rx.zip(stream, stream))
    assert len(seen.values) == EVENTS


@composition("`rx.combine_latest(stream, stream)`", 2)
async def combine_latest_with_itself(_: ReplayServer, co: CohereClient) -> None:
    stream = ask(co)
    (seen,) = await end(rx.combine_latest(stream, stream))
    assert seen.completed


@composition("`stream.pipe(ops.publish(mapper))`, whose mapper merges two branches", 1)
async def publish_with_a_mapper(_: ReplayServer, co: CohereClient) -> None:
    def branches(published: Observable[Any]) -> Observable[Any]:
        return rx.merge(published.pipe(rxc.text_deltas()), published.pipe(rxc.citations()))

    (seen,) = await end(ask(co).pipe(ops.publish(branches)))
    assert seen.completed


# Once more ---------------------------------------------------------------------------------------


@composition("`stream.pipe(ops.retry(3))`, each answer cut off", 3, CUT)
async def retry(_: ReplayServer, co: CohereClient) -> None:
    (seen,) = await end(ask(co).pipe(ops.retry(3)))
    assert len(seen.values) == 3 * MIDDLE  # the text begins anew each time


@composition("`stream.pipe(rxc.collect_text(), ops.retry(3))`, one answer cut off", 2, CUT_ONCE)
async def collect_and_retry(_: ReplayServer, co: CohereClient) -> None:
    (seen,) = await end(ask(co).pipe(rxc.collect_text(), ops.retry(3)))
    assert seen.values == [ANSWER]


@composition("`stream.pipe(ops.repeat(2))`", 2)
async def repeat(_: ReplayServer, co: CohereClient) -> None:
    (seen,) = await end(ask(co).pipe(ops.repeat(2)))
    assert len(seen.values) == 2 * EVENTS


# Stock sharing -----------------------------------------------------------------------------------


@composition("`stream.pipe(ops.share())`, three subscribers at once", 1)
async def share_at_once(_: ReplayServer, co: CohereClient) -> None:
    shared = ask(co).pipe(ops.share())
    for seen in await end(shared, shared, shared):
        assert len(seen.values) == EVENTS


@composition("`stream.pipe(ops.share())`, a subscriber after the end", 1)
async def share_after_the_end(_: ReplayServer, co: CohereClient) -> None:
    shared = ask(co).pipe(ops.share())
    await end(shared)
    (late,) = await end(shared)
    assert late.values == []  # completed, without a word


@composition("`stream.pipe(ops.share())`, all leave in the middle and one comes", 2, STALL_ONCE)
async def share_left_in_the_middle(_: ReplayServer, co: CohereClient) -> None:
    shared = ask(co).pipe(ops.share())
    await leave_in_the_middle(shared)
    (late,) = await end(shared)
    assert len(late.values) == EVENTS


@composition("`stream.pipe(ops.replay(), ops.ref_count())`, a subscriber after the end", 1)
async def replay_after_the_end(_: ReplayServer, co: CohereClient) -> None:
    shared = ask(co).pipe(ops.replay(), ops.ref_count())
    await end(shared)
    (late,) = await end(shared)
    assert len(late.values) == EVENTS


@composition(
    "`stream.pipe(ops.replay(), ops.ref_count())`, all leave in the middle and one comes",
    2,
    STALL_ONCE,
)
async def replay_left_in_the_middle(_: ReplayServer, co: CohereClient) -> None:
    shared = ask(co).pipe(ops.replay(), ops.ref_count())
    await leave_in_the_middle(shared)
    (late,) = await end(shared)
    assert len(late.values) == MIDDLE + EVENTS  # the first answer's beginning, and all of another


# share_response ----------------------------------------------------------------------------------


@composition("`stream.share_response()`, three subscribers at once", 1)
async def share_response_at_once(_: ReplayServer, co: CohereClient) -> None:
    shared = ask(co).share_response()
    for seen in await end(shared, shared, shared):
        assert len(seen.values) == EVENTS


@composition("`stream.share_response()`, a subscriber in the middle", 1)
async def share_response_in_the_middle(_: ReplayServer, co: CohereClient) -> None:
    late = Subscriber()

    def join(_: object) -> None:
        if len(first.values) == MIDDLE:
            late.to(shared)

    shared = ask(co).share_response()
    first = Subscriber(join)
    await first.to(shared).end()
    await late.end()
    assert late.completed
    assert late.values[-1] is first.values[-1]


@composition("`stream.share_response()`, a subscriber after the end", 1)
async def share_response_after_the_end(_: ReplayServer, co: CohereClient) -> None:
    shared = ask(co).share_response()
    await end(shared)
    (late,) = await end(shared)
    assert late.completed
    assert type(late.values[-1]) is MessageEnd


@composition("`stream.share_response()`, a subscriber after an error", 1, CUT)
async def share_response_after_an_error(_: ReplayServer, co: CohereClient) -> None:
    shared = ask(co).share_response()
    (first,) = await end(shared)
    (late,) = await end(shared)
    assert late.error is first.error is not None


@composition("`stream.share_response()`, the request refused once with 503", 2, REFUSED_ONCE)
async def share_response_of_a_request_sent_again(_: ReplayServer, co: CohereClient) -> None:
    shared = ask(co, request_options={"max_retries": 1}).share_response()
    for seen in await end(shared, shared):
        assert len(seen.values) == EVENTS


@composition("`stream.share_response()`, all leave in the middle and one comes", 1, STALL_ONCE)
async def share_response_after_an_abort(server: ReplayServer, co: CohereClient) -> None:
    shared = ask(co).share_response()
    await leave_in_the_middle(shared)
    await server.until(lambda s: s.aborted == 1)
    (late,) = await end(shared)
    assert type(late.error) is StreamCancelledError


@composition("`rx.merge(…)` of two branches of one `stream.share_response()`", 1)
async def merge_of_a_shared_response(_: ReplayServer, co: CohereClient) -> None:
    shared = ask(co).share_response()
    (seen,) = await end(rx.merge(shared.pipe(rxc.text_deltas()), shared.pipe(rxc.citations())))
    assert seen.completed


@composition("`stream.share_response().pipe(ops.retry(3))`, the answer cut off", 1, CUT)
async def retry_above_a_shared_response(_: ReplayServer, co: CohereClient) -> None:
    (seen,) = await end(ask(co).share_response().pipe(ops.retry(3)))
    assert seen.error is not None


# The count ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", COMPOSITIONS, ids=lambda row: row.play.__name__)
async def test_a_composition_sends_so_many_requests(row: Composition) -> None:
    """The server has got exactly as many as the table says when a later request arrives."""
    async with served(faults=list(row.faults)) as (server, co):
        await row.play(server, co)
        async with client_of(server) as other:
            with suppress(RxCohereError):
                await other.chat(**ASK)  # what was sent before this has arrived
        assert len(server.requests) - 1 == row.requests


def test_the_table_names_each_composition_once() -> None:
    """A label says which composition it is, so that a row can be looked up by it."""
    labels = [row.label for row in COMPOSITIONS]
    assert len(set(labels)) == len(labels)
    assert all("|" not in label and label.count("`") % 2 == 0 for label in labels)
