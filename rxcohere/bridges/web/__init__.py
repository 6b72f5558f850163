"""Streams on the web: server-sent events and WebSockets, for browsers and for Cohere's own clients.

`event_stream` and `websocket` answer a request to an aiohttp.web server with what an observable
brings; `event_frames` is the body alone, for any other server. With what `follow` returns, a reader
that was cut off goes on where it was. `relay_routes` are ready-made routes to all the streams of a
journal.
"""

from rxcohere.bridges.web.event_stream import event_stream
from rxcohere.bridges.web.frames import event_frames
from rxcohere.bridges.web.pulling import Source
from rxcohere.bridges.web.resuming import resumed
from rxcohere.bridges.web.routes import Authorize, relay_routes
from rxcohere.bridges.web.websocket import websocket

__all__ = [
    "Authorize",
    "Source",
    "event_frames",
    "event_stream",
    "relay_routes",
    "resumed",
    "websocket",
]
