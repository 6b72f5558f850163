"""`share_response` over real sockets: whatever subscribers do, the server counts one request."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import reactivex as rx
from reactivex import Observable
from reactivex import operators as ops
from reactivex.scheduler import HistoricalScheduler
from samples import (
    citation,
    citation_end,
    citation_start,
    content_end,
    content_start,
    document,
    message_end,
    message_start,
    text_delta,
)
from subscribers import (
    ANSWER,
    ASK,
    EVENTS,
    HANG,
    TEXT,
    Boom,
    Reports,
    Subscriber,
    Subscribers,
    boom,
    bound_to_background,
    client_of,
    in_thread,
    run,
    served,
    serving,
    started,
    waiting,
    was_aborted,
)

from rxcohere import (
    BlockingCallError,
    ChatEvent,
    ChatResponse,
    ChatStream,
    CohereClient,
    ContentDelta,
    GenerationError,
    MessageEnd,
    MessageStart,
    RxCohereError,
    StreamCancelledError,
    StreamTruncatedError,
    Timeouts,
    UnprocessableEntityError,
    compact,
    to_async_iterator,
)
from rxcohere import operators as rxc
from rxcohere.testing import Cut, Fault, ReplayServer, Stall, Status, Transcript

MIDDLE = 7
"""An event of the middle of `TEXT`, counted from 1."""

STALLED = [Stall(MIDDLE, times=1)]
"""The first reply falls silent in the middle; another one, which is not to be, would not."""


def at(count: int, do: Callable[[], object]) -> Callable[[Any], None]:
    """What a subscriber does when its value of that number comes."""
    come = 0

    def react(_: Any) -> None:
        nonlocal come
        come += 1
        if come == count:
            do()

    return react


@pytest.fixture
def restless() -> Iterator[None]:
    """Has threads take turns as often as they can, so that they meet where they seldom do."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


class Hold:
    """Stops the thread that brings the values at one of them, until it is let go."""

    def __init__(self, count: int) -> None:
        self.reached: Future[None] = Future()
        self._go = threading.Event()
        self.react = at(count, self._stop)

    def _stop(self) -> None:
        self.reached.set_result(None)
        assert self._go.wait(HANG)

    def let_go(self) -> None:
        self._go.set()


async def settled(server: ReplayServer, *, requests: int = 1, aborted: int = 0) -> None:
    """Shows that the server has seen so many requests, and that no further one is on its way."""
    async with client_of(server) as other:
        with suppress(RxCohereError):
            await other.chat(**ASK)  # what was sent before this has arrived
    await server.until(lambda s: s.open == 0)
    assert (len(server.requests) - 1, server.open, server.aborted) == (requests, 0, aborted)


def settle(server: ReplayServer, *, requests: int = 1, aborted: int = 0) -> None:
    """The same for a server in a thread."""
    run(settled(server, requests=requests, aborted=aborted))


def text_of(events: Iterable[ChatEvent]) -> str:
    return "".join(event.text or "" for event in events if isinstance(event, ContentDelta))


def response_of(events: Iterable[ChatEvent]) -> ChatResponse:
    """What the events add up to."""
    response: ChatResponse = rx.from_iterable(events).pipe(rxc.collect_response()).run()
    return response


def alike(seen: Subscriber, other: Subscriber) -> bool:
    """Whether both have heard the same, however the deltas were cut."""
    return compact(seen.values) == compact(other.values)


# Everybody hears everything ----------------------------------------------------------------------

Share = Callable[[ChatStream], Observable[ChatEvent]]
by_either_name = pytest.mark.parametrize(
    "share",
    [lambda stream: stream.share_response(), lambda stream: stream.pipe(rxc.share_response())],
    ids=["shortcut", "operator"],
)


@by_either_name
async def test_three_subscribers_at_once_cost_one_request(
    subscriber: Subscribers, share: Share
) -> None:
    """All three get every event as it came, and completion, from one request."""
    async with served() as (server, co):
        shared = share(co.chat_stream(**ASK))
        seen = [subscriber().to(shared) for _ in range(3)]
        for each in seen:
            await each.end()
            assert each.values == seen[0].values
            assert each.completed
        assert [event.type for event in seen[0].values] == [event.type for event in TEXT.events]
        await settled(server)
        assert server.completed == 1 + 1


@by_either_name
async def test_sharing_sends_nothing_before_somebody_subscribes(
    subscriber: Subscribers, share: Share
) -> None:
    """Neither the shared observable nor what derives from it sends a request."""
    async with served() as (server, co):
        share(co.chat_stream(**ASK)).pipe(rxc.collect_text())
        await settled(server, requests=0)


async def test_one_in_the_middle_gets_the_history_and_the_rest(subscriber: Subscribers) -> None:
    """Who comes between two events hears, compacted, what the first one had; then the same."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        late = subscriber()
        arrived = asyncio.Event()
        first = subscriber(at(MIDDLE, arrived.set)).to(shared)
        await arrived.wait()
        behind = len(first.values)
        late.to(shared)
        assert 0 < len(late.values) < behind
        assert late.values == compact(first.values)
        await first.end()
        await late.end()
        assert alike(late, first)
        assert late.completed
        assert len(first.values) == EVENTS
        await settled(server)


def test_one_in_the_middle_of_a_plain_script(subscriber: Subscribers) -> None:
    """The history comes in the subscriber's own thread, what follows on the client's loop."""
    with serving() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        hold = Hold(MIDDLE)
        first = subscriber(hold.react).to(shared)
        hold.reached.result(HANG)
        late = subscriber().to(shared)
        assert late.threads == {threading.get_ident()}
        assert late.values == compact(TEXT.events[:MIDDLE])
        hold.let_go()
        first.wait_for_end()
        late.wait_for_end()
        assert late.threads == {threading.get_ident(), *first.threads}
        assert late.values[-1] is first.values[-1]
        assert alike(late, first)
        settle(server)


async def test_one_after_the_end_gets_the_history_and_completion(subscriber: Subscribers) -> None:
    """After completion, everything is there at once, inside subscribe, without a request."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        first = await subscriber().to(shared).end()
        late = [subscriber().to(shared) for _ in range(3)]
        for each in late:
            assert each.completed
            assert each.values == compact(first.values)
        assert len(late[0].values) < EVENTS
        await settled(server)


@pytest.mark.parametrize(
    ("transcript", "faults", "expected", "text"),
    [
        ("text", [Cut(after_events=MIDDLE, times=1)], StreamTruncatedError, True),
        ("text", [Cut(after_events=MIDDLE, how="eof", times=1)], StreamTruncatedError, True),
        ("text", [Status(422, times=1)], UnprocessableEntityError, False),
        ("error", [], GenerationError, False),
    ],
    ids=["cut", "cut-eof", "status", "generation"],
)
async def test_one_after_an_error_gets_the_history_and_that_error(
    subscriber: Subscribers,
    transcript: str,
    faults: list[Fault],
    expected: type[Exception],
    text: bool,
) -> None:
    """The failure is not tried again: it is the same error, with the same partial response."""
    async with served(transcript, faults) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        first = await subscriber().to(shared).end()
        late = [subscriber().to(shared) for _ in range(2)]
        assert type(first.error) is expected
        for each in late:
            assert each.error is first.error
            assert each.values == compact(first.values)
        assert bool(text_of(first.values)) is text
        if expected is UnprocessableEntityError:
            assert first.values == []
        else:
            assert first.error.partial == response_of(late[0].values)
        if expected is GenerationError:
            assert type(late[0].values[-1]) is MessageEnd
        with pytest.raises(expected) as caught:
            await shared
        assert caught.value is first.error
        await settled(server)


async def test_one_after_an_abort_gets_the_history_and_that_it_was_given_up(
    subscriber: Subscribers,
) -> None:
    """When all have left in the middle, the request is gone; nobody starts another one."""
    async with served(faults=STALLED) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        first = subscriber()
        arrived = first.arrived(MIDDLE)
        first.to(shared)
        await waiting(arrived)
        first.dispose()
        await server.until(was_aborted)
        late = [subscriber().to(shared) for _ in range(2)]
        for each in late:
            assert each.values == compact(first.values)
            assert type(each.error) is StreamCancelledError
            assert each.error is late[0].error
            assert each.error.partial == response_of(first.values)
        with pytest.raises(StreamCancelledError):
            await shared.pipe(rxc.collect_text())
        assert first.is_silent
        await settled(server, aborted=1)


async def test_given_up_in_the_same_turn_nothing_is_sent(subscriber: Subscribers) -> None:
    """The request starts a turn after subscribe; who comes later still sends none."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        subscriber().to(shared).dispose()
        late = subscriber().to(shared)
        assert late.values == []
        assert type(late.error) is StreamCancelledError
        assert late.error.partial is None
        await settled(server, requests=0)


async def test_each_share_of_a_stream_is_a_request(subscriber: Subscribers) -> None:
    """One shared observable is one request; sharing the same stream again makes another."""
    async with served() as (server, co):
        stream = co.chat_stream(**ASK)
        for shared in (stream.share_response(), stream.share_response()):
            first, second = subscriber().to(shared), subscriber().to(shared)
            await first.end()
            await second.end()
        await settled(server, requests=2)


async def test_branches_of_one_shared_response_are_one_request() -> None:
    """Branches that meet again in merge and zip get the whole stream each, from one request."""
    async with served("rag") as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        merged = shared.pipe(rxc.text_deltas(), ops.merge(shared.pipe(rxc.citations())))
        kinds = await merged.pipe(ops.map(type), ops.to_set())
        assert {kind.__name__ for kind in kinds} == {"str", "Citation"}
        zipped = rx.zip(shared.pipe(rxc.collect_text()), shared.pipe(rxc.collect_response()))
        text, response = await zipped
        assert text == response.text
        await settled(server)


async def test_retry_above_a_shared_response_that_failed_sends_nothing(
    subscriber: Subscribers,
) -> None:
    """A retry hears the same history and the same error again; the failure is final."""
    async with served(faults=[Cut(after_events=MIDDLE, times=1)]) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        seen = await subscriber().to(shared.pipe(ops.retry(3))).end()
        assert type(seen.error) is StreamTruncatedError
        assert [type(event) for event in seen.values].count(MessageStart) == 3
        await settled(server)


# The recorded streams ----------------------------------------------------------------------------


async def test_a_late_subscriber_of_a_recorded_stream_folds_to_the_same(
    subscriber: Subscribers, recorded: Path
) -> None:
    """Whoever comes at any event, or after the end, folds to the response of the first one."""
    late: list[Subscriber] = []
    async with served(recorded) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        first = await subscriber(lambda _: late.append(subscriber().to(shared))).to(shared).end()
        late.append(subscriber().to(shared))
        assert len(late) == len(first.values) + 1
        expected = response_of(first.values)
        for each in late:
            await each.end()
            assert (each.completed, each.error) == (first.completed, first.error)
            assert each.values[-1] is first.values[-1]
            assert response_of(each.values) == expected
            assert alike(each, first)
        await settled(server)


# Subscribers that misbehave ----------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
async def test_a_raising_subscriber_harms_nobody_else(
    subscriber: Subscribers, reports: Reports, place: int
) -> None:
    """It gets its own error through its on_error, once; the others get everything."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        seen = [subscriber(at(MIDDLE, boom) if n == place else None) for n in range(3)]
        for each in seen:
            each.to(shared)
        raising = seen.pop(place)
        for each in seen:
            await each.end()
            assert (len(each.values), each.completed) == (EVENTS, True)
        assert type(raising.error) is Boom
        assert len(raising.values) == MIDDLE
        await settled(server)
    assert reports == []


async def test_a_raising_subscriber_without_on_error_reaches_the_loop(
    subscriber: Subscribers, reports: Reports
) -> None:
    """The loop's exception handler hears of it, once; the others get everything."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        before = subscriber().to(shared)
        shared.subscribe(at(MIDDLE, boom))
        shared.pipe(ops.map(boom)).subscribe()
        after = subscriber().to(shared)
        for each in (before, after):
            await each.end()
            assert (len(each.values), each.completed) == (EVENTS, True)
        await settled(server)
    assert [type(report) for report in reports] == [Boom, Boom]


async def test_one_that_raises_in_its_history_harms_nobody_else(
    subscriber: Subscribers, reports: Reports
) -> None:
    """Who comes late and raises inside subscribe gets its error there, or the loop does."""
    raising: list[Subscriber] = []

    def join() -> None:
        raising.append(subscriber(boom).to(shared))
        shared.subscribe(boom)

    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        first, second = subscriber(at(MIDDLE, join)).to(shared), subscriber().to(shared)
        for each in (first, second):
            await each.end()
            assert (len(each.values), each.completed) == (EVENTS, True)
        raising.append(subscriber(boom).to(shared))
        shared.subscribe(boom)
        for each in raising:
            assert len(each.values) == 1
            assert type(each.error) is Boom
        await settled(server)
    assert [type(report) for report in reports] == [Boom, Boom]


async def test_verdict_callbacks_that_raise_harm_nobody_else(
    subscriber: Subscribers, reports: Reports
) -> None:
    """An on_completed or on_error that raises is reported; the next in line hears the verdict."""
    for faults in ([], [Cut(after_events=MIDDLE, times=1)]):
        async with served(faults=faults) as (server, co):
            shared = co.chat_stream(**ASK).share_response()
            shared.subscribe(on_error=boom, on_completed=boom)
            seen = await subscriber().to(shared).end()
            assert seen.completed is not bool(faults)
            shared.subscribe(on_error=boom, on_completed=boom)
            await settled(server)
    assert [type(report) for report in reports] == [Boom] * 4


async def test_the_last_one_to_raise_gives_the_request_up(
    subscriber: Subscribers, reports: Reports
) -> None:
    """One that raises has left, so the request of a lone one is given up."""
    async with served(faults=STALLED) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        seen = await subscriber(boom).to(shared).end()
        assert type(seen.error) is Boom
        await server.until(was_aborted)
        late = subscriber().to(shared)
        assert type(late.error) is StreamCancelledError
        await settled(server, aborted=1)
    assert reports == []


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
async def test_one_that_leaves_inside_on_next(subscriber: Subscribers, place: int) -> None:
    """It hears nothing more, the others everything, wherever it stands in line."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        seen: list[Subscriber] = []
        leave = at(MIDDLE, lambda: seen[place].dispose())
        seen += [subscriber(leave if n == place else None) for n in range(3)]
        for each in seen:
            each.to(shared)
        leaving = seen[place]
        for each in seen:
            if each is not leaving:
                await each.end()
                assert (len(each.values), each.completed) == (EVENTS, True)
        assert len(leaving.values) == MIDDLE
        assert leaving.is_silent
        await settled(server)


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
async def test_one_that_turns_the_others_out_inside_on_next(
    subscriber: Subscribers, place: int
) -> None:
    """Those who stand behind it in line do not even hear the event at which it did so."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        seen: list[Subscriber] = []

        def turn_out() -> None:
            for n, each in enumerate(seen):
                if n != place:
                    each.dispose()

        seen += [subscriber(at(MIDDLE, turn_out) if n == place else None) for n in range(3)]
        for each in seen:
            each.to(shared)
        await seen[place].end()
        counts = [MIDDLE] * place + [EVENTS] + [MIDDLE - 1] * (2 - place)
        assert [len(each.values) for each in seen] == counts
        assert [each.is_silent for each in seen] == [n != place for n in range(3)]
        await settled(server)


async def test_one_that_turns_everybody_out_inside_on_next(subscriber: Subscribers) -> None:
    """With itself among them, the request is given up, and nobody hears another word."""
    async with served(faults=STALLED) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        seen: list[Subscriber] = []

        def turn_out() -> None:
            for each in seen:
                each.dispose()

        seen += [subscriber(), subscriber(at(3, turn_out)), subscriber()]
        for each in seen:
            each.to(shared)
        await server.until(was_aborted)
        assert [len(each.values) for each in seen] == [3, 3, 2]
        assert all(each.is_silent for each in seen)
        late = subscriber().to(shared)
        assert late.values == compact(seen[0].values)
        assert type(late.error) is StreamCancelledError
        await settled(server, aborted=1)


@pytest.mark.parametrize("count", [1, MIDDLE, EVENTS], ids=["first", "middle", "last"])
async def test_one_that_subscribes_anew_inside_on_next(subscriber: Subscribers, count: int) -> None:
    """The newcomer has that very event in its history, and hears it once."""
    new: list[Subscriber] = []
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()

        def join() -> None:
            new.append(subscriber().to(shared))
            assert new[0].values == compact(first.values)

        first = subscriber(at(count, join))
        second = subscriber()
        first.to(shared)
        second.to(shared)
        for each in (first, second, *new):
            await each.end()
        await new[0].end()
        assert alike(new[0], first)
        assert first.values == second.values
        assert len(first.values) == EVENTS
        assert new[0].completed
        await settled(server)


async def test_one_that_leaves_and_comes_back_inside_on_next(subscriber: Subscribers) -> None:
    """It joins before it leaves, so that the request goes on; all by itself."""
    new: list[Subscriber] = []
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()

        def change_places() -> None:
            new.append(subscriber().to(shared))
            first.dispose()

        first = subscriber(at(MIDDLE, change_places)).to(shared)
        arrived = first.arrived(MIDDLE)
        await waiting(arrived)
        await new[0].end()
        assert new[0].completed
        assert text_of(new[0].values) == ANSWER
        assert len(first.values) == MIDDLE
        await settled(server)


async def test_one_that_subscribes_anew_inside_the_verdict(subscriber: Subscribers) -> None:
    """Inside on_completed and on_error the verdict is out: history and verdict come at once."""
    for faults in ([], [Cut(after_events=MIDDLE, times=1)]):
        new: list[Subscriber] = []
        async with served(faults=faults) as (server, co):
            shared = co.chat_stream(**ASK).share_response()

            def join(*_: object, shared: Any = shared, new: Any = new) -> None:
                new.append(subscriber().to(shared))

            shared.subscribe(on_error=join, on_completed=join)
            seen = await subscriber().to(shared).end()
            assert (new[0].completed, new[0].error) == (seen.completed, seen.error)
            assert new[0].values == compact(seen.values)
            await settled(server)


async def test_one_that_takes_a_part_leaves_the_rest_to_the_others(
    subscriber: Subscribers,
) -> None:
    """take(1) completes early and late comers alike, and ends nothing for the others."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        short = subscriber().to(shared.pipe(ops.take(1)))
        late = subscriber()
        join = at(MIDDLE, lambda: late.to(shared.pipe(ops.take(1))))
        whole = await subscriber(join).to(shared).end()
        for each in (short, late):
            assert (len(each.values), each.completed) == (1, True)
        assert (len(whole.values), whole.completed) == (EVENTS, True)
        await settled(server)


# The last one leaves -----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["loop", "thread"])
@pytest.mark.parametrize("linger", [0, 0.2])
async def test_the_last_one_leaves_and_the_request_is_given_up(
    subscriber: Subscribers, where: str, linger: float
) -> None:
    """At once, or when nobody has come back in time: the server sees the client go."""
    async with served(faults=STALLED) as (server, co):
        shared = co.chat_stream(**ASK).share_response(linger=linger)
        seen = [subscriber(), subscriber()]
        arrived = seen[1].arrived(MIDDLE)
        for each in seen:
            each.to(shared)
        await waiting(arrived)
        for each in seen:
            assert (server.open, server.aborted) == (1, 0)
            if where == "loop":
                each.dispose()
            else:
                await in_thread(each.dispose)
        await server.until(was_aborted)
        assert all(each.is_silent for each in seen)
        late = subscriber().to(shared)
        assert late.values == compact(seen[0].values)
        assert type(late.error) is StreamCancelledError
        assert late.error.partial == response_of(seen[0].values)
        await settled(server, aborted=1)


@pytest.mark.parametrize("linger", [0, 0.2])
def test_the_last_one_leaves_in_a_plain_script(subscriber: Subscribers, linger: float) -> None:
    """The same without a loop, where a timer's thread keeps the time."""
    with serving(faults=STALLED) as (server, co):
        shared = co.chat_stream(**ASK).share_response(linger=linger)
        seen = subscriber()
        arrived = seen.arrived(MIDDLE)
        seen.to(shared)
        arrived.result(HANG)
        seen.dispose()
        server.wait_until(was_aborted)
        late = subscriber().to(shared).wait_for_end()
        assert type(late.error) is StreamCancelledError
        settle(server, aborted=1)


@pytest.mark.parametrize("linger", [HANG, math.inf])
async def test_one_who_returns_in_time_finds_the_request_going_on(
    subscriber: Subscribers, linger: float
) -> None:
    """Between the last one's leave and the return, events are kept; there is no second request."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response(linger=linger)
        gone = asyncio.Event()

        def leave() -> None:
            first.dispose()
            gone.set()

        first = subscriber(at(MIDDLE, leave)).to(shared)
        await gone.wait()
        back = await subscriber().to(shared).end()
        assert back.completed
        assert text_of(back.values) == ANSWER
        assert back.values[0] is first.values[0]
        assert len(first.values) == MIDDLE
        await settled(server)


def test_one_who_returns_in_time_in_a_plain_script(subscriber: Subscribers) -> None:
    """The timer's thread is stopped by the return, not left to run down."""
    with serving() as (server, co):
        shared = co.chat_stream(**ASK).share_response(linger=60)
        hold = Hold(MIDDLE)
        first = subscriber(hold.react).to(shared)
        hold.reached.result(HANG)
        assert first.subscription is not None
        first.subscription.dispose()
        back = subscriber().to(shared)
        hold.let_go()
        back.wait_for_end()
        assert text_of(back.values) == ANSWER
        settle(server)


async def test_linger_in_virtual_time(subscriber: Subscribers) -> None:
    """The clock starts at each leave of the last one, and a return stops it for good."""
    async with served(faults=STALLED) as (server, co):
        clock = HistoricalScheduler()
        shared = co.chat_stream(**ASK).pipe(rxc.share_response(0.2, scheduler=clock))
        seen = subscriber()
        arrived = seen.arrived(MIDDLE)
        seen.to(shared)
        await waiting(arrived)
        for _ in range(3):
            seen.dispose()
            clock.advance_by(0.15)
            seen = subscriber().to(shared)
            assert seen.is_silent
            clock.advance_by(1.0)
            assert seen.is_silent
        assert (server.open, server.aborted) == (1, 0)
        seen.dispose()
        clock.advance_by(0.15)
        assert (server.open, server.aborted) == (1, 0)
        clock.advance_by(0.1)
        await server.until(was_aborted)
        assert type(subscriber().to(shared).error) is StreamCancelledError
        await settled(server, aborted=1)


async def test_with_endless_linger_the_request_runs_to_its_end(subscriber: Subscribers) -> None:
    """With nobody there it completes all the same, and a late comer gets all of it."""
    async with served() as (server, co):
        completed = asyncio.Event()
        watched = co.chat_stream(**ASK).pipe(ops.do_action(on_completed=completed.set))
        shared = watched.pipe(rxc.share_response(math.inf))
        leave = at(MIDDLE, lambda: first.dispose())
        first = subscriber(leave).to(shared)
        await completed.wait()
        assert len(first.values) == MIDDLE
        late = subscriber().to(shared)
        assert late.completed
        assert text_of(late.values) == ANSWER
        assert type(late.values[-1]) is MessageEnd
        await settled(server)


def test_the_clock_ends_with_the_response(subscriber: Subscribers) -> None:
    """When the response ends while nobody is there, no timer goes on for the rest of linger."""
    with serving() as (server, co):
        completed = threading.Event()
        watched = co.chat_stream(**ASK).pipe(ops.do_action(on_completed=completed.set))
        shared = watched.pipe(rxc.share_response(3600))
        hold = Hold(MIDDLE)
        first = subscriber(hold.react).to(shared)
        hold.reached.result(HANG)
        before = set(threading.enumerate())
        assert first.subscription is not None
        first.subscription.dispose()
        timers = set(threading.enumerate()) - before
        hold.let_go()
        assert completed.wait(HANG)
        settle(server)
        for timer in timers:
            timer.join(HANG)
        left = [timer for timer in timers if timer.is_alive()]
        subscriber().to(shared)  # which would stop it at last
    assert left == []


def test_linger_outlives_the_loop_where_the_last_one_left(subscriber: Subscribers) -> None:
    """A last one that leaves on a loop that then ends does not keep the request for ever."""

    async def come_and_go(shared: Observable[ChatEvent]) -> None:
        arrived = seen.arrived(MIDDLE)
        seen.to(shared)
        await waiting(arrived)
        seen.dispose()

    with bound_to_background(STALLED) as (server, co):
        before = len(server.requests)
        seen = subscriber()
        run(come_and_go(co.chat_stream(**ASK).share_response(0.05)))
        server.wait_until(was_aborted)
        settle(server, requests=before + 1, aborted=1)


@pytest.mark.usefixtures("restless")
def test_what_is_given_up_in_mid_event_keeps_one_story(subscriber: Subscribers) -> None:
    """Given up from another thread while events come: history and partial response agree."""
    with serving(NUMBERED) as (server, co):
        rounds = 60
        for count in range(1, rounds + 1):
            shared = co.chat_stream(**ASK).share_response()
            seen = subscriber()
            arrived = seen.arrived(count)
            seen.to(shared)
            arrived.result(HANG)
            assert seen.subscription is not None
            seen.subscription.dispose()
            server.wait_until(lambda s: s.open == 0)
            late = subscriber().to(shared).wait_for_end()
            if type(late.error) is StreamCancelledError:
                assert late.error.partial == response_of(late.values)
            else:  # all of it had come before the request could be given up
                assert late.completed
                assert response_of(late.values) == response_of(NUMBERED.events)
        assert len(server.requests) == rounds


# Many at once ------------------------------------------------------------------------------------


def numbered(count: int) -> Transcript:
    """A stream in which a missing, doubled or misplaced event shows."""
    parts = [f"<{n:04}>" for n in range(count)]
    events = [message_start(), content_start()]
    for n, part in enumerate(parts):
        events.append(text_delta(part))
        if n % 5 == 0:
            cited = citation(n * 6, n * 6 + 6, part, document(f"doc:{n}"))
            events += [citation_start(cited, n), citation_end(n)]
    return Transcript.of([*events, content_end(), message_end()])


NUMBERED = numbered(100)
THREADS = 8
PER_EVENT = 16
PATIENCE = Timeouts(connect=HANG, first_event=HANG, idle=HANG, total=None)
COMERS = len(NUMBERED.events) * PER_EVENT
assert COMERS % THREADS == 0
assert COMERS > 2000


class Crowd:
    """Subscribers who come from many threads, so many during each event, while it streams.

    Neither side leaves the other behind: an event lets as many come as it waits for, but those it
    waits for are the ones of the event before, so that coming and streaming go on at once.
    """

    def __init__(self, subscriber: Subscribers) -> None:
        self.seen: list[Subscriber] = []
        self._subscriber = subscriber
        self._may_come = threading.Semaphore(0)
        self._have_come = threading.Semaphore(PER_EVENT)

    def pace(self, _: Any) -> None:
        self._may_come.release(PER_EVENT)
        for _ in range(PER_EVENT):
            assert self._have_come.acquire(timeout=HANG)

    def come(self, shared: Observable[ChatEvent]) -> list[Future[Any]]:
        return [started(lambda: self._come(shared)) for _ in range(THREADS)]

    def _come(self, shared: Observable[ChatEvent]) -> None:
        for n in range(COMERS // THREADS):
            assert self._may_come.acquire(timeout=HANG)
            self.seen.append(self._subscriber().to(shared))
            if n % 3 == 0:  # the traffic includes those who do not stay
                shared.subscribe(boom, lambda _: None).dispose()
            self._have_come.release()

    def check(self, first: Subscriber) -> None:
        assert first.completed
        assert [e.model_dump(exclude_unset=True) for e in first.values] == [
            e.model_dump(exclude_unset=True) for e in NUMBERED.events
        ]
        whole = compact(first.values)
        assert len(self.seen) == COMERS
        for each in self.seen:
            each.wait_for_end()
            assert each.completed
            assert compact(each.values) == whole
        live = sum(len(each.values) > len(whole) for each in self.seen)
        assert live > COMERS // 2  # most of them came while it was streaming


@pytest.mark.usefixtures("restless")
def test_a_crowd_of_threads_on_the_background_loop(subscriber: Subscribers) -> None:
    """Thousands who come while it streams get everything, without a gap or a repetition."""
    crowd = Crowd(subscriber)
    with serving(NUMBERED, timeouts=PATIENCE) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        first = subscriber(crowd.pace).to(shared)
        for each in crowd.come(shared):
            each.result(3 * HANG)
        crowd.check(first.wait_for_end())
        settle(server)


@pytest.mark.usefixtures("restless")
async def test_a_crowd_of_threads_on_the_running_loop(subscriber: Subscribers) -> None:
    """The same with a client, and a server, of the running loop."""
    crowd = Crowd(subscriber)
    async with served(NUMBERED, timeouts=PATIENCE) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        first = subscriber(crowd.pace).to(shared)
        for each in crowd.come(shared):
            await waiting(each)
        await first.end()
        crowd.check(first)
        await settled(server)


@pytest.mark.usefixtures("restless")
def test_threads_that_subscribe_first_at_the_same_time(subscriber: Subscribers) -> None:
    """However many are the first one at once, one request is sent, and all get everything."""
    with serving() as (server, co):
        for _ in range(50):
            shared = co.chat_stream(**ASK).share_response()
            barrier = threading.Barrier(4)
            seen = [subscriber() for _ in range(4)]

            def come(each: Subscriber, shared: Any = shared, barrier: Any = barrier) -> None:
                barrier.wait(HANG)
                each.to(shared)

            for future in [started(lambda e=each, c=come: c(e)) for each in seen]:
                future.result(HANG)
            for each in seen:
                assert each.wait_for_end().completed
                assert text_of(each.values) == ANSWER
        settle(server, requests=50)


# await and run -----------------------------------------------------------------------------------


async def collect(shared: Observable[ChatEvent], times: int) -> list[ChatResponse]:
    """The response, awaited so many times at once."""
    awaits = (shared.pipe(rxc.collect_response()) for _ in range(times))
    return list(await asyncio.gather(*awaits))


async def test_several_that_await_at_once_and_afterwards(subscriber: Subscribers) -> None:
    """gather over one shared response is one request; so is another gather after the end."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        responses = [*await collect(shared, 4), *await collect(shared, 4)]
        assert [response.text for response in responses] == [ANSWER] * 8
        assert type(await shared) is MessageEnd
        await settled(server)


async def test_await_from_another_loop_in_another_thread() -> None:
    """A foreign loop awaits the shared response of this one, while this one awaits it too."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        elsewhere, here = await asyncio.gather(
            in_thread(lambda: run(collect(shared, 3))), collect(shared, 3)
        )
        assert [response.text for response in (*elsewhere, *here)] == [ANSWER] * 6
        await settled(server)


def test_several_loops_await_in_the_middle(subscriber: Subscribers) -> None:
    """Loops that join in the middle get history and live events, each on its own thread."""
    joined = threading.Semaphore(0)
    threads: list[set[int]] = []

    async def work(shared: Observable[ChatEvent]) -> list[ChatResponse]:
        heard: set[int] = set()

        def note(event: ChatEvent) -> None:
            heard.add(threading.get_ident())
            if isinstance(event, MessageStart):
                joined.release()

        responses = await collect(shared.pipe(ops.do_action(note)), 3)
        threads.append(heard)
        assert heard == {threading.get_ident()}
        return responses

    with serving() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        hold = Hold(MIDDLE)
        first = subscriber(hold.react).to(shared)
        hold.reached.result(HANG)
        loops = [started(lambda: run(work(shared))) for _ in range(3)]
        for _ in range(9):
            assert joined.acquire(timeout=HANG)
        hold.let_go()
        texts = [response.text for each in loops for response in each.result(3 * HANG)]
        assert texts == [ANSWER] * 9
        assert len(threads) == 3
        first.wait_for_end()
        settle(server)


async def test_a_cancelled_await_leaves(subscriber: Subscribers) -> None:
    """Cancelling one that awaits harms no other; cancelling the last one gives the request up."""

    async def ask(shared: Observable[ChatEvent]) -> ChatResponse:
        return await shared.pipe(rxc.collect_response())

    async with served(faults=STALLED) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        seen = subscriber()
        arrived = seen.arrived(MIDDLE)
        seen.to(shared)
        tasks = [asyncio.create_task(ask(shared)) for _ in range(2)]
        await waiting(arrived)
        seen.dispose()
        for task in tasks:
            assert (server.open, server.aborted) == (1, 0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await server.until(was_aborted)
        await settled(server, aborted=1)


def test_run_in_a_plain_thread() -> None:
    """run() of what derives from a shared response blocks to its end, from one request."""
    with serving() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        futures = [started(shared.pipe(rxc.collect_text()).run) for _ in range(3)]
        assert [future.result(HANG) for future in futures] == [ANSWER] * 3
        assert shared.pipe(rxc.collect_response()).run().text == ANSWER
        assert type(shared.run()) is MessageEnd
        settle(server)


async def test_run_in_a_plain_thread_of_a_client_on_the_running_loop() -> None:
    """A thread may block on what the running loop brings."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        here = asyncio.ensure_future(shared.pipe(rxc.collect_text()))
        assert await in_thread(shared.pipe(rxc.collect_text()).run) == ANSWER
        assert await here == ANSWER
        await settled(server)


@pytest.mark.parametrize(
    "derive",
    [
        lambda shared: shared,
        lambda shared: shared.pipe(rxc.collect_text()),
        lambda shared: shared.pipe(ops.map(str), ops.take(3)),
        lambda shared: rx.zip(shared, shared),
    ],
    ids=["shared", "lifted", "stock", "zipped"],
)
async def test_run_inside_a_loop_is_refused(derive: Callable[[Any], Any]) -> None:
    """run() raises at once and sends nothing, and the shared response is as good as new."""
    async with served() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        with pytest.raises(BlockingCallError, match="await"):
            derive(shared).run()
        await settled(server, requests=0)
        assert await shared.pipe(rxc.collect_text()) == ANSWER
        with pytest.raises(BlockingCallError, match="await"):
            derive(shared).run()
        await settled(server, requests=2)  # one of them is what the first look itself sent


# The ground gives way ----------------------------------------------------------------------------


@pytest.mark.parametrize("nobody", [False, True], ids=["subscribers", "nobody"])
def test_the_loop_closes_under_it(subscriber: Subscribers, nobody: bool) -> None:
    """asyncio.run ends: each hears it; a new loop gets the history and that error, no request."""
    seen = [subscriber() for _ in range(3)]

    async def listen(shared: Observable[ChatEvent]) -> None:
        arrived = seen[-1].arrived(MIDDLE)
        for each in seen:
            each.to(shared)
        await waiting(arrived)
        if nobody:
            for each in seen:
                each.dispose()

    async def come_late(shared: Observable[ChatEvent]) -> Subscriber:
        return await subscriber().to(shared).end()

    with serving(faults=STALLED) as (server, co):
        shared = co.chat_stream(**ASK).share_response(linger=60 if nobody else 0)
        run(listen(shared))
        server.wait_until(was_aborted)
        late = [run(come_late(shared)), subscriber().to(shared).wait_for_end()]
        for each in late:
            assert type(each.error) is StreamCancelledError
            assert each.error.partial == response_of(seen[0].values)
            assert each.values == compact(seen[0].values)
            assert each.error is late[0].error
        for each in seen:
            assert len(each.values) == MIDDLE
            assert each.error is (None if nobody else late[0].error)
        with pytest.raises(StreamCancelledError):
            run(collect(shared, 2))
        settle(server, aborted=1)


def test_the_loop_closes_before_the_first_event(subscriber: Subscribers) -> None:
    """A loop that ends before the request could be sent is heard of, too."""
    seen = [subscriber(), subscriber()]

    async def listen(shared: Observable[ChatEvent]) -> None:
        for each in seen:
            each.to(shared)

    with serving() as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        run(listen(shared))
        for each in seen:
            assert type(each.error) is StreamCancelledError
            assert each.values == []
        assert subscriber().to(shared).error is seen[0].error
        settle(server, requests=0)


async def test_the_client_is_closed_under_it(subscriber: Subscribers) -> None:
    """All who listen, who lingers and who comes later hear `StreamCancelledError`, the same one."""
    async with served(faults=STALLED) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        seen = [subscriber() for _ in range(3)]
        arrived = seen[-1].arrived(MIDDLE)
        for each in seen:
            each.to(shared)
        await waiting(arrived)
        await co.aclose()
        await server.until(was_aborted)
        late = subscriber().to(shared)
        for each in (*seen, late):
            await each.end()
            assert type(each.error) is StreamCancelledError
            assert each.error is late.error
        assert late.error is not None
        assert late.error.partial == response_of(seen[0].values)
        assert late.values == compact(seen[0].values)
        await settled(server, aborted=1)


def test_the_client_is_closed_under_it_in_a_plain_script(subscriber: Subscribers) -> None:
    """The same with a background loop, which ends with the client."""
    with serving(faults=STALLED) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        seen = [subscriber() for _ in range(3)]
        arrived = seen[0].arrived(MIDDLE)  # the others may come too late to hear so many
        for each in seen:
            each.to(shared)
        arrived.result(HANG)
        co.close()
        server.wait_until(was_aborted)
        late = subscriber().to(shared)
        for each in (*seen, late):
            each.wait_for_end()
            assert type(each.error) is StreamCancelledError
            assert each.error is late.error
        assert late.values == compact(seen[0].values)
        settle(server, aborted=1)


# Slow readers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stuck_first", [True, False], ids=["stuck-first", "stuck-later"])
async def test_a_stuck_reader_does_not_hold_up_the_others(
    subscriber: Subscribers, stuck_first: bool
) -> None:
    """overflow="pause" finds nothing to pause: the others run to the end, and nothing is lost."""
    async with served(NUMBERED) as (server, co):
        shared = co.chat_stream(**ASK).share_response()
        stuck = to_async_iterator(shared, max_pending=1, overflow="pause")
        healthy = subscriber()
        if not stuck_first:
            healthy.to(shared)
        events = [await anext(stuck)]
        if stuck_first:
            healthy.to(shared)
        await healthy.end()
        assert healthy.completed
        assert len(healthy.values) == len(NUMBERED.events)
        events += [event async for event in stuck]
        assert compact(events) == compact(healthy.values)
        assert len(events) < len(healthy.values)
        assert stuck.dropped == 0
        await settled(server)


async def test_what_is_subscribed_to_beside_a_share_still_waits(subscriber: Subscribers) -> None:
    """The share hides its own source from the slow reader, not the other streams of a merge."""
    async with served(NUMBERED) as (server, co):
        completed = asyncio.Event()
        private = co.chat_stream(**ASK).pipe(ops.do_action(on_completed=completed.set))
        shared = co.chat_stream(**ASK).share_response()
        merged = rx.merge(shared, private)
        stuck = to_async_iterator(merged, max_pending=1, overflow="pause")
        healthy = subscriber().to(shared)
        events = [await anext(stuck)]
        await healthy.end()
        assert healthy.completed
        assert not completed.is_set()
        events += [event async for event in stuck]
        assert completed.is_set()
        assert [type(event) for event in events].count(MessageStart) == 2
        await settled(server, requests=2)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_passes_once_everybody_has_heard(
    interruption: type[BaseException], subscriber: Subscribers
) -> None:
    """Who interrupts the program in on_next takes nobody's event or verdict away."""

    def interrupt(_: ChatEvent) -> None:
        raise interruption

    async def work(url: str) -> None:
        async with CohereClient("key", base_url=url) as co:
            shared = co.chat_stream(**ASK).share_response()
            listening.append(subscriber().to(shared))
            listening.append(subscriber(interrupt).to(shared))
            listening.append(subscriber().to(shared))
            await listening[0].end()

    listening: list[Subscriber] = []
    with ReplayServer("text", faults=STALLED) as server:
        with pytest.raises(interruption):
            asyncio.run(work(server.url))
        server.wait_until(lambda s: s.open == 0)
        assert len(server.requests) == 1
    for each in listening:
        assert [type(event) for event in each.values] == [MessageStart]
        assert type(each.error) is StreamCancelledError
