"""What people submit is learned through webhooks and by `learn`: with a real Redis, a real worker, and a stand-in."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

from backend.learning.memory import LabelMemory, State
from backend.queueing.connection import connect
from benchmarks.stand_in import StandIn
from tests.backend.test_drawn import mask_item, rectangle
from tests.bulk.conftest import environment
from tests.http.stack import Stack
from tests.waiting import wait_until

COFFEE = "/data/upload/1/coffee.jpg"
CUP, TABLE = rectangle(180, 20, 410, 300), rectangle(20, 320, 580, 395)


def webhook(stack: Stack, action: str, **more: Any) -> None:
    assert stack.post("/webhook", json={"action": action, "project": {"id": 1}} | more).status_code == 200


def label(stack: Stack, project: StandIn, mask: np.ndarray, said: str) -> int:
    """A task in which somebody drew a region and gave it a label, as Label Studio tells it."""
    number = project.add({"image": COFFEE})
    result = [mask_item(mask, f"r{number}", said)]
    project.tasks[number]["annotations"] = [{"id": number, "result": result, "updated_at": "2026", "completed_by": 1}]
    webhook(stack, "ANNOTATION_CREATED", annotation={"id": number, "task": number})
    return number


def named(stack: Stack, mask: np.ndarray) -> list[str]:
    """The class that a region gets about which nobody has said anything, in a task that is opened."""
    annotation = {"id": 1, "result": [mask_item(mask, "new", "object")], "updated_at": "2026-11-23T10:00:00Z"}
    task = {"id": 999, "data": {"image": COFFEE}, "annotations": [annotation], "drafts": []}
    body = {"tasks": [task], "project": "1.1795338314", "label_config": project_config(), "params": {}}
    answer = stack.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    items = [item for result in answer.json()["results"] if result for item in result["result"]]
    return [choice for item in items if item["from_name"] == "class" for choice in item["value"]["choices"]]


def project_config() -> str:
    from tests.http.stack import CONFIG

    return CONFIG


def learn(stack: Stack, project: StandIn, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "backend", "learn", *more]
    return subprocess.run(
        command, env=environment(stack, project), capture_output=True, text=True, timeout=180, check=False
    )


def test_a_label_is_learned_from_what_people_submit(stack: Stack, project: StandIn) -> None:
    memory = LabelMemory(connect(stack.settings), stack.settings)
    memory.forget(1)
    cups = [label(stack, project, CUP, "food") for _ in range(5)]
    tables = [label(stack, project, TABLE, "vehicle") for _ in range(5)]

    def examples() -> dict[str, int]:
        state = memory.state(1)
        return state.examples if state is not None else {}

    # of both controls that take labels
    wait_until(lambda: examples() == {"food": 10, "vehicle": 10})
    assert named(stack, CUP) == ["food"] and named(stack, TABLE) == ["vehicle"]
    # corrected, skipped, deleted
    project.tasks[cups[0]]["annotations"][0]["result"] = [mask_item(CUP, f"r{cups[0]}", "animal")]
    webhook(stack, "ANNOTATION_UPDATED", annotation={"id": cups[0], "task": cups[0]})
    project.tasks[cups[1]]["annotations"][0]["was_cancelled"] = True
    webhook(stack, "ANNOTATION_UPDATED", annotation={"id": cups[1], "task": cups[1]})
    project.tasks[tables[0]]["annotations"] = []
    webhook(stack, "ANNOTATIONS_DELETED", annotations=[{"id": tables[0]}])
    del project.tasks[tables[1]]
    webhook(stack, "TASKS_DELETED", tasks=[{"id": tables[1]}])
    wait_until(lambda: examples() == {"food": 6, "vehicle": 6, "animal": 2})
    # two who disagree: it is told, by the page as well
    first = project.tasks[tables[2]]["annotations"][0]
    other = {"id": 500, "result": [mask_item(TABLE, "another", "animal")], "updated_at": "2026", "completed_by": 2}
    project.tasks[tables[2]]["annotations"] = [first, other]
    webhook(stack, "ANNOTATION_CREATED", annotation={"id": 500, "task": tables[2]})
    wait_until(lambda: examples() == {"food": 6, "vehicle": 4, "animal": 2})
    shown = stack.get("/").json()["learned"]
    assert [(one["project"], one["disagreements"]) for one in shown] == [(1, 1)]
    # a project that is gone takes it along
    webhook(stack, "PROJECT_DELETED")
    assert memory.states() == [] and named(stack, CUP) != ["food"]


def test_learn_reads_what_is_there_and_forgets(stack: Stack, project: StandIn) -> None:
    memory = LabelMemory(connect(stack.settings), stack.settings)
    memory.forget(1)
    for number in range(4):
        for mask, said in ((CUP, "food"), (TABLE, "vehicle")):
            task = project.add({"image": COFFEE}, mask_item(mask, f"{said}-{number}", said))
            project.tasks[task]["annotations"][0]["completed_by"] = 1
    project.add({"image": COFFEE})
    project.add({"image": "/data/upload/1/none.jpg"}, mask_item(CUP, "lost", "food"))
    done = learn(stack, project, "--project", "1")
    assert done.returncode == 0 and "9 tasks to learn of" in done.stdout, done.stdout + done.stderr
    state: State | None = memory.state(1)
    assert state is not None and state.examples == {"food": 8, "vehicle": 8}
    assert "food" in done.stdout and "%" in done.stdout
    assert "project 1" in learn(stack, project).stdout
    # once more: nothing is looked at twice
    asked = project.asked["GET /data/upload/1/coffee.jpg"]
    assert learn(stack, project, "--project", "1").returncode == 0
    assert project.asked["GET /data/upload/1/coffee.jpg"] == asked
    assert "forgotten" in learn(stack, project, "--project", "1", "--forget").stdout
    assert "Nothing learned yet" in learn(stack, project).stdout


def test_learn_says_why_it_cannot(stack: Stack, project: StandIn) -> None:
    for arguments, reason in (
        (("--forget",), "give --project"),
        (("--project", "2"), "was it deleted?"),
    ):
        done = learn(stack, project, *arguments)
        assert done.returncode == 1 and reason in done.stderr and "Traceback" not in done.stderr, done.stderr
