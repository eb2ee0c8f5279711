"""Label Studio's labelling page as an annotator uses it: clicks, drags and keys, and what can be read on it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Error, Locator, Page, expect

from tests.waiting import wait_until

Tool = Literal["KeyPoint", "Rectangle"]
Key = Literal["Alt", "Control", "Shift"]
BUTTONS = {"KeyPoint": "key-point-tool", "Rectangle": "rectangle-tool"}
REGIONS = (
    "() => window.Htx.annotationStore.selected.regions.filter(one => !one.classification)"
    ".map(one => ({type: one.type, labels: one.labels}))"
)
ANSWERED = "() => !window.Htx.awaitingSuggestions"
CHOSEN = "() => window.Htx.annotationStore.selected.regions.some(one => one.selected || one.inSelection)"
DRAWN = (
    "([x, y]) => { const stage = window.Konva.stages[0]; const box = stage.container().getBoundingClientRect();"
    " return stage.getIntersection({x: x - box.left, y: y - box.top}) !== null; }"
)
STILL = """async () => {
    // the tools and texts around the picture come after it, and Label Studio fits it anew some frames later
    const image = window.Htx.annotationStore.selected?.objects.find(one => one.type === 'image');
    const shown = document.querySelector('img[alt=image]');
    if (!image?.containerRef || !shown || !document.querySelector('.lsf-toolbar')) return false;
    let before;
    for (let frame = 0; frame < 10; frame++) {
        await new Promise(requestAnimationFrame);
        const {offsetWidth, offsetHeight} = image.containerRef ?? {};
        if (offsetWidth !== image.containerWidth || offsetHeight !== image.containerHeight) return false;
        const now = JSON.stringify(shown.getBoundingClientRect());
        if (now !== (before ??= now)) return false;
    }
    return shown.isConnected;
}"""
"""Whether the picture has its place on the page, and stays there."""
WHOLE = "() => window.Htx.annotationStore.selected.objects.find(one => one.type === 'image').zoomScale <= 1"
OPENED = (
    # first the row of the list is opened, then, in its place, the task with its drafts and predictions
    "() => { const {task, isLoading} = window.Htx ?? {};"
    " return Boolean(task) && !isLoading && 'predictions' in JSON.parse(task.source); }"
)
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


def choose_task(page: Page, url: str, project: int, task: int) -> None:
    """Open a task by its row in the project's list, as an annotator does.

    Opened by its address, it sometimes shows no predictions, and Label Studio's page is loaded a second time.
    """
    page.goto(f"{url}/projects/{project}/data")
    mine = page.get_by_label(f"Select Task {task}", exact=True)
    page.get_by_test_id("table-row").filter(has=mine).click()
    page.wait_for_url(re.compile(rf"[?&]task={task}\b"))
    page.wait_for_function(OPENED)


class LabellingPage:
    """One browser page with one task open; positions on the picture are percentages."""

    def __init__(self, page: Page, url: str, shots: Path) -> None:
        self.page, self.url, self.shots = page, url, shots

    @property
    def picture(self) -> Locator:
        return self.page.locator("img[alt=image]")

    def open(self, project: int, task: int) -> None:
        choose_task(self.page, self.url, project, task)
        self.page.wait_for_function(LOADED)
        wait_until(self._fit)

    def _fit(self) -> bool:
        """A picture opens a few percent too large, with its edges cut; an annotator fits it by this key."""
        self.page.keyboard.press("Shift+1")
        return self._still() and bool(self.page.evaluate(WHOLE))

    def _still(self) -> bool:
        return bool(self.page.evaluate(STILL))

    def auto_annotation(self, accept: bool = False) -> None:
        """Switch Auto-Annotation on, and Auto-Accept as told."""
        self.page.get_by_test_id("bottombar-auto-annotation-toggle").set_checked(True, force=True)
        self.page.get_by_test_id("bottombar-auto-accept-toggle").set_checked(accept, force=True)

    def choose(self, tool: Tool) -> None:
        """Choose the smart tool: a click on Auto-Detect for points, its fly-out for boxes."""
        icon = self.page.locator(".lsf-tool_smart").first
        button = self.page.locator(f".lsf-tool_smart[aria-label={BUTTONS[tool]}]")
        if tool == "KeyPoint":
            icon.click()
        else:
            icon.hover()
            button.click()
        self.page.mouse.move(1, 1)  # its fly-out may not lie over the picture
        expect(button).to_have_class(re.compile("lsf-tool_active"))

    def choose_again(self, tool: Tool) -> None:
        """Another smart tool than the one that was used last."""
        self.page.locator(".lsf-tool_smart").first.hover()
        self.page.locator(f".lsf-tool_smart[aria-label={BUTTONS[tool]}]").last.click()
        self.page.mouse.move(1, 1)

    def choose_label(self, label: str) -> None:
        """Choose a label of a tool, and the tool with it."""
        self.page.locator(".lsf-label").filter(has_text=label).first.click()

    def type_into(self, placeholder: str, text: str) -> Exchange:
        """Type a text about the whole picture into the field that says so."""
        field = self.page.get_by_placeholder(placeholder)
        field.fill(text)
        return self._exchange(lambda: field.press("Shift+Enter"))

    def select(self, x: float, y: float) -> None:
        """A plain click on a region that is there."""
        place = self._at(x, y)
        # a mask is drawn a moment after it was accepted; until then a click here is a new prompt
        self.page.wait_for_function(DRAWN, arg=place)
        self.page.mouse.click(*place)
        self.page.wait_for_function(CHOSEN)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def regions(self) -> list[dict[str, Any]]:
        """Type and labels of the regions on the page, whole-picture words left out."""
        found: list[dict[str, Any]] = self.page.evaluate(REGIONS)
        return found

    def expect_message(self, *parts: str) -> None:
        """All of these stand in the message field, or soon will."""
        for part in parts:
            expect(self.page.get_by_test_id("textarea-control").first).to_contain_text(part)

    def click(self, x: float, y: float, *keys: Key) -> Exchange:
        """One click with these keys held."""
        place = self._at(x, y)

        def act() -> None:
            for key in keys:
                self.page.keyboard.down(key)
            self.page.mouse.click(*place)
            for key in keys:
                self.page.keyboard.up(key)

        return self._exchange(act)

    def drag(self, left: float, top: float, right: float, bottom: float) -> Exchange:
        """Draw a box."""
        begin, end = self._at(left, top), self._at(right, bottom)

        def act() -> None:
            self.page.mouse.move(*begin)
            self.page.mouse.down()
            self.page.mouse.move((begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2)
            self.page.mouse.move(*end)
            self.page.mouse.up()

        return self._exchange(act)

    def wait_for_suggestions(self, count: int = 1) -> None:
        expect(self.page.locator(".lsf-auto-accept__info")).to_have_text(f"{count} suggestions")

    def wait_for_draft(self) -> None:
        """Label Studio saves one some seconds after the last change."""
        self.page.wait_for_function("() => window.Htx.annotationStore.selected.draftSaved")

    def accept(self) -> None:
        self.page.get_by_test_id("bottombar-accept-suggestions-button").click()
        expect(self.page.locator(".lsf-auto-accept__info")).to_have_count(0)

    def submit(self) -> None:
        with self.page.expect_response(re.compile(r"/api/tasks/\d+/annotations")) as answer:
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
        with self.page.expect_response(re.compile("/interactive-annotating")) as answer:
            act()
        # what is accepted next is this answer, not the suggestion that it takes the place of
        self.page.wait_for_function(ANSWERED)
        sent: Any = answer.value.request.post_data_json
        return Exchange(sent["context"]["result"], answer.value.json())

    def _at(self, x: float, y: float) -> tuple[float, float]:
        wait_until(self._still)  # a click on a picture that moves below it is none
        box = self.picture.bounding_box()
        assert box is not None, "the picture is not on the page"
        return box["x"] + box["width"] * x / 100, box["y"] + box["height"] * y / 100
