"""Exports read back: by the formats' own libraries where there are any, else by the formats' own rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.values.mask import from_rle, mask_iou
from tests.export.conftest import (
    CLASSES,
    CONFIG,
    HEIGHT,
    WIDTH,
    Export,
    box,
    brush,
    everything,
    picture,
    read,
    ring_with_pieces,
)
from tests.export.conftest import task as a_task


@pytest.fixture
def tasks(tmp_path: Path) -> list[dict[str, Any]]:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.jpg")
    return [a_task("a.png", everything()), a_task("b.jpg", [])]


def filled(corners: np.ndarray) -> np.ndarray:
    """Pixels that lie mostly inside a polygon, drawn by OpenCV ten times as large."""
    large = np.zeros((10 * HEIGHT, 10 * WIDTH), np.uint8)
    cv2.fillPoly(large, [np.round(10 * corners - 0.5).astype(np.int32)], 1)
    shares: np.ndarray = large.reshape(HEIGHT, 10, WIDTH, 10).mean(axis=(1, 3))
    return shares > 0.5


def expected() -> list[tuple[str, np.ndarray]]:
    """Class and mask of each region, in the order of the result."""
    turn = np.array([[np.cos(np.pi / 6), -np.sin(np.pi / 6)], [np.sin(np.pi / 6), np.cos(np.pi / 6)]])
    road = filled(np.array([[42, 2], [57, 2], [57, 12], [42, 12]]))
    turned = filled(np.array([[0, 0], [6, 0], [6, 12], [0, 12]]) @ turn.T + (30, 4))
    around = np.linspace(0, 2 * np.pi, 200)
    oval = filled(np.stack([6 * np.cos(around), 4 * np.sin(around)], 1) @ turn.T + (30, 32))
    return [("car", ring_with_pieces()), ("road", road), ("car", turned), ("road", oval)]


def test_coco_read_by_pycocotools(tasks: list[Any], export: Export, tmp_path: Path) -> None:
    export(tasks, "coco")
    coco = COCO(str(tmp_path / "coco" / "annotations" / "instances_all.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == CLASSES
    first, second = (coco.imgs[number] for number in sorted(coco.imgs))
    assert (first["width"], first["height"], first["caption"]) == (WIDTH, HEIGHT, "a street")
    for image in (first, second):
        assert Image.open(tmp_path / "coco" / "images" / image["file_name"]).size == (image["width"], image["height"])
    assert coco.getAnnIds(imgIds=[second["id"]]) == []
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[first["id"]]))
    assert len(annotations) == 4, "prompts and leftovers of prompts are no regions"
    for annotation, (label, mask) in zip(annotations, expected(), strict=True):
        found = coco.annToMask(annotation) > 0
        assert coco.cats[annotation["category_id"]]["name"] == label
        assert mask_iou(found, mask) > 0.8 and abs(annotation["area"] - found.sum()) < 0.15 * found.sum()
    car = annotations[0]
    assert ((coco.annToMask(car) > 0) == ring_with_pieces()).all() and car["area"] == ring_with_pieces().sum()
    assert car["bbox"] == [5, 5, 50, 31]
    assert (car["score"], car["caption"], car["classes"]) == (0.75, "a red car", {"state": "old"})
    # the evaluation takes what was exported for what was found: nothing is missed
    result = coco.loadRes([one | {"score": 1.0} for one in annotations])
    evaluation = COCOeval(coco, result, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def rgb2id(colours: np.ndarray) -> np.ndarray:
    """As panopticapi reads a PNG."""
    wide = colours.astype(np.uint32)
    numbers: np.ndarray = wide[..., 0] + 256 * wide[..., 1] + 256**2 * wide[..., 2]
    return numbers


def panoptic_faults(file: Path, pngs: Path) -> list[str]:
    """What panopticapi's evaluation and its converters refuse, and what COCO's description of the format asks for."""
    found, faults = read(file), []
    categories = {category["id"]: category for category in found["categories"]}
    images = {image["id"]: image for image in found["images"]}
    if sorted(one["image_id"] for one in found["annotations"]) != sorted(images):
        faults.append("an image without its one annotation")
    for annotation in found["annotations"]:
        image, png = images[annotation["image_id"]], Image.open(pngs / annotation["file_name"])
        if Path(annotation["file_name"]).stem != Path(image["file_name"]).stem:
            faults.append("a PNG that is not named after its image")
        if png.format != "PNG" or png.mode != "RGB" or png.size != (image["width"], image["height"]):
            faults.append(f"{png.format} {png.mode} {png.size}")
        numbers = rgb2id(np.asarray(png))
        in_png = set(np.unique(numbers).tolist()) - {0}
        in_json = [segment["id"] for segment in annotation["segments_info"]]
        if len(set(in_json)) != len(in_json) or 0 in in_json:
            faults.append("segment ids that are not unique, or 0")
        faults += [f"segment {one} is in the PNG and not in the JSON" for one in in_png - set(in_json)]
        faults += [f"segment {one} is in the JSON and not in the PNG" for one in set(in_json) - in_png]
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(numbers == segment["id"])
            if segment["category_id"] not in categories or segment["iscrowd"] not in (0, 1):
                faults.append("an unknown category, or no iscrowd")
            if not len(rows) or segment["area"] != len(rows):
                faults.append(f"area {segment['area']}, {len(rows)} pixels")
            elif segment["bbox"] != [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]:
                faults.append(f"bbox {segment['bbox']}")
    return faults


def test_panoptic_by_its_rules(tasks: list[Any], export: Export, tmp_path: Path) -> None:
    # regions that lie on each other, one of them whole under another one
    hidden = np.zeros((HEIGHT, WIDTH), bool)
    hidden[2:8, 40:50] = True
    tasks[1]["annotations"][0]["result"] = [brush(ring_with_pieces(), region=name) for name in ("x", "y")]
    tasks[1]["annotations"][0]["result"] += [brush(hidden, "person", "s"), box(60, 0, 40, 40, region="z")]
    export(tasks, "coco-panoptic")
    out = tmp_path / "coco-panoptic"
    file = out / "panoptic_all.json"
    assert panoptic_faults(file, out / "panoptic_all") == []
    found = read(file)
    assert [category["name"] for category in found["categories"]] == CLASSES
    assert all({"id", "name", "isthing", "color"} <= set(category) for category in found["categories"])
    first, second = (one["segments_info"] for one in found["annotations"])
    assert len(first) == 4 and first[0]["caption"] == "a red car" and first[0]["score"] == 0.75
    # of two alike one alone is seen
    assert len(second) == 3
    # the checks do find faults
    found["annotations"][0]["segments_info"][0]["area"] += 1
    found["annotations"][1]["segments_info"].pop()
    file.write_text(json.dumps(found))
    assert len(panoptic_faults(file, out / "panoptic_all")) == 2


def test_of_two_regions_the_smaller_is_on_top(tmp_path: Path, export: Export) -> None:
    picture(tmp_path / "a.png")
    small, large = np.zeros((2, HEIGHT, WIDTH), bool)
    large[:, :30], small[10:20, 10:20] = True, True
    export([a_task("a.png", [brush(small, "person", "s"), brush(large, "c_1", "l")])], "masks")
    name = next((tmp_path / "masks" / "semantic" / "all").iterdir()).name
    classes = np.asarray(Image.open(tmp_path / "masks" / "semantic" / "all" / name))
    assert (classes == np.where(small, 2, np.where(large, 1, 0))).all()


def polygons(line: str) -> tuple[int, np.ndarray]:
    """As ultralytics reads a line and fills it (`polygon2mask`)."""
    place, *numbers = line.split()
    corners = np.array(numbers, float).reshape(-1, 2)
    assert ((corners >= 0) & (corners <= 1)).all() and len(corners) >= 3
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    # its corners are cut to whole pixels
    cv2.fillPoly(mask, [(corners * (WIDTH, HEIGHT)).astype(np.int32)], 1)
    return int(place), mask > 0


def test_yolo_as_ultralytics_reads_it(tasks: list[Any], export: Export, tmp_path: Path) -> None:
    export(tasks, "yolo-seg", "--split", "100/0/0")
    out = tmp_path / "yolo-seg"
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert list(data["names"].values()) == CLASSES and data["train"] == "images/train" and data["val"] == "images/val"
    images = sorted((out / "images" / "train").iterdir())
    assert {path.suffix for path in images} == {".png", ".jpg"}
    # ultralytics finds labels by putting labels for images in the path, and .txt for the suffix
    texts = [Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt").read_text() for path in images]
    lines = next(text.splitlines() for text in texts if text)
    for line, (label, mask) in zip(lines, expected(), strict=True):
        place, found = polygons(line)
        assert CLASSES[place] == label and mask_iou(found, mask) > 0.75
    _, car = polygons(lines[0])
    assert mask_iou(car, ring_with_pieces()) > 0.97, "with its hole, and the piece that lies apart"
    said = [json.loads(line) for line in (out / "regions.jsonl").read_text().splitlines()]
    assert said[0]["caption"] == "a red car" and said[0]["line"] == 1 and said[0]["score"] == 0.75


def test_masks_as_pictures(tasks: list[Any], export: Export, tmp_path: Path) -> None:
    export(tasks, "masks", "--pictures", "none")
    out = tmp_path / "masks"
    assert read(out / "categories.json") == {str(i): name for i, name in enumerate(CLASSES, 1)}
    said = [json.loads(line) for line in (out / "regions.jsonl").read_text().splitlines()]
    places = np.asarray(Image.open(out / "instances" / said[0]["file"]))
    classes = np.asarray(Image.open(out / "semantic" / said[0]["file"]))
    assert places.max() == len(said) == 4 and [one["label"] for one in said] == ["car", "road", "car", "road"]
    for one in said:
        here = classes[places == one["instance"]]
        assert (here == CLASSES.index(one["label"]) + 1).all() and len(here)
    assert (out / "images").exists() is False


def test_voc_by_its_rules(tasks: list[Any], export: Export, tmp_path: Path) -> None:
    export(tasks, "voc", "--split", "0/100")
    out = tmp_path / "voc"
    names = (out / "ImageSets" / "Main" / "val.txt").read_text().split()
    assert len(names) == 2 and (out / "ImageSets" / "Main" / "train.txt").read_text() == ""
    objects = []
    for name in names:
        root = ElementTree.parse(out / "Annotations" / f"{name}.xml").getroot()
        assert (out / "JPEGImages" / str(root.findtext("filename"))).is_file()
        classes = np.asarray(Image.open(out / "SegmentationClass" / f"{name}.png"))
        places = np.asarray(Image.open(out / "SegmentationObject" / f"{name}.png"))
        assert Image.open(out / "SegmentationClass" / f"{name}.png").mode == "P"
        assert classes.shape == (int(root.findtext("size/height") or 0), int(root.findtext("size/width") or 0))
        assert ((classes > 0) == (places > 0)).all()
        objects += root.findall("object")
    assert [one.findtext("name") for one in objects] == ["car", "road", "car", "road"]
    corners = [int(objects[0].findtext(f"bndbox/{side}") or 0) for side in ("xmin", "ymin", "xmax", "ymax")]
    assert corners == [6, 6, 55, 36] and objects[0].findtext("caption") == "a red car"
    assert (out / "labels.txt").read_text().splitlines() == CLASSES


def test_jsonl_has_everything(tasks: list[Any], export: Export, tmp_path: Path) -> None:
    export(tasks, "jsonl")
    first, second = map(json.loads, (tmp_path / "jsonl" / "all.jsonl").read_text().splitlines())
    assert (tmp_path / "jsonl" / first["file_name"]).is_file() and second["regions"] == []
    for one, (label, mask) in zip(first["regions"], expected(), strict=True):
        assert one["label"] == label and mask_iou(from_rle(one["segmentation"]), mask) > 0.8
    assert first["texts"] == {"scene": "a street"} and first["regions"][0]["texts"] == {"caption": "a red car"}
    assert first["regions"][1]["polygon"] == [[42, 2], [57, 2], [57, 12], [42, 12]]


def test_label_studios_own_converter_sees_the_same_masks(tasks: list[Any], export: Export, tmp_path: Path) -> None:
    from label_studio_sdk.converter import brush as theirs

    export(tasks, "coco")
    coco = COCO(str(tmp_path / "coco" / "annotations" / "instances_all.json"))
    (drawn,) = [one for one in everything() if one["type"] == "brushlabels"]
    decoded = theirs.decode_rle(drawn["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0
    assert ((coco.annToMask(coco.loadAnns([1])[0]) > 0) == decoded).all()


def test_label_studios_own_coco_has_the_same_shapes(tmp_path: Path, export: Export) -> None:
    """Of what its converter exports at all: polygons and upright boxes, of configs without keypoints."""
    from label_studio_sdk.converter.converter import Converter

    config = re.sub(r"<KeyPointLabels.*?</KeyPointLabels>", "", CONFIG, flags=re.DOTALL)
    picture(tmp_path / "a.png")
    (square,) = [one for one in everything() if one["type"] == "polygonlabels"]
    tasks = [a_task("a.png", [square, box(10, 20, 30, 40)], id=1)]
    tasks[0]["annotations"][0]["completed_by"] = {"id": 1, "email": "somebody@example.test"}
    export(tasks, "coco", config=config)
    ours = COCO(str(tmp_path / "coco" / "annotations" / "instances_all.json"))
    (tmp_path / "in.json").write_text(json.dumps(tasks))
    converter = Converter(config, str(tmp_path), download_resources=False)
    converter.convert_to_coco(str(tmp_path / "in.json"), str(tmp_path / "theirs"), is_dir=False)
    theirs = COCO(str(tmp_path / "theirs" / "result.json"))

    def shapes(coco: COCO) -> dict[str, dict[str, Any]]:
        found = coco.loadAnns(coco.getAnnIds())
        return {coco.cats[one["category_id"]]["name"]: one for one in found}

    mine, its = shapes(ours), shapes(theirs)
    assert set(mine) == set(its) == {"road", "car"}
    assert mine["car"]["bbox"] == pytest.approx(its["car"]["bbox"]) and mine["car"]["bbox"] == [6, 8, 18, 16]
    assert mine["road"]["bbox"] == pytest.approx(its["road"]["bbox"], abs=1)
    assert mask_iou(ours.annToMask(mine["road"]) > 0, theirs.annToMask(its["road"]) > 0) > 0.85


def test_a_box_is_a_polygon_and_stays_inside(tmp_path: Path, export: Export) -> None:
    picture(tmp_path / "a.png")
    export([a_task("a.png", [box(-5, 90, 20, 20), box(10, 10, 20, 20, region="b2")])], "coco")
    over, inside = read(tmp_path / "coco" / "annotations" / "instances_all.json")["annotations"]
    assert over["bbox"] == [0, 36, 9, 4] and inside["bbox"] == [6, 4, 12, 8] and inside["area"] == 96
    assert inside["segmentation"] == [[6, 4, 18, 4, 18, 12, 6, 12]]
