"""Properties that are tried on a few random examples by default, and on many at night.

::

    @fuzzed(few=100, many=20_000, text=st.text())
    def test_a_property(text: str) -> None: ...

makes the tests ``test_a_property[few]`` and ``test_a_property[many]``, the latter marked
``nightly``. A failure prints its example, and a line for ``@reproduce_failure`` that goes, as
``@example`` does, directly above the ``def``. What one of the two finds, the other tries first.
"""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from subscribers import HANG, Boom, Reports

_AT_ONCE = 1_000
"""Examples after which Hypothesis starts anew: it keeps all that it drew, a gigabyte for 30,000."""

_TURNS = 100
"""Turns of the loop in which what was cancelled or closed may come to its end."""


def fuzzed(
    *,
    few: int,
    many: int,
    suppress: Collection[HealthCheck] = (),
    **strategies: st.SearchStrategy[Any],
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """The property as a test, once with few examples and once with many.

    The examples of an ``async def`` have one loop in common, and each of them is held to leaving
    nothing behind on it. At night asyncio's debug mode, which takes most of the time, is off.

    Args:
        few: how many examples are tried by default.
        many: how many at night.
        suppress: Hypothesis' health checks that the property cannot pass.
        strategies: what the property's arguments are drawn from.
    """
    amounts = pytest.mark.parametrize(
        "examples",
        [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.nightly)],
    )

    def try_on(holds: Callable[..., None], examples: int) -> None:
        for tried in range(0, examples, _AT_ONCE):
            limits = settings(
                max_examples=min(examples - tried, _AT_ONCE),
                deadline=None,
                print_blob=True,
                suppress_health_check=suppress,
            )
            limits(given(**strategies)(holds))()

    def decorate(holds: Callable[..., Any]) -> Callable[..., None]:
        def test(examples: int) -> None:
            if not inspect.iscoroutinefunction(holds):
                try_on(holds, examples)
                return
            with asyncio.Runner(debug=examples == few) as runner:

                @functools.wraps(holds)
                def on_loop(**example: Any) -> None:
                    runner.run(_leaving_nothing(holds(**example)))

                try_on(on_loop, examples)

        functools.update_wrapper(test, holds)
        del test.__wrapped__  # whose arguments pytest would take for fixtures
        return amounts(test)

    return decorate


async def _leaving_nothing(work: Awaitable[None]) -> None:
    """Does the work; fails if it hangs, leaves tasks, or has asyncio report an error.

    What the subscribers of a property raise on purpose may be reported.
    """
    reports = Reports()
    asyncio.get_running_loop().set_exception_handler(reports.hear)
    async with asyncio.timeout(HANG):
        await work
    for _ in range(_TURNS):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            break
        await asyncio.sleep(0)
    assert not left
    assert [each for each in reports if not isinstance(each, Boom)] == []
