"""Debian's Chromium, driven by Playwright and signed up for Label Studio."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright

from tests.e2e.label_studio import PASSWORD, USER
from tests.waiting import HANG_S

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

VIEW: ViewportSize = {"width": 1500, "height": 1500}

SHOW = "([where, text]) => document.querySelectorAll(where).forEach(one => { one.value = text; })"
"""What the pictures show is what the docs say, not where this test's servers happen to be."""


def find() -> str | None:
    """The browser's program, or None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class LoggedIn:
    """A running browser in which the annotator is logged in, and the annotator's personal token.

    All pages are of one context, which keeps what Label Studio's pages load and what the browser compiled of it.
    """

    context: BrowserContext
    url: str
    cookies: Any
    token: str

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A page with fresh local settings, so that no test inherits another's tools."""
        page = self.context.new_page()
        try:
            clear = {"origin": self.url, "storageTypes": "local_storage,indexeddb,websql,cache_storage"}
            self.context.new_cdp_session(page).send("Storage.clearDataForOrigin", clear)
            self.context.clear_cookies()
            self.context.add_cookies(self.cookies)
            yield page
        finally:
            page.close()


@contextmanager
def run_browser(label_studio_url: str, shots: Path) -> Iterator[LoggedIn]:
    """Does what README's first step says: sign up, make a token; the docs' picture of it goes to `shots`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        try:
            yield _sign_up(browser, label_studio_url, shots)
        finally:
            browser.close()


def _sign_up(browser: Browser, url: str, shots: Path) -> LoggedIn:
    context = browser.new_context(viewport=VIEW)
    context.set_default_timeout(HANG_S * 1000)
    expect.set_options(timeout=HANG_S * 1000)  # five seconds otherwise
    page = context.new_page()
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto(url)
    page.get_by_role("link", name="Sign up").click()
    page.fill("input[name=email]", USER)
    page.fill("input[name=password]", PASSWORD)
    page.get_by_role("button", name="Create Account").click()
    page.wait_for_url(lambda address: "/user/" not in address)
    token = _make_token(page, shots)
    page.close()
    return LoggedIn(context, url, context.cookies(), token)


def _make_token(page: Page, shots: Path) -> str:
    """Account & Settings (the initials, top right) → Personal Access Token → Create New Token → Copy."""
    page.locator("[class*=userpic]").last.click()
    page.get_by_text("Account & Settings", exact=True).click()
    page.get_by_text("Personal Access Token", exact=True).click()
    page.get_by_role("button", name="Create New Token").click()
    field = page.locator("input").last
    expect(field).to_have_value(re.compile("^eyJ"))
    token = field.input_value()
    page.evaluate(SHOW, ["input", f"{token[:30]}…"])
    shots.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=shots / "token.png")
    return token
