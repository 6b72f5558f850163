"""The command line, run as a user runs it: in a process of its own, over real HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rxcohere import CohereClient, ContentDelta, ToolCallStart, parse_event
from rxcohere.testing import Cut, ReplayServer, Status, Transcript

PROMPT = "Where do the tallest penguins live?"


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CO_API")} | settings
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "rxcohere", *arguments],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_without_a_key_it_says_so_and_replays() -> None:
    """The main job: the answer, its citations and usage; the notice is on stderr."""
    result = run("chat", PROMPT)
    assert result.returncode == 0
    assert "CO_API_KEY is not set" in result.stderr
    answer, citations, sources, billed = result.stdout.strip().split("\n\n")
    assert answer.startswith("The tallest penguins are emperor penguins")
    assert "'emperor penguins' [1]" in citations
    assert "[2] Penguin habitats (doc:1)" in sources
    assert billed == "Billed: 118 input tokens, 55 output tokens"


def test_with_a_key_it_asks_the_api() -> None:
    """The key, the prompt and the model reach the server; nothing is said on stderr."""
    with ReplayServer("text") as server:
        result = run("chat", "Hello", "--model", "m-1", CO_API_KEY="secret", CO_API_URL=server.url)
        (request,) = server.requests
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Reactive programming")
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.json["model"] == "m-1"
    assert request.json["messages"] == [{"role": "user", "content": "Hello"}]


def test_an_answer_that_was_cut_off_is_told_from_a_whole_one() -> None:
    """It is printed as far as it came, and stderr says so."""
    with ReplayServer("max-tokens") as server:
        result = run("chat", "Hello", CO_API_KEY="secret", CO_API_URL=server.url)
    assert result.returncode == 0
    assert result.stdout
    assert result.stderr == "rxcohere: the answer was cut off: MAX_TOKENS\n"


def test_json_prints_one_event_a_line() -> None:
    """Each line is an event as it came over the wire."""
    result = run("chat", PROMPT, "--json")
    events = [parse_event(json.loads(line)) for line in result.stdout.splitlines()]
    assert events[0].type == "message-start"
    assert events[-1].type == "message-end"


def test_tool_calls_are_named() -> None:
    """A model that calls a tool says what it plans, and which tool that is."""
    with ReplayServer("tools") as server:
        result = run("chat", "Where?", CO_API_KEY="k", CO_API_URL=server.url)
    called = [event for event in Transcript.load("tools").events if event.type == "tool-call-start"]
    assert result.returncode == 0
    assert called
    for event in called:
        assert isinstance(event, ToolCallStart)
        assert event.tool_call is not None
        assert f"\n[calls {event.tool_call.name}]\n" in result.stdout


def test_usage_that_did_not_come_is_not_printed() -> None:
    """A server that bills nothing says nothing of it; the answer is all there is."""
    *events, end = Transcript.load("text").events
    bare = Transcript.of([*events, {"type": end.type, "delta": {"finish_reason": "COMPLETE"}}])
    with ReplayServer(bare) as server:
        result = run("chat", "Hello", CO_API_KEY="k", CO_API_URL=server.url)
    text = "".join(event.text or "" for event in events if isinstance(event, ContentDelta))
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{text}\n", "")


def test_documents_are_sent_with_their_names(tmp_path: Path) -> None:
    """Each file is a document, which the answer can cite."""
    for name in ("tall.txt", "home.md"):
        (tmp_path / name).write_text(f"about {name} é", encoding="utf-8")
    with ReplayServer("rag") as server:
        files = [str(tmp_path / name) for name in ("tall.txt", "home.md")]
        result = run("chat", PROMPT, "--documents", *files, CO_API_KEY="k", CO_API_URL=server.url)
        (request,) = server.requests
    assert result.returncode == 0
    assert [document["id"] for document in request.json["documents"]] == ["tall.txt", "home.md"]
    assert request.json["documents"][0]["data"]["text"] == "about tall.txt é"


def test_a_missing_document_is_named() -> None:
    """And nothing is asked."""
    result = run("chat", PROMPT, "--documents", "no-such-file.txt")
    assert result.returncode == 1
    assert "no-such-file.txt" in result.stderr
    assert result.stdout == ""


def test_a_broken_stream_ends_with_status_1_and_the_reason() -> None:
    """What came is printed, then the error on a line of its own."""
    with ReplayServer("text", faults=[Cut(after_events=8)]) as server:
        result = run("chat", "Hello", CO_API_KEY="k", CO_API_URL=server.url)
    assert result.returncode == 1
    assert result.stdout.startswith("Reactive")
    assert result.stderr.startswith("rxcohere: the body broke off")


def test_a_refusal_ends_with_status_1() -> None:
    """No traceback for what the server says."""
    with ReplayServer(faults=[Status(401, body={"message": "invalid api token"})]) as server:
        result = run("chat", "Hello", CO_API_KEY="k", CO_API_URL=server.url)
    assert result.returncode == 1
    assert "invalid api token" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_reader_that_leaves_causes_no_traceback() -> None:
    """As with ``| head -1``."""
    command = [sys.executable, "-W", "error", "-m", "rxcohere", "chat", PROMPT, "--json"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CO_API")}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(30)
    assert "Traceback" not in errors


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to a process on Windows")
def test_serve_answers_until_it_is_interrupted() -> None:
    """A server for programs in any language; Ctrl-C ends it with status 130."""
    command = [sys.executable, "-W", "error", "-m", "rxcohere", "serve", "--port", "0"]
    # Where it is ignored, as in a shell's background jobs, the child would inherit that.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, ignored)
    with process:
        assert process.stderr is not None
        notice = process.stderr.readline()
        url = notice.split("CO_API_URL=")[1].strip()
        with CohereClient("", base_url=url) as co:
            messages = [{"role": "user", "content": "Hi"}]
            response = co.chat_stream(model="m", messages=messages).response().run()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == (None, "")
        assert process.returncode == 130
    assert response.finish_reason == "COMPLETE"


@pytest.mark.parametrize("port", ["taken", "99999"])
def test_an_address_that_cannot_be_served_at(port: str) -> None:
    """It is an error in one line, with status 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1] if port == "taken" else port
        result = run("serve", "--port", str(number))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("rxcohere: ")
    assert result.stderr.count("\n") == 1


def test_wrong_usage_has_status_2() -> None:
    """argparse explains."""
    result = run("chat")
    assert result.returncode == 2
    assert "prompt" in result.stderr
