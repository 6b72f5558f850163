"""Each example runs as it stands, offline, and prints what it is meant to show."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import SLOW

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

TEXT = (
    "Reactive programming treats data as streams that arrive over time.\n\n"
    "Instead of asking for the next value, your code says what should happen when it comes: filter "
    "it, combine it, or pass it on. That fits a language model well, because its answer is never "
    "there all at once"
)

NEEDS = {"20_fastapi": ["fastapi", "uvicorn"], "22_two_machines": ["redis"]}

SHOWS = {
    "01_async_for": ["Reactive programming treats data as streams"],
    "02_plain_for": ["Reactive programming treats data as streams", "296 characters"],
    "03_subscribe": ["REACTIVE PROGRAMMING", "…"],
    "04_every_event": ["message-start", "thinking '", "tool call 0: get_weather", "citation of"],
    "05_text_and_response": ['"finish_reason": "COMPLETE"', "COMPLETE 296 characters"],
    "06_tool_use": ["get_weather({'city': 'Lisbon'", "[21°C]"],
    "07_tool_arguments_live": ["0 search_ferries: {'route': {'from': 'Pir", "current_date({})"],
    "08_citations": ["[emperor penguins]", "['doc:1']", "colony-survey: {"],
    "09_chat_ui": ["|", "turns so far: 2"],
    "10_errors": ["refused with 422", "StreamTruncatedError, so far: Reactive", "whole: Reactive"],
    "11_thinking": ["thinking: The user asks", "answer: There are", "characters of thinking"],
    "12_logprobs": ["' bird'", "%", "###"],
    "13_cancel": ["take: ['Reactive'", "dispose: stopped", "async for: out of time"],
    "14_two_prompts": ["sky: Reactive programming", "sea: A long story"],
    "15_fan_out": ["Reactive programming", "in the file: 298 bytes", "frames,"],
    "16_slow_reader": [
        "pause:  70 events, 296 characters,  0 dropped, complete",
        "296 characters,  0 dropped, complete\n       error:",
        "overflow",
    ],
    "18_journal": ["|", "word by word.", "the reader has read enough: Reactive"],
    "20_fastapi": ["|", TEXT, '"error":"StreamCancelledError"', "\nbroken off"],
    "21_worker": ["broke off before", TEXT, "word by word.\n-- What is back-pressure? complete"],
    "22_two_machines": ["|", TEXT, " … the reader has read enough", "er: StreamCancelledError"],
    "17_typing": ["> What is\nReactive", "> What is reactive programming?\nReactive", "by word."],
}

SERVERS = {"19_chat_app": "test_chat_app.py"}
"""Those that run until they are told to stop, and where they are tested."""


def environment() -> dict[str, str]:
    """That of somebody with neither a key nor a Redis."""
    own = ("CO_API", "REDIS_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


def test_every_example_is_run() -> None:
    """A new example needs a line above; a server also needs a test of its own."""
    assert {path.stem for path in EXAMPLES.glob("[0-9]*.py")} == {*SHOWS, *SERVERS}
    for name, tests in SERVERS.items():
        assert f"{name}.py" in Path(__file__).with_name(tests).read_text("utf-8")


@pytest.mark.parametrize(("name", "shows"), SHOWS.items())
def test_an_example_runs_and_shows_its_point(name: str, shows: list[str]) -> None:
    """Exit status 0 and nothing on stderr, with warnings as errors and in asyncio's debug mode."""
    for module in NEEDS.get(name, ()):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", f"{name}.py"],
        cwd=EXAMPLES,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (run.returncode, SLOW.sub("", run.stderr)) == (0, "")
    if run.stdout.startswith("needs "):
        pytest.skip(run.stdout.strip())
    # "|" is where a reader was cut off: without it, the text is whole.
    shown = run.stdout, run.stdout.replace("|", "")
    assert [text for text in shows if not any(text in each for each in shown)] == []
