"""Testing without Cohere: a replay server, transcripts for it to play, faults to add to them.

::

    async with ReplayServer("rag", faults=[Cut(after_events=5)]) as server:
        client = CohereClient("", base_url=server.url)
        ...
        await server.until(lambda s: s.open == 0)
"""

from rxcohere.testing.counters import Counters
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

__all__ = [
    "DONE",
    "Chooser",
    "Chunking",
    "ContentType",
    "Corrupt",
    "Counters",
    "Cut",
    "DelayHeaders",
    "DoneEarly",
    "DropDone",
    "Ending",
    "EventModel",
    "Fault",
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
    "Transcript",
    "encode_event",
    "record",
    "transcript_names",
]
