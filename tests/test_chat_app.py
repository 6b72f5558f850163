"""The example chat app, over plain HTTP and in a browser."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import aiohttp
import pytest
import pytest_asyncio
from conftest import open_sockets
from redis_server import RedisProcess
from samples import (
    citation,
    citation_start,
    content_start,
    document,
    message_end,
    message_start,
    text_delta,
    thinking_delta,
    tool_call_end,
    tool_call_start,
    tool_plan_delta,
)
from subscribers import ANSWER, HANG, was_aborted

from rxcohere import ChatEvent, CitationStart, ContentDelta
from rxcohere.events import parse_event
from rxcohere.sse import SSEDecoder
from rxcohere.testing import (
    Cut,
    DelayHeaders,
    Fault,
    FaultProxy,
    ReplayServer,
    Stall,
    Status,
    Transcript,
    Wire,
)

try:
    from playwright.async_api import (
        Browser,
        BrowserContext,
        Locator,
        Page,
        async_playwright,
        expect,
    )
except ImportError:
    MISSING = "Playwright is not installed"
else:
    MISSING = ""
    expect.set_options(timeout=6 * HANG * 1000)

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that on which the browser is driven

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LONG = 6 * HANG
CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), ""
)
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DOCUMENTS = "Where do the tallest penguins live?"
ARGUMENT = b'"arguments":"city"'
"""In the middle of a tool call."""
THIRD_CITATION = b'"start":85'
"""In the 32nd frame of what is answered about documents; two marks can be there before."""
HELD = 31
"""The frames before."""


def said(events: Iterable[ChatEvent], part: str = "text") -> str:
    deltas = [each for each in events if isinstance(each, ContentDelta)]
    return "".join(getattr(delta, part) or "" for delta in deltas)


def text_of(name: str, part: str = "text") -> str:
    return said(Transcript.load(name).events, part)


def cited_in(name: str) -> list[str]:
    events = Transcript.load(name).events
    return [each.citation.text for each in events if isinstance(each, CitationStart)]


# The app, and what is around it ------------------------------------------------------------------


def held_from(text: bytes) -> Wire:
    """Holds back what comes behind a text in the answers, until the proxy is healed."""
    return Wire(counted_from=text, cut_after=0, ending="stall") if text else Wire()


def pull(network: FaultProxy) -> None:
    """Ends all connections, and takes none until it is healed."""
    network.refuse()
    network.reset()


@dataclass
class App:
    """The example in a process of its own."""

    process: asyncio.subprocess.Process
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serving(self) -> None:
        """Waits until it does."""
        async with asyncio.timeout(LONG):
            while True:
                assert self.process.returncode is None, await self.process.communicate()
                try:
                    await get(f"{self.url}/")
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.02)  # until the next attempt
                else:
                    return

    async def ask(self, kind: str = "documents", **more: str) -> dict[str, Any]:
        """Asks as the page does, over a connection of its own."""
        asked = {"kind": kind, "question": DOCUMENTS, **more}
        answer = await get(f"{self.url}/ask", "POST", json=asked)
        assert answer.status == 200, answer.body
        told: dict[str, Any] = json.loads(answer.body)
        return told

    async def stop(self) -> None:
        """Ends it as an operator does, and looks whether it had anything to complain about."""
        self.process.terminate()
        async with asyncio.timeout(LONG):
            _, errors = await self.process.communicate()
        assert (self.process.returncode, errors.decode()) == (0, "")


@dataclass
class Answer:
    """What a client without a browser gets."""

    status: int
    kind: str
    body: bytes


async def get(url: str, method: str = "GET", **options: Any) -> Answer:
    async with asyncio.timeout(LONG), aiohttp.ClientSession() as session:
        async with session.request(method, url, **options) as response:
            return Answer(response.status, response.content_type, await response.read())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running(upstream: str = "", **environment: str) -> AsyncIterator[App]:
    """The app; it asks the server of that address, or else its own replay server."""
    settings = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CO_API", "REDIS_URL"))
    }
    if upstream:
        settings.update(CO_API_KEY="a-key", CO_API_URL=upstream)
    port = free_port()
    settings.update(environment, PORT=str(port), PYTHONWARNINGS="error")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "19_chat_app.py"),
        cwd=EXAMPLES,
        env=settings,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    app = App(process, port)
    try:
        await app.serving()
        yield app
        if process.returncode is None:
            await app.stop()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
            await process.communicate()


@dataclass
class Chat:
    """The app, what it asks, and the browser profiles of those who read it."""

    server: ReplayServer
    upstream: FaultProxy
    app: App
    browser: Browser
    complaints: list[str] = field(default_factory=list)

    async def tab(self, url: str = "", beside: Page | None = None) -> Page:
        """A page, beside another one or in a profile of its own, at that address or the app's."""
        context = beside.context if beside is not None else await self._profile()
        page = await context.new_page()
        await page.goto(url or self.app.url)
        return page

    async def ask(self, kind: str = "documents") -> tuple[Page, Locator]:
        """A new page on which a sample question has been asked, and its answer there."""
        page = await self.tab()
        await ask_on(page, kind)
        return page, shown(page)

    async def _profile(self) -> BrowserContext:
        context = await self.browser.new_context()

        def hear(message: Any) -> None:
            lost = message.text.startswith("Failed to load resource: ")
            if message.type in ("error", "warning") and not (
                lost and "/streams/" in message.location["url"]
            ):
                self.complaints.append(message.text)

        async def dismiss(dialog: Any) -> None:
            self.complaints.append(dialog.message)
            await dialog.dismiss()

        context.on("console", hear)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("dialog", dismiss)
        return context


@asynccontextmanager
async def chatting(
    browser: Browser,
    transcript: Any = None,
    *faults: Fault,
    held: bytes = b"",
    **environment: str,
) -> AsyncIterator[Chat]:
    """A chat in the browser, whose answers are held back from a text on.

    At the end nothing may have been complained about: by the app, or by a page, other than that it
    could not reach a stream.
    """
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(ReplayServer(transcript, pace=0.01, faults=faults))
        upstream = await stack.enter_async_context(FaultProxy(server.url, held_from(held)))
        app = await stack.enter_async_context(running(upstream.url, **environment))
        chat = Chat(server, upstream, app, browser)
        try:
            yield chat
        finally:
            for context in browser.contexts:
                await context.close()
        assert chat.complaints == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all; skips where there is none."""
    if MISSING or not CHROMIUM:
        pytest.skip(MISSING or "Chromium is not installed")
    async with async_playwright() as playwright:
        is_root = getattr(os, "geteuid", lambda: 1)() == 0
        launched = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, chromium_sandbox=not is_root
        )
        yield launched
        await launched.close()


@pytest_asyncio.fixture(loop_scope="module")
async def nothing_is_left_on_the_loop() -> AsyncIterator[None]:
    """As everywhere, but of the loop of this module, which has a browser's tasks too."""
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    yield
    for _ in range(200):  # what was cancelled or closed needs a few turns to end
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
        if not left and open_sockets() <= sockets:
            return
    pytest.fail(f"tasks are left: {left}; sockets: {open_sockets()}, before {sockets}")


# What a page shows -------------------------------------------------------------------------------


def shown(page: Page, number: int = 0) -> Locator:
    """An answer on the page."""
    return page.locator("article").nth(number)


async def ask_on(page: Page, kind: str) -> None:
    await page.get_by_role("button", name=kind, exact=True).click()
    await page.get_by_role("button", name="Ask").click()


async def has_come_to(answer: Locator, status: str, detail: str = "") -> None:
    """Waits until the answer shows that status, with that in its words."""
    await expect(answer.locator(".status")).to_have_attribute("data-status", status)
    await expect(answer.locator(".status")).to_contain_text(detail)


async def text_in(answer: Locator) -> str:
    return await answer.locator(".text").text_content() or ""


async def has_marks(answer: Locator, texts: list[str]) -> None:
    """Waits until just these are marked."""
    await expect(answer.locator("mark")).to_have_text(texts)
    assert await answer.locator("mark").all_text_contents() == texts  # white space and all


async def is_complete(answer: Locator, name: str = "rag") -> None:
    """Waits for the end; then all of that transcript is there, once."""
    await has_come_to(answer, "complete")
    assert await text_in(answer) == text_of(name)
    await has_marks(answer, cited_in(name))


async def has_come_so_far(answer: Locator, events: int) -> None:
    """Waits until so many events are there, but for those that are no text; none may follow."""
    text = said(Transcript.load("rag").events[:events])
    await expect(answer.locator(".text")).to_have_text(text)
    assert await text_in(answer) == text
    await has_marks(answer, cited_in("rag")[:2])


async def is_held(answer: Locator) -> None:
    """Waits for all that comes before the third citation."""
    await has_come_so_far(answer, HELD)
    await has_come_to(answer, "streaming")


# Over plain HTTP ---------------------------------------------------------------------------------


async def test_the_page_and_its_parts_are_served() -> None:
    """All that the page refers to is there, as what it is."""
    async with running() as app:
        page = await get(f"{app.url}/")
        assert (page.status, page.kind) == (200, "text/html")
        parts = re.findall(r'(?:src|href)="(/[^"]+)"', page.body.decode())
        assert len(parts) == 2
        for part in [*parts, "/static/answer.js"]:
            answer = await get(app.url + part)
            kind = "css" if part.endswith(".css") else "javascript"
            assert answer.status == 200
            assert answer.kind.endswith(f"/{kind}")


async def test_without_a_key_it_answers_what_was_recorded() -> None:
    """A question gives a stream, which can be read again and again."""
    async with running() as app:
        path = f"{app.url}/streams/{(await app.ask('plain'))['stream_id']}"
        for answer in [await get(path), await get(path)]:
            *frames, last = SSEDecoder().feed(answer.body)
            assert last.data == b"[DONE]"
            assert said(parse_event(frame.data) for frame in frames) == ANSWER


NO_QUESTIONS = [
    b"",
    b"\xff",
    b"[" * 100_000,
    b'["documents"]',
    b'{"kind":"documents"}',
    b'{"kind":"documents","question":" "}',
    b'{"kind":"documents","question":5}',
    b'{"kind":"nonsense","question":"Where?"}',
    b'{"kind":["documents"],"question":"Where?"}',
    b'{"kind":"tools","question":"Where?","after":"no/id"}',
    b'{"kind":"tools","question":"Where?","after":{"id":5}}',
    b'{"kind":"tools","question":"Where?","after":"unheard-of"}',
]


async def test_a_question_that_is_none_is_refused() -> None:
    """With 400, and nobody is asked; with 415, what another site may send unasked."""
    json_body = {"Content-Type": "application/json"}
    async with ReplayServer() as server, running(server.url) as app:
        for body in NO_QUESTIONS:
            answer = await get(f"{app.url}/ask", "POST", data=body, headers=json_body)
            assert answer.status == 400, body[:100]
        answer = await get(f"{app.url}/ask", "POST", data=b'{"kind":"plain","question":"?"}')
        assert answer.status == 415
        assert server.requests == []


async def test_it_goes_on_only_after_an_answer_that_has_ended_well() -> None:
    """With 400, and nothing more is asked."""
    async with ReplayServer(faults=[Cut(after_events=9)]) as server, running(server.url) as app:
        stream_id = (await app.ask("tools"))["stream_id"]
        asked = {"kind": "tools", "question": "Where?", "after": stream_id}
        answer = await get(f"{app.url}/ask", "POST", json=asked)
        assert (answer.status, len(server.requests)) == (400, 1)


async def test_sigterm_ends_it_and_its_readers_hear_of_it() -> None:
    """In the middle of an answer: its request is given up, the status is 0 and stderr is empty."""
    async with ReplayServer(faults=[Stall(after_events=20)]) as server:
        async with running(server.url) as app:
            stream_id = (await app.ask())["stream_id"]
            async with reading(f"{app.url}/streams/{stream_id}") as body:
                await app.stop()
                *_, last = SSEDecoder().feed(await body)
        assert last.event == "error"
        assert json.loads(last.data)["error"] == "StreamCancelledError"
        await server.until(was_aborted, LONG)


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[asyncio.Task[bytes]]:
    """What will have come of an answer when it breaks off; it has begun already."""
    begun = asyncio.Event()

    async def read() -> bytes:
        body = b""
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            with suppress(aiohttp.ClientPayloadError):
                async for chunk in response.content.iter_any():
                    body += chunk
                    begun.set()
        return body

    async with asyncio.timeout(LONG), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(read())
        await begun.wait()
        yield task


# In the browser ----------------------------------------------------------------------------------


@pytest.mark.browser
async def test_text_and_citations_appear_while_it_streams(browser: Browser) -> None:
    """Marks are there before the end, and sources as they are cited."""
    async with chatting(browser, held=THIRD_CITATION) as chat:
        page, answer = await chat.ask()
        await is_held(answer)
        await expect(answer.locator("ol.sources li")).to_have_text(["Tall penguins"])
        await expect(answer.locator("h2")).to_have_text(DOCUMENTS)
        chat.upstream.heal()
        await is_complete(answer)
        sources = ["Tall penguins", "Penguin habitats", "Counting colonies"]
        await expect(answer.locator("ol.sources li")).to_have_text(sources)
        await expect(answer.locator(".facts")).to_contain_text("COMPLETE")
        await expect(page.get_by_role("button", name="Stop")).to_be_disabled()
        assert len(chat.server.requests) == 1


@pytest.mark.browser
async def test_pointing_at_a_mark_shows_its_sources(browser: Browser) -> None:
    """Title and snippet of each, for as long as one points at it."""
    async with chatting(browser) as chat:
        page, answer = await chat.ask()
        await is_complete(answer)
        sources = page.locator("#sources")
        await expect(sources).to_be_hidden()
        await answer.locator("mark").nth(0).hover()
        await expect(sources).to_be_visible()
        await expect(sources.locator("h4")).to_have_text(["Tall penguins"])
        await expect(sources.locator("p")).to_have_text([re.compile("growing up to 122 cm")])
        await answer.locator("mark").nth(2).hover()
        await expect(sources.locator("h4")).to_have_text(["Tall penguins", "Penguin habitats"])
        await answer.locator("h2").hover()
        await expect(sources).to_be_hidden()


@pytest.mark.browser
async def test_keyboard_focus_shows_sources_and_stays_while_text_comes(browser: Browser) -> None:
    """A mark can be reached by Tab, and what comes later does not take it away."""
    async with chatting(browser, held=THIRD_CITATION) as chat:
        page, answer = await chat.ask()
        await is_held(answer)
        await page.reload()
        await is_held(answer)
        await page.keyboard.press("Tab")
        await page.keyboard.press("Tab")
        sources = page.locator("#sources")
        await expect(answer.locator("mark").nth(1)).to_be_focused()
        await expect(sources.locator("h4")).to_have_text(["Tall penguins"])
        chat.upstream.heal()
        await is_complete(answer)
        await expect(answer.locator("mark").nth(1)).to_be_focused()
        await expect(sources).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(sources.locator("h4")).to_have_text(["Tall penguins", "Penguin habitats"])


@pytest.mark.browser
async def test_a_reload_goes_on_with_the_same_answer(browser: Browser) -> None:
    """In mid-answer and after it; the model is asked once."""
    async with chatting(browser, held=THIRD_CITATION) as chat:
        page, answer = await chat.ask()
        await is_held(answer)
        await page.reload()
        await is_held(answer)
        chat.upstream.heal()
        await is_complete(answer)
        await page.reload()
        await is_complete(answer)
        assert len(chat.server.requests) == 1


@pytest.mark.browser
async def test_tabs_that_join_late_show_the_same(browser: Browser) -> None:
    """Beside the first one, and in a profile of another reader."""
    async with chatting(browser, held=THIRD_CITATION) as chat:
        page, answer = await chat.ask()
        await is_held(answer)
        beside, elsewhere = await chat.tab(page.url, beside=page), await chat.tab(page.url)
        for tab in (beside, elsewhere):
            await is_held(shown(tab))
        chat.upstream.heal()
        for tab in (page, beside, elsewhere):
            await is_complete(shown(tab))
        assert len(chat.server.requests) == 1


@pytest.mark.browser
async def test_stop_gives_the_request_up_for_all_tabs(browser: Browser) -> None:
    """The model's server sees it go; no tab shows the answer as complete."""
    async with chatting(browser, None, Stall(after_events=24)) as chat:
        page, answer = await chat.ask()
        await has_come_so_far(answer, 24)
        other = await chat.tab(page.url)
        await has_come_so_far(shown(other), 24)
        await other.get_by_role("button", name="Stop").click()
        await chat.server.until(was_aborted, LONG)
        for tab in (page, other):
            await has_come_to(shown(tab), "stopped", "stopped by the reader")
            await expect(tab.get_by_role("button", name="Stop")).to_be_disabled()
        await page.reload()
        await has_come_to(answer, "stopped", "stopped by the reader")


@pytest.mark.browser
async def test_an_answer_can_be_stopped_before_it_begins(browser: Browser) -> None:
    """A model may think for long."""
    async with chatting(browser, None, DelayHeaders()) as chat:
        page, answer = await chat.ask()
        await has_come_to(answer, "waiting")
        await page.get_by_role("button", name="Stop").click()
        await has_come_to(answer, "stopped", "stopped by the reader")
        await chat.server.until(was_aborted, LONG)


@pytest.mark.browser
async def test_a_stream_that_breaks_off_shows_as_cut(browser: Browser) -> None:
    """With what came and the error, also after a reload."""
    async with chatting(browser, None, Cut(after_events=24)) as chat:
        page, answer = await chat.ask()
        for _ in range(2):
            await has_come_to(answer, "cut", "StreamTruncatedError")
            await has_come_so_far(answer, 24)
            await page.reload()


@pytest.mark.browser
async def test_a_refused_request_shows_why(browser: Browser) -> None:
    """In the words of the API."""
    refused = Status(401, {"message": "invalid api token"})
    async with chatting(browser, None, refused) as chat:
        _, answer = await chat.ask()
        await has_come_to(answer, "cut", "invalid api token")


@pytest.mark.browser
async def test_an_answer_that_is_not_there_shows_as_cut(browser: Browser) -> None:
    """As after a restart without Redis; and an address of nobody's is forgotten."""
    async with chatting(browser) as chat:
        page = await chat.tab(address(chat.app, "gone"))
        await has_come_to(shown(page), "cut", "gone")
        other = await chat.tab(f"{chat.app.url}/#nonsense")
        await ask_on(other, "plain")
        await is_complete(shown(other), "text")


def address(app: App, *stream_ids: str) -> str:
    """That of a conversation."""
    told = [{"id": each, "question": DOCUMENTS, "kind": "documents"} for each in stream_ids]
    return f"{app.url}/#{quote(json.dumps(told))}"


@pytest.mark.browser
async def test_tools_are_called_run_and_answered(browser: Browser) -> None:
    """A call forms argument by argument; its results bring a cited answer; both can be reloaded."""
    async with chatting(browser, held=ARGUMENT) as chat:
        page, answer = await chat.ask("tools")
        call = answer.locator(".call")
        await expect(call.locator("h3")).to_have_text("get_weather …")
        await expect(call.locator("pre")).to_have_text('{ "')
        chat.upstream.heal()
        await expect(call.locator("h3")).to_have_text("get_weather")
        go_on = page.get_by_role("button", name="Run the tools and answer")
        await go_on.click()
        second = shown(page, 1)
        for _ in range(2):
            await is_complete(second, "tool-answer")
            await has_come_to(answer, "complete")
            assert json.loads(await call.locator("pre").text_content() or "")["city"] == "Lisbon"
            await expect(answer.locator(".plan")).to_contain_text("weather in Lisbon.")
            await expect(answer.locator(".facts")).to_contain_text("TOOL_CALL")
            await expect(go_on).to_be_hidden()
            await page.reload()
        asked = chat.server.requests[1].json["messages"]
        assert [message["role"] for message in asked] == ["user", "assistant", "tool"]
        assert asked[1]["tool_calls"][0]["id"] == asked[2]["tool_call_id"]
        assert len(chat.server.requests) == 2


@pytest.mark.browser
async def test_thinking_is_shown(browser: Browser) -> None:
    """Apart from the answer, as it comes."""
    async with chatting(browser, held=b'"type":"content-end"') as chat:
        _, answer = await chat.ask("thinking")
        thinking = answer.locator(".thinking p")
        await expect(thinking).to_be_visible()
        await expect(thinking).to_contain_text(text_of("reasoning", "thinking")[-20:].strip())
        assert await text_in(answer) == ""
        chat.upstream.heal()
        await is_complete(answer, "reasoning")
        assert await thinking.text_content() == text_of("reasoning", "thinking")


@pytest.mark.browser
@pytest.mark.parametrize("name", ["rag", "rag-accurate", "tool-answer", "reasoning-rag"])
async def test_marks_are_in_their_places(browser: Browser, name: str) -> None:
    """Offsets count code points: an emoji, two units of a string in the browser, shifts nothing."""
    async with chatting(browser, name) as chat:
        _, answer = await chat.ask()
        await is_complete(answer, name)


IMAGE = '<img src="/hacked" onerror="alert(1)">'
SCRIPT = "<script>alert(2)</script>"
MARKUP = [
    message_start(),
    tool_plan_delta(IMAGE),
    tool_call_start(0, IMAGE, SCRIPT),
    tool_call_end(0),
    content_start(0, "thinking"),
    thinking_delta(IMAGE),
    content_start(1),
    text_delta(SCRIPT, 1),
    text_delta(IMAGE, 1),
    citation_start(
        citation(
            len(SCRIPT),
            len(SCRIPT + IMAGE),
            IMAGE,
            document(IMAGE, title=IMAGE, snippet=SCRIPT),
            content_index=1,
        )
    ),
    message_end(),
]


@pytest.mark.browser
async def test_markup_in_an_answer_is_text(browser: Browser) -> None:
    """Wherever the model, or a document, puts it."""
    async with chatting(browser, Transcript.of(MARKUP)) as chat:
        page = await chat.tab()
        fetched: list[str] = []
        page.on("request", lambda request: fetched.append(request.url))
        await page.get_by_role("textbox", name="Question").fill(IMAGE)
        await page.get_by_role("button", name="Ask").click()
        answer = shown(page)
        await has_come_to(answer, "complete")
        assert await text_in(answer) == SCRIPT + IMAGE
        await has_marks(answer, [IMAGE])
        for place in ("h2", ".thinking p", ".plan", ".call h3", "ol.sources li"):
            await expect(answer.locator(place)).to_have_text(IMAGE)
        await expect(answer.locator(".call pre")).to_have_text(SCRIPT)
        await answer.locator("mark").hover()
        await expect(page.locator("#sources h4")).to_have_text(IMAGE)
        await expect(page.locator("#sources p")).to_have_text(SCRIPT)
        await expect(page.locator("body img, body script")).to_have_count(0)
        assert not [url for url in fetched if "hacked" in url]


@pytest.mark.browser
async def test_a_lost_connection_is_made_up_for(browser: Browser) -> None:
    """The answer goes on without its reader, who then gets the rest, and nothing twice."""
    async with chatting(browser, held=THIRD_CITATION) as chat, FaultProxy(chat.app.url) as network:
        page = await chat.tab(network.url)
        await ask_on(page, "documents")
        answer = shown(page)
        await is_held(answer)
        pull(network)
        await has_come_to(answer, "reconnecting")
        chat.upstream.heal()
        await chat.server.until(lambda server: server.completed == 1, LONG)
        await has_come_so_far(answer, HELD)
        network.heal()
        await is_complete(answer)
        assert len(chat.server.requests) == 1


@pytest.mark.browser
async def test_an_answer_that_is_stopped_meanwhile_shows_as_stopped(browser: Browser) -> None:
    """The reader comes back to nothing but the end."""
    stalled = Stall(after_events=24)
    async with chatting(browser, None, stalled) as chat, FaultProxy(chat.app.url) as network:
        page = await chat.tab(network.url)
        await ask_on(page, "documents")
        answer = shown(page)
        await has_come_so_far(answer, 24)
        pull(network)
        await has_come_to(answer, "reconnecting")
        (told,) = json.loads(unquote(urlsplit(page.url).fragment))
        await get(f"{chat.app.url}/streams/{told['id']}/abort", "POST", json={"reason": "enough"})
        await chat.server.until(was_aborted, LONG)
        network.heal()
        await has_come_to(answer, "stopped", "enough")


@pytest.mark.browser
async def test_a_connection_lost_at_the_very_end_leaves_the_answer_complete(
    browser: Browser,
) -> None:
    """All events have come, but not that they are all: the browser comes back for nothing."""
    held = held_from(b"data: [DONE]")
    async with chatting(browser) as chat, FaultProxy(chat.app.url, held) as network:
        page = await chat.tab(network.url)
        await ask_on(page, "documents")
        answer = shown(page)
        await expect(answer.locator(".facts")).to_contain_text("COMPLETE")
        await has_come_to(answer, "streaming")
        pull(network)
        network.heal()
        await is_complete(answer)


@pytest.mark.browser
async def test_a_worker_that_dies_takes_only_its_own_answers_along(browser: Browser) -> None:
    """What it published shows as cut when its lease is over; the other worker's answer goes on."""
    async with (
        RedisProcess() as redis,
        chatting(browser, held=THIRD_CITATION, REDIS_URL=redis.url) as chat,
    ):
        asked: dict[int, str] = {}
        async with asyncio.timeout(LONG):
            while len(asked) < 2:  # which of the two gets a connection is up to the system
                told = await chat.app.ask()
                asked[told["worker"]] = told["stream_id"]
        (killed, lost), (_, kept) = asked.items()
        page = await chat.tab(address(chat.app, lost, kept))
        await is_held(shown(page, 0))
        await is_held(shown(page, 1))
        os.kill(killed, signal.SIGKILL)
        await has_come_to(shown(page, 0), "cut", "StreamAbandonedError")
        await has_come_so_far(shown(page, 0), HELD)
        chat.upstream.heal()
        await is_complete(shown(page, 1))
