"""Calling a subscriber back: what it raises is told to somebody, wherever it happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from reactivex.scheduler import ImmediateScheduler, NewThreadScheduler
from reactivex.scheduler.eventloop import AsyncIOScheduler
from subscribers import HANG, Boom, boom, started

from rxcohere import BlockingCallError, RxCohereError, StreamCancelledError
from rxcohere.delivery import as_error, loop_asked_for, report, tell


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.ExceptHookArgs]:
    """What `threading.excepthook` hears of."""
    heard: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", heard.append)
    return heard


@pytest.fixture
async def on_the_loop() -> AsyncIterator[list[dict[str, Any]]]:
    """What the running loop's exception handler hears of, message and all."""
    loop = asyncio.get_running_loop()
    heard: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: heard.append(context))
    yield heard
    loop.set_exception_handler(None)


def exit_now(*_: object) -> None:
    raise SystemExit(3)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# tell --------------------------------------------------------------------------------------------


def test_tell_passes_the_arguments_on(in_threads: list[Any]) -> None:
    """The callback gets what it is told; nobody else hears anything."""
    heard: list[tuple[object, ...]] = []
    tell(lambda *arguments: heard.append(arguments))
    tell(lambda *arguments: heard.append(arguments), 1, "two")
    assert heard == [(), (1, "two")]
    assert in_threads == []


async def test_what_a_callback_raises_reaches_the_loop(on_the_loop: list[Any]) -> None:
    """With a loop running, its exception handler hears of it."""
    tell(boom, 1)
    assert [type(context["exception"]) for context in on_the_loop] == [Boom]


def test_what_a_callback_raises_without_a_loop_reaches_the_threads_hook(
    in_threads: list[threading.ExceptHookArgs],
) -> None:
    """Without one, `threading.excepthook` does, with the traceback and the thread."""
    tell(boom)
    (heard,) = in_threads
    assert heard.exc_type is Boom
    assert type(heard.exc_value) is Boom
    assert heard.exc_traceback is not None
    assert heard.thread is threading.current_thread()


def test_the_main_thread_can_be_interrupted_in_a_callback(in_threads: list[Any]) -> None:
    """Ctrl-C and ``sys.exit`` in the main thread are for the program, not for a report."""
    with pytest.raises(KeyboardInterrupt):
        tell(interrupt)
    with pytest.raises(SystemExit):
        tell(exit_now)
    assert in_threads == []


def test_an_exit_in_another_thread_is_reported(in_threads: list[threading.ExceptHookArgs]) -> None:
    """Elsewhere it would end the thread of others; so it becomes an error, with its cause."""
    started(lambda: tell(exit_now)).result(HANG)
    (heard,) = in_threads
    assert type(heard.exc_value) is RxCohereError
    assert type(heard.exc_value.__cause__) is SystemExit
    assert "SystemExit" in str(heard.exc_value)


async def test_a_callback_in_a_task_that_is_cancelled_lets_it_be(on_the_loop: list[Any]) -> None:
    """`CancelledError` goes on where it is the task that is being cancelled."""

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as problem:
            cancelled = problem

            def again() -> None:
                raise cancelled

            tell(again)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert on_the_loop == []


# as_error ----------------------------------------------------------------------------------------


def test_an_exception_is_an_error_already() -> None:
    """It stays the very object that was raised."""
    problem = Boom()
    assert as_error(problem) is problem


@pytest.mark.parametrize(
    "problem", [asyncio.CancelledError(), asyncio.CancelledError("why")], ids=["bare", "message"]
)
async def test_a_cancellation_that_nobody_asked_for_becomes_an_error(
    problem: asyncio.CancelledError,
) -> None:
    """In a task that nobody cancels, `CancelledError` is an error with that cause."""
    error = as_error(problem)
    assert type(error) is RxCohereError
    assert error.__cause__ is problem
    assert str(error) == "a subscriber raised CancelledError"


def test_a_cancellation_without_a_loop_becomes_an_error() -> None:
    """Where there is no task at all, it cannot be the task's either."""
    problem = asyncio.CancelledError()
    assert as_error(problem).__cause__ is problem


async def test_a_cancellation_in_a_callback_of_the_loop_becomes_an_error() -> None:
    """On a loop, but in no task, there is nothing that is being cancelled."""
    loop = asyncio.get_running_loop()
    result = loop.create_future()
    loop.call_soon(lambda: result.set_result(as_error(asyncio.CancelledError())))
    assert type(await result) is RxCohereError


def test_what_ends_the_program_is_no_error_in_its_main_thread() -> None:
    """`KeyboardInterrupt` and `SystemExit` pass; in another thread they are a subscriber's."""
    for problem in (KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(problem)):
            as_error(problem)
        error = started(lambda problem=problem: as_error(problem)).result(HANG)
        assert type(error) is RxCohereError


def test_any_other_base_exception_becomes_an_error() -> None:
    """A test framework's own way to fail, say, ends one subscription and not the stream."""
    problem = GeneratorExit()
    assert as_error(problem).__cause__ is problem


# report ------------------------------------------------------------------------------------------


async def test_a_report_says_whose_error_it_is(on_the_loop: list[dict[str, Any]]) -> None:
    """The message tells the error of a subscriber from that of a stream which nobody heard."""

    def no_on_error(error: Exception) -> None:
        raise error

    ours = StreamCancelledError("the client is closed")
    tell(no_on_error, ours)
    tell(boom, ours)
    report(ours, "a message")
    assert [type(context["exception"]) for context in on_the_loop] == [
        StreamCancelledError,
        Boom,
        StreamCancelledError,
    ]
    unheard, theirs, given = (context["message"] for context in on_the_loop)
    assert "no on_error" in unheard
    assert "the client is closed" in unheard
    assert "subscriber" in theirs
    assert given == "a message"


def test_a_report_without_a_traceback_or_a_loop(
    in_threads: list[threading.ExceptHookArgs],
) -> None:
    """An error that was never raised can be reported as well."""
    ours = StreamCancelledError("the client is closed")
    started(lambda: report(ours)).result(HANG)
    (heard,) = in_threads
    assert heard.exc_value is ours
    assert heard.exc_traceback is None
    assert heard.thread is not threading.current_thread()


# loop_asked_for ----------------------------------------------------------------------------------


async def test_an_asyncio_scheduler_asks_for_the_loop_that_runs() -> None:
    """Whoever awaits wants its values on its own loop; other schedulers do not say."""
    loop = asyncio.get_running_loop()
    assert loop_asked_for(AsyncIOScheduler(loop)) is loop
    assert loop_asked_for(None) is None
    assert loop_asked_for(ImmediateScheduler()) is None


async def test_running_blockingly_inside_a_loop_is_refused() -> None:
    """The scheduler of ``run()`` gives it away, and the error says what to do."""
    with pytest.raises(BlockingCallError, match="await"):
        loop_asked_for(NewThreadScheduler())


def test_a_plain_thread_asks_for_no_loop() -> None:
    """Where no loop runs, any scheduler will do, that of ``run()`` included."""
    assert loop_asked_for(NewThreadScheduler()) is None
    assert loop_asked_for(None) is None
