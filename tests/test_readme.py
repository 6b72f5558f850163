"""The README is true: its code runs elsewhere, its links lead somewhere, its tables are whole."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import pytest
from test_requests_sent import COMPOSITIONS

from rxcohere import CohereClient, ConnectionFailedError, StreamTruncatedError, errors
from rxcohere import operators as rxc
from rxcohere.testing import Cut, FaultProxy, ReplayServer, Wire

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OFFLINE = re.compile(r"from offline import |with replay_without_key\(")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


async def test_a_cut_stream_keeps_what_came():
    """The README's own example of a test."""
    async with (
        ReplayServer("text", chunking="random", faults=[Cut(after_events=9)]) as server,
        CohereClient("key", base_url=server.url) as co,
    ):
        stream = co.chat_stream(model="m", messages=[{"role": "user", "content": "Hi"}])
        with pytest.raises(StreamTruncatedError) as caught:
            await stream.response()
        assert caught.value.partial.text
        await server.until(lambda s: s.open == 0)
        assert len(server.requests) == 1


async def test_a_reset_in_the_middle_is_no_short_answer():
    """The README's own example of a test on a bad network."""
    async with (
        ReplayServer("text") as server,
        FaultProxy(server.url, Wire(cut_after=700, ending="reset")) as proxy,
        CohereClient("key", base_url=proxy.url) as co,
    ):
        stream = co.chat_stream(model="m", messages=[{"role": "user", "content": "Hi"}])
        with pytest.raises(ConnectionFailedError):
            await stream.response()


def lines(code: str) -> list[str]:
    """The lines that say something; those that let an example run offline do not."""
    stripped = [line.strip() for line in textwrap.dedent(code).splitlines()]
    return [line for line in stripped if line and not OFFLINE.match(line)]


def test_its_code_is_the_examples_code() -> None:
    """Every Python block stands, line for line, in an example or in a test that runs."""
    sources = [lines(path.read_text(encoding="utf-8")) for path in ROOT.glob("examples/*.py")]
    for test in (test_a_cut_stream_keeps_what_came, test_a_reset_in_the_middle_is_no_short_answer):
        here = lines(inspect.getsource(test))
        sources.append([line for line in here if not line.startswith('"""')])
    assert len(BLOCKS) >= 8
    for block in map(lines, BLOCKS):
        found = any(
            source[start : start + len(block)] == block
            for source in sources
            for start in range(len(source) - len(block) + 1)
        )
        assert found, "\n".join(block)


def test_its_links_lead_somewhere() -> None:
    """Links into the repository name files that exist, links into the page name headings."""
    headings = {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_it_names_every_operator() -> None:
    """The table of operators is complete."""
    assert [name for name in rxc.__all__ if name != "Operator" and f"`{name}(" not in README] == []


def test_it_names_every_error_that_is_not_a_mere_status() -> None:
    """The table of errors is complete."""
    names = [
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, errors.RxCohereError)
        and errors.ApiError not in kind.__mro__[1:]
    ]
    assert [name for name in names if f"`{name}`" not in README] == []


def test_its_table_of_requests_is_the_one_that_is_counted() -> None:
    """Every composition stands in the README with the number of requests that it really sends."""
    section = README.split("\n### Who sends how many requests\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| (\d+) \| .*\|$", section, re.MULTILINE)
    assert rows == [(each.label, str(each.requests)) for each in COMPOSITIONS]
