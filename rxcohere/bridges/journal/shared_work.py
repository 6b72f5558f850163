"""Work whose result many want at once, done once for all of them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True)
class _Kind(Generic[T]):
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted_by: int = 0
    begun: int = 0  # how many times
    outcome: T | Exception | None = None


class SharedWork(Generic[K, T]):
    """Does work of each kind one at a time, and gives its result to all who had asked before.

    Who asks while it is being done gets the next one, with those who ask then: what it tells is
    never older than the question.
    """

    def __init__(self) -> None:
        self._kinds: dict[K, _Kind[T]] = {}

    async def get(self, key: K, work: Callable[[], Awaitable[T]]) -> T:
        """The result of work that begins after this call.

        Raises:
            Exception: what the work raised, a copy for each.
        """
        kind = self._kinds.setdefault(key, _Kind())
        before = kind.begun
        kind.wanted_by += 1
        try:
            async with kind.turn:
                # If there is no outcome, whoever did it was cancelled.
                if kind.begun == before or kind.outcome is None:
                    kind.outcome = None
                    kind.begun += 1
                    try:
                        kind.outcome = await work()
                    except Exception as error:
                        kind.outcome = error
                if isinstance(kind.outcome, Exception):
                    raise copy.copy(kind.outcome) from kind.outcome.__cause__
                return kind.outcome
        finally:
            kind.wanted_by -= 1
            if not kind.wanted_by:
                del self._kinds[key]
