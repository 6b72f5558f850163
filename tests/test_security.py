"""What SECURITY.md promises of the client, where no other module of the tests shows it."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
from aiohttp import web
from bridges.web.relays import serving
from samples import message_end, message_start
from subscribers import ASK, LIMITS, Reports, served

from rxcohere import (
    ApiError,
    CohereClient,
    ConnectionFailedError,
    GenerationError,
    Retry,
    UnauthorizedError,
)
from rxcohere.testing import ReplayServer, Status, Transcript, record

KEY = "a-key-that-nobody-may-see-0123456789"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status: int) -> None:
    """Neither the request nor the key goes anywhere but to the address that was given."""
    async with ReplayServer() as elsewhere:
        headers = {"location": f"{elsewhere.url}/v2/chat"}
        async with served(faults=[Status(status, "", headers=headers)]) as (server, co):
            for answer in (co.chat_stream(**ASK), co.chat(**ASK)):
                with pytest.raises(ApiError) as caught:
                    await answer
                assert caught.value.status_code == status
            assert len(server.requests) == 2
        assert elsewhere.requests == []


async def test_a_certificate_of_nobody_is_refused(certificate: Path, reports: Reports) -> None:
    """The connection fails, and no request is sent over it; the server sees its client leave."""
    asked: list[web.BaseRequest] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        return web.Response()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    once = Retry(attempts=1)
    async with serving(handle, context=context) as url:
        async with CohereClient(KEY, base_url=url, retry=once, timeouts=LIMITS) as co:
            with pytest.raises(ConnectionFailedError) as caught:
                await co.chat_stream(**ASK)
            assert isinstance(caught.value.__cause__, OSError)
            assert KEY not in repr(caught.value)
    assert asked == []
    assert {type(report) for report in reports} <= {ConnectionResetError}


async def test_a_server_that_writes_the_key_in_escapes() -> None:
    """It is blotted out of the error of a refused request."""
    body = json.dumps({"message": f"bad key {KEY}"}).replace("nobody", "n\\u006fbody")
    assert KEY not in body
    async with ReplayServer(faults=[Status(401, body)]) as server:
        async with CohereClient(KEY, base_url=server.url, timeouts=LIMITS) as co:
            with pytest.raises(UnauthorizedError, match=r"bad key \*\*\*") as caught:
                await co.chat_stream(**ASK)
    assert caught.value.body == {"message": "bad key ***"}


async def test_a_generation_that_fails_over_the_key() -> None:
    """It is blotted out of the reason that the server gives."""
    end = message_end("ERROR")
    end["delta"]["error"] = f"bad key {KEY}"
    async with ReplayServer(Transcript.of([message_start(), end])) as server:
        async with CohereClient(KEY, base_url=server.url, timeouts=LIMITS) as co:
            with pytest.raises(GenerationError, match=r"bad key \*\*\*") as caught:
                await co.chat_stream(**ASK)
    assert caught.value.error == "bad key ***"
    assert caught.value.partial is not None


async def test_a_recorded_transcript_has_no_key(tmp_path: Path) -> None:
    """Nothing of the request is in it."""
    path = tmp_path / "recorded.sse"
    async with ReplayServer() as server:
        async with CohereClient(KEY, base_url=server.url, timeouts=LIMITS) as co:
            await co.chat_stream(**ASK).pipe(record(path))
        assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    written = path.read_text("utf-8")
    assert "message-end" in written
    assert KEY[:12] not in written
