"""Renews ``docs/chat.png``, the picture of the example chat app in the README.

Needs Playwright, Chromium and an emoji font (Debian: ``chromium fonts-noto-color-emoji``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

DOCS = Path(__file__).resolve().parent
APP = DOCS.parent / "examples" / "19_chat_app.py"
PORT = "8019"
WIDTH = 900
MOST_BYTES = 120_000


@contextmanager
def app() -> Iterator[str]:
    """The address of the app, which replays what was recorded."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "CO_A"}
    environment.pop("REDIS_URL", None)  # a key, or a Redis, of ours is not used
    command = [sys.executable, str(APP)]
    environment["PORT"] = PORT
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            while not serves(url):
                assert process.poll() is None, "it has ended"
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()


def serves(url: str) -> bool:
    """Whether somebody answers there."""
    try:
        urllib.request.urlopen(url).close()
    except OSError:
        return False
    return True


@contextmanager
def page() -> Iterator[Page]:
    """An empty page in light colours."""
    names = ("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, names)), None)
        )
        yield browser.new_page(
            viewport={"width": WIDTH, "height": 500},
            device_scale_factor=1,
            color_scheme="light",
        )
        browser.close()


def take(page: Page, url: str, picture: Path) -> None:
    """A picture of a cited answer, with the sources of one of its claims."""
    page.goto(url)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".status")).to_have_text("complete")
    page.get_by_role("textbox", name="Question").evaluate("input => input.blur()")
    page.locator("mark", has_text="on the sea ice in winter").hover()
    expect(page.locator("#sources h4")).to_have_text("Penguin habitats")
    page.screenshot(path=picture, animations="disabled")


if __name__ == "__main__":
    picture = DOCS / "chat.png"
    with app() as url, page() as browser_page:
        take(browser_page, url, picture)
    size = picture.stat().st_size
    print(f"{picture}: {size} bytes")
    sys.exit(size > MOST_BYTES)
