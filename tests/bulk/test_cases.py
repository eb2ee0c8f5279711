"""Inputs of bulk jobs that came out wrong once: what Label Studio exports, and what other tools make."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.bulk.sources import Item, JsonSource
from backend.job import Drawing, RegionPrompt
from backend.label_studio import rle
from backend.label_studio.video_clock import time_of
from backend.labeling.roles import read_roles
from backend.tasks.drawn import newest
from backend.worker.cut import to_pixels
from model import open_video
from tests.bulk.conftest import Bulk
from tests.http.stack import CONFIG, box

CASES = Path(__file__).parent / "cases"


def read(path: Path, config: str = CONFIG) -> list[Item]:
    return list(JsonSource(path, read_roles(config)).items(-1))


def test_polygons_that_do_not_say_how_large_their_picture_is(bulk: Bulk, tmp_path: Path) -> None:
    for name in ("c25.json", "thing.png"):
        shutil.copy(CASES / name, tmp_path)
    bulk(
        *("--input", tmp_path / "c25.json", "--config", CASES / "c25.xml", "--output", tmp_path / "out.json"),
        *("--regions", "from-predictions"),
    )
    answered = [found["predictions"][-1]["result"] for found in json.loads((tmp_path / "out.json").read_text())]
    for outline, caption in answered:
        assert outline["value"]["points"] == [[30, 27], [70, 27], [70, 73], [30, 73]]
        assert caption["type"] == "textarea" and caption["value"]["text"]
        assert (outline["original_width"], outline["original_height"]) == (400, 300)


@pytest.mark.parametrize(
    ("kind", "value", "area"),
    [
        ("polygon", {"points": [[25, 0], [75, 0], [75, 100], [25, 100]]}, 500),
        ("vector", {"vertices": [{"x": 0, "y": 0}, {"x": 50, "y": 0}, {"x": 50, "y": 100}], "closed": True}, 250),
        ("brush", {"rle": rle.encode(np.arange(1000).reshape(25, 40) < 200)}, 200),
    ],
)
def test_masks_are_made_at_the_pictures_own_size(kind: str, value: dict[str, Any], area: int) -> None:
    prompt = to_pixels(RegionPrompt(drawing=Drawing(kind=kind, value=value)), 40, 25)
    assert prompt.mask is not None and prompt.mask.shape == (25, 40)
    assert prompt.mask.sum() == pytest.approx(area, rel=0.12)


def test_a_turned_box_is_turned_at_the_pictures_own_size() -> None:
    value = {"x": 20, "y": 20, "width": 30, "height": 20, "rotation": 90}
    prompt = to_pixels(RegionPrompt(drawing=Drawing(kind="rectangle", value=value)), 1000, 500)
    assert prompt.box == pytest.approx((100, 100, 200, 400))


def test_numbers_in_place_of_what_an_export_leaves_out(tmp_path: Path) -> None:
    (item,) = read(CASES / "minimal-drafts.json")
    assert item.task is not None and len(newest(item.task)) == 1
    given = json.loads((CASES / "minimal-drafts.json").read_text())[0]
    (tmp_path / "in.json").write_text(json.dumps([given | {"predictions": [7, 8], "annotations": [1]}]))
    (item,) = read(tmp_path / "in.json")
    assert item.task is not None and item.raw["predictions"] == [] and newest(item.task) == []


def test_json_min_exports_are_read() -> None:
    nothing, *drawn = read(CASES / "ls-export-min.json")
    assert nothing.task is not None and nothing.task.data == {"image": "thing.png"} and newest(nothing.task) == []
    for item in drawn:
        assert item.task is not None and item.task.data == {"image": "thing.png"}
        (region,) = newest(item.task)
        assert (region["type"], region["from_name"], region["original_width"]) == ("rectanglelabels", "box", 400)
        assert region["value"]["rectanglelabels"] == ["food"] and "original_width" not in region["value"]


def test_what_label_studio_exports_runs_through(bulk: Bulk, tmp_path: Path) -> None:
    shutil.copy(CASES / "thing.png", tmp_path)
    (tmp_path / "config.xml").write_text(CONFIG)
    for name, predicted in (("ls-export-min.json", [0, 1, 1]), ("minimal-drafts.json", [1])):
        shutil.copy(CASES / name, tmp_path)
        bulk(*("--input", tmp_path / name, "--config", tmp_path / "config.xml", "--output", tmp_path / "out.json"))
        found = json.loads((tmp_path / "out.json").read_text())
        assert [len(task["predictions"]) for task in found] == predicted


def test_words_about_the_whole_picture_in_json_min(tmp_path: Path) -> None:
    config = (
        '<View><Image name="image" value="$image"/><Choices name="kind" toName="image"><Choice value="a"/></Choices>'
        '<TextArea name="said" toName="image"/><Brush name="m" toName="image"/></View>'
    )
    books = {"annotator": 1, "annotation_id": 1, "created_at": None, "updated_at": None, "lead_time": None}
    given = {"image": "x.png", "id": 3, "kind": "a", "said": ["one", "two"]} | books
    (tmp_path / "in.json").write_text(json.dumps([given]))
    (item,) = read(tmp_path / "in.json", config)
    assert item.task is not None and item.task.id == 3
    assert [found["value"] for found in newest(item.task)] == [{"choices": ["a"]}, {"text": ["one", "two"]}]


def test_pages_in_a_bulk_job(bulk: Bulk, tmp_path: Path) -> None:
    shutil.copy(CASES / "thing.png", tmp_path)
    mask = '<BrushLabels name="mask{0}" toName="image{0}" smart="false"><Label value="a"/></BrushLabels>'
    listed = f'<View><Image name="image" valueList="$pages"/>{mask.format("")}</View>'
    repeated = (
        '<View><Repeater on="$pages"><Image name="image{{idx}}" value="$pages[{{idx}}]"/>'
        f"{mask.format('{{idx}}')}</Repeater></View>"
    )
    done = ("--config", tmp_path / "config.xml", "--output", tmp_path / "out.json")
    pages: tuple[tuple[str, list[dict[str, Any]], list[tuple[str, int | None]]], ...] = (
        (listed, [{"to_name": "image", "item_index": i} for i in (0, 1)], [("mask", 0), ("mask", 1)]),
        (repeated, [{"to_name": f"image{i}"} for i in (0, 1)], [("mask0", None), ("mask1", None)]),
    )
    for config, names, answered in pages:
        boxes = [box(25, 20, 50, 60, id=f"b{i}") | name for i, name in enumerate(names)]
        task = {"data": {"pages": ["thing.png", "thing.png"]}, "annotations": [{"result": boxes}]}
        (tmp_path / "in.json").write_text(json.dumps([task]))
        (tmp_path / "config.xml").write_text(config)
        bulk("--input", tmp_path / "in.json", *done, "--report", tmp_path / "report.html")
        (task,) = json.loads((tmp_path / "out.json").read_text())
        (prediction,) = task["predictions"]
        assert [(item["from_name"], item.get("item_index")) for item in prediction["result"]] == answered


def test_a_folder_has_pictures_but_no_pages(bulk: Bulk, tmp_path: Path) -> None:
    shutil.copy(CASES / "thing.png", tmp_path)
    text = '<TextArea name="said{0}" toName="image{0}"/>'
    (tmp_path / "repeated.xml").write_text(
        '<View><Repeater on="$pages"><Image name="image{{idx}}" value="$pages[{{idx}}]"/>'
        f"{text.format('{{idx}}')}</Repeater></View>"
    )
    (tmp_path / "listed.xml").write_text(f'<View><Image name="image" valueList="$pages"/>{text.format("")}</View>')
    output = ("--output", tmp_path / "out.json")
    refused = bulk("--input", tmp_path, "--config", tmp_path / "repeated.xml", *output, code=1)
    assert "Repeater" in refused.stderr
    bulk("--input", tmp_path, "--config", tmp_path / "listed.xml", *output)
    (task,) = json.loads((tmp_path / "out.json").read_text())
    assert task["data"]["pages"] == [f"/data/local-files/?d={tmp_path.name}/thing.png"] and task["predictions"]


@pytest.mark.parametrize(("name", "shown"), [("v05-sound.webm", (12, 13)), ("v0.mp4", (25, 25))])
def test_a_box_on_a_clip_whose_pictures_begin_after_its_sound(name: str, shown: tuple[int, int]) -> None:
    """The frame that a browser shows then, counted from the file's zero."""
    config = (CASES / "c14.xml").read_text()
    (item,) = read(CASES / "c14.json", config)
    assert item.task is not None
    (drawn,) = newest(item.task)
    begin = time_of(drawn["value"]["sequence"][0]["frame"], read_roles(config).videos["video"].rate(item.task.data))
    video = open_video(CASES / name)
    assert (video.nearest(begin), video.nearest(1.02)) == shown
