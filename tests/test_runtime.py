"""Loops and threads: which loop a client binds to, background loops, hand-over, disposal."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from subscribers import (
    ASK,
    HANG,
    Subscribers,
    in_thread,
    run,
    serving,
    started,
    waiting,
    was_aborted,
)

from rxcohere import CohereClient
from rxcohere.batches import RemoteBatches
from rxcohere.errors import BlockingCallError, StreamCancelledError
from rxcohere.runtime import BackgroundLoop, LoopBinding, LoopEnd, refuse_to_block, running_loop
from rxcohere.subscription import TaskSubscription
from rxcohere.testing import ReplayServer, Stall


class Numbers:
    """Batches of numbers, which say on which loop they were asked for."""

    def __init__(self, *batches: list[int]) -> None:
        self._batches = iter(batches)
        self.loops: set[asyncio.AbstractEventLoop] = set()
        self.closed = threading.Event()
        self.asked = threading.Event()
        self.cancelled = threading.Event()

    async def next_batch(self) -> list[int]:
        self.loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return next(self._batches, [])

    def partial(self) -> None:
        return None

    def close(self) -> None:
        self.loops.add(asyncio.get_running_loop())
        self.closed.set()


class Silence(Numbers):
    """Batches that never come."""

    async def next_batch(self) -> list[int]:
        self.asked.set()
        try:
            return await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
def background() -> Any:
    """A background loop, stopped in the end."""
    loop = BackgroundLoop()
    yield loop
    loop.stop()
    loop.join()


def close_properly(loop: asyncio.AbstractEventLoop) -> None:
    """Ends a loop as ``asyncio.run`` does."""
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def release(binding: LoopBinding) -> None:
    """Unbinds, and waits until a background loop has ended."""
    if (background := binding.release()) is not None:
        background.join()


# Which loop --------------------------------------------------------------------------------------


def test_no_loop_runs_in_a_plain_thread() -> None:
    """Outside of a loop there is none, and blocking is allowed."""
    assert running_loop() is None
    refuse_to_block("this", "that")


async def test_blocking_is_refused_where_a_loop_runs() -> None:
    """Inside a loop, a blocking call is refused with its name and what to use instead."""
    assert running_loop() is asyncio.get_running_loop()
    with pytest.raises(BlockingCallError, match=r"run\(\) would block .* use await"):
        refuse_to_block("run()", "await")
    await in_thread(lambda: refuse_to_block("run()", "await"))


async def test_the_running_loop_is_bound_and_stays_bound() -> None:
    """The loop of the first use is that of later uses, from other threads too."""
    binding = LoopBinding()
    assert binding.current is None
    here = asyncio.get_running_loop()
    assert binding.acquire() is here
    assert await in_thread(binding.acquire) is here
    assert binding.current is here


def test_without_a_loop_one_background_loop_is_started() -> None:
    """Threads that come at the same time get the same loop, in one daemon thread."""
    binding = LoopBinding()
    before = threading.active_count()
    barrier = threading.Barrier(8)

    def acquire() -> asyncio.AbstractEventLoop:
        barrier.wait(HANG)
        return binding.acquire()

    futures = [started(acquire) for _ in range(8)]
    assert len({future.result(HANG) for future in futures}) == 1
    ours = [thread for thread in threading.enumerate() if thread.name == "rxcohere-loop"]
    assert [thread.daemon for thread in ours] == [True]
    release(binding)
    assert threading.active_count() <= before


def test_a_background_loop_stays_bound_when_another_loop_runs() -> None:
    """Who binds first decides: a later ``asyncio.run`` does not move the client."""
    binding = LoopBinding()
    bound = binding.acquire()

    async def acquire() -> asyncio.AbstractEventLoop:
        return binding.acquire()

    assert run(acquire()) is bound
    release(binding)


def test_a_loop_that_has_ended_is_bound_no_more() -> None:
    """After ``asyncio.run`` the next use binds anew: to the next loop, or to a background loop."""
    binding = LoopBinding()

    async def acquire() -> tuple[asyncio.AbstractEventLoop, bool]:
        loop = binding.acquire()
        return loop, loop is asyncio.get_running_loop()

    first, first_is_own = run(acquire())
    assert binding.current is None
    second, second_is_own = run(acquire())
    assert (first_is_own, second_is_own) == (True, True)
    assert first is not second
    third = binding.acquire()
    assert third.is_running()
    release(binding)
    assert third.is_closed()


def test_release_may_be_called_twice() -> None:
    """Releasing what is not bound any more does nothing."""
    binding = LoopBinding()
    loop = binding.acquire()
    release(binding)
    release(binding)
    assert loop.is_closed()
    assert binding.current is None


def test_a_forgotten_binding_stops_its_background_loop() -> None:
    """When nobody refers to the binding any more, its thread ends."""
    binding = LoopBinding()
    loop = binding.acquire()
    forgotten = weakref.ref(binding)
    del binding
    gc.collect()
    assert forgotten() is None
    assert loop.is_closed()


# Background loop ---------------------------------------------------------------------------------


def test_stopping_cancels_what_runs_and_closes_the_loop(background: BackgroundLoop) -> None:
    """`stop` lets tasks clean up and closes the loop, which `join` waits for; twice is once."""
    batches = Silence()
    future = asyncio.run_coroutine_threadsafe(batches.next_batch(), background.loop)
    assert batches.asked.wait(HANG)
    background.stop()
    background.join()
    assert background.ended.done()
    assert batches.cancelled.is_set()
    assert future.cancelled()
    assert background.loop.is_closed()
    background.stop()
    background.join()


def test_a_background_loop_may_be_stopped_from_within(background: BackgroundLoop) -> None:
    """Called on its own thread, `stop` ends the loop and `join` does not wait for itself."""
    background.loop.call_soon_threadsafe(lambda: (background.stop(), background.join()))
    background.ended.result(HANG)
    assert background.loop.is_closed()


def test_a_background_loop_may_be_ended_by_what_runs_on_it(
    subscriber: Subscribers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who exits there ends the loop: its streams are told so, and the next one has a new loop."""
    uncaught: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", uncaught.append)
    threads: list[threading.Thread] = []

    def leave(_: object) -> None:
        threads.append(threading.current_thread())
        if len(threads) == 1:
            asyncio.get_running_loop().call_soon(sys.exit)

    with serving(faults=[Stall(after_events=3, times=1)]) as (server, co):
        seen = subscriber(leave).to(co.chat_stream(**ASK)).wait_for_end()
        assert type(seen.error) is StreamCancelledError
        threads[0].join(HANG)
        server.wait_until(was_aborted)
        again = subscriber(leave).to(co.chat_stream(**ASK)).wait_for_end()
        assert again.completed
    assert len(set(threads)) == 2
    assert [each.exc_type for each in uncaught] == [SystemExit]  # of which Python says nothing


NO_MORE_FILES = """
import resource, sys
from rxcohere import CohereClient, ConnectionFailedError

sys.unraisablehook = lambda _: None  # Python complains of the loops that it made half of
told = []
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
with CohereClient("", base_url=sys.argv[1]) as co:
    stream = co.chat_stream(model="m", messages=[{"role": "user", "content": "hi"}])
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        stream.run()
    except ConnectionFailedError as error:
        told.append(error)
    stream.subscribe(print, told.append, print)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [type(error.__cause__) for error in told] == [OSError, OSError], told
    print(told[0])
    print(stream.response().run().finish_reason)
"""


def test_no_background_loop_can_be_started() -> None:
    """Without a file for one it is as if there were no connection; once there is one, it works."""
    pytest.importorskip("resource")
    with ReplayServer("text") as server:
        done = subprocess.run(
            [sys.executable, "-c", NO_MORE_FILES, server.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert len(server.requests) == 1
    assert (done.returncode, done.stderr) == (0, "")
    why, reason = done.stdout.splitlines()
    assert why.startswith("no event loop could be started: ")
    assert reason == "COMPLETE"


# A task as a subscription ------------------------------------------------------------------------


async def test_work_starts_in_the_next_turn_in_the_context_of_the_caller() -> None:
    """Nothing of the work runs before the caller gives way; then it sees the caller's context."""
    who = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []
    kept: set[Any] = set()

    async def work() -> None:
        seen.append(who.get())

    subscription = TaskSubscription(asyncio.get_running_loop())
    who.set("ann")
    subscription.start(work, kept, lambda: None)
    who.set("bob")
    assert seen == []
    assert kept == {subscription}
    assert subscription.task is not None
    await subscription.task
    assert seen == ["ann"]
    await asyncio.sleep(0)
    assert kept == set()


async def test_disposed_before_it_starts_the_work_is_not_even_made() -> None:
    """From another thread, work that was disposed of before its turn is never made."""
    made: list[None] = []
    here = asyncio.get_running_loop()

    def work() -> Any:
        made.append(None)
        raise AssertionError

    def subscribe() -> None:
        subscription = TaskSubscription(here)
        subscription.start(work, set(), lambda: None)
        subscription.dispose()

    future = started(subscribe)
    future.result(HANG)  # blocks the loop, so that it gets to both at once
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert made == []


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_disposing_cancels_the_work(where: str) -> None:
    """Work that waits is cancelled, from whatever thread; disposing again does nothing."""
    batches = Silence()
    kept: set[Any] = set()

    async def work() -> None:
        await batches.next_batch()

    subscription = TaskSubscription(asyncio.get_running_loop())
    subscription.start(work, kept, lambda: None)
    await asyncio.sleep(0)
    assert batches.asked.is_set()
    task = subscription.task
    assert task is not None
    if where == "here":
        subscription.dispose()
    else:
        await in_thread(subscription.dispose)
    subscription.dispose()
    await asyncio.wait([task])
    assert task.cancelled()
    assert subscription.disposed


@pytest.mark.parametrize("why", ["itself", "ended"])
async def test_work_that_is_about_to_end_is_not_cancelled(why: str) -> None:
    """Work that disposes of itself, or has marked its end, finishes its clean-up."""
    finished: list[bool] = []
    kept: set[Any] = set()
    resume = asyncio.Event()

    async def work() -> None:
        if why == "itself":
            subscription.dispose()
        else:
            subscription.ended = True
            await resume.wait()
        await asyncio.sleep(0)
        finished.append(subscription.disposed)

    subscription = TaskSubscription(asyncio.get_running_loop())
    subscription.start(work, kept, lambda: None)
    task = subscription.task
    assert task is not None
    await asyncio.sleep(0)
    if why == "ended":
        subscription.dispose()
        resume.set()
    await task
    assert finished == [True]


def test_disposing_after_the_loop_is_closed_does_nothing() -> None:
    """A subscription outlives its loop harmlessly."""

    async def make() -> TaskSubscription:
        subscription = TaskSubscription(asyncio.get_running_loop())
        subscription.start(Silence().next_batch, set(), lambda: None)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        return subscription

    subscription = run(make())
    subscription.dispose()
    assert subscription.disposed


async def test_work_that_was_disposed_of_stays_halted() -> None:
    """Who lets it go on in that very moment, in another thread, does not undo that."""
    subscription = TaskSubscription(asyncio.get_running_loop())
    subscription.pause()
    subscription.dispose()
    subscription.resume()
    assert subscription.halted


async def test_work_that_is_resumed_while_it_is_about_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not wait: there is nobody left to wake it."""
    subscription = TaskSubscription(asyncio.get_running_loop())

    class Late(asyncio.Event):
        """What it will wait for, made when another thread resumes it."""

        def __init__(self) -> None:
            super().__init__()
            subscription.resume()

    subscription.pause()
    async with asyncio.timeout(HANG):
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "Event", Late)
            await subscription.resumed()
    assert not subscription.halted


@pytest.mark.parametrize("properly", [False, True], ids=["without a word", "properly"])
def test_a_loop_that_closes_while_work_is_being_started_on_it(properly: bool) -> None:
    """Work that it never hears of is lost, and whoever wanted it is told, once."""
    owner = WatchedLoop()
    lost: list[None] = []
    starting, closed = threading.Event(), threading.Event()

    def until_closed() -> None:
        owner.before = lambda: None
        starting.set()
        assert closed.wait(HANG)

    def start() -> None:
        owner.before = until_closed
        subscription = TaskSubscription(owner)
        subscription.start(Silence().next_batch, set(), lambda: lost.append(None))  # type: ignore[arg-type]

    async def work() -> Future[None]:
        LoopEnd.of(owner)
        future = started(start)
        assert starting.wait(HANG)
        return future

    future = owner.run_until_complete(work())
    close_properly(owner) if properly else owner.close()
    closed.set()
    future.result(HANG)
    assert lost == [None]


# Hand-over ---------------------------------------------------------------------------------------


def drain(remote: RemoteBatches[int]) -> list[list[int]]:
    batches: list[list[int]] = []
    while batch := remote.next_batch_blocking():
        batches.append(batch)
    return batches


async def drain_async(remote: RemoteBatches[int]) -> list[list[int]]:
    batches: list[list[int]] = []
    while batch := await remote.next_batch():
        batches.append(batch)
    return batches


@pytest.mark.parametrize(
    "take",
    [drain, lambda remote: run(drain_async(remote))],
    ids=["thread", "loop"],
)
def test_batches_are_handed_over_whole(
    background: BackgroundLoop, take: Callable[[RemoteBatches[int]], list[list[int]]]
) -> None:
    """Each batch crosses as it is, made and closed on the loop that owns it."""
    numbers = Numbers([1, 2, 3], [4])
    remote = RemoteBatches(numbers, background.loop)
    assert take(remote) == [[1, 2, 3], [4]]
    remote.close()
    assert numbers.closed.wait(HANG)
    assert numbers.loops == {background.loop}


def test_a_cancelled_consumer_stops_the_work_on_the_other_loop(background: BackgroundLoop) -> None:
    """Cancelling who waits on this loop cancels what it waits for on the other."""
    batches = Silence()

    async def work() -> None:
        task = asyncio.ensure_future(RemoteBatches(batches, background.loop).next_batch())
        await in_thread(batches.asked.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())
    assert batches.cancelled.wait(HANG)


def test_who_waits_for_a_loop_that_closes_is_told(background: BackgroundLoop) -> None:
    """When the owner's loop closes, a waiting thread and a waiting loop get a typed error."""
    first, second = Silence(), Silence()
    blocking = started(RemoteBatches(first, background.loop).next_batch_blocking)

    async def work() -> None:
        task = asyncio.ensure_future(RemoteBatches(second, background.loop).next_batch())
        await in_thread(lambda: first.asked.wait() and second.asked.wait())
        await in_thread(background.stop)
        with pytest.raises(StreamCancelledError):
            await task

    run(work())
    with pytest.raises(StreamCancelledError):
        blocking.result(HANG)


def test_who_asks_a_closed_loop_is_told(background: BackgroundLoop) -> None:
    """A loop that is closed gives no batches, but an error and no warning."""
    remote = RemoteBatches(Numbers([1]), background.loop)
    background.stop()
    background.join()
    with pytest.raises(StreamCancelledError):
        remote.next_batch_blocking()
    with pytest.raises(StreamCancelledError):
        run(remote.next_batch())
    remote.close()


class WatchedLoop(asyncio.SelectorEventLoop):
    """A loop that tells when another thread has scheduled something, and may be made slow at it.

    Attributes:
        scheduled: is set by each call from another thread.
        before: is called before each call from another thread is passed on.
        looked_after: is done once somebody has asked whether it is closed.
    """

    def __init__(self) -> None:
        self.scheduled = threading.Event()
        self.before: Callable[[], object] = lambda: None
        self.looked_after: Future[None] = Future()
        super().__init__()

    def is_closed(self) -> bool:
        if not self.looked_after.done():
            self.looked_after.set_result(None)
        return super().is_closed()

    def call_soon_threadsafe(self, *arguments: Any, **options: Any) -> asyncio.Handle:
        self.before()
        try:
            return super().call_soon_threadsafe(*arguments, **options)
        finally:
            self.scheduled.set()


def test_a_consumer_that_is_cancelled_before_its_turn_asks_for_nothing() -> None:
    """What the other loop has not got to yet is not begun any more."""
    batches, owner = Silence(), WatchedLoop()

    async def ask_and_leave() -> None:
        task = asyncio.ensure_future(RemoteBatches(batches, owner).next_batch())
        await asyncio.sleep(0)
        assert owner.scheduled.is_set()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    async def work() -> None:
        LoopEnd.of(owner)
        started(lambda: run(ask_and_leave())).result(HANG)  # blocks this loop meanwhile
        for _ in range(5):
            await asyncio.sleep(0)
        assert not batches.asked.is_set()

    owner.run_until_complete(work())
    close_properly(owner)


def test_a_thread_that_waits_for_long_goes_on_to_wait() -> None:
    """It looks after the loop now and then, and misses nothing meanwhile."""
    owner = WatchedLoop()

    class Late(Numbers):
        async def next_batch(self) -> list[int]:
            await waiting(owner.looked_after)
            return [7]

    async def work() -> list[int]:
        LoopEnd.of(owner)
        batch: list[int] = await in_thread(RemoteBatches(Late(), owner).next_batch_blocking)
        return batch

    assert owner.run_until_complete(work()) == [7]
    close_properly(owner)


def test_a_thread_that_waits_for_a_loop_that_is_closed_without_a_word() -> None:
    """It finds out by itself, though nobody let the loop finish things off."""
    batches, owner = Silence(), WatchedLoop()
    waits: list[Future[Any]] = []

    def work() -> None:
        LoopEnd.of(owner)
        waits.append(started(RemoteBatches(batches, owner).next_batch_blocking))
        assert owner.scheduled.wait(HANG)
        owner.stop()  # before it gets to what was asked for

    owner.call_soon(work)
    owner.run_forever()
    owner.close()
    with pytest.raises(StreamCancelledError):
        waits[0].result(HANG)
    assert not batches.asked.is_set()


async def test_errors_of_batches_cross_the_loops() -> None:
    """What `next_batch` raises on its loop is raised where it was asked for."""

    class Broken(Numbers):
        async def next_batch(self) -> list[int]:
            raise LookupError("here")

    remote = RemoteBatches(Broken(), asyncio.get_running_loop())
    with pytest.raises(LookupError, match="here"):
        await waiting(started(remote.next_batch_blocking))


def test_a_binding_that_was_released_binds_nothing_more() -> None:
    """A client that is closed while another thread begins to use it leaves no thread behind."""
    binding = LoopBinding()
    assert binding.release() is None
    with pytest.raises(StreamCancelledError, match="closed"):
        binding.acquire()


def test_closing_a_client_while_its_loop_is_ending() -> None:
    """Both close the same connections, and neither complains."""
    complaints: list[dict[str, Any]] = []
    closings: list[Future[Any]] = []

    async def work(co: CohereClient) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        await co.chat_stream(**ASK)

        async def close_when_cancelled() -> None:
            assert isinstance(loop, WatchedLoop)
            try:
                await loop.create_future()
            finally:
                loop.scheduled.clear()
                closings.append(started(co.close))
                assert loop.scheduled.wait(HANG)  # the loop has taken its list of tasks by now

        staying.append(asyncio.create_task(close_when_cancelled()))
        await asyncio.sleep(0)

    staying: list[asyncio.Task[None]] = []
    with ReplayServer("text") as server, asyncio.Runner(loop_factory=WatchedLoop) as runner:
        runner.run(work(CohereClient("key", base_url=server.url)))
    for closing in closings:
        closing.result(HANG)
    assert closings
    assert complaints == []
