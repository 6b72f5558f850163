"""WebSockets: a stream as JSON messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress

from aiohttp import HttpVersion11, WSCloseCode, WSMsgType, web

from rxcohere.bridges.journal import JournalEntry
from rxcohere.bridges.web.connection import Connection, connected, is_open
from rxcohere.bridges.web.failures import (
    error_object,
    error_response,
    refused,
    report_unless_told,
)
from rxcohere.bridges.web.pulling import Pulled, Source, Value, check_arguments, open_batches
from rxcohere.bridges.web.resuming import source_asked_for
from rxcohere.errors import ConfigurationError

_MOST_BYTES_OF_A_MESSAGE = 4096
_MOST_BYTES_OF_A_REASON = 123  # RFC 6455, section 5.5: a control frame has 125, two are the code
_CLOSING = 10.0
"""Seconds for a client to answer that it closes too."""


async def websocket(
    request: web.Request,
    source: Source,
    *,
    heartbeat: float = 15.0,
    send_timeout: float = 30.0,
) -> web.StreamResponse:
    """The answer to the request: a WebSocket with a text message of JSON for each event.

    A message is ``{"id": "…", "event": {…}}``, the event as Cohere sends it, without the id if the
    source is not in a journal. ``?after=<id>`` in the query goes on after that entry of what
    `follow` returns. At the end the socket is closed with code 1000; after an error it is closed
    with 1011, and the last message is ``{"error": {…}}``, the object that `event_frames` has in its
    error frame.

    Only what can be seen at once has an HTTP status: 400 for an id that is not valid, 426 for a
    request that is no WebSocket's. Any other error comes as a message, since browsers show a page
    neither status nor body of a handshake that failed.

    What the client sends is read and ignored; a message of more than 4 KiB closes the socket. When
    nothing was sent for ``heartbeat`` seconds there is a ping; a client that has sent nothing, not
    even the pong, by the next one is disconnected. A slow client gets fewer and larger deltas. When
    it leaves, the subscription is disposed of at once. Who may connect is for the caller to see to:
    browsers let any page open a WebSocket, with the cookies of the user, and say in ``Origin``
    which one it is.

    Args:
        request: of an aiohttp.web server.
        source: the events of a stream, or the entries of one in a journal.
        heartbeat: seconds, 15 by default, after which a silent connection is tried.
        send_timeout: seconds, 30 by default, after which a client that reads nothing is
            disconnected.

    Raises:
        ConfigurationError: at the call, if an argument is wrong.
    """
    check_arguments(source, heartbeat, send_timeout)
    try:
        wanted = source_asked_for(request, source)
    except ConfigurationError as error:
        return error_response(error)
    if wanted is None:
        return web.Response(status=204)
    response = web.WebSocketResponse(
        autoping=False,  # pongs are looked at
        compress=False,  # or each client would hold a compressor's window
        max_msg_size=_MOST_BYTES_OF_A_MESSAGE,
        timeout=min(_CLOSING, send_timeout),
    )
    if not response.can_prepare(request) or request.version < HttpVersion11:
        refusal = refused("this is the address of a WebSocket, and the request is none", 426)
        refusal.headers.update({"Upgrade": "websocket", "Connection": "Upgrade"})
        return refusal
    if not is_open(request):
        return web.Response()
    async with connected(request, send_timeout) as connection:
        await response.prepare(request)
        async with _listening(response, connection) as client:
            async with aclosing(Pulled(open_batches(wanted), heartbeat)) as values:
                failure = await _send(response, connection, values, client)
        code, reason = WSCloseCode.OK, b""
        if failure is not None:
            report_unless_told(failure)
            told = error_object(failure)
            await response.send_str(json.dumps({"error": told}))
            code, reason = WSCloseCode.INTERNAL_ERROR, _reason(told["message"])
        await response.close(code=code, message=reason)
    return response


class _Client:
    """What is known of the other side.

    Attributes:
        heard: it has sent something since somebody looked.
    """

    def __init__(self) -> None:
        self.heard = False

    async def listen(self, response: web.WebSocketResponse, connection: Connection) -> None:
        """Reads and ignores what it sends, until it closes or breaks the rules."""
        with suppress(ConnectionError):
            async for message in response:
                self.heard = True
                if message.type is WSMsgType.PING:
                    await response.pong(message.data)
                elif message.type is WSMsgType.ERROR:
                    break
                await asyncio.sleep(0)  # one message a turn: a flood fills its own buffers only
        connection.leave()


@asynccontextmanager
async def _listening(
    response: web.WebSocketResponse, connection: Connection
) -> AsyncGenerator[_Client, None]:
    client = _Client()
    task = asyncio.create_task(client.listen(response, connection))
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _send(
    response: web.WebSocketResponse,
    connection: Connection,
    values: Pulled[Value],
    client: _Client,
) -> Exception | None:
    """Sends all that comes; returns what the source failed with."""
    pinged = False
    while True:
        try:
            batch = await values.next_batch()
            messages = None if batch is None else [*map(_message_of, batch)]
        except Exception as error:
            return error
        if messages is None:
            if pinged and not client.heard:
                connection.abort()
            pinged, client.heard = True, False
            await response.ping()
            continue
        if not messages:
            return None
        pinged = False
        for message in messages:
            await response.send_str(message)
            await connection.drained()


def _message_of(value: Value) -> str:
    if isinstance(value, JournalEntry):
        event = value.event.model_dump_json(exclude_unset=True)
        return f'{{"id":{json.dumps(value.id)},"event":{event}}}'
    return f'{{"event":{value.model_dump_json(exclude_unset=True)}}}'


def _reason(message: str) -> bytes:
    """As much of the message as there is room for, in whole characters."""
    cut = message.encode("utf-8", "replace")[:_MOST_BYTES_OF_A_REASON]
    return cut.decode("utf-8", "ignore").encode()
