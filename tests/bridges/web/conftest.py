"""What the tests of the relays are held to besides: the server has nothing to complain about."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def aiohttp_stays_silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test in which aiohttp logs more than a note: no client may make it do so."""
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    assert [
        record.getMessage()
        for record in records
        if record.name.startswith("aiohttp") and record.levelno >= logging.WARNING
    ] == []
