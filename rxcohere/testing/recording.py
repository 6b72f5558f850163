"""`record`: a stream's transcript, written down while it passes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import reactivex as rx
from reactivex import Observable
from reactivex import operators as ops
from reactivex.abc import DisposableBase

from rxcohere.testing.transcripts import DONE, EventModel, encode_event

_Event = TypeVar("_Event", bound=EventModel)


class _Recorder(DisposableBase):
    """A transcript file being written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by dispose()

    def write(self, event: EventModel) -> None:
        self._file.write(encode_event(event))

    def complete(self) -> None:
        self._file.write(DONE)
        self._file.close()

    def dispose(self) -> None:
        self._file.close()


def record(path: str | os.PathLike[str]) -> Callable[[Observable[_Event]], Observable[_Event]]:
    """The same events, and a file that holds them as a transcript.

    ::

        ---S-----d-----d-----E--|
        [ record("answer.sse")  ]
        ---S-----d-----d-----E--|

    Each event becomes a frame with exactly the fields that were set in it; completion adds
    ``[DONE]``. The file is closed before completion or an error goes on, and on disposal: without
    completion it is the transcript of a stream that was cut. `Transcript.load` reads it.

    Args:
        path: the file; each subscription writes it anew. Writing is buffered, but blocks the thread
            that delivers the events.

    Through ``on_error`` come the source's errors, and `OSError` where the file cannot be written.
    """

    def recorded(source: Observable[_Event]) -> Observable[_Event]:
        def through(recorder: DisposableBase | None) -> Observable[_Event]:
            assert isinstance(recorder, _Recorder)
            return source.pipe(
                ops.do_action(recorder.write, lambda _: recorder.dispose(), recorder.complete)
            )

        return rx.using(lambda: _Recorder(path), through)

    return recorded
