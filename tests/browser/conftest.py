"""A real browser, headless: the system's Chromium, steered by playwright from its wheel. Skipped where none is.

`open_page` opens the control room and returns what steers it, a `Room`. Whatever a test does there, the browser must
not have complained, asked another host, or asked for figures twice at a time: looked at when a test is over.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from devcluster.cluster import Cluster
from tests.cluster_fixtures import Service, fresh_databases, serving

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC_BROWSER = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
# The browser's own line for an answer of 400 or more, and for none: tests that ask for such answers expect it.
REFUSED = "Failed to load resource"
UNTIL_SECONDS = 60.0

OpenPage = Callable[..., "Room"]


def find_browser() -> str | None:
    found = (path for name in BROWSERS if (path := shutil.which(name)))
    return next(found, str(MAC_BROWSER) if MAC_BROWSER.exists() else None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each file of tests: while playwright runs, its process can run no other event loop."""
    path = find_browser()
    if path is None:
        pytest.skip(f"no browser found ({', '.join(BROWSERS)}): the page is not looked at")
    # Chromium's sandbox refuses root; a container's /dev/shm is small.
    arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="session")
def service(cluster: Cluster) -> Iterator[Service]:
    """One for all files of this folder. Who changes a flag changes it back."""
    with fresh_databases(cluster) as databases, serving(databases.settings) as running:
        yield running


@dataclass
class Room:
    """The open page, and what went wrong in its browser."""

    page: Page
    base_url: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    polls_at_once: int = 0
    expects_refusals: bool = False

    @property
    def polls(self) -> int:
        """How many answers of `/live` the page has shown: its own clock, which a busy machine slows down with it."""
        return int(self.page.evaluate("document.documentElement.dataset.polls ?? 0"))

    @property
    def headline(self) -> str:
        return self.page.inner_text("#headline")

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until it holds, while the page goes on. playwright's own way evaluates text: forbidden there."""
        deadline = time.monotonic() + UNTIL_SECONDS
        while not holds():
            assert time.monotonic() < deadline, f"never: {what}; the headline is {self.headline!r}"
            self.page.wait_for_timeout(20)

    def sign_in(self, token: str) -> None:
        self.page.fill("#token", token)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#sign-out:visible")

    def check(self, token: str) -> None:
        """What holds for every page, whatever it was used for."""
        host = urlsplit(self.base_url).netloc
        assert [
            url for url in self.asked if urlsplit(url).netloc != host and not url.startswith("data:")
        ] == []
        assert [url for url in self.asked if token in url] == []
        assert self.polls_at_once <= 1
        expected = REFUSED if self.expects_refusals else None
        assert [line for line in self.complaints if expected is None or not line.startswith(expected)] == []


def watch(page: Page, base_url: str) -> Room:
    room = Room(page, base_url)
    polls: set[Request] = set()

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            room.complaints.append(message.text)

    def sent(request: Request) -> None:
        room.asked.append(request.url)
        if urlsplit(request.url).path == "/live":
            polls.add(request)
            room.polls_at_once = max(room.polls_at_once, len(polls))

    def over(request: Request) -> None:
        polls.discard(request)

    page.on("console", listen)
    page.on("pageerror", lambda error: room.complaints.append(str(error)))
    page.on("request", sent)
    page.on("requestfinished", over)
    page.on("requestfailed", over)
    return room


@pytest.fixture
def open_page(browser: Browser, service: Service) -> Iterator[OpenPage]:
    """`open_page(width=1440, scheme="light")`: at `/`, once it shows the first figures."""
    rooms: list[Room] = []

    def open_one(*, width: int = 1440, scheme: str = "light") -> Room:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        room = watch(context.new_page(), service.base_url)
        rooms.append(room)
        room.page.goto(service.base_url + "/")
        room.until(lambda: room.polls > 0, "the page shows figures")
        return room

    yield open_one
    for room in rooms:
        room.page.context.close()
    for room in rooms:
        room.check(service.operator_token)
