"""What a replay server, or a proxy, has counted so far."""

from __future__ import annotations

from typing import Literal, TypeAlias

from rxcohere.testing.requests import RecordedRequest
from rxcohere.testing.waiting import Watchable


class Counters(Watchable):
    """Requests and replies, counted, with ways to wait until they reach a state.

    Attributes:
        requests: all requests, in the order in which they were read.
        open: how many replies are under way, those included whose status line is still delayed.
        aborted: how many replies were not at their end when the client went away.
        completed: how many replies of status 200 were sent to the proper end of their body.
        cut: how many replies the server broke off, for a fault or because it was stopped.
    """

    _called = "the replay server"

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[RecordedRequest] = []
        self.open = 0
        self.aborted = 0
        self.completed = 0
        self.cut = 0

    def __str__(self) -> str:
        """The counters in words."""
        return (
            f"{len(self.requests)} requests, {self.open} open, {self.aborted} aborted, "
            f"{self.completed} completed, {self.cut} cut"
        )


Count: TypeAlias = Literal[
    "connections", "open", "cuts", "resets", "refused", "carried", "held", "dropped"
]
"""The name of a counter of `Traffic`."""


class Traffic(Watchable):
    """Connections and bytes through a proxy, counted, with ways to wait until they reach a state.

    Attributes:
        connections: how many clients have connected, those included that were refused.
        open: how many connections go through it now.
        cuts: how many were cut by their wire, whichever the ending.
        resets: how many the proxy has reset: for a wire, for `FaultProxy.reset` or
            `FaultProxy.refuse`.
        refused: how many of these for `FaultProxy.refuse`.
        carried: how many bytes of answers it has let through.
        held: how many bytes wait in it now, in both directions.
        dropped: how many bytes it has dropped since `FaultProxy.silence`, in both directions.
    """

    _called = "the proxy"

    def __init__(self) -> None:
        super().__init__()
        self.connections = 0
        self.open = 0
        self.cuts = 0
        self.resets = 0
        self.refused = 0
        self.carried = 0
        self.held = 0
        self.dropped = 0

    def __str__(self) -> str:
        """The counters in words."""
        return (
            f"{self.connections} connections, {self.open} open, {self.cuts} cut, "
            f"{self.resets} reset, {self.refused} refused; "
            f"{self.carried} bytes carried, {self.held} held, {self.dropped} dropped"
        )

    def _count(self, name: Count, by: int = 1) -> None:
        setattr(self, name, getattr(self, name) + by)
        self._changed()
