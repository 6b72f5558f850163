"""`SharedWork`: what many want at once is done once for all of them, and never told too late."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from subscribers import HANG

from rxcohere.bridges.journal.shared_work import SharedWork
from rxcohere.errors import JournalError

MANY = 50


class Result:
    """What one run of the work comes to."""

    def __init__(self, number: int) -> None:
        self.number = number


class Work:
    """Counts its runs, each of which lasts until it is let go.

    Attributes:
        runs: how many have begun.
        most: how many there were at once, at most.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.runs = 0
        self.most = 0
        self._error = error
        self._under_way = 0
        self._may_end = asyncio.Event()

    async def __call__(self) -> Result:
        self.runs += 1
        number = self.runs
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        try:
            await self._may_end.wait()
        finally:
            self._under_way -= 1
        if self._error is not None:
            raise self._error
        return Result(number)

    def let_go(self) -> None:
        """Lets all runs end, those to come as well."""
        self._may_end.set()


def asking(
    shared: SharedWork[str, Result], work: Work, count: int = 1
) -> list[asyncio.Task[Result]]:
    return [asyncio.create_task(shared.get("key", work)) for _ in range(count)]


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def all_of(tasks: list[asyncio.Task[Result]]) -> list[Result | BaseException]:
    async with asyncio.timeout(HANG):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def numbers_of(tasks: list[asyncio.Task[Result]]) -> list[int]:
    results = await all_of(tasks)
    assert all(isinstance(each, Result) for each in results), results
    return [each.number for each in results if isinstance(each, Result)]


async def test_many_at_once() -> None:
    """The first has the work done, and all others together a second time, one after the other."""
    shared: SharedWork[str, Result] = SharedWork()
    work = Work()
    tasks = asking(shared, work, MANY)
    await turns()
    assert work.runs == 1
    work.let_go()
    assert await numbers_of(tasks) == [1] + [2] * (MANY - 1)
    assert (work.runs, work.most) == (2, 1)


async def test_who_asks_while_it_is_being_done() -> None:
    """Gets the next result, since this one may have been found before the question."""
    shared: SharedWork[str, Result] = SharedWork()
    work = Work()
    first = asking(shared, work)
    await turns()
    later = asking(shared, work)
    await turns()
    latest = asking(shared, work)
    await turns()
    assert work.runs == 1
    work.let_go()
    assert await numbers_of([*first, *later, *latest]) == [1, 2, 2]


async def test_who_asks_afterwards() -> None:
    """Nothing is remembered: it is done again."""
    shared: SharedWork[str, Result] = SharedWork()
    work = Work()
    work.let_go()
    for expected in (1, 2, 3):
        assert await numbers_of(asking(shared, work)) == [expected]


async def test_keys_do_not_wait_for_each_other() -> None:
    """While one kind of work is under way, another is done."""
    shared: SharedWork[str, Result] = SharedWork()
    slow, quick = Work(), Work()
    tasks = asking(shared, slow)
    await turns()
    quick.let_go()
    async with asyncio.timeout(HANG):
        assert (await shared.get("another", quick)).number == 1
    assert not tasks[0].done()
    slow.let_go()
    assert await numbers_of(tasks) == [1]


async def test_an_error_reaches_all() -> None:
    """Each gets a copy, with its cause, and the work is not repeated for each of them."""
    shared: SharedWork[str, Result] = SharedWork()
    problem = JournalError("no route")
    problem.__cause__ = OSError("refused")
    work = Work(problem)
    tasks = asking(shared, work, MANY)
    await turns()
    work.let_go()
    errors = await all_of(tasks)
    assert work.runs == 2
    assert [(type(each), str(each)) for each in errors] == MANY * [(JournalError, "no route")]
    assert all(each.__cause__ is problem.__cause__ for each in errors)  # type: ignore[union-attr]
    assert len({id(each) for each in [*errors, problem]}) == MANY + 1


async def test_after_an_error_it_is_done_anew() -> None:
    """A failure is told to those who had asked, and to nobody after them."""
    shared: SharedWork[str, Result] = SharedWork()
    failing, working = Work(JournalError("no route")), Work()
    first = asking(shared, failing)
    await turns()
    later = asking(shared, working)
    failing.let_go()
    working.let_go()
    with pytest.raises(JournalError):
        await first[0]
    assert await numbers_of(later) == [1]


@pytest.mark.parametrize("at", [0, 1], ids=["the first", "who works for others"])
async def test_a_worker_that_is_cancelled_is_replaced(at: int) -> None:
    """One of those who wait does the work instead; nobody but the worker is cancelled."""
    shared: SharedWork[str, Result] = SharedWork()
    works = [Work() for _ in range(4)]
    tasks = [asyncio.create_task(shared.get("key", work)) for work in works]
    await turns()
    for done in range(at):
        works[done].let_go()
        await turns()
    assert works[at].runs == 1
    assert works[at + 1].runs == 0
    tasks[at].cancel()
    await turns()
    assert tasks[at].cancelled()
    assert works[at + 1].runs == 1
    for work in works:
        work.let_go()
    left = [task for task in tasks if task is not tasks[at]]
    assert len(await numbers_of(left)) == 3
    assert [work.runs for work in works] == [1] * (at + 2) + [0] * (2 - at)


async def test_who_waits_may_leave() -> None:
    """Neither who works nor who waits as well is disturbed."""
    shared: SharedWork[str, Result] = SharedWork()
    work = Work()
    tasks = asking(shared, work, 4)
    await turns()
    tasks[1].cancel()
    tasks[3].cancel()
    await turns()
    work.let_go()
    assert await numbers_of([tasks[0], tasks[2]]) == [1, 2]
    assert tasks[1].cancelled()
    assert tasks[3].cancelled()


class Key:
    """A key of which one can tell whether anybody holds it."""


@pytest.mark.parametrize("how", ["done", "failed", "cancelled"])
async def test_nothing_stays(how: str) -> None:
    """When the last has what it asked for, or has left, neither key nor result is held."""
    shared: SharedWork[Key, Result] = SharedWork()

    async def use() -> list[weakref.ref[object]]:
        key, work = Key(), Work(JournalError("no route") if how == "failed" else None)
        tasks = [asyncio.create_task(shared.get(key, work)) for _ in range(5)]
        await turns()
        if how == "cancelled":
            for task in tasks:
                task.cancel()
        work.let_go()
        results = await all_of(tasks)
        return [weakref.ref(key), weakref.ref(work), *map(weakref.ref, results)]

    held = await use()
    await turns()
    gc.collect()
    assert [each() for each in held] == [None] * len(held)
