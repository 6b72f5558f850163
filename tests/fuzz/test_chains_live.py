"""Random chains of operators on a live client: the Rx grammar, and every connection released."""

import asyncio
from typing import Any, NamedTuple

import reactivex as rx
from fuzz.amounts import fuzzed
from fuzz.chains import NEVER, Link, World, built, chains
from fuzz.wire import Draw, cut, frames_of
from hypothesis import strategies as st
from reactivex.notification import OnError, OnNext
from reactivex.scheduler.eventloop import AsyncIOScheduler
from samples import JSON, streams
from subscribers import ASK, Boom, Reports, Subscriber, client_of

from rxcohere import GenerationError, StreamError, StreamTruncatedError, parse_event
from rxcohere.testing import DONE, ReplayServer, Stall, Transcript


class Play(NamedTuple):
    """A stream, and the pieces in which a server writes it."""

    events: list[JSON]
    pieces: list[bytes]


@st.composite
def plays(draw: Draw) -> Play:
    """Legal streams, some of which break off after one of their events."""
    events = draw(streams()).events
    end = next(n for n, event in enumerate(events) if event["type"] == "message-end")
    events = events[: draw(st.sampled_from([end, end, end, end // 2, 0])) + 1]
    return Play(events, cut(draw, b"".join(frames_of(draw, events)) + DONE))


@fuzzed(
    few=40,
    many=4_000,
    play=plays(),
    chain=chains(),
    dispose_after=st.sampled_from([None, None, 0, 1, 2, 5, 9]),
    inside=st.booleans(),
    raise_at=st.sampled_from([None, None, None, 1, 3]),
)
async def test_a_live_chain_keeps_the_grammar(
    play: Play, chain: list[Link], dispose_after: int | None, inside: bool, raise_at: int | None
) -> None:
    """One call at a time, one terminal, none after disposal; then nothing is open at the server.

    What a subscriber raises when its chain has let go of the source is reported.
    """
    if ("observe_on",) in chain or "delay" in [name for name, *_ in chain]:
        raise_at = None  # a stock one falls silent when what is behind it raises
    transcript = Transcript("random", tuple(filter(None, play.pieces)))
    loop, reports = asyncio.get_running_loop(), Reports()
    loop.set_exception_handler(reports.hear)
    async with ReplayServer(transcript) as server, client_of(server) as co:
        scheduler = AsyncIOScheduler(loop)
        world = World(scheduler, lambda: co.chat_stream(**ASK))
        result = built(chain, co.chat_stream(**ASK), world)

        def react(_: Any) -> None:
            count = len(subscriber.values)
            if inside and count == dispose_after and subscriber.subscription is not None:
                subscriber.dispose()
            if count == raise_at:
                raise Boom

        subscriber = Subscriber(react)
        arrived = asyncio.wrap_future(subscriber.arrived(dispose_after or NEVER))
        subscriber.to(result)
        ends = [loop.create_task(each) for each in (subscriber.end(), reports.first())]
        if dispose_after != 0:
            await asyncio.wait([arrived, *ends], return_when=asyncio.FIRST_COMPLETED)
        if subscriber.is_silent:
            subscriber.dispose()
        for end in ends:
            end.cancel()
        await asyncio.wait(ends)
        await server.until(lambda s: s.open == 0)
    assert subscriber.breaches == []
    assert world.breaches == []
    assert all(isinstance(each, Boom) for each in reports)
    if dispose_after is None and not reports:
        assert not subscriber.is_silent
    assert subscriber.error is None or isinstance(subscriber.error, Boom | StreamError)


@fuzzed(
    few=30,
    many=4_000,
    play=plays(),
    chain=chains(),
    sent=st.integers(0, 12),
    turns=st.integers(0, 60),
)
async def test_leaving_a_silent_server(
    play: Play, chain: list[Link], sent: int, turns: int
) -> None:
    """Whoever leaves, after so many turns of the loop, gives up what would never end by itself."""
    transcript = Transcript("random", tuple(filter(None, play.pieces)))
    async with ReplayServer(transcript, faults=[Stall(sent)]) as server, client_of(server) as co:
        scheduler = AsyncIOScheduler(asyncio.get_running_loop())
        world = World(scheduler, lambda: co.chat_stream(**ASK))
        subscriber = Subscriber().to(built(chain, co.chat_stream(**ASK), world))
        for _ in range(turns):
            await asyncio.sleep(0)
        if subscriber.is_silent:
            subscriber.dispose()
        await server.until(lambda s: s.open == 0)
        assert server.completed == 0
    assert [*subscriber.breaches, *world.breaches] == []


def comparable(value: Any) -> Any:
    """The value; of an error that ``materialize`` has made a value, its class."""
    match value:
        case list():
            return [comparable(each) for each in value]
        case OnNext():
            return OnNext, comparable(value.value)
        case OnError():
            return OnError, type(value.exception)
    return value


@fuzzed(few=30, many=4_000, play=plays(), chain=chains(timed=False))
async def test_a_live_chain_gives_what_a_list_gives(play: Play, chain: list[Link]) -> None:
    """Behind the same operators, a client brings what an observable of the same events brings."""
    events = [parse_event(event) for event in play.events]
    end = play.events[-1]
    ending: rx.Observable[Any] = rx.throw(StreamTruncatedError("[DONE] came before message-end"))
    if end["type"] == "message-end":
        failed = end["delta"]["finish_reason"] in ("ERROR", "TIMEOUT")
        ending = rx.throw(GenerationError("ERROR")) if failed else rx.empty()
    listed = rx.from_iterable(events).pipe(rx.operators.concat(ending))
    transcript = Transcript("random", tuple(filter(None, play.pieces)))
    async with ReplayServer(transcript) as server, client_of(server) as co:
        scheduler = AsyncIOScheduler(asyncio.get_running_loop())
        here = World(scheduler, lambda: co.chat_stream(**ASK))
        there = World(scheduler, lambda: listed)
        live = await Subscriber().to(built(chain, co.chat_stream(**ASK), here)).end()
        plain = await Subscriber().to(built(chain, listed, there)).end()
        await server.until(lambda s: s.open == 0)
    assert comparable(live.values) == comparable(plain.values)
    assert type(live.error) is type(plain.error)
    assert [*live.breaches, *here.breaches, *plain.breaches, *there.breaches] == []
