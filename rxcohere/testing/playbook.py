"""Which reply each request gets: the transcripts in turn, and the faults that befall them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import TypeAlias

from rxcohere.errors import ConfigurationError
from rxcohere.testing.faults import Fault, Status
from rxcohere.testing.reply import Reply
from rxcohere.testing.requests import RecordedRequest, rejection, suitable_transcript
from rxcohere.testing.transcripts import Playable, Transcript, transcript

Chooser: TypeAlias = Callable[[RecordedRequest], Playable]
"""Gives the transcript that answers a request."""


class Playbook:
    """Gives the replies; it counts what was played and how often each fault applied.

    Args:
        source: what to play, as `ReplayServer` takes it.
        faults: applied in this order.
        seed: of the trace ids.

    Raises:
        ConfigurationError: there is no such transcript.
    """

    def __init__(
        self,
        source: Playable | Sequence[Playable] | Chooser | None,
        faults: Iterable[Fault],
        seed: int,
    ) -> None:
        self._choose = _chooser(source)
        self._played = 0
        self._faults = list(faults)
        self._left = [fault.times for fault in self._faults]
        self._trace_ids = random.Random(seed)

    def reply(self, request: RecordedRequest) -> Reply:
        """The reply to this request. Only one that is a success takes its turn of a sequence.

        Raises:
            ConfigurationError: the chooser named no transcript.
            EventDecodeError: no stream was asked for, and a frame of the transcript is no event.
        """
        trace_id = f"{self._trace_ids.getrandbits(128):032x}"
        headers = {"x-debug-trace-id": trace_id}
        if (refused := rejection(request)) is not None:
            status, message = refused
            return _json(status, {"id": trace_id, "message": message}, headers)
        chosen = self._choose(request, self._played)
        if request.streamed:
            reply = Reply(chosen.frames, headers=headers)
        else:
            reply = _json(*chosen.reply(), headers)
        for index, fault in enumerate(self._faults):
            if fault.applies_to(reply) and self._use(index):
                reply = fault.apply(reply)
        if reply.head and reply.status == HTTPStatus.OK:
            self._played += 1
        return reply

    def _use(self, index: int) -> bool:
        left = self._left[index]
        if left is None:
            return True
        self._left[index] = max(left - 1, 0)
        return left > 0


def _json(status: int, body: dict[str, object], headers: dict[str, str]) -> Reply:
    return Status(status, body).apply(Reply(headers=headers))


def _chooser(
    source: Playable | Sequence[Playable] | Chooser | None,
) -> Callable[[RecordedRequest, int], Transcript]:
    # The function's second argument is the number of replies played before.
    if source is None:
        return lambda request, played: Transcript.load(suitable_transcript(request))
    if callable(source):
        return lambda request, played: transcript(source(request))
    if isinstance(source, Transcript | str | bytes | os.PathLike):
        only = transcript(source)
        return lambda request, played: only
    each = [transcript(playable) for playable in source]
    if not each:
        raise ConfigurationError("expected at least one transcript, got an empty sequence")
    return lambda request, played: each[min(played, len(each) - 1)]
