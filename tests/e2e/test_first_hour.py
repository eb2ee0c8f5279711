"""README's five steps word by word, in a real Label Studio and browser; the docs' pictures are made on the way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from demo.truth import Scene, Thing
from tests.conftest import PICTURES
from tests.e2e import browser as chromium
from tests.e2e.configs import Region, regions
from tests.e2e.label_studio import LabelStudio
from tests.e2e.labelling_page import LabellingPage
from tests.http.stack import SHIPPED, Stack, run_stack
from tiny.clicks import iou

LADYBIRD = "test-11-00012"
PHOTOGRAPH, BOX = "bee.jpg", (8, 23, 50, 77)
"""README's picture is of it, and the box that is drawn, in percentages."""


@dataclass
class Newcomer:
    """Somebody with README in hand."""

    page: Page
    label_studio: LabelStudio
    pictures: Path

    def shot(self, name: str) -> None:
        path = self.pictures / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)

    def make_project(self, files: list[Path]) -> int:
        """Create, some pictures under Data Import, Save."""
        self.page.goto(f"{self.label_studio.url}/projects")
        with self.page.expect_response(lambda answer: answer.request.method == "POST") as created:
            self.page.get_by_role("button", name="Create").first.click()
        assert created.value.ok
        self.page.get_by_text("Data Import", exact=True).click()
        with self.page.expect_response(re.compile("/import")) as imported:
            self.page.locator("input[type=file]").set_input_files(files)
        assert imported.value.ok
        self.page.get_by_role("button", name="Save").click()
        self.page.wait_for_url(re.compile(r"/projects/\d+/data"))
        return int(self.page.url.split("/projects/")[1].split("/")[0])

    def paste_config(self) -> None:
        """Settings → Labeling Interface → Code: paste, Save."""
        self.page.get_by_text("Settings", exact=True).click()
        self.page.get_by_role("link", name="Labeling Interface").click()
        self.page.get_by_text("Code", exact=True).click()
        self.page.locator(".CodeMirror").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(SHIPPED)
        expect(self.page.get_by_placeholder(re.compile("^Pallas: "))).to_be_visible()
        self.page.wait_for_load_state("networkidle")
        self.shot("connect/labeling-interface")
        with self.page.expect_response(lambda answer: answer.request.method == "PATCH") as saved:
            self.page.locator("button", has_text="Save").click()
        assert saved.value.ok

    def connect_model(self, url: str) -> None:
        """Settings → Model → Connect Model: a name, the address, Interactive preannotations, Validate and Save."""
        self.page.get_by_role("link", name="Model", exact=True).click()
        self.page.locator("button", has_text="Connect Model").click()
        self.page.fill("input[name=title]", "Pallas")
        self.page.locator("input[name=is_interactive]").set_checked(True, force=True)
        self.page.fill("input[name=url]", "http://localhost:9090")
        self.page.wait_for_timeout(500)  # the form fades in
        self.shot("connect/connect-model")
        self.page.fill("input[name=url]", url)
        self.page.locator("button", has_text="Validate and Save").click()
        expect(self.page.get_by_text("Connected", exact=True)).to_be_visible()


@pytest.fixture
def newcomer(label_studio: LabelStudio, browser: chromium.LoggedIn, artifacts: Path) -> Iterator[Newcomer]:
    with ExitStack() as ending:
        page = ending.enter_context(browser.page())
        page.set_viewport_size({"width": 1280, "height": 720})
        ending.callback(lambda: page.screenshot(path=artifacts / "first-hour-end.png"))
        yield Newcomer(page, label_studio, artifacts / "docs")


def test_the_five_steps(newcomer: Newcomer, scenes: dict[str, Scene], artifacts: Path, tmp_path: Path) -> None:
    """The first, an account and its token, is done where all of these tests begin: `browser.py`."""
    own = {"LABEL_STUDIO_URL": newcomer.label_studio.url, "LABEL_STUDIO_API_KEY": newcomer.label_studio.token}
    own |= {"PALLAS_SHOW_ERRORS": "true", "PALLAS_SHOW_SUGGESTIONS": "true"}
    with run_stack(tmp_path, "tiny", **own) as pallas:
        pallas.wait_for_worker(120)
        project = newcomer.make_project([PICTURES / PHOTOGRAPH, scenes[LADYBIRD].picture])
        newcomer.paste_config()
        newcomer.connect_model(pallas.url)
        first, second = sorted(task["id"] for task in newcomer.label_studio.tasks(project))
        newcomer.page.set_viewport_size({"width": 1400, "height": 840})
        page = LabellingPage(newcomer.page, newcomer.label_studio.url, artifacts)
        page.open(project, first)
        # both once, Label Studio keeps them
        page.auto_annotation()
        page.choose("Rectangle")
        suggested = box_tick_and_another_label(newcomer, page)
        page.submit()
        (region,) = regions(newcomer.label_studio.annotations(first)[0]["result"]).values()
        assert region.labels == ["object"] and region.texts == suggested.texts and region.texts[0]
        assert iou(region.masks[0], suggested.masks[0]) >= 0.9 and region.masks[0].any()
        page.open(project, second)
        page.choose_again("KeyPoint")
        click_and_not_this(newcomer, page, scenes[LADYBIRD])
        page.submit()
        assert len(regions(newcomer.label_studio.annotations(second)[0]["result"])) == 2
        assert "3 regions reviewed" in review(pallas)


def box_tick_and_another_label(newcomer: Newcomer, page: LabellingPage) -> Region:
    (suggested,) = regions(page.drag(*BOX).result).values()
    page.wait_for_suggestions()
    page.expect_message(*suggested.labels, *suggested.texts)
    page.accept()
    page.page.mouse.move(1, 1)
    page.page.wait_for_timeout(500)  # nothing says when the accepted mask is drawn
    newcomer.shot("picture")
    page.select(*Thing("", suggested.masks[0]).inside())
    page.press("1")
    page.press("Escape")
    return suggested


def click_and_not_this(newcomer: Newcomer, page: LabellingPage, scene: Scene) -> None:
    assert [prompt["is_positive"] for prompt in page.click(*scene.thing("ladybird").inside()).prompts] == [True]
    page.wait_for_suggestions()
    page.page.mouse.move(1, 1)
    newcomer.shot("connect/suggestion")
    assert [prompt["is_positive"] for prompt in page.click(3, 50, "Alt").prompts] == [True, False]
    page.wait_for_suggestions()
    page.accept()
    page.page.mouse.move(1, 1)
    page.page.wait_for_timeout(500)
    newcomer.shot("connect/accepted")
    page.choose_again("Rectangle")
    page.drag(*scene.thing("scissors").box())
    page.wait_for_suggestions()
    page.accept()


def review(pallas: Stack) -> str:
    environment = os.environ | {"PALLAS_STATE_DIR": str(pallas.settings.state_dir), "COLUMNS": "200"}
    command = [sys.executable, "-m", "backend", "review"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
