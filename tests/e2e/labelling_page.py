"""Label Studio's labelling page as an annotator uses it: clicks, drags and keys, and what can be read on it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from playwright.sync_api import Error, Locator, Page, expect

Tool = Literal["KeyPoint", "Rectangle"]
Key = Literal["Alt", "Control", "Shift"]
ANSWER_MS = 60_000  # the model on a busy core
PAGE_MS = 60_000
BUTTONS = {"KeyPoint": "key-point-tool", "Rectangle": "rectangle-tool"}
LOADED = "() => window.Htx?.annotationStore?.selected?.objects?.some(one => one.type === 'image' && one.imageIsLoaded)"


@dataclass(frozen=True)
class Exchange:
    """One interactive request of the page: the prompts it sent, and the whole answer that came back to the page."""

    prompts: list[dict[str, Any]]
    answer: dict[str, Any]

    @property
    def result(self) -> list[dict[str, Any]]:
        assert "data" in self.answer, f"Label Studio got no answer: {self.answer}"
        return list(self.answer["data"]["result"])


class LabellingPage:
    """One browser page with one task open; positions on the picture are percentages."""

    def __init__(self, page: Page, url: str, config: str, shots: Path) -> None:
        self.page, self.url, self.shots = page, url, shots
        # the page shows a row of labels for each of these, in the config's order and without a name
        self.rows = [tag.tag for tag in ElementTree.fromstring(config).iter() if tag.tag.endswith("Labels")]

    @property
    def picture(self) -> Locator:
        return self.page.locator("img[alt=image]")

    def open(self, project: int, task: int) -> None:
        # a never opened project, opened at a task, sometimes shows no predictions: the list comes first
        self.page.goto(f"{self.url}/projects/{project}/data")
        self.page.get_by_test_id("table-row").first.wait_for(timeout=PAGE_MS)
        self.page.goto(f"{self.url}/projects/{project}/data?task={task}")
        self.picture.wait_for(timeout=PAGE_MS)
        self.page.wait_for_function(LOADED, timeout=PAGE_MS)
        # drafts and predictions are drawn a moment after the picture
        self.page.wait_for_load_state("networkidle")
        self.page.keyboard.press("Shift+1")  # fit: it opens a few percent too large, with the edges cut

    def auto_annotation(self, accept: bool = False) -> None:
        """Switch Auto-Annotation on, and Auto-Accept as told."""
        self.page.get_by_test_id("bottombar-auto-annotation-toggle").set_checked(True, force=True)
        self.page.get_by_test_id("bottombar-auto-accept-toggle").set_checked(accept, force=True)

    def choose(self, tool: Tool, label: str) -> None:
        """Choose a label and the smart tool; the label twice, since turning to another tool may drop it."""
        self._choose_label(tool, label)
        tools = self.page.locator(".lsf-tool_smart")
        named = tools.and_(self.page.locator(f"[aria-label={BUTTONS[tool]}]"))
        button = named if named.count() else tools.first  # a config's only smart tool has no name
        if not self._has(button, "lsf-tool_active"):
            self.page.keyboard.press("m")  # always takes the first smart tool of the config
        if not self._has(button, "lsf-tool_active"):
            tools.first.hover()
            button.click()
            self.page.mouse.move(1, 1)  # its fly-out may not lie over the picture
        self._choose_label(tool, label)
        expect(button).to_have_class(re.compile("lsf-tool_active"))

    def click(self, x: float, y: float, *keys: Key) -> Exchange:
        """One click with these keys held."""

        def act() -> None:
            for key in keys:
                self.page.keyboard.down(key)
            self.page.mouse.click(*self._at(x, y))
            for key in keys:
                self.page.keyboard.up(key)

        return self._exchange(act)

    def drag(self, left: float, top: float, right: float, bottom: float) -> Exchange:
        """Draw a box."""

        def act() -> None:
            self.page.mouse.move(*self._at(left, top))
            self.page.mouse.down()
            self.page.mouse.move(*self._at((left + right) / 2, (top + bottom) / 2))
            self.page.mouse.move(*self._at(right, bottom))
            self.page.mouse.up()

        return self._exchange(act)

    def wait_for_suggestions(self, count: int = 1) -> None:
        expect(self.page.locator(".lsf-auto-accept__info")).to_have_text(f"{count} suggestions", timeout=PAGE_MS)

    def accept(self) -> None:
        self.page.get_by_test_id("bottombar-accept-suggestions-button").click()
        expect(self.page.locator(".lsf-auto-accept__info")).to_have_count(0)

    def submit(self) -> None:
        with self.page.expect_response(re.compile(r"/api/tasks/\d+/annotations"), timeout=PAGE_MS) as answer:
            self.page.get_by_test_id("bottombar-submit-button").click()
        assert answer.value.ok, answer.value.text()

    def words(self) -> str:
        """All that can be read on the page, text fields included."""
        fields: list[str] = self.page.eval_on_selector_all("input, textarea", "all => all.map(one => one.value)")
        return "\n".join([self.page.locator("body").inner_text(), *fields])

    def shot(self, name: str) -> None:
        with suppress(Error):  # a page that is gone must not hide why it is gone
            self.page.screenshot(path=self.shots / f"{name}.png")

    def _exchange(self, act: Callable[[], None]) -> Exchange:
        with self.page.expect_response(re.compile("/interactive-annotating"), timeout=ANSWER_MS) as answer:
            act()
        sent: Any = answer.value.request.post_data_json
        return Exchange(sent["context"]["result"], answer.value.json())

    def _choose_label(self, tool: Tool, label: str) -> None:
        control = f"{tool}Labels" if f"{tool}Labels" in self.rows else "Labels"
        row = self.page.locator(".lsf-labels").nth(self.rows.index(control))
        button = row.locator(".lsf-label").filter(has=self.page.get_by_text(label, exact=True))
        if not self._has(button, "lsf-label_selected"):
            button.click()
        expect(button).to_have_class(re.compile("lsf-label_selected"))

    def _has(self, button: Locator, name: str) -> bool:
        return name in (button.get_attribute("class") or "").split()

    def _at(self, x: float, y: float) -> tuple[float, float]:
        box = self.picture.bounding_box()
        assert box is not None, "the picture is not on the page"
        return box["x"] + box["width"] * x / 100, box["y"] + box["height"] * y / 100
