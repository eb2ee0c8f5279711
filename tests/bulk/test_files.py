"""Bulk jobs without a Label Studio: a file or a folder in, a file that Label Studio imports out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from backend.bulk.sinks import FileSink
from backend.bulk.sources import FolderSource, Item, JsonSource
from backend.label_studio.protocol import LabelStudioTask, Prediction
from benchmarks.stand_in import StandIn
from tests.bulk.conftest import Bulk, environment
from tests.conftest import PICTURES
from tests.http.stack import CONFIG, Stack, box
from tests.waiting import HANG_S, wait_until

WHOLE = """<View><Image name="image" value="$image"/>
<TextArea name="description" toName="image" pallas="brief"/></View>"""


def tasks(count: int, picture: str = "coffee.jpg") -> list[dict[str, Any]]:
    return [{"data": {"image": picture, "boxes": [[5, i % 50, 30, 40]], "n": i}} for i in range(count)]


def config(folder: Path) -> Path:
    path = folder / "config.xml"
    path.write_text(CONFIG)
    return path


def test_a_json_file_with_boxes_in_a_field(bulk: Bulk, stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "coffee.jpg").write_bytes((PICTURES / "coffee.jpg").read_bytes())
    given = tasks(3)
    given[1]["data"]["boxes"] = [{"x": 5, "y": 5, "width": 30, "height": 40, "label": "food"}]
    given.append({"data": {"image": "coffee.jpg", "boxes": [[5, 5, 300, 40]]}})
    given.append({"image": "gone.jpg", "boxes": [[5, 5, 30, 40]]})
    (tmp_path / "tasks.json").write_text(json.dumps(given))
    output = tmp_path / "out.json"
    done = bulk(
        *("--input", tmp_path / "tasks.json", "--output", output, "--config", config(tmp_path)),
        *("--regions", "from-field", "boxes"),
        code=1,
    )
    assert "3 tasks predicted with 3 regions" in done.stdout and "2 failed" in done.stdout
    assert "percentages of the picture, not pixels" in done.stdout
    found = json.loads(output.read_text())
    assert [task["data"].get("n") for task in found] == [0, 1, 2, None, None]
    assert [len(task["predictions"]) for task in found] == [1, 1, 1, 0, 0]
    (prediction,) = found[1]["predictions"]
    assert prediction["model_version"] == stack.wait_for_worker().model_version
    assert prediction["result"][0]["value"]["brushlabels"] == ["food"] and 0 <= prediction["score"] <= 1


def test_a_text_is_looked_for_in_a_folder(bulk: Bulk, tmp_path: Path) -> None:
    """Random weights find what they find: it has the label that was asked for, and a score."""
    folder = tmp_path / "pics"
    folder.mkdir()
    (folder / "coffee.jpg").write_bytes((PICTURES / "coffee.jpg").read_bytes())
    asked = ("--input", folder, "--output", tmp_path / "out.json", "--config", config(tmp_path), "--texts", "none")
    done = bulk(*asked, "--find", "red mug=food", "--dry-run")
    assert "1 tasks: 1 to do" in done.stdout
    bulk(*asked, "--find", "red mug=food")
    (found,) = json.loads((tmp_path / "out.json").read_text())
    for prediction in found["predictions"]:
        masks = [item for item in prediction["result"] if item["type"] == "brushlabels"]
        assert masks and all(item["value"]["brushlabels"] == ["food"] for item in masks)
        assert 0 <= prediction["score"] <= 1
    for wrong, says in (("mug=cup", "no label 'cup'"), ("=food", "give a word")):
        done = bulk(*asked, "--find", wrong, code=1)
        assert says in done.stderr


def test_a_folder_of_pictures(bulk: Bulk, tmp_path: Path) -> None:
    folder = tmp_path / "pics"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.png", "a.png", "sub/ü c.png"):
        Image.new("RGB", (64, 48), "teal").save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.png").write_bytes(b"no picture either")
    (tmp_path / "config.xml").write_text(WHOLE)
    done = bulk("--input", folder, "--output", tmp_path / "out.json", "--config", tmp_path / "config.xml", code=1)
    assert "broken.png: " in done.stdout
    found = json.loads((tmp_path / "out.json").read_text())
    names = [task["data"]["image"].removeprefix("/data/local-files/?d=pics/") for task in found]
    assert names == ["a.png", "b.png", "broken.png", "sub/%C3%BC%20c.png"]
    assert [len(task["predictions"]) for task in found] == [1, 1, 0, 1]
    bulk("--input", folder, "--output", tmp_path / "out.json", "--config", tmp_path / "config.xml", code=1)
    assert json.loads((tmp_path / "out.json").read_text())[0]["predictions"][0]["result"]


def test_a_killed_job_writes_every_task_once(bulk: Bulk, stack: Stack, project: StandIn, tmp_path: Path) -> None:
    (tmp_path / "coffee.jpg").write_bytes((PICTURES / "coffee.jpg").read_bytes())
    (tmp_path / "tasks.json").write_text(json.dumps(tasks(30)))
    output = tmp_path / "out.json"
    command = [sys.executable, "-m", "backend", "bulk", "--input", str(tmp_path / "tasks.json")]
    command += ["--output", str(output), "--config", str(config(tmp_path)), "--regions", "from-field", "boxes"]
    process = subprocess.Popen(command, env=environment(stack, project), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    job = process.stdout.readline().split()[1].rstrip(":")
    lines = tmp_path / f"out.json.{job}.part"
    wait_until(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= 4)
    process.send_signal(signal.SIGKILL)
    process.wait(HANG_S)
    with lines.open("ab") as file:
        file.write(b'[7, {"result": [')  # as a kill in the middle of a write leaves it
    wait_until(lambda: "interrupted" in bulk("status", job).stdout)
    bulk("resume", job)
    found = json.loads(output.read_text())
    assert [task["data"]["n"] for task in found] == list(range(30))
    assert [len(task["predictions"]) for task in found] == [1] * 30
    assert not lines.exists()


def test_the_output_keeps_what_was_there(tmp_path: Path) -> None:
    kept = {"data": {"image": "x"}, "meta": {"a": 1}, "id": 5, "annotations": [{"id": 7, "result": [box(1, 1, 5, 5)]}]}
    kept["predictions"] = [{"model_version": "detector", "result": []}, {"model_version": "v1", "result": ["old"]}]
    (tmp_path / "in.json").write_text(json.dumps([kept, {"image": "bare"}]))
    source = JsonSource(tmp_path / "in.json")
    items = list(source.items(-1))
    assert [item.key for item in items] == ["0", "1"] and items[0].versions == {"detector", "v1"}
    sink = FileSink(tmp_path / "out.json", "j")
    sink.store(items[0], Prediction(result=[{"id": "a"}], model_version="v1", score=0.5))
    sink.store(items[0], Prediction(result=[{"id": "b"}], model_version="v1", score=0.6))
    sink.finish(source, None, complete=True)
    first, second = json.loads((tmp_path / "out.json").read_text())
    assert [found["model_version"] for found in first["predictions"]] == ["detector", "v1"]
    assert first["predictions"][1]["result"] == [{"id": "b"}] and first["meta"] == {"a": 1}
    assert first["annotations"] == [{"result": [box(1, 1, 5, 5)]}] and "id" not in first
    assert second == {"data": {"image": "bare"}, "predictions": []}


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    import resource

    item = Item("0", 0, LabelStudioTask(data={}))
    sink = FileSink(tmp_path / "out.json", "j")
    sink.store(item, Prediction(result=[], model_version="v"))
    size = sink.lines.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, before[1]))
    try:
        raised = False
        try:
            sink.store(item, Prediction(result=[{"text": "x" * 500}], model_version="v"))
        except OSError:
            raised = True
        assert raised and sink.lines.stat().st_size == size
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_sources_go_on_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps([{"image": str(i)} for i in range(10)] + [7]))
    source = JsonSource(tmp_path / "in.json")
    assert [item.key for item in source.items(7)] == ["8", "9", "10"]
    assert [item.key for item in source.pick(["3", "5"])] == ["3", "5"]
    assert source.total() == 11
    *_, strange = source.items(-1)
    assert strange.task is None and "JSON object" in str(strange.error)
    for name in ("b.png", "a.jpg", "c.txt"):
        (tmp_path / name).touch()
    folder = FolderSource(tmp_path, lambda address: {"image": address}, "http://host/")
    found = list(folder.items(-1))
    assert [item.raw["data"]["image"] for item in found] == ["http://host/a.jpg", "http://host/b.png"]
    assert [item.place for item in folder.items(0)] == [1]


def test_memory_does_not_grow_with_the_job(bulk: Bulk, tmp_path: Path) -> None:
    """Planned as a run plans: the peak of 20,000 tasks is that of 400, but for a little."""

    def write(count: int) -> Path:
        path = tmp_path / f"{count}.json"
        with path.open("w") as out:
            out.write("[")
            for i in range(count):
                out.write(("," if i else "") + json.dumps(tasks(1)[0]))
            out.write("]")
        return path

    peaks = []
    for count in (400, 20_000):
        own = ("--config", config(tmp_path), "--regions", "from-field", "boxes", "--dry-run")
        told = bulk("--input", write(count), *own).stdout
        assert f"{count} tasks: {count} to do" in told
        peaks.append(float(told.split("peak memory ")[1].split()[0]))
    assert peaks[1] - peaks[0] < 10


def test_an_input_that_is_no_list(bulk: Bulk, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('[{"data": {"image": ')
    own = ("--config", config(tmp_path), "--output", tmp_path / "o.json")
    assert "is no JSON list of tasks" in bulk("--input", tmp_path / "bad.json", *own, code=1).stderr
    assert not (tmp_path / "o.json").exists()


def test_a_folder_without_anything_running(small_checkpoint: Path, tmp_path: Path) -> None:
    """README's command, in an empty state folder: a worker is started for the job, and the report names the files."""
    folder, report = tmp_path / "pics", tmp_path / "report.html"
    folder.mkdir()
    for name in ("coffee.jpg", "rocket.jpg"):
        (folder / name).write_bytes((PICTURES / name).read_bytes())
    own = {"PALLAS_STATE_DIR": str(tmp_path / "state"), "PALLAS_MODEL": str(small_checkpoint), "PALLAS_DEVICE": "cpu"}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PALLAS_", "REDIS_", "LABEL_STUDIO_"))}

    def run(*arguments: Any) -> str:
        command = [sys.executable, "-m", "backend", "bulk", "--input", folder, "--output", tmp_path / "out.json"]
        environment = clean | own | {"COLUMNS": "200", "PALLAS_MAX_NEW_TOKENS": "4"}
        words = list(map(str, [*command, *arguments]))
        done = subprocess.run(words, env=environment, timeout=180, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = run("--config", config(tmp_path))
    assert "no worker is running: one is started for this job" in said
    assert "nothing marked in 2 of 2 tasks: add `--regions propose`, or draw boxes first" in said
    (tmp_path / "whole.xml").write_text(WHOLE)
    said = run("--config", tmp_path / "whole.xml", "--report", report)
    page = report.read_text()
    assert "2 tasks predicted" in said and "small@" in said and "small@" in page
    for name in ("coffee.jpg", "rocket.jpg"):
        assert f"<figcaption>{name}, score" in page
