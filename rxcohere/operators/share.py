"""The operator that lets many subscribers listen to one response."""

from __future__ import annotations

from typing import NoReturn

from reactivex import Observable, abc

from rxcohere.errors import ConfigurationError
from rxcohere.events import ChatEvent
from rxcohere.operators._lift import Operator
from rxcohere.operators._shared_response import SharedResponse

_NOT_ITERABLE = (
    "a shared response cannot be iterated over directly: use 'async for event in "
    "to_async_iterator(shared)', which says how far a reader may lag behind, or subscribe to it"
)


class _SharedObservable(Observable[ChatEvent]):
    """The hot observable. A stock one would spin for ever under ``for``."""

    def __iter__(self) -> NoReturn:
        raise TypeError(_NOT_ITERABLE)

    def __aiter__(self) -> NoReturn:
        raise TypeError(_NOT_ITERABLE)


def share_response(
    linger: float = 0.0, *, scheduler: abc.SchedulerBase | None = None
) -> Operator[ChatEvent, ChatEvent]:
    """The same events for any number of subscribers, from one request.

    ::

        ---S---T---t1--t2-----------t3--E--|
        [         share_response()         ]
        ------------------(STt12)---t3--E--|

    The lower row is that of one who subscribes after ``t2``.

    The first subscriber sends the request; there is never a second one. Whoever comes later gets
    the history first, compacted (deltas of one block are one delta), then the live events, without
    a gap or a repetition; after completion the history and completion, after an error the history
    and that error. When the last one leaves, the request is given up ``linger`` seconds later, if
    nobody has come meanwhile; who comes then gets the history, then `StreamCancelledError`.

    A subscriber that raises ends its own subscription, through its ``on_error``; the others notice
    nothing. The source is not paused by any of its subscribers: one slow reader would hold up
    everybody. Behind a share, `to_async_iterator` and `subscribe_async` merge what a slow reader
    has not taken yet, and lose nothing.

    Live events come where the source brings them: for a `ChatStream`, on its client's loop. The
    history comes inside ``subscribe``, on the subscriber's own thread; on its scheduler, if it
    passes one; and inside the ``on_next`` of a stock source such as ``of``, once that source has
    had its turn. An ``await`` gets both on its own loop. Memory grows with the message, not with
    the number of events; but what does not merge with its neighbour, as log probabilities and the
    fragments of calls that come by turns, is kept as it came.

    Args:
        linger: seconds for which the request goes on without a subscriber; by default it is given
            up at once. ``math.inf`` lets it run to its end.
        scheduler: for ``linger``, used on the thread where the last one leaves; by default the loop
            that runs there, or a timer thread where none does.

    Raises:
        ConfigurationError: at the call, if ``linger`` is negative or no number.
        BlockingCallError: ``run()`` where an event loop is running.
        StreamCancelledError: through ``on_error``, for who comes when the request was given up.
    """
    if not isinstance(linger, (int, float)) or not linger >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(
            f"share_response takes linger from 0 seconds to math.inf, not {linger!r}"
        )

    def operator(source: Observable[ChatEvent]) -> Observable[ChatEvent]:
        return _SharedObservable(SharedResponse(source, linger, scheduler).subscribe)

    return operator
