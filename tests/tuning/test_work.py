"""Which reviewed work teaches, what it says, and what is left out and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.errors import BadRequest
from backend.export.spec import Spec
from backend.settings import Settings
from backend.tuning import scenes
from backend.tuning.gather import HELD_PERCENT, Gathered, is_held
from backend.tuning.wanted import wanted
from backend.tuning.work import Taught, Work, since_of
from model import Example
from model.values.mask import from_rle, mask_box
from model.values.task import Task
from tests import videos
from tests.tuning import made

MASK = made.wide(made.scene(1)[1])


def annotation(result: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {"id": 1, "result": result, "updated_at": "2026-11-20T10:00:00Z", "updated_by": 1} | changes


def work(folder: Path, *tasks: dict[str, Any], config: str = made.CONFIG, since: str | None = None) -> Work:
    (folder / "tasks.json").write_text(json.dumps(list(tasks)))
    spec = Spec(input=folder / "tasks.json", label_config=config, format="jsonl")
    return Work(Settings(), spec, since_of(since))


def task(number: int, *annotations: dict[str, Any], image: str = "1.png") -> dict[str, Any]:
    return {"id": number, "data": {"image": image}, "annotations": list(annotations)}


def read(found: Work) -> list[Taught]:
    return list(found.regions())


def test_what_a_region_says(tmp_path: Path) -> None:
    (one,) = read(work(tmp_path, task(7, annotation(made.region(MASK, "box", " A wide box. ", "r1")))))
    assert (one.task, one.number, one.address, one.weight, one.time_s) == ("7", 7, "1.png", 1.0, None)
    assert one.names is not None and one.label == 1 and one.names.names == (("disc",), ("box",))
    assert one.texts == {(Task.BRIEF, "en"): "A wide box."}


def test_skipped_and_unseen_work_does_not_teach_and_truth_counts_double(tmp_path: Path) -> None:
    region = made.region(MASK, "disc", "x", "r1")
    unseen = {"parent_prediction": 5, "updated_by": None, "lead_time": None}
    found = work(
        tmp_path,
        task(1, annotation(region, was_cancelled=True)),
        task(2, annotation(region, **unseen)),
        task(3, annotation(region, parent_prediction=5)),  # somebody edited it
        task(4, annotation(region, ground_truth=True)),
        task(5),
        task(6, annotation(region, updated_at="2026-11-01T00:00:00Z")),
        since="2026-11-15",
    )
    assert [(one.task, one.weight) for one in read(found)] == [("3", 1.0), ("4", 2.0)]


def test_the_newest_of_several_teaches_and_disputed_labels_do_not(tmp_path: Path) -> None:
    old = annotation(made.region(MASK, "disc", "old", "r1"), updated_at="2026-11-19T10:00:00Z", id=2)
    found = work(tmp_path, task(1, annotation(made.region(MASK, "box", "new", "r1")), old))
    (one,) = read(found)
    assert one.label is None and one.texts == {(Task.BRIEF, "en"): "new"}
    assert found.left_out["labels that two people disagree about"] == 1
    true = work(tmp_path, task(1, annotation(made.region(MASK, "box", "new", "r1")), old | {"ground_truth": True}))
    (one,) = read(true)
    assert one.label == 0 and one.weight == 2.0


def test_strange_labels_and_broken_tasks_are_counted(tmp_path: Path) -> None:
    broken = task(3, annotation(made.region(MASK, "disc", "x", "r")))
    broken["annotations"][0]["result"] = "none"
    found = work(
        tmp_path,
        task(1, annotation(made.region(MASK, "sold out", "still a caption", "r1"))),
        task(2, annotation([])),
        broken,
        {"id": 4, "data": None, "annotations": [annotation(made.region(MASK, "disc", "x", "r"))]},
    )
    (one,) = read(found)
    assert one.label is None and one.texts
    assert found.left_out["labels that the config no longer has"] == 1
    assert found.left_out["tasks that cannot be read"] >= 1


def test_a_config_without_labels_teaches_masks_and_captions(tmp_path: Path) -> None:
    config = """<View><Image name="image" value="$image"/><Brush name="mask" toName="image"/>
    <TextArea name="caption" toName="image" perRegion="true"/></View>"""
    items = made.region(MASK, "disc", "x", "r1")
    items[0] = items[0] | {"type": "brush"}
    (one,) = read(work(tmp_path, task(1, annotation(items)), config=config))
    assert one.label is None and one.names is None and one.texts


def test_a_video_teaches_labels_and_captions_by_its_first_box(tmp_path: Path) -> None:
    config = """<View><Video name="video" value="$video" frameRate="5"/><VideoRectangle name="box" toName="video"/>
    <Labels name="what" toName="video"><Label value="ball"/><Label value="dog"/></Labels>
    <TextArea name="caption" toName="video" perRegion="true"/></View>"""
    videos.write(tmp_path / "clip.mp4", [videos.picture(number) for number in range(30)])
    keys = {"y": 10, "width": 30, "height": 40, "enabled": True, "rotation": 0}
    sequence = [{"frame": 3, "x": 20, **keys}, {"frame": 6, "x": 40, **keys}]
    shell = {"id": "t1", "to_name": "video"}
    items = [
        shell | {"from_name": "box", "type": "videorectangle", "value": {"sequence": sequence, "labels": ["dog"]}},
        shell | {"from_name": "caption", "type": "textarea", "value": {"text": ["a dog runs"]}},
    ]
    found = work(tmp_path, {"id": 1, "data": {"video": "clip.mp4"}, "annotations": [annotation(items)]}, config=config)
    (one,) = read(found)
    assert one.label == 1 and one.time_s == pytest.approx(0.4) and list(one.texts.values()) == ["a dog runs"]
    (example,) = gathered(tmp_path).examples(lambda: [one], lambda _: None)
    assert example.mask is None and not example.teaches("masks") and example.teaches("labels")
    picture = gathered(tmp_path).picture(example.picture)
    assert example.box[0] == pytest.approx(0.2 * picture.width, abs=1)


def gathered(folder: Path) -> Gathered:
    (folder / "run").mkdir(exist_ok=True)
    return Gathered(Settings(), folder / "run", folder)


def test_pictures_are_kept_and_read_once(tmp_path: Path) -> None:
    made.tasks(2, tmp_path)
    tasks = [task(n, annotation(made.region(MASK, "disc", "x", "r")), image=f"{n}.png") for n in range(2)]
    first = gathered(tmp_path)
    examples = first.examples(work(tmp_path, *tasks).regions, lambda _: None)
    assert [example.group for example in examples] == ["0", "1"] and examples[0].choices is examples[1].choices
    assert (from_rle(examples[0].mask or {}) == MASK).all() and examples[0].box == mask_box(MASK)
    assert first.picture(examples[1].picture).size == (made.SIDE, made.SIDE)
    for file in tmp_path.glob("*.png"):
        file.unlink()

    def none() -> list[Taught]:
        raise AssertionError("the work is read once")

    again = gathered(tmp_path).examples(none, lambda _: None)
    assert [vars(example) for example in again] == [vars(example) for example in examples]


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    made.tasks(1, tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    Image.new("RGB", (50, 50)).save(tmp_path / "small.png")
    region = made.region(MASK, "disc", "x", "r")
    far = made.region(MASK, "disc", "x", "r")
    far[0]["value"] = {"format": "rle", "rle": [1, 2, 3], "brushlabels": ["disc"]}
    found = gathered(tmp_path)
    tasks = [
        task(1, annotation(region), image="0.png"),
        task(2, annotation(region), image="broken.png"),
        task(3, annotation(region), image="gone.png"),
        task(4, annotation(region), image="small.png"),
        task(5, annotation(far), image="0.png"),
    ]
    examples = found.examples(work(tmp_path, *tasks).regions, lambda _: None)
    assert [(example.group, example.mask is None) for example in examples] == [("1", False), ("4", True)]
    box = mask_box(MASK)
    assert box is not None and examples[1].box == pytest.approx([50 / made.SIDE * side for side in box])
    assert found.left_out["masks of another size than their picture"] == 1
    assert found.left_out["regions that cannot be read"] == 1
    assert sum(count for reason, count in found.left_out.items() if "cannot be had" in reason) == 2


def test_the_share_that_is_held_out() -> None:
    held = [is_held(str(number)) for number in range(4000)]
    assert abs(sum(held) / 40 - HELD_PERCENT) < 2 and is_held("4") == is_held("4")


def test_the_guard_is_the_demos_scenes() -> None:
    guard = scenes.guard()
    assert len(guard) > 8 and all(example.teaches("masks") and example.teaches("labels") for example in guard)
    for example in guard:
        size = scenes.picture(example.picture).size
        assert from_rle(example.mask or {}).shape == size[::-1]
    assert not {example.picture for example in guard} & set(scenes.rehearsed()) and len(scenes.rehearsed()) >= 3


class _Options:
    project: int | None = None
    input: Path | None = None
    config = Path("nowhere.xml")
    since: str | None = None
    what = "labels,captions,masks"
    minutes: float | None = None
    job: str | None = None

    def __init__(self, **changes: Any) -> None:
        vars(self).update(changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "say which work"),
        ({"project": 1, "what": "masks,hats"}, "--what takes"),
        ({"project": 1, "minutes": 0.0}, "--minutes"),
        ({"project": 1, "since": "yesterday"}, "--since"),
        ({"input": Path("gone.json")}, "there is no file"),
        ({"input": Path(__file__)}, "nowhere.xml cannot be read"),
    ],
)
def test_options_that_say_nothing_good(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        wanted(Settings(), _Options(**changes))


def test_examples_teach_what_they_have() -> None:
    bare = Example("t", "p", (0, 0, 5, 5), texts={(Task.BRIEF, "en"): "x"})
    assert [bare.teaches(kind) for kind in ("labels", "captions", "masks")] == [False, True, False]
    assert len(bare.prompts()) == 1 and np.isfinite(bare.weight)
