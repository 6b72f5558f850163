"""Delivering to a subscriber: on the loop it asks for, and so that no error it raises is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from reactivex import abc
from reactivex.scheduler import NewThreadScheduler
from reactivex.scheduler.eventloop import AsyncIOScheduler

from rxcohere.errors import RxCohereError
from rxcohere.runtime import refuse_to_block, running_loop


def loop_asked_for(scheduler: abc.SchedulerBase | None) -> asyncio.AbstractEventLoop | None:
    """The loop that a subscriber's values have to be brought to; None where it does not say.

    An ``await`` passes the scheduler of its loop, and a future may be touched only there.

    Raises:
        BlockingCallError: ``run()``, which passes a `NewThreadScheduler`, where a loop is running.
    """
    if isinstance(scheduler, NewThreadScheduler):
        refuse_to_block("run()", "await")
    return running_loop() if isinstance(scheduler, AsyncIOScheduler) else None


def tell(callback: Callable[..., None], *arguments: object) -> None:
    """Calls a subscriber back; an error that it raises is reported."""
    try:
        callback(*arguments)
    except BaseException as problem:
        error = as_error(problem)
        if any(error is each for each in arguments):
            report(error, f"a stream failed, and its subscription has no on_error: {error}")
        else:
            report(error)


def is_interruption(problem: BaseException) -> bool:
    """Whether a subscriber raised this because it is being stopped, not because it failed.

    That is the cancellation of the task that runs here, or, in the main thread, the end of the
    program.
    """
    if isinstance(problem, asyncio.CancelledError):
        task = asyncio.current_task() if running_loop() else None
        return task is not None and task.cancelling() > 0
    ends_program = isinstance(problem, (KeyboardInterrupt, SystemExit))
    return ends_program and threading.current_thread() is threading.main_thread()


def as_error(problem: BaseException) -> Exception:
    """What a subscriber raised, in a form that ``on_error`` takes.

    Raises:
        BaseException: the problem, if it is an interruption.
    """
    if isinstance(problem, Exception):
        return problem
    if is_interruption(problem):
        raise problem
    error = RxCohereError(f"a subscriber raised {type(problem).__name__}")
    error.__cause__ = problem
    return error


def report(problem: Exception, message: str = "a subscriber of a stream raised an error") -> None:
    """Hands over an error that no subscriber can be told of.

    The exception handler of the loop that runs here hears of it; without one,
    `threading.excepthook` does.
    """
    loop = running_loop()
    if loop is None:
        kind, trace, thread = type(problem), problem.__traceback__, threading.current_thread()
        threading.excepthook(threading.ExceptHookArgs((kind, problem, trace, thread)))
        return
    loop.call_exception_handler({"message": message, "exception": problem})
