"""What goes into an export: whose work, which pictures, splits, videos, resuming, and what is left out and why."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.errors import BadRequest
from backend.export.splits import shares_of, split_of
from benchmarks.stand_in import TOKEN, run_stand_in
from tests.export.conftest import CONFIG, HEIGHT, WIDTH, Export, box, brush, everything, picture, read, ring_with_pieces
from tests.export.conftest import task as a_task
from tests.videos import number_of, write
from tests.videos import picture as a_frame


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_whose_work(tmp_path: Path, export: Export) -> None:
    picture(tmp_path / "a.png")
    ours = brush(ring_with_pieces(), "person", "p") | {"origin": "prediction", "score": 0.5}
    works = [
        {"id": 1, "result": [box(0, 0, 10, 10)], "updated_at": "2026-01-01T00:00:00Z"},
        {"id": 2, "result": [box(0, 0, 20, 20)], "updated_at": "2026-03-01T00:00:00Z"},
        {"id": 3, "result": [box(0, 0, 30, 30)], "updated_at": "2026-04-01T00:00:00Z", "was_cancelled": True},
    ]
    predictions = [
        {"model_version": "old", "result": [box(0, 0, 40, 40)], "created_at": "2026-01-01T00:00:00Z"},
        {"model_version": "new", "result": [ours], "created_at": "2026-02-01T00:00:00Z"},
    ]
    both = {"data": {"image": "a.png"}, "annotations": works, "predictions": predictions}
    reviewed = a_task("a.png", [ours | {"id": "x"}, brush(ring_with_pieces(), "c_1", "own")])
    none = {"data": {"image": "a.png"}}
    found = {}
    for number, arguments in enumerate(
        (["annotations"], ["predictions"], ["predictions", "--model-version", "old"], ["reviewed"])
    ):
        export([both, reviewed, none], "jsonl", "--source", *arguments, "--pictures", "none")
        found[number] = [
            [(r["label"], r["area"]) for r in one["regions"]] for one in lines(tmp_path / "jsonl/all.jsonl")
        ]
        subprocess.run(["rm", "-r", str(tmp_path / "jsonl")], check=True)
    area = int(ring_with_pieces().sum())
    assert found[0] == [[("car", 96)], [("person", area), ("car", area)]]
    assert found[1] == [[("person", area)]] and found[2] == [[("car", 384)]]
    assert found[3] == [[("person", area), ("car", area)]]


def test_splits_are_fixed_by_the_picture(tmp_path: Path, export: Export) -> None:
    tasks = [a_task(f"picture {i}.png", [box(0, 0, 50, 50)]) for i in range(200)]
    export(tasks, "jsonl", "--split", "80/10/10", "--pictures", "none")
    members = {
        split: {
            one["file_name"].rpartition("/")[2].rpartition("-")[0] for one in lines(tmp_path / f"jsonl/{split}.jsonl")
        }
        for split in ("train", "val", "test")
    }
    assert sum(map(len, members.values())) == 200 and 140 <= len(members["train"]) <= 178
    assert 8 <= len(members["val"]) <= 35 and 8 <= len(members["test"]) <= 35
    # others come, and some go: nobody moves
    (tmp_path / "jsonl").rename(tmp_path / "before")
    export([a_task("new.png", [box(0, 0, 9, 9)]), *tasks[50:]], "jsonl", "--split", "8/1/1", "--pictures", "none")
    for split, before in members.items():
        now = {
            one["file_name"].rpartition("/")[2].rpartition("-")[0] for one in lines(tmp_path / f"jsonl/{split}.jsonl")
        }
        assert now - {"new"} <= before


@pytest.mark.parametrize("text", ["a/b", "80/-1", "0/0/0", "1/2/3/4", "nan/1"])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(BadRequest, match="80/10/10"):
        shares_of(text)


def test_each_share_is_met() -> None:
    shares = shares_of("70/20/10")
    counts = [split_of(f"s3://bucket/{i}.png", shares) for i in range(4000)]
    found = [counts.count(name) / len(counts) for name in ("train", "val", "test")]
    assert found == pytest.approx([0.7, 0.2, 0.1], abs=0.03)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pictures_are_upright(tmp_path: Path, export: Export, orientation: int) -> None:
    """Label Studio's sizes are those of the upright picture, and so is the file: not every tool turns it."""
    turned = orientation >= 5
    size = (HEIGHT, WIDTH) if turned else (WIDTH, HEIGHT)
    path = picture(tmp_path / "a.jpg", size, orientation)
    export([a_task("a.jpg", [box(0, 0, 50, 50)])], "coco")
    found = read(tmp_path / "coco" / "annotations" / "instances_all.json")
    (image,) = found["images"]
    kept = Image.open(tmp_path / "coco" / "images" / image["file_name"])
    assert kept.size == (image["width"], image["height"]) == (WIDTH, HEIGHT)
    assert kept.getexif().get(0x0112, 1) == 1
    if orientation == 1:
        assert (tmp_path / "coco" / "images" / image["file_name"]).read_bytes() == path.read_bytes()


def test_links_take_no_room(tmp_path: Path, export: Export) -> None:
    path = picture(tmp_path / "a.png")
    export([a_task("a.png", [box(0, 0, 50, 50)])], "coco", "--pictures", "link")
    (kept,) = (tmp_path / "coco" / "images" / "all").iterdir()
    assert kept.samefile(path)


def test_a_file_that_somebody_else_wrote_reads_nothing_outside_its_folder(tmp_path: Path, export: Export) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    picture(tmp_path / "secret.png")
    (tmp_path / "link.png").symlink_to("/etc/hostname")
    done = export([a_task("/etc/hostname", [box(0, 0, 9, 9)]), a_task("link.png", [box(0, 0, 9, 9)])], "coco")
    assert "2 pictures left out" in done.stdout
    reasons = {one["reason"] for one in lines(tmp_path / "coco" / "problems.jsonl")}
    assert reasons <= {"PictureForbidden", "PictureNotFound"}


def test_what_cannot_be_exported_is_left_out_with_a_reason(tmp_path: Path, export: Export) -> None:
    picture(tmp_path / "a.png")
    broken = brush(ring_with_pieces(), region="broken") | {"value": {"rle": [1, 2, 3], "brushlabels": ["c_1"]}}
    empty = brush(np.zeros((HEIGHT, WIDTH), bool), region="empty")
    tasks = [a_task("a.png", [broken, empty, box(0, 0, 50, 50)]), a_task("gone.png", [box(0, 0, 9, 9)]), 7]
    done = export(tasks, "coco")
    assert "1 regions" in done.stdout and "2 regions left out" in done.stdout and "2 pictures left out" in done.stdout
    problems = lines(tmp_path / "coco" / "problems.jsonl")
    assert [one.get("region") for one in problems] == ["broken", "empty", None, None]
    assert all(one["message"] for one in problems)


def test_labels_that_the_config_lacks_come_after_its_own(tmp_path: Path, export: Export) -> None:
    picture(tmp_path / "a.png")
    strange = brush(ring_with_pieces(), "a stranger", "s")
    bare = brush(ring_with_pieces(), region="n") | {"value": {"rle": everything()[0]["value"]["rle"]}}
    export([a_task("a.png", [strange, bare])], "coco")
    names = [c["name"] for c in read(tmp_path / "coco" / "annotations" / "instances_all.json")["categories"]]
    assert names == ["car", "person", "a class with blanks", "road", "a stranger", "unlabelled"]


def test_classes_of_choices_where_nothing_else_has_labels(tmp_path: Path, export: Export) -> None:
    config = (
        '<View><Image name="image" value="$image"/><Brush name="mask" toName="image"/>'
        '<Taxonomy name="kind" toName="image" perRegion="true"><Choice value="animal">'
        '<Choice value="cat" alias="felis"/></Choice><Choice value="In / Out"/></Taxonomy></View>'
    )
    picture(tmp_path / "a.png")
    shape = brush(ring_with_pieces()) | {"type": "brush"}
    said = shape | {"from_name": "kind", "type": "taxonomy", "value": {"taxonomy": [["animal", "felis"]]}}
    other = {"id": "2"}
    odd = said | {"value": {"taxonomy": [["In / Out"]]}}
    export([a_task("a.png", [shape, said, shape | other, odd | other])], "coco", config=config)
    found = read(tmp_path / "coco" / "annotations" / "instances_all.json")
    assert [c["name"] for c in found["categories"]] == ["cat", "In / Out"]
    assert [one["category_id"] for one in found["annotations"]] == [1, 2]


def test_several_pictures_in_one_task(tmp_path: Path, export: Export) -> None:
    config = CONFIG.replace('value="$image"', 'valueList="$image"')
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    result = [box(0, 0, 10, 10) | {"item_index": 0}, box(0, 0, 20, 20, region="b2") | {"item_index": 1}]
    export([{"data": {"image": ["a.png", "b.png"]}, "annotations": [{"result": result}]}], "jsonl", config=config)
    found = lines(tmp_path / "jsonl" / "all.jsonl")
    assert [[one["area"] for one in page["regions"]] for page in found] == [[24], [96]]
    assert len({page["file_name"] for page in found}) == 2


def test_videos_frame_by_frame(tmp_path: Path, export: Export) -> None:
    write(tmp_path / "v.mp4", [a_frame(i) for i in range(30)])
    config = """<View><Video name="video" value="$video" frameRate="25"/><VideoRectangle name="box" toName="video"/>
    <Labels name="label" toName="video"><Label value="thing"/></Labels>
    <TimelineLabels name="events" toName="video"><Label value="moves"/></TimelineLabels>
    <TextArea name="caption" toName="video" perRegion="true"/></View>"""
    keys = [
        {"frame": 5, "enabled": True, "rotation": 0, "x": 10, "y": 20, "width": 20, "height": 30},
        {"frame": 15, "enabled": False, "rotation": 90, "x": 30, "y": 20, "width": 20, "height": 30},
        {"frame": 25, "enabled": True, "rotation": 0, "x": 50, "y": 20, "width": 20, "height": 30},
    ]
    shell = {"to_name": "video", "origin": "manual"}
    value = {"framesCount": 30, "duration": 1.2, "labels": ["thing"], "sequence": keys}
    result = [
        shell | {"id": "v", "from_name": "box", "type": "videorectangle", "value": value},
        shell | {"id": "v", "from_name": "caption", "type": "textarea", "value": {"text": ["a square"]}},
        shell
        | {"id": "e", "from_name": "events", "type": "timelinelabels"}
        | {"value": {"ranges": [{"start": 3, "end": 6}], "timelinelabels": ["moves"]}},
    ]
    given = {"data": {"video": "v.mp4"}, "annotations": [{"result": result}]}
    export([given], "jsonl", config=config)
    found = lines(tmp_path / "jsonl" / "all.jsonl")
    assert [one["frame"] for one in found] == list(range(1, 31))
    # shown from the beginning, as Label Studio does; gone after the keyframe that is off, until the next one
    assert [one["frame"] for one in found if one["regions"]] == [*range(1, 16), *range(25, 31)]
    boxes = {one["frame"]: one["regions"][0]["bbox"] for one in found if one["regions"]}
    assert boxes[1] == boxes[5] == pytest.approx([16, 24, 32, 36]) and boxes[25] == pytest.approx([80, 24, 32, 36])
    half = np.radians(45)
    x, y, across, down = 0.2 * 160, 0.2 * 120, 0.2 * 160, 0.3 * 120
    corners = [
        (x + dx * np.cos(half) - dy * np.sin(half), y + dx * np.sin(half) + dy * np.cos(half))
        for dx, dy in ((0, 0), (across, 0), (across, down), (0, down))
    ]
    assert boxes[10] == pytest.approx(
        [min(c[0] for c in corners), 24, np.ptp([c[0] for c in corners]), np.ptp([c[1] for c in corners])], abs=0.01
    )
    assert found[0]["regions"][0]["caption"] == "a square" and found[0]["regions"][0]["label"] == "thing"
    assert [one["frame"] for one in found if one.get("events") == ["moves"]] == [3, 4, 5, 6]
    for one in found[::7]:
        shown = number_of(Image.open(tmp_path / "jsonl" / one["file_name"]))
        assert abs(shown - (one["frame"] - 1)) <= 2
    export([given], "coco", "--frame-step", "10", config=config)
    coco = read(tmp_path / "coco" / "annotations" / "instances_all.json")
    assert [image["frame"] for image in coco["images"]] == [1, 11, 21]
    assert {one["track_id"] for one in coco["annotations"]} == {"v"}


def test_a_project_of_label_studio(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with run_stand_in(CONFIG, tmp_path) as studio:
        for _ in range(3):
            studio.add({"image": "/data/upload/1/a.png"}, *everything())
        studio.add({"image": "/data/upload/1/a.png"})
        environment = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": TOKEN, "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-m", "backend", "export", "--project", "1", "--format", "coco"]
        command += ["--out", str(tmp_path / "out")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 tasks" in done.stdout and "1 tasks without such work" in done.stdout
    found = read(tmp_path / "out" / "annotations" / "instances_all.json")
    assert len(found["images"]) == 3 and len(found["annotations"]) == 12
    assert [image["task"] for image in found["images"]] == ["1", "2", "3"]


def test_an_export_that_was_killed_goes_on(tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from backend.__main__ import parser
    from backend.export import run as exporting
    from backend.settings import Settings

    tasks = [a_task(f"p{i}.png", [box(0, 0, 10, 10 + 2 * i)]) for i in range(40)]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    (tmp_path / "config.xml").write_text(CONFIG)
    words = ["export", "--input", str(tmp_path / "tasks.json"), "--config", str(tmp_path / "config.xml")]
    words += ["--format", "coco", "--out", str(tmp_path / "out"), "--pictures", "none", "--split", "50/50"]

    def begin() -> exporting.Export:
        given = parser().parse_args(words)
        return exporting.Export(Settings(), exporting._spec(Settings(), given), tmp_path / "out")

    monkeypatch.setattr(exporting, "_SAVE_EVERY_S", 0.0)
    killed = begin()
    seen = 0
    add = type(killed._format).add

    def dies(self: Any, page: Any) -> None:
        nonlocal seen
        seen += 1
        add(self, page)
        if seen == 25:
            raise KeyboardInterrupt  # in the middle of a task, after some of it was written

    monkeypatch.setattr(type(killed._format), "add", dies)
    with pytest.raises(KeyboardInterrupt):
        killed.work(Console(quiet=True))
    killed.parts.close()
    monkeypatch.setattr(type(killed._format), "add", add)
    begin().work(Console(quiet=True))
    found = [one for split in ("train", "val") for one in _instances(tmp_path / "out", split)]
    assert sorted(one["area"] for one in found) == sorted(read_areas(tasks))
    with pytest.raises(BadRequest, match="finished"):
        begin()
    other = parser().parse_args([*words[:-2], "--split", "90/10"])
    (tmp_path / "out" / "export.json").unlink()
    with pytest.raises(BadRequest, match="something else"):
        exporting.Export(Settings(), exporting._spec(Settings(), other), tmp_path / "out")


def _instances(out: Path, split: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read(out / "annotations" / f"instances_{split}.json")["annotations"]
    return found


def read_areas(tasks: list[dict[str, Any]]) -> list[int]:
    from backend.export.shapes import Shape
    from backend.label_studio.protocol import ResultItem

    drawn = [ResultItem.model_validate(one["annotations"][0]["result"][0]) for one in tasks]
    return [Shape.of(item, WIDTH, HEIGHT, 10**6).area for item in drawn]


def test_memory_does_not_grow_with_the_export(tmp_path: Path, export: Export) -> None:
    peaks = []
    for count in (100, 3000):
        tasks = [a_task(f"p{i}.png", [box(0, 0, 10, 10, region=f"r{k}") for k in range(20)]) for i in range(count)]
        done = export(tasks, "coco", "--pictures", "none", alone=True)
        peaks.append(int(re.search(r"peak memory (\d+) MB", done.stdout)[1]))  # type: ignore[index]
        subprocess.run(["rm", "-r", str(tmp_path / "coco")], check=True)
    assert peaks[1] < peaks[0] + 12, "sixty thousand regions instead of two thousand"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--split", "x"], "80/10/10"),
        (["--frame-step", "0"], "1 or more"),
        (["--config", "/nowhere.xml"], "--config"),
    ],
)
def test_wrong_arguments_say_what_to_do(export: Export, arguments: list[str], says: str) -> None:
    done = export([], "coco", *arguments, code=1, alone=True)
    assert says in done.stderr
