"""Debian's Chromium, driven by Playwright and signed up for Label Studio."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.label_studio import PASSWORD, USER

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def find() -> str | None:
    """The browser's program, or None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class LoggedIn:
    """A running browser, the cookies of the annotator, and the annotator's legacy token."""

    browser: Browser
    state: Any
    token: str

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A page with fresh local settings, so that no test inherits another's tools."""
        context = self.browser.new_context(viewport={"width": 1500, "height": 1500}, storage_state=self.state)
        try:
            yield context.new_page()
        finally:
            context.close()


@contextmanager
def run_browser(label_studio_url: str) -> Iterator[LoggedIn]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        try:
            yield _sign_up(browser, label_studio_url)
        finally:
            browser.close()


def _sign_up(browser: Browser, url: str) -> LoggedIn:
    """As README says: at the address itself, which shows the page to log in to who has no account."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url, timeout=60_000)
    page.get_by_role("link", name="Sign up").click()
    page.fill("input[name=email]", USER)
    page.fill("input[name=password]", PASSWORD)
    page.get_by_role("button", name="Create Account").click()
    page.wait_for_url(lambda address: "/user/" not in address, timeout=60_000)
    token = context.request.get(f"{url}/api/current-user/token").json()["token"]
    state = context.storage_state()
    context.close()
    return LoggedIn(browser, state, token)
