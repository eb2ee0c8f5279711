"""Bulk jobs on a project: every task once, however often and whatever is stopped in between."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backend.bulk.ledger import PAUSED, Ledger
from backend.queueing.connection import connect
from benchmarks.stand_in import StandIn
from tests.bulk.conftest import Bulk, environment
from tests.conftest import PICTURES
from tests.http.stack import Stack, box, point
from tests.waiting import HANG_S, wait_until

PICTURE = "/data/upload/1/coffee.jpg"


BLOCK = 12
"""Tasks that follow each other with one picture: more than a worker has in hand and in its queue."""


def fill(project: StandIn, count: int, regions: int = 1, picture: str = PICTURE) -> None:
    for number in range(count):
        boxes = [box(i * 3, number % 50, 30, 40, id=f"{number}-{i}") for i in range(regions)]
        project.add({"image": picture}, *boxes)


@dataclass
class Gate:
    """Tasks behind it can be done once it is open; somebody is in the midst of the first when it is reached."""

    opened: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        self.reached.set()
        self.opened.wait(HANG_S)


@contextmanager
def gates(project: StandIn, count: int) -> Iterator[list[Gate]]:
    """A block of tasks, and so many more, each behind a gate: what is to happen in their midst does, on any machine."""
    fill(project, BLOCK)
    found: dict[str, Gate] = {}
    assert project.pictures is not None
    for _ in range(count):
        name = f"{uuid.uuid4().hex}.jpg"  # none that a worker knows
        shutil.copy(PICTURES / "rocket.jpg", project.pictures / name)
        fill(project, BLOCK, picture=f"/data/upload/1/{name}")
        found[name] = Gate()
    project.on_picture = lambda name: found[name].wait() if name in found else None
    try:
        yield list(found.values())
    finally:
        for gate in found.values():
            gate.opened.set()
        project.on_picture = lambda _: None


def begin(stack: Stack, project: StandIn, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A bulk job in a process of its own, and its name."""
    process = subprocess.Popen(
        [sys.executable, "-m", "backend", "bulk", "--project", "1", *arguments],
        env=environment(stack, project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("bulk "), line + process.stdout.read()
    return process, line.split()[1].rstrip(":")


def test_a_project_is_labelled_once(bulk: Bulk, stack: Stack, project: StandIn, pictures: Path, tmp_path: Path) -> None:
    fill(project, 6, regions=2)
    project.add({"image": PICTURE})
    project.add({"image": "/data/upload/1/missing.jpg"}, box(5, 5, 30, 40))
    project.add({"image": PICTURE}, box(5, 5, 30, 40))
    version = stack.wait_for_worker().model_version
    project.predictions[9] = [{"task": 9, "model_version": version, "result": []}]

    found = bulk("--project", 1, "--dry-run").stdout
    assert "9 tasks: 7 to do with 7 jobs and 13 regions" in found and "1 predicted already" in found
    assert not project.counts(version) - project.counts(version).__class__({9: 1})

    report = tmp_path / "report.html"
    done = bulk("--project", 1, "--report", report, code=1).stdout
    job = done.split()[1].rstrip(":")
    assert "6 tasks predicted with 12 regions" in done and "1 nothing marked" in done and "1 failed" in done
    assert "nothing marked in 1 of 9 tasks: add `--regions propose`" in done
    assert project.counts(version) == {**dict.fromkeys(range(1, 7), 1), 9: 1}
    for task in range(1, 7):
        (prediction,) = project.predictions[task]
        regions = [item["score"] for item in prediction["result"] if item["type"] == "brushlabels"]
        assert prediction["score"] == min(regions) and len(regions) == 2
    page = report.read_text()
    assert page.count("<figure>") == 6 and page.count("data:image/jpeg") == 6 and "PictureNotFound" in page
    assert "task 8: missing.jpg: " in page and "task 8: missing.jpg: " in done

    # again: nothing is computed, nothing is stored
    again = bulk("--project", 1, code=1).stdout
    assert "0 tasks predicted" in again and "7 predicted already" in again
    assert set(project.counts().values()) == {1}

    # the failed one, with its reason; it works once the picture is there
    (row,) = json.loads(bulk("failed", job).stdout)
    assert row["task"] == "8" and row["reason"] == "PictureNotFound" and row["tries"] == 1
    assert row["file"] == "missing.jpg" and row["model_version"] == version
    (pictures / "missing.jpg").write_bytes((PICTURES / "coffee.jpg").read_bytes())
    assert "1 failed tasks are tried again" in bulk("retry-failed", job).stdout
    assert project.counts(version)[8] == 1 and json.loads(bulk("failed", job).stdout) == []
    (pictures / "missing.jpg").unlink()


def test_a_job_that_is_killed_goes_on_where_it_was(bulk: Bulk, stack: Stack, project: StandIn) -> None:
    with gates(project, 1) as (gate,):
        process, job = begin(stack, project)
        wait_until(lambda: project.predictions)
        process.send_signal(signal.SIGKILL)
        process.wait(HANG_S)
        before = len(project.predictions)
        assert before < 2 * BLOCK
        wait_until(lambda: not Ledger(connect(stack.settings), job).is_worked_on())
        assert "interrupted" in bulk("status", job).stdout
        # what was stored is not stored again, also where the books do not know of it yet
        project.trouble = "stored"
        gate.opened.set()
        process, _ = begin_again(stack, project, job)
        wait_until(lambda: len(project.predictions) > before + 2)
        project.trouble = ""
        assert process.wait(600) == 0
    assert project.counts() == dict.fromkeys(range(1, 2 * BLOCK + 1), 1)
    status = bulk("status", job).stdout
    assert "finished" in status and f"{2 * BLOCK} of {2 * BLOCK} done" in status and "0 failed" in status


def begin_again(stack: Stack, project: StandIn, job: str) -> tuple[subprocess.Popen[str], str]:
    return steer(stack, project, "resume", job), job


def steer(stack: Stack, project: StandIn, verb: str, job: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "backend", "bulk", verb, job]
    own = environment(stack, project)
    return subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, text=True)


def test_pause_resume_detach_cancel(bulk: Bulk, stack: Stack, project: StandIn) -> None:
    with gates(project, 2) as (first, _):
        told = bulk("--project", 1, "--detach").stdout
        job = told.split()[1].rstrip(":")
        assert "in the background" in told
        assert first.reached.wait(HANG_S)
        pausing = steer(stack, project, "pause", job)
        wait_until(lambda: Ledger(connect(stack.settings), job).state() == PAUSED)
        first.opened.set()
        assert pausing.wait(HANG_S) == 0
        before = len(project.predictions)
        time.sleep(1)
        assert 0 < len(project.predictions) == before < 2 * BLOCK
        assert "paused" in bulk("status", job).stdout
        process, _ = begin_again(stack, project, job)
        wait_until(lambda: len(project.predictions) > before)
        refused = bulk("resume", job, code=1)
        assert "worked on already" in refused.stderr
        assert "cancelled" in bulk("cancel", job).stdout
        process.wait(HANG_S)
        assert len(project.predictions) <= 2 * BLOCK and set(project.counts().values()) == {1}
    assert re.search(rf"{job}.*cancelled", bulk("status").stdout)
    assert "cancelled" in bulk("resume", job).stdout


def test_ctrl_c_puts_the_job_down(bulk: Bulk, stack: Stack, project: StandIn) -> None:
    with gates(project, 2) as (first, second):
        process, job = begin(stack, project)
        assert first.reached.wait(HANG_S)
        process.send_signal(signal.SIGINT)
        first.opened.set()
        assert process.stdout is not None
        told = process.stdout.read()
        assert process.wait(HANG_S) == 130 and f"bulk resume {job}" in told and "Traceback" not in told
        second.opened.set()
        assert bulk("resume", job).returncode == 0
    assert project.counts() == dict.fromkeys(range(1, 3 * BLOCK + 1), 1)


def test_clicks_go_before_a_bulk_job(bulk: Bulk, stack: Stack, project: StandIn) -> None:
    client = connect(stack.settings)

    def waiting() -> int:
        return sum(int(client.llen(key)) for key in client.scan_iter("rq:queue:interactive*"))

    with gates(project, 2) as (first, second), ThreadPoolExecutor(3) as pool:
        process, job = begin(stack, project)
        assert first.reached.wait(HANG_S)
        clicks = [pool.submit(stack.predict, f"{project.url}{PICTURE}", [point(x, 50)]) for x in (40, 50, 60)]
        wait_until(lambda: waiting() == 3)
        first.opened.set()
        # they are answered before the tasks that were there first
        assert [click.result(HANG_S).status_code for click in clicks] == [200] * 3
        assert process.poll() is None and len(project.predictions) <= 2 * BLOCK
        second.opened.set()
        assert process.wait(600) == 0
    assert "3 clicks served meanwhile" in bulk("status", job).stdout


def test_some_tasks_only(bulk: Bulk, project: StandIn) -> None:
    fill(project, 8)
    project.views[5] = [2, 4, 6]
    bulk("--project", 1, "--view", 5)
    assert set(project.counts()) == {2, 4, 6}
    bulk("--project", 1, "--task-ids", "1,2,99", code=1)
    assert set(project.counts()) == {1, 2, 4, 6}
    bulk("--project", 1, "--limit", 3)
    assert set(project.counts()) == {1, 2, 3, 4, 6} and set(project.counts().values()) == {1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--project NUMBER, or --input"),
        (["--project", "77"], "was it deleted"),
        (["--input", "nowhere", "--output", "x"], "there is no nowhere"),
        (["--project", "1", "--texts", "poem"], "has no such text"),
        (["--project", "1", "--regions", "from-field"], "from-field NAME"),
        (["status", "nothing"], "there is no bulk job"),
        (["pause"], "say which job"),
    ],
)
def test_what_cannot_be_done_says_why(bulk: Bulk, arguments: list[str], said: str) -> None:
    assert said in bulk(*arguments, code=1).stderr


def test_a_refused_token_pauses_the_job(bulk: Bulk, stack: Stack, project: StandIn) -> None:
    fill(project, 1)
    own = environment(stack, project) | {"LABEL_STUDIO_API_KEY": "wrong"}
    command = [sys.executable, "-m", "backend", "bulk", "--project", "1"]
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 1 and "LABEL_STUDIO_API_KEY" in done.stderr and "Traceback" not in done.stderr
