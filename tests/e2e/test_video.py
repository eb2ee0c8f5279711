"""A clip in a real Label Studio: a drawn box comes back tracked, is shown, accepted, saved and read back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from demo.clip import FRAMES, RATE, Clip, box_at, make_clip
from demo.truth import Scene
from tests.e2e import browser as chromium
from tests.e2e.label_studio import LabelStudio
from tests.e2e.labelling_page import choose_task
from tests.http.stack import Stack
from tests.waiting import wait_until

CONFIG = (Path(__file__).parent.parent.parent / "label_config_video.xml").read_text(encoding="utf-8")
SEEN = "() => document.querySelector('video')?.readyState >= 2"
CORRECTED = 20
"""The frame, from 1, on which the annotator moves the box."""
MOVE = (
    "frame => { const work = window.Htx.annotationStore.selected;"
    " const box = work.regions.find(one => one.type === 'videorectangleregion');"
    " const shown = box.getShape(frame);"
    " box.updateShape({x: shown.x, y: shown.y - 6, width: shown.width, height: shown.height, rotation: 0}, frame); }"
)
REGIONS = (
    "() => window.Htx.annotationStore.selected.regions.map(one => "
    "({type: one.type, sequence: one.sequence, ranges: one.ranges, labels: one.labels}))"
)


@pytest.fixture
def clip(scenes: dict[str, Scene], tmp_path: Path) -> Clip:
    return make_clip(scenes["test-11-00012"], "ladybird", tmp_path / "clip.mp4")


@pytest.fixture
def page(browser: chromium.LoggedIn, artifacts: Path) -> Iterator[Page]:
    with ExitStack() as ending:
        found = ending.enter_context(browser.page())
        ending.callback(lambda: found.screenshot(path=artifacts / "video-end.png"))
        yield found


def of_type(result: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item for item in result if item["type"] == kind]


def test_a_clip_is_tracked_shown_accepted_saved_and_read_back(
    label_studio: LabelStudio, stack: Stack, clip: Clip, page: Page, artifacts: Path
) -> None:
    config = CONFIG.replace('frameRate="25"', f'frameRate="{RATE}"')
    project = label_studio.make_project(config, "a clip")
    label_studio.connect(project, stack.url)
    task = label_studio.upload(project, clip.path)
    drawn = label_studio.annotate(task, [clip.drawn])
    assert label_studio.retrieve_predictions(project, [task])["processed_items"] == 1

    (prediction,) = label_studio.predictions(task)
    (tracked,) = of_type(prediction["result"], "videorectangle")
    sequence = tracked["value"]["sequence"]
    assert tracked["value"]["framesCount"] == FRAMES and tracked["value"]["labels"] == ["object"]
    # the frame that the person marked; how well the rest is tracked is the evaluation's business
    marked = box_at(sequence, 1)
    assert marked is not None
    for ours, theirs in zip(marked, clip_percent(clip), strict=True):
        assert ours == pytest.approx(theirs, abs=6)
    events = of_type(prediction["result"], "timelinelabels")
    assert events and of_type(prediction["result"], "textarea")

    # as an annotator does: the task opens with the annotation that has the drawn box, the prediction is a tab beside it
    open_task(page, label_studio.url, project, task)
    (own,) = page.evaluate(REGIONS)
    assert len(own["sequence"]) == 1
    shown = open_prediction(page, prediction["model_version"])
    (box,) = [region for region in shown if region["type"] == "videorectangleregion"]
    assert [keyframe["frame"] for keyframe in box["sequence"]] == [keyframe["frame"] for keyframe in sequence]
    spans = [region["ranges"] for region in shown if region["type"] == "timelineregion"]
    assert spans == [event["value"]["ranges"] for event in events]
    # one event after the other, over the whole clip
    assert [span["start"] for (span,) in spans] == [1, *(span["end"] + 1 for (span,) in spans[:-1])]
    assert spans[-1][0]["end"] == FRAMES
    take_pictures(page, artifacts)
    accept(page, artifacts)
    assert [region["sequence"] for region in page.evaluate(REGIONS)] == [region["sequence"] for region in shown]

    with page.expect_response(lambda answer: "/annotations" in answer.url and answer.request.method == "POST") as saved:
        page.get_by_test_id("bottombar-submit-button").click()
    assert saved.value.ok
    (annotation,) = [one for one in label_studio.annotations(task) if one["id"] != drawn]
    assert annotation["parent_prediction"] == prediction["id"]
    (kept,) = of_type(annotation["result"], "videorectangle")
    assert kept["value"]["sequence"] == sequence and kept["id"] == tracked["id"]
    assert [item["value"]["ranges"] for item in of_type(annotation["result"], "timelinelabels")] == spans
    texts = {tuple(item["value"]["text"]) for item in of_type(annotation["result"], "textarea")}
    assert texts == {tuple(item["value"]["text"]) for item in of_type(prediction["result"], "textarea")}

    # what came from us is not tracked again, and the saved annotation asks for nothing
    second = label_studio.upload(project, clip.path)
    label_studio.annotate(second, annotation["result"])
    label_studio.retrieve_predictions(project, [second])
    assert label_studio.predictions(second) == []

    is_tracked_on(page, label_studio, project, task, annotation["id"], prediction)


def is_tracked_on(
    page: Page, label_studio: LabelStudio, project: int, task: int, annotation: int, prediction: dict[str, Any]
) -> None:
    """One box is corrected, and the track goes on from there alone."""
    correct(page, annotation)
    (corrected,) = [one for one in label_studio.annotations(task) if one["id"] == annotation]
    (mine,) = of_type(corrected["result"], "videorectangle")
    (tracked,) = of_type(prediction["result"], "videorectangle")
    sequence = tracked["value"]["sequence"]
    own = [one for one in mine["value"]["sequence"] if one not in sequence]
    assert [one["frame"] for one in own] == [CORRECTED]
    # Label Studio asks again, since the version of what was corrected says so
    wait_until(lambda: label_studio.predictions(task)[0]["model_version"].endswith("(corrected)"))
    assert label_studio.retrieve_predictions(project, [task])["processed_items"] == 1
    (anew,) = [one for one in label_studio.predictions(task) if one["id"] != prediction["id"]]
    (tracked_on,) = of_type(anew["result"], "videorectangle")
    after = tracked_on["value"]["sequence"]
    before = [one for one in mine["value"]["sequence"] if one["frame"] < CORRECTED]
    assert after[: len(before) + 1] == [*before, *own]
    assert after[-1]["frame"] > CORRECTED and after[len(before) + 1 :] != sequence[len(before) :]
    events = [
        [item["value"]["ranges"] for item in of_type(one["result"], "timelinelabels")] for one in (prediction, anew)
    ]
    assert events[0] == events[1]


def correct(page: Page, annotation: int) -> None:
    """Move the accepted box on one frame, as dragging it does, and update the annotation."""
    page.wait_for_function("() => window.Htx.annotationStore.selected.pk")
    page.wait_for_function(SEEN)
    page.evaluate(MOVE, CORRECTED)
    with page.expect_response(lambda answer: f"/annotations/{annotation}" in answer.url) as saved:
        page.get_by_test_id("bottombar-update-button").click()
    assert saved.value.ok


def clip_percent(clip: Clip) -> tuple[float, ...]:
    value = clip.drawn["value"]["sequence"][0]
    return value["x"], value["y"], value["x"] + value["width"], value["y"] + value["height"]


def open_prediction(page: Page, version: str) -> list[dict[str, Any]]:
    """Click the prediction's tab; what Label Studio has on it."""
    page.locator(".lsf-annotation-button").filter(has_text=version).click()
    page.wait_for_function("() => window.Htx.annotationStore.selected.type === 'prediction'")
    # the tab has a player of its own, which counts the clip's frames as we do
    page.wait_for_function("frames => window.Htx.annotationStore.selected.objects[0].length === frames", arg=FRAMES)
    page.wait_for_function(SEEN)
    # nothing can be saved from there
    expect(page.get_by_test_id("bottombar-submit-button")).to_have_count(0)
    expect(page.get_by_test_id("bottombar-update-button")).to_have_count(0)
    found: list[dict[str, Any]] = page.evaluate(REGIONS)
    return found


def take_pictures(page: Page, artifacts: Path) -> None:
    """Of two frames, with the box on the picture and the timeline beneath."""
    for frame in (1, 20):
        page.evaluate("frame => window.Htx.annotationStore.selected.objects[0].setFrame(frame)", frame)
        page.wait_for_timeout(1500)
        page.screenshot(path=artifacts / f"video-frame-{frame}.png")


def accept(page: Page, artifacts: Path) -> None:
    """The menu of the open prediction's tab makes an annotation of it."""
    page.locator(".lsf-annotation-button_selected .lsf-annotation-button__trigger").click()
    page.screenshot(path=artifacts / "video-menu.png")
    page.get_by_text("Duplicate Annotation", exact=True).click()
    page.wait_for_function("() => window.Htx.annotationStore.selected.type === 'annotation'")
    expect(page.get_by_test_id("bottombar-submit-button")).to_be_visible()
    page.wait_for_timeout(1000)
    page.screenshot(path=artifacts / "video-accepted.png")


def open_task(page: Page, url: str, project: int, task: int) -> None:
    choose_task(page, url, project, task)
    page.wait_for_function(SEEN)
    expect(page.get_by_test_id("bottombar-update-button")).to_be_visible()
