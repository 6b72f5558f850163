"""The command line: ``python -m rxcohere chat "…"`` and ``python -m rxcohere serve``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from rxcohere import __version__
from rxcohere.client import CohereClient
from rxcohere.errors import RxCohereError
from rxcohere.events import ContentDelta, MessageEnd, ToolCallStart, ToolPlanDelta
from rxcohere.folds import CitedText, LiveCitedTextFold
from rxcohere.response import Source, Usage
from rxcohere.testing import ReplayServer, transcript_names

_DEFAULT_MODEL = "command-a-03-2025"
_PACE = 0.02  # seconds between the frames of a replay, so that it looks like a stream


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 after an error, 2 for wrong usage, 130 after an interrupt."""
    options = _parser().parse_args(arguments)
    try:
        asyncio.run(options.run(options))
        return 0
    except RxCohereError as error:
        print(f"rxcohere: {error}", file=sys.stderr)
        return 1
    except (OSError, OverflowError) as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has left. Python would complain again when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:  # the address to serve at
            print(f"rxcohere: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rxcohere", description="Cohere's V2 chat, streamed.")
    parser.add_argument("--version", action="version", version=f"rxcohere {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    chat = commands.add_parser(
        "chat",
        usage="%(prog)s [-h] [--model MODEL] [--json] prompt [--documents FILE [FILE ...]]",
        help="print an answer as it comes, then its citations and usage",
        description="Prints an answer as it comes, then its citations and usage. "
        "Without CO_API_KEY a recorded answer is replayed by a server on this machine.",
    )
    chat.add_argument("prompt", help="what to ask")
    chat.add_argument("--model", default=_DEFAULT_MODEL, help="default: %(default)s")
    chat.add_argument("--json", action="store_true", help="print the events, one JSON a line")
    chat.add_argument(
        "--documents",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="ground it in these; after the prompt, or all that follows would be files",
    )
    chat.set_defaults(run=_chat)

    serve = commands.add_parser(
        "serve",
        help="replay recorded answers to anybody who asks",
        description="Answers /v2/chat with transcripts, chosen by what the request asks for.",
    )
    serve.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    serve.add_argument("--port", type=int, default=8080, help="default: %(default)s")
    serve.add_argument(
        "--transcript",
        metavar="NAME|FILE",
        help=f"replay this one: a file, or one of {', '.join(transcript_names())}",
    )
    serve.add_argument(
        "--pace", type=float, default=_PACE, metavar="SECONDS", help="between frames: %(default)s"
    )
    serve.set_defaults(run=_serve)
    return parser


async def _chat(options: argparse.Namespace) -> None:
    parameters: dict[str, Any] = {}
    if options.documents:
        parameters["documents"] = [_document(path) for path in options.documents]
    async with _client() as co:
        stream = co.chat_stream(
            model=options.model,
            messages=[{"role": "user", "content": options.prompt}],
            **parameters,
        )
        if options.json:
            async for event in stream:
                print(event.model_dump_json(exclude_unset=True), flush=True)
            return
        cited = LiveCitedTextFold()
        usage: Usage | None = None
        finish_reason: str | None = None
        try:
            async for event in stream:
                cited.push(event)
                match event:
                    case ContentDelta() | ToolPlanDelta():
                        print(event.text, end="", flush=True)
                    case ToolCallStart(tool_call=call) if call is not None:
                        print(f"\n[calls {call.name}]", flush=True)
                    case MessageEnd():
                        usage, finish_reason = event.usage, event.finish_reason
                    case _:
                        pass
        finally:
            print()  # so that nothing continues the line, be it an error or the shell's prompt
        if finish_reason == "MAX_TOKENS":
            print("rxcohere: the answer was cut off: MAX_TOKENS", file=sys.stderr)
        _print_citations(cited.snapshot())
        _print_usage(usage)


@contextlib.asynccontextmanager
async def _client() -> AsyncGenerator[CohereClient, None]:
    if os.environ.get("CO_API_KEY"):
        async with CohereClient() as co:
            yield co
        return
    print(
        "CO_API_KEY is not set: your question is not sent; a server on this machine replays a "
        "recorded answer.",
        file=sys.stderr,
    )
    async with (
        ReplayServer("rag", pace=_PACE) as server,
        CohereClient("", base_url=server.url) as co,
    ):
        yield co


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RxCohereError(f"cannot read {path}: {error}") from error
    return {"id": path.name, "data": {"title": path.stem, "text": text}}


def _print_citations(cited: CitedText) -> None:
    if not cited.citations:
        return
    numbers = {source.id: number for number, source in enumerate(cited.sources, 1)}
    print("\nCitations")
    for citation in cited.citations:
        marks = "".join(f" [{numbers[source.id]}]" for source in citation.sources or ())
        print(f"  {citation.text!r}{marks}")
    print("\nSources")
    for source in cited.sources:
        print(f"  [{numbers[source.id]}] {_title(source)}")


def _title(source: Source) -> str:
    body = source.document or source.tool_output or {}
    title = body.get("title") or body.get("name")
    return f"{title} ({source.id})" if title else str(source.id)


def _print_usage(usage: Usage | None) -> None:
    if usage is None or usage.billed_units is None:
        return
    billed = usage.billed_units.model_dump(exclude_none=True)
    print("\nBilled: " + ", ".join(f"{n:g} {name.replace('_', ' ')}" for name, n in billed.items()))


async def _serve(options: argparse.Namespace) -> None:
    async with ReplayServer(
        options.transcript, host=options.host, port=options.port, pace=options.pace
    ) as server:
        print(
            f"replaying at {server.url}; for programs: CO_API_KEY=any CO_API_URL={server.url}",
            file=sys.stderr,
        )
        await asyncio.Event().wait()  # for ever
