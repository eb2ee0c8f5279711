"""A label that the model has never heard of, and the doubtful tasks first, in a real Label Studio."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backend.learning.memory import LabelMemory
from backend.queueing.connection import connect
from benchmarks.parts import SIZE, Scene, scene
from model.values.mask import mask_box
from tests.e2e import browser as chromium
from tests.e2e.configs import drawn_box, regions, with_labels
from tests.e2e.label_studio import LabelStudio
from tests.e2e.labelling_page import LabellingPage
from tests.http.stack import SHIPPED, Stack
from tests.waiting import wait_until

NEW = "gasket-B"
LABELS = [NEW, "dolphin", "turtle", "house"]
TAUGHT, BY_HAND = 12, 4
CROWD = 1020
"""A scene in which so many new things find room."""


def write(drawn: Scene, folder: Path, name: str) -> Path:
    path = folder / f"{name}.png"
    drawn.picture.save(path)
    return path


def share(drawn: Scene, place: int = 0) -> tuple[float, float, float, float]:
    """The box of one of a scene's things, in percentages."""
    x1, y1, x2, y2 = mask_box(drawn.things[place].mask) or (0, 0, *SIZE)
    return 100 * x1 / SIZE[0], 100 * y1 / SIZE[1], 100 * x2 / SIZE[0], 100 * y2 / SIZE[1]


def accepted(label_studio: LabelStudio, backend: int, task: int, box: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a box's suggestion is after the tick."""
    prompt = [item for item in box if item["type"] == "rectangle"]
    body = {"task": task, "context": {"result": prompt}}
    answer = label_studio.call("POST", f"/api/ml/{backend}/interactive-annotating", json=body)
    shape = next(item for item in answer["data"]["result"] if item["type"] == "brush")
    return [item for item in answer["data"]["result"] if item["id"] == shape["id"]]


def named(items: list[dict[str, Any]], label: str) -> list[dict[str, Any]]:
    """The same region under a label that a person gave it."""
    shape = items[0]
    words = [item for item in items if item["type"] not in ("labels", "choices")]
    given = {"from_name": "label", "type": "labels", "value": shape["value"] | {"labels": [label]}}
    return [*words, {**{key: shape[key] for key in ("id", "to_name", "original_width", "original_height")}, **given}]


def test_a_new_label_is_proposed_after_some_examples(
    label_studio: LabelStudio, stack: Stack, browser: chromium.LoggedIn, artifacts: Path, tmp_path: Path
) -> None:
    config = with_labels(SHIPPED, LABELS)
    project = label_studio.make_project(config, "learning")
    backend = label_studio.connect(project, stack.url)
    memory = LabelMemory(connect(stack.settings), stack.settings)
    with browser.page() as one:
        # a label is chosen, a box is drawn, its suggestion accepted: four things of one task
        crowd = scene(CROWD, [NEW] * BY_HAND)
        task = label_studio.upload(project, write(crowd, tmp_path, "crowd"))
        page = LabellingPage(one, label_studio.url, artifacts)
        page.open(project, task)
        page.auto_annotation()
        page.choose("Rectangle")
        for place in range(BY_HAND):
            page.choose_label(NEW)
            page.drag(*share(crowd, place))
            page.wait_for_suggestions()
            page.accept()
        page.shot("learning-taught")
        page.submit()
    (annotation,) = label_studio.annotations(task)
    assert [set(one.labels) for one in regions(annotation["result"]).values()] == [{NEW}] * BY_HAND
    # one task after the other: a suggestion, its label corrected, submitted
    for number in range(TAUGHT - BY_HAND):
        drawn = scene(900 + number, [NEW])
        task = label_studio.upload(project, write(drawn, tmp_path, f"taught-{number}"))
        found = accepted(label_studio, backend, task, drawn_box(config, share(drawn), SIZE, NEW))
        label_studio.annotate(task, named(found, NEW))
    wait_until(lambda: (state := memory.state(project)) is not None and state.examples.get(NEW) == TAUGHT)
    # the next one is proposed with its name
    drawn = scene(990, [NEW])
    task = label_studio.upload(project, write(drawn, tmp_path, "next"))
    with browser.page() as one:
        page = LabellingPage(one, label_studio.url, artifacts)
        page.open(project, task)
        page.auto_annotation()
        page.choose("Rectangle")
        exchange = page.drag(*share(drawn))
        page.wait_for_suggestions()
        page.shot("learning-proposed")
        (proposed,) = regions(exchange.result).values()
        assert proposed.labels and set(proposed.labels) == {NEW}
        notes = [note for item in exchange.result for note in item.get("meta", {}).get("text", [])]
        assert any("learned from what people labelled" in note for note in notes)
        page.expect_message(NEW)
        page.accept()
        page.submit()
    (annotation,) = label_studio.annotations(task)
    (saved,) = regions(annotation["result"]).values()
    assert set(saved.labels) == {NEW}
    wait_until(lambda: (state := memory.state(project)) is not None and state.examples.get(NEW) == TAUGHT + 1)
    # what is deleted there is forgotten here
    label_studio.call("DELETE", f"/api/annotations/{annotation['id']}")
    wait_until(lambda: (state := memory.state(project)) is not None and state.examples.get(NEW) == TAUGHT)


def test_the_label_stream_gives_the_doubtful_first(label_studio: LabelStudio, stack: Stack, tmp_path: Path) -> None:
    project = label_studio.make_project(with_labels(SHIPPED, LABELS), "order")
    label_studio.connect(project, stack.url)
    # a picture in which the model finds little to doubt, strange things, and the first one again
    for number, labels in enumerate((["dolphin"], ["spring"], ["ladder"], ["dolphin"])):
        drawn = scene(700 + number % 3, labels)
        label_studio.upload(project, write(drawn, tmp_path, f"order-{number}"))
    own = {"PALLAS_STATE_DIR": str(stack.settings.state_dir), "PALLAS_HEARTBEAT_S": "0.5", "COLUMNS": "200"}
    own |= {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.token}
    command = [sys.executable, "-m", "backend", "order", "--project", str(project), "--regions", "propose"]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=180, check=False)
    assert "sampling is Uncertainty sampling" in done.stdout, done.stdout + done.stderr
    settings = label_studio.call("GET", f"/api/projects/{project}")
    assert settings["sampling"] == "Uncertainty sampling"
    assert settings["model_version"] == stack.wait_for_worker().model_version
    left = {task["id"]: label_studio.predictions(task["id"]) for task in label_studio.tasks(project)}
    known = {task: mine[0] for task, mine in left.items() if mine}
    assert known and all(isinstance(one["cluster"], int) and 0 <= one["score"] <= 1 for one in known.values())
    done_of: dict[int, int] = {}
    for _ in range(len(known)):
        task = label_studio.call("GET", f"/api/projects/{project}/next")["id"]
        # of the groups that were done least the lowest score
        least = min((done_of.get(one["cluster"], 0), one["score"]) for one in known.values())
        assert (done_of.get(known[task]["cluster"], 0), known[task]["score"]) == pytest.approx(least)
        label_studio.annotate(task, [])
        group = known.pop(task)["cluster"]
        done_of[group] = done_of.get(group, 0) + 1
