"""A version from reviewed regions to the click that it answers, and back: real queue, real worker, real run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from backend.adapters.runs import RUNNING, FitRun, Runs
from backend.adapters.store import Store
from backend.adapters.table import Table, name_of
from backend.errors import BadRequest, VersionError
from backend.queueing.connection import connect
from benchmarks.stand_in import MADE, StandIn
from tests.bulk.conftest import environment
from tests.disks import small_disk
from tests.http.stack import Stack, point
from tests.tuning import made
from tests.tuning.conftest import Backend, Steer
from tests.waiting import HANG_S, wait_until

KEY = "1.1795514400"
"""Of the stand-in's project, as Label Studio names it in requests."""

_POINT = '<KeyPointLabels name="point" toName="image" smart="true"><Label value="disc"/></KeyPointLabels>'
_SMART = made.CONFIG.replace("<TextArea", f"{_POINT}<TextArea")


def fill(project: StandIn, pictures: Path, count: int) -> None:
    project.clear()
    for task in made.tasks(count, pictures):
        address = f"/data/upload/1/{task['data']['image']}"
        project.tasks[task["id"]] = task | {"data": {"image": address}, "drafts": []}


def click(stack: Stack, project: str, number: int = 3) -> dict[str, Any]:
    """What a click on a picture is answered."""
    asked = point(50, 50, label="disc", original_width=made.SIDE, original_height=made.SIDE)
    body = {
        "tasks": [{"id": number + 1, "data": {"image": f"/data/upload/1/{number}.png"}}],
        "project": project,
        "label_config": _SMART,
        "params": {"context": {"result": [asked]}},
    }
    answer = stack.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["results"][0]
    return found


@pytest.fixture(scope="module")
def promoted(backend: Backend, stack: Stack, project: StandIn, pictures: Path) -> str:
    """The output of a run that was promoted."""
    assert f"1.{int(datetime.fromisoformat(MADE).timestamp())}" == KEY
    fill(project, pictures, 44)
    # it ends by its number of steps
    return backend("fit", "--project", 1, "--what", "masks", "--minutes", 60).stdout


def test_what_is_better_is_promoted_served_and_rolled_back(
    promoted: str, backend: Backend, steer: Steer, stack: Stack
) -> None:
    base = stack.wait_for_worker().model_version
    assert "37 reviewed regions to learn from, 7 of other tasks held out" in promoted
    assert f"promoted {base}+project-1.1: better masks" in promoted and "on known pictures, mask IoU" in promoted
    folder = Store(stack.settings).folder("project-1.1")
    assert (folder / "adapter.safetensors").stat().st_size < 8e6
    card = json.loads((folder / "card.json").read_text())
    gain = card["figures"]["kinds"]["masks"]
    assert gain["after"] > gain["before"] + 0.02 and card["regions"] == {"learned": 37, "held_out": 7}
    assert not (folder.parent / "run").exists()

    mine, other = click(stack, KEY), click(stack, "2.1795514400")
    assert mine["model_version"] == f"{base}+project-1.1" and other["model_version"] == base
    assert mine["result"][0]["value"]["rle"] != other["result"][0]["value"]["rle"]
    assert stack.get("/versions").json()["versions"] == [base, f"{base}+project-1.1"]
    assert stack.post("/setup", json={"project": KEY, "schema": made.CONFIG}).json()["model_version"].endswith("-1.1")
    shown = steer("models")
    assert "project-1.1" in shown and "yes" in shown and f"{gain['before']:.3f} → {gain['after']:.3f}" in shown

    assert "the base answers from the next job on" in steer("rollback", "--project", 1)
    assert click(stack, KEY)["model_version"] == base
    with pytest.raises(VersionError, match="project-1 is answered by the base already"):
        steer("rollback", "--project", 1)
    # the one that is run as people run it
    assert "answers from the next job on" in backend("promote", f"{base}+project-1.1").stdout
    again = click(stack, KEY)
    assert again["model_version"] == mine["model_version"] and again["result"][0]["value"] == mine["result"][0]["value"]


def test_a_second_version_answers_a_share_of_the_clicks(promoted: str, steer: Steer, stack: Stack) -> None:
    store, client = Store(stack.settings), connect(stack.settings)
    shutil.rmtree(store.folder("project-1.2"), ignore_errors=True)
    from model import Adapter

    first = store.read("project-1.1")
    store.write(Adapter("project-1.2", first.base, first.tensors, first.scale, first.card))
    steer("promote", "project-1.2", "--shadow")
    table = Table(client)
    used = table.entry(KEY)
    assert used is not None
    names = [name_of(used.name_for(first.base, f"request {number}", 0.3)) for number in range(200)]
    assert 30 < names.count("project-1.2") < 90 and set(names) == {"project-1.1", "project-1.2"}
    # what nobody clicked for is not in the shadow
    assert name_of(used.name_for(first.base, "", 1.0)) == "project-1.1"
    steer("rollback", "--project", 1, "--shadow")
    used = table.entry(KEY)
    assert used is not None and used.name_for(first.base, "request", 1.0) == f"project-1.1#{first.digest}"
    assert used.name_for("another@model", "request", 1.0) == ""
    shutil.rmtree(store.folder("project-1.2"))


def test_a_broken_version_is_refused_and_what_answers_goes_on(promoted: str, steer: Steer, stack: Stack) -> None:
    store = Store(stack.settings)
    broken = store.root / "project-1" / "7"
    shutil.copytree(store.folder("project-1.1"), broken)
    with pytest.raises(VersionError, match=r"holds project-1\.1, not project-1\.7"):
        steer("promote", "project-1.7")
    weights = broken / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(VersionError, match="is damaged or no adapter; delete its folder, or copy it anew"):
        steer("promote", "project-1.7")
    with pytest.raises(VersionError, match=r"there is no version project-1\.9"):
        steer("promote", "project-1.9")
    with pytest.raises(BadRequest, match="'nonsense' is no version"):
        steer("promote", "nonsense")
    (broken / "card.json").write_text("{")
    assert "card.json cannot be read" in steer("models")
    steer("promote", "project-1.1")
    assert click(stack, KEY)["model_version"].endswith("+project-1.1")
    shutil.rmtree(broken)


def test_a_version_that_is_damaged_in_redis_is_told_and_the_base_answers(
    promoted: str, steer: Steer, stack: Stack
) -> None:
    client, base = connect(stack.settings), stack.wait_for_worker().model_version
    table = Table(client)
    client.hset("pallas:versions", KEY, json.dumps({"base": base, "active": "project-1.8#0a"}))
    client.set("pallas:version:project-1.8#0a", b"\0" * 100)
    assert click(stack, KEY)["model_version"] == base
    assert "project-1.8" in table.faults()
    page = requests.get(stack.url, headers={"Accept": "text/html"}, timeout=HANG_S).text
    assert "Versions that are not used" in page and "is damaged or no adapter" in page
    client.delete("pallas:versions:faults", "pallas:version:project-1.8#0a")
    steer("promote", "project-1.1")
    assert click(stack, KEY)["model_version"].endswith("+project-1.1")


_REPEATS_LITTLE = """
import gc, sys
gc.disable()
from backend.tuning import scenes
photographs = scenes.rehearsed()[:1]
scenes.rehearsed = lambda: photographs
from backend.__main__ import main
sys.exit(main())
"""
"""`python -m backend` that repeats the base on one photograph."""

_SAVES_EACH_STEP = _REPEATS_LITTLE.replace(
    "scenes\n", "scenes\nfrom model.tuning import learner\nlearner.SAVE_EVERY_S = 0\n", 1
)
"""The same whose runs have little to lose: a kill need not wait for the first 15 seconds."""


def test_shuffled_work_is_not_promoted_also_after_a_kill(stack: Stack, project: StandIn, tmp_path: Path) -> None:
    """Nothing that was learned from masks of other pictures helps with a picture."""
    (tmp_path / "tasks.json").write_text(json.dumps(made.tasks(40, shuffled=True)))
    (tmp_path / "config.xml").write_text(made.CONFIG)
    files = ["--input", str(tmp_path / "tasks.json"), "--config", str(tmp_path / "config.xml")]
    command = ["fit", *files, "--what", "masks", "--minutes", "60"]
    client, env = connect(stack.settings), environment(stack, project)
    runs, state = Runs(client), stack.settings.state_dir / "versions" / "input" / "run"
    process = subprocess.Popen([sys.executable, "-c", _SAVES_EACH_STEP, *command], env=env, stdout=subprocess.DEVNULL)
    wait_until(lambda: (run := runs.get(None)) is not None and run.stage == "masks" and run.share > 0.1)
    process.kill()
    process.wait()
    assert (state / "masks.safetensors").is_file()
    # its right lapses by itself in a few seconds, which need not be waited for
    assert 0 < client.pttl("pallas:fit") <= 10_000
    client.delete("pallas:fit")
    killed = runs.get(None)
    assert killed is not None and killed.state == "stopped"

    command = [sys.executable, "-c", _REPEATS_LITTLE, *command]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    wait_until(lambda: (run := runs.get(None)) is not None and run.state == RUNNING and run.job != killed.job)
    process.send_signal(signal.SIGTERM)
    assert process.wait(HANG_S) == 130
    stopped = runs.get(None)
    assert stopped is not None and stopped.state == "stopped" and "goes on where it was" in stopped.message

    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on where it was stopped" in done.stdout and "masks before" not in done.stdout
    assert "nothing is promoted (masks: " in done.stdout
    assert not list(Store(stack.settings).versions("input")) and not state.exists()


_SMALL = """
import gc, sys
gc.disable()
from backend.tuning import scenes
from model.tuning import fit, gate, rehearsal, words
words._ROUNDS, words._REPEATED, rehearsal._EACH, fit.LEAST_REGIONS, fit.LEAST_GROUPS = 2, 1, 1, 20, 3
guard, photographs = scenes.guard()[:3], scenes.rehearsed()[:1]
scenes.guard, scenes.rehearsed = lambda: guard, lambda: photographs
gate.interval, gate.LEAST_GAIN = lambda groups, values: (1.0, 1.0), -2.0
gate.FORGOTTEN = fit.FORGOTTEN = 2.0
from backend.__main__ import main
sys.exit(main())
"""
"""`python -m backend` that learns a few steps, asks little, and finds whatever comes of it better."""


def test_labels_and_captions_become_a_version(stack: Stack, project: StandIn, steer: Steer, tmp_path: Path) -> None:
    """The whole way, whatever so few steps teach."""
    (tmp_path / "tasks.json").write_text(json.dumps(made.tasks(22)))
    (tmp_path / "config.xml").write_text(made.CONFIG)
    command = ["fit", "--input", str(tmp_path / "tasks.json"), "--config", str(tmp_path / "config.xml")]
    command += ["--what", "labels,captions", "--minutes", "60"]
    env = environment(stack, project)
    done = subprocess.run(
        [sys.executable, "-c", _SMALL, *command], env=env, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "18 reviewed regions to learn from, 4 of other tasks held out" in done.stdout
    base = stack.wait_for_worker().model_version
    assert f"promoted {base}+input.1: better labels and captions" in done.stdout
    store = Store(stack.settings)
    folder = store.folder("input.1")
    assert sorted(file.name for file in folder.iterdir()) == ["adapter.safetensors", "card.json"]
    card = json.loads((folder / "card.json").read_text())
    assert card["what"] == ["labels", "captions"] and card["regions"] == {"learned": 18, "held_out": 4}
    for kind in ("labels", "captions"):
        found = card["figures"]["kinds"][kind]
        assert found["regions"] == found["groups"] == 4 and 0 <= found["before"] <= 1 and 0 <= found["after"] <= 1
    assert "label top-1" in card["figures"]["guard"] and card["figures"]["kept"] == ["labels", "captions"]
    tensors = store.read("input.1").tensors
    assert tensors and all(name.startswith("words.") for name in tensors)
    shown = steer("models")
    assert "input.1" in shown and all(kind in shown for kind in ("labels", "captions"))
    store.delete("input")


def test_a_full_disk_is_told(stack: Stack, project: StandIn, backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_text(json.dumps(made.tasks(40)))
    (tmp_path / "config.xml").write_text(made.CONFIG)
    files = ["--input", tmp_path / "tasks.json", "--config", tmp_path / "config.xml", "--what", "masks"]
    folder = stack.settings.state_dir / "versions" / "input"
    # no room for all of the pictures
    with small_disk(folder, 64):
        said = backend("fit", *files, code=1).stderr
        assert "versions cannot be written (No space left on device): free some room, then fit goes on" in said
        run = Runs(connect(stack.settings)).get(None)
        assert run is not None and run.state == "failed" and "free some room" in run.message
    shutil.rmtree(folder, ignore_errors=True)


def test_the_button_starts_a_run_and_its_end_is_told(
    promoted: str, stack: Stack, project: StandIn, pictures: Path
) -> None:
    fill(project, pictures, 12)
    event = {"action": "START_TRAINING", "project": {"id": 1, "title": "x"}}
    job = stack.post("/webhook", json=event).json()["job"]
    assert job.startswith("fit-1-")

    def status() -> dict[str, Any]:
        found: dict[str, Any] = stack.post("/job_status", json={"job": job}).json()
        return found

    assert status()["job_status"] in ("queued", "started", "failed")
    wait_until(lambda: status()["job_status"] == "failed")
    assert "12 reviewed regions have masks, at least 40 are needed" in status()["message"]
    page = requests.get(stack.url, headers={"Accept": "text/html"}, timeout=HANG_S).text
    assert "<h2>Training</h2>" in page and "at least 40 are needed" in page
    # as with Label Studio's webhooks off; a new one, since that one is over
    other = stack.post("/train", json={"project": "1.1795514400", "annotations": []}).json()["job"]
    wait_until(lambda: stack.post("/job_status", json={"job": other}).json()["job_status"] == "failed")
    assert stack.post("/job_status", json={"job": "fit-9-1"}).status_code == 404
    assert stack.post("/train", json={"project": "no number"}).status_code == 400


def test_a_run_that_is_under_way_is_not_begun_twice(stack: Stack, backend: Backend, tmp_path: Path) -> None:
    runs = Runs(connect(stack.settings))
    lease = runs.lease("another")
    assert lease.hold()
    runs.note(FitRun(project=77, job="fit-77-1", state=RUNNING))
    with lease.renewed():
        (tmp_path / "tasks.json").write_text("[]")
        (tmp_path / "config.xml").write_text(made.CONFIG)
        files = ["--input", tmp_path / "tasks.json", "--config", tmp_path / "config.xml"]
        assert "a run of `fit --project 77` is under way" in backend("fit", *files, code=1).stderr
        again = stack.post("/webhook", json={"action": "START_TRAINING", "project": {"id": 77}}).json()
        assert again["job"] == "fit-77-1"
    lease.release()
    runs.forget(77)


def test_a_deleted_project_takes_its_versions_along(promoted: str, steer: Steer, stack: Stack) -> None:
    steer("promote", "project-1.1")
    stack.post("/webhook", json={"action": "PROJECT_DELETED", "project": {"id": 1}})
    assert Table(connect(stack.settings)).entry(KEY) is None
    assert not (Store(stack.settings).root / "project-1").exists()
    assert click(stack, KEY)["model_version"] == stack.wait_for_worker().model_version
