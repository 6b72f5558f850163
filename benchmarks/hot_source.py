"""A source that is brought its events by hand, so that nothing but handing them on is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import chain, islice

from reactivex import Observable, abc
from reactivex.disposable import Disposable
from reactivex.observer import Observer

from rxcohere import ChatEvent

BATCH = 16
"""Events that one turn of the loop brings, about as many as one read of the socket does."""


def ignore(_: object) -> None:
    """An ``on_next`` that costs as little as one can."""


class HotSource:
    """Brings what it is told to, when it is told to, to its one subscriber.

    Args:
        on_subscribe: called when that one has come.
    """

    def __init__(self, on_subscribe: Callable[[], object] = lambda: None) -> None:
        self.observable: Observable[ChatEvent] = Observable(self._subscribe)
        self.observer: abc.ObserverBase[ChatEvent] = Observer()
        self._on_subscribe = on_subscribe

    def _subscribe(
        self, observer: abc.ObserverBase[ChatEvent], _: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        self.observer = observer
        self._on_subscribe()
        return Disposable()

    def push(self, events: Iterable[ChatEvent]) -> None:
        """Brings these, here and now."""
        on_next = self.observer.on_next
        for event in events:
            on_next(event)

    async def push_in_turns(self, events: Iterable[ChatEvent]) -> None:
        """Brings `BATCH` in each turn of the loop, and then the end."""
        upcoming = iter(events)
        for first in upcoming:
            self.push(chain((first,), islice(upcoming, BATCH - 1)))
            await asyncio.sleep(0)
        self.observer.on_completed()
