"""Bulk jobs and late answers in a real Label Studio: every task gets one prediction, whatever is stopped in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backend.bulk.ledger import PAUSED, Ledger
from backend.queueing.connection import connect
from demo.truth import Scene
from tests.bulk.test_late import front
from tests.e2e.configs import drawn_box, regions, with_labels
from tests.e2e.label_studio import LabelStudio
from tests.e2e.several import PLACES, SIZE, several
from tests.http.stack import SHIPPED, Stack, run_host
from tests.waiting import wait_until
from tiny.clicks import iou

SCENE, KIND = "test-11-00012", "ladybird"


@pytest.fixture
def bulk(stack: Stack, label_studio: LabelStudio) -> Callable[..., subprocess.Popen[str]]:
    """Starts `python -m backend bulk …`."""
    own = {"PALLAS_STATE_DIR": str(stack.settings.state_dir), "PALLAS_HEARTBEAT_S": "0.5", "COLUMNS": "200"}
    own |= {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.token}

    def begin(*arguments: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "backend", "bulk", *map(str, arguments)]
        return subprocess.Popen(
            command, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return begin


def told(process: subprocess.Popen[str], code: int = 0) -> str:
    out, _ = process.communicate(timeout=180)
    assert process.returncode == code, out
    return out


def fill(
    label_studio: LabelStudio, title: str, scene: Scene, count: int, picture: str | None = None
) -> tuple[int, int, list[int]]:
    """A project with a bare task, and so many of one picture with a box around its thing: the scene's, or another's."""
    config = with_labels(SHIPPED, [KIND, "object"])
    project = label_studio.make_project(config, title)
    bare = label_studio.upload(project, scene.picture)
    (uploaded,) = label_studio.tasks(project)
    with Image.open(scene.picture) as file:
        drawn = drawn_box(config, scene.thing(KIND).box(), file.size, KIND)
    data = {"image": picture} if picture else uploaded["data"]
    tasks = [{"data": data, "annotations": [{"result": drawn}]}] * count
    label_studio.call("POST", f"/api/projects/{project}/import", json=tasks)
    return project, bare, sorted(task["id"] for task in label_studio.tasks(project) if task["id"] != bare)


def counts(label_studio: LabelStudio, project: int) -> dict[int, int]:
    return {task["id"]: len(task["predictions"]) for task in label_studio.tasks(project)}


def test_a_project_in_bulk_with_a_pause(
    label_studio: LabelStudio,
    stack: Stack,
    scenes: dict[str, Scene],
    bulk: Callable[..., subprocess.Popen[str]],
) -> None:
    picture = scenes[SCENE].picture
    with run_host(picture.parent) as host:
        project, bare, tasks = fill(label_studio, "bulk", scenes[SCENE], 24, f"{host.url}/held/{picture.name}")
        assert "24 to do" in told(bulk("--project", project, "--dry-run"))
        process = bulk("--project", project)
        assert process.stdout is not None
        job = process.stdout.readline().split()[1].rstrip(":")
        # the pause falls into the midst of the job, on any machine
        wait_until(lambda: host.seen)
        pausing = bulk("pause", job)
        wait_until(lambda: Ledger(connect(stack.settings), job).state() == PAUSED)
        host.gate.set()
        assert "paused" in told(pausing)
        assert f"bulk resume {job}" in told(process, 130)
        paused = sum(counts(label_studio, project).values())
        time.sleep(1)
        assert 0 < sum(counts(label_studio, project).values()) == paused < 24
        assert "24 tasks predicted with 24 regions, 1 left alone" in told(bulk("resume", job))
    assert counts(label_studio, project) == dict.fromkeys(tasks, 1) | {bare: 0}
    (prediction,) = label_studio.predictions(tasks[0])
    (region,) = regions(prediction["result"]).values()
    assert len(region.masks) == 1 and region.texts and prediction["score"] > 0
    assert prediction["model_version"] == stack.wait_for_worker().model_version
    # again, and by a view: nothing is stored twice
    view = label_studio.call("POST", "/api/dm/views", json={"project": project, "data": {"title": "all"}})["id"]
    assert "24 predicted already" in told(bulk("--project", project, "--view", view))
    assert counts(label_studio, project) == dict.fromkeys(tasks, 1) | {bare: 0}


def test_retrieved_predictions_that_come_late(
    label_studio: LabelStudio, stack: Stack, scenes: dict[str, Scene], tmp_path: Path
) -> None:
    project, bare, tasks = fill(label_studio, "late", scenes[SCENE], 24)
    own = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.token}
    own |= {"PALLAS_BATCH_WAIT_S": "0.6"}
    with front(stack, tmp_path / "front.log", own) as asked:
        label_studio.connect(project, asked.url)
        label_studio.retrieve_predictions(project, tasks)
        # answered in time with some; the others come by themselves
        wait_until(lambda: sum(counts(label_studio, project).values()) == len(tasks))
        time.sleep(2)
        assert counts(label_studio, project) == dict.fromkeys(tasks, 1) | {bare: 0}


def test_a_project_is_searched_by_word_and_by_what_is_labelled(
    label_studio: LabelStudio,
    scenes: dict[str, Scene],
    bulk: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    """One picture as three tasks: in one a person has labelled one of a kind, the other two are bare."""
    config = with_labels(SHIPPED, ["swimmer", "object"])
    project = label_studio.make_project(config, "searched")
    masks = several(scenes, ("test-11-00018", "dolphin"), (SCENE, KIND), tmp_path / "crowd.png")
    labelled, by_word, by_example = (label_studio.upload(project, tmp_path / "crowd.png") for _ in range(3))
    x, y = 100 * PLACES[0][0] / SIZE[0], 100 * PLACES[0][1] / SIZE[1]
    label_studio.annotate(labelled, drawn_box(config, (x - 12, y - 15, x + 12, y + 15), SIZE, "swimmer"))

    def found(task: int, *asked: str) -> list[bool]:
        """Of each of the kind, whether it is found; all that is found has the label."""
        told(bulk("--project", project, "--task-ids", task, *asked))
        (prediction,) = label_studio.predictions(task)
        answered = [region for region in regions(prediction["result"]).values() if region.masks]
        assert answered and all(region.labels == ["swimmer"] for region in answered)
        return [any(iou(mask, truth) > 0.5 for one in answered for mask in one.masks) for truth in masks]

    assert any(found(by_word, "--find", "dolphin=swimmer"))
    assert sum(found(by_example, "--like-labeled", "swimmer")) >= 2
    assert counts(label_studio, project) == {labelled: 0, by_word: 1, by_example: 1}


def test_a_file_is_imported_as_it_is(
    label_studio: LabelStudio,
    scenes: dict[str, Scene],
    bulk: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.open(scenes[SCENE].picture).save(folder / f"{number}.png")
    config = with_labels(SHIPPED, [KIND, "object"])
    (tmp_path / "config.xml").write_text(config)
    output = tmp_path / "out.json"
    options = ("--input", folder, "--output", output, "--config", tmp_path / "config.xml", "--regions", "propose")
    told(bulk(*options, "--url-prefix", "http://pictures.example/"))
    project = label_studio.make_project(config, "imported")
    label_studio.call("POST", f"/api/projects/{project}/import", json=json.loads(output.read_text()))
    found = sorted(label_studio.tasks(project), key=lambda task: task["data"]["image"])
    assert [task["data"]["image"] for task in found] == [f"http://pictures.example/{n}.png" for n in range(3)]
    for task in found:
        (prediction,) = label_studio.predictions(task["id"])
        assert regions(prediction["result"]) and 0 < prediction["score"] <= 1
