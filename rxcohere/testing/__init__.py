"""Testing without Cohere: a replay server, transcripts for it to play, faults to add to them.

What happens on the way from a server, this one or another, is up to a proxy.

::

    async with ReplayServer("rag", faults=[Cut(after_events=5)]) as server:
        client = CohereClient("", base_url=server.url)
        ...
        await server.until(lambda s: s.open == 0)

    async with ReplayServer("rag") as server, FaultProxy(server.url, Wire(cut_after=700)) as proxy:
        client = CohereClient("", base_url=proxy.url)
        ...
"""

from rxcohere.testing.counters import Counters, Traffic
from rxcohere.testing.faults import (
    ContentType,
    Corrupt,
    Cut,
    DelayHeaders,
    DoneEarly,
    DropDone,
    Fault,
    HangUp,
    KeepAlives,
    Linger,
    Stall,
    Status,
)
from rxcohere.testing.playbook import Chooser
from rxcohere.testing.proxy import FaultProxy, Wires
from rxcohere.testing.recording import record
from rxcohere.testing.reply import Chunking, Ending, Framing, Reply
from rxcohere.testing.requests import RecordedRequest
from rxcohere.testing.server import ReplayServer
from rxcohere.testing.transcripts import (
    DONE,
    EventModel,
    Playable,
    Transcript,
    encode_event,
    transcript_names,
)
from rxcohere.testing.wire import CutEnding, Wire

__all__ = [
    "DONE",
    "Chooser",
    "Chunking",
    "ContentType",
    "Corrupt",
    "Counters",
    "Cut",
    "CutEnding",
    "DelayHeaders",
    "DoneEarly",
    "DropDone",
    "Ending",
    "EventModel",
    "Fault",
    "FaultProxy",
    "Framing",
    "HangUp",
    "KeepAlives",
    "Linger",
    "Playable",
    "RecordedRequest",
    "ReplayServer",
    "Reply",
    "Stall",
    "Status",
    "Traffic",
    "Transcript",
    "Wire",
    "Wires",
    "encode_event",
    "record",
    "transcript_names",
]
