"""Several pictures in one task, in a real Label Studio: a click is answered on the page it fell on, and saved there."""

from __future__ import annotations

import base64
import json
from contextlib import ExitStack
from pathlib import Path

from demo.truth import Scene
from tests.e2e import browser as chromium
from tests.e2e.configs import regions
from tests.e2e.label_studio import LabelStudio
from tests.e2e.labelling_page import LabellingPage
from tests.http.stack import Stack
from tiny.clicks import iou

CONFIG = """<View>
  <Image name="image" valueList="$images"/>
  <KeyPoint name="point" toName="image" smart="true" smartOnly="true"/>
  <Rectangle name="box" toName="image" smart="true" smartOnly="true"/>
  <BrushLabels name="mask" toName="image" smart="false"><Label value="thing"/></BrushLabels>
  <TextArea name="caption" toName="image" perRegion="true" maxSubmissions="1" displayMode="region-list"/>
</View>"""
PAGES = (("test-11-00012", "ladybird"), ("test-11-00018", "dolphin"))
GOOD = 0.7  # IoU with the truth


def test_clicks_on_two_pages_are_saved_on_their_pages(
    label_studio: LabelStudio, stack: Stack, browser: chromium.LoggedIn, scenes: dict[str, Scene], artifacts: Path
) -> None:
    project = label_studio.make_project(CONFIG, "pages")
    label_studio.connect(project, stack.url)
    pictures = [scenes[name].picture.read_bytes() for name, _ in PAGES]
    urls = ["data:image/png;base64," + base64.b64encode(picture).decode() for picture in pictures]
    task = label_studio.add_task(project, {"images": urls})
    things = [scenes[name].thing(kind) for name, kind in PAGES]
    with ExitStack() as ending:
        page = LabellingPage(ending.enter_context(browser.page()), label_studio.url, artifacts)
        ending.callback(lambda: page.shot("pages-end"))
        page.open(project, task)
        page.auto_annotation()
        page.choose("KeyPoint")
        first = page.click(*things[0].inside())
        page.wait_for_suggestions()
        page.accept()
        next_page(page)
        second = page.click(*things[1].inside())
        page.wait_for_suggestions()
        page.shot("pages-second")
        page.accept()
        page.submit()
    assert [prompt.get("item_index", 0) for prompt in (*first.prompts, *second.prompts)] == [0, 1]
    (saved,) = label_studio.annotations(task)
    found = regions(saved["result"])
    assert len(found) == 2, json.dumps(saved["result"])[:2000]
    pages = {item["id"]: item.get("item_index", 0) for item in saved["result"] if item["type"] == "brushlabels"}
    assert sorted(pages.values()) == [0, 1]
    for name, number in pages.items():
        (mask,) = found[name].masks
        assert iou(mask, things[number].mask) >= GOOD and found[name].texts

    # without a click: a second task's pages get what they lack, each on its own
    boxed = label_studio.add_task(project, {"images": urls})
    label_studio.annotate(boxed, [item for item in saved["result"] if item["type"] == "brushlabels"])
    label_studio.retrieve_predictions(project, [boxed])
    (prediction,) = label_studio.predictions(boxed)
    captions = [item for item in prediction["result"] if item["type"] == "textarea"]
    assert sorted(item["item_index"] for item in captions) == [0, 1]


def next_page(page: LabellingPage) -> None:
    """The arrow beside "1 of 2"."""
    page.page.locator("[class$=pagination__btn_arrow-right]").click()
    for state in ("currentImage === 1", "imageIsLoaded"):
        page.page.wait_for_function(f"() => window.Htx.annotationStore.selected.objects[0].{state}")
