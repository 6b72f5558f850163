"""Any observable as an asynchronous iterator, through a bounded buffer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Generic, TypeVar

from reactivex import Observable

from rxcohere.batches import values_of
from rxcohere.bridges.handover import Handover, Overflow, check_observable

T = TypeVar("T")


class ObservableIterator(AsyncIterator[T], Generic[T]):
    """The values of one subscription, which is made when the first one is asked for.

    It has one reader at a time, like any asynchronous generator: asking for a value, or closing it,
    while another task waits for one raises `RuntimeError`.
    """

    def __init__(self, source: Observable[T], handover: Handover[T]) -> None:
        self._handover = handover
        self._values = values_of(lambda: handover.subscribe_to(source))

    @property
    def dropped(self) -> int:
        """How many values there was no room for."""
        return self._handover.dropped

    def __anext__(self) -> Awaitable[T]:
        """The next value."""
        return self._values.__anext__()

    async def aclose(self) -> None:
        """Disposes of the subscription; ``contextlib.aclosing`` does it at the end of a block."""
        await self._values.aclose()


def to_async_iterator(
    observable: Observable[T], *, max_pending: int = 256, overflow: Overflow = "pause"
) -> ObservableIterator[T]:
    """The values of the observable, for ``async for``, on whatever loop and thread they come.

    Asking for the first value subscribes. Cancelling a task that waits for a value disposes of the
    subscription, and so does `ObservableIterator.aclose`, best called by ``contextlib.aclosing``.
    After ``break`` or an exception in the body it ends when nobody holds the iterator any more,
    which is at once for one that was made in the ``for`` line. Values that nobody has asked for yet
    wait in a buffer; the error or the end come after them.

    What happens when the buffer is full, ``overflow`` says:

    - ``"pause"``: the source waits until half of the buffer is free, and with it the socket: the
      server feels it. Nothing is lost. It works through any operators, by way of the subscription:
      whatever `ChatStream` is subscribed to when the observable is, and those that ``concat`` and
      the like go on to later, all wait. A stream that an operator subscribes to inside ``on_next``,
      as ``flat_map`` over live values does, cannot be reached, and neither can any other kind of
      source, nor one that is shared, whose other subscribers would have to wait too. Where nothing
      can wait, events are merged, as with ``"merge"``, and anything else fails, as with
      ``"error"``. Stock ``share`` and ``publish`` know nothing of this: the first to subscribe
      makes the source wait for all.
    - ``"merge"``: deltas that wait are merged with those of the same block; fewer, larger events
      come out, and no character is lost. The source is not slowed. Only for `ChatEvent`s and the
      entries of a journal; bounded by what does not merge, such as citations.
    - ``"error"``: ends with `BufferOverflowError`, after what was waiting.
    - ``"drop_oldest"``, ``"drop_newest"``: one value is lost, the one that waited longest or the
      one that came; `ObservableIterator.dropped` counts them.

    Args:
        observable: what to iterate over.
        max_pending: how many values may wait, 256 by default. Sources that wait may still bring
            what is under way: what an operator makes of one value, or a ``delay`` holds; as many
            again, and at least 1,000.
        overflow: what happens to more; ``"pause"`` by default.

    Raises:
        ConfigurationError: at the call, for what is no observable, a policy that there is not, or
            ``max_pending`` below 1; while iterating, if ``"merge"`` meets a value that is no
            `ChatEvent` and no `JournalEntry`.
        BufferOverflowError: while iterating, as said above. It has no ``partial``.
    """
    check_observable(observable)
    return ObservableIterator(observable, Handover(max_pending, overflow))
