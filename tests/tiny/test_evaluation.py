"""The figures of the evaluation, on clips whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco
from rich.console import Console

from tiny.art import ArtMissing, Catalog, kinds
from tiny.clips import Clip, Director
from tiny.evaluation import clips, named
from tiny.evaluation.__main__ import main
from tiny.packages import BACKGROUNDS, CLIPPINGS, LABELLED, PHOTOGRAPHS, TEST_BACKGROUNDS
from tiny.photographs import held_out
from tiny.scenes import Painter

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clip(catalog: Catalog) -> Clip:
    return Director(Painter(catalog, "train", 2)).clip(0, 24)


def case(clip: Clip, *, shift: int = 0, captions: list[str] | None = None, empty: bool = False) -> clips.Case:
    truth = np.stack([actor.masks for actor in clip.actors[:1]])
    events = tuple(zip((0, clip.boundaries[0] + shift), captions or clip.captions(), strict=True))
    found = np.zeros_like(truth) if empty else truth
    return clips.Case(clip, (0,), found, (clip.actors[0].truth.kind,), events)


def test_a_perfect_answer(clip: Clip) -> None:
    figures = clips.figures([case(clip)])
    assert figures == {
        "clip_j": 1.0,
        "clip_j_subject": 1.0,
        "clip_class_top1": 1.0,
        "event_within_3": 1.0,
        "events_too_many": 0.0,
        "event_act": 1.0,
    }


@pytest.mark.parametrize(("shift", "near"), [(-3, 1.0), (3, 1.0), (4, 0.0), (-4, 0.0)])
def test_events_may_be_three_frames_off(clip: Clip, shift: int, near: float) -> None:
    assert clips.figures([case(clip, shift=shift)])["event_within_3"] == near


def test_nothing_found_and_the_wrong_thing_said(clip: Clip) -> None:
    figures = clips.figures([case(clip, captions=["A red fish swims.", "It sinks."], empty=True)])
    gone = (~clip.actors[0].masks[1:].any((1, 2))).mean()
    assert figures["clip_j"] == pytest.approx(gone), "only where it is gone is nothing right"
    assert figures["event_act"] == 0


def test_no_event_found_is_none_near(clip: Clip) -> None:
    lost = clips.Case(clip, (0,), np.stack([clip.actors[0].masks]), ("object",), ((0, clip.captions()[0]),))
    assert lost.boundary_error == float("inf")


def test_the_command_measures_the_bundled_checkpoint(
    catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--art", str(catalog.root), "--count", "1", "--clips", "1", "--out", str(tmp_path), "--json"]
    assert main(options) == 0
    report = json.loads(capsys.readouterr().out)
    promised = (
        "iou_1_click iou_3_clicks iou_box class_top1 colour place definition transfer_class_top1 "
        "clip_j clip_class_top1 event_within_3"
    )
    assert set(promised.split()) <= set(report)
    assert all(0 <= report[key] <= 1 for key in promised.split())
    assert (tmp_path / "contact-sheet.png").is_file() and (tmp_path / "filmstrips.png").is_file()
    assert json.loads((tmp_path / "figures.json").read_text()) == report


def test_without_the_drawings_it_says_how_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--art", str(tmp_path)]) == 2
    assert "python -m tiny art" in capsys.readouterr().err


def test_photographs_that_people_drew_regions_of(
    catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A red thing on grey is measured by click and box, beside the box itself."""
    picture = np.full((120, 160, 3), 128, np.uint8)
    mask = np.zeros((120, 160), np.uint8)
    mask[30:90, 40:80] = 1
    mask[30:60, 40:60] = 0  # three quarters of its box
    picture[mask > 0] = (220, 30, 30)
    folder = tmp_path / "photographs"
    (folder / "pictures").mkdir(parents=True)
    Image.fromarray(picture).save(folder / "pictures" / "a.png")
    rle = coco.encode(np.asfortranarray(mask))
    code = {"size": rle["size"], "counts": rle["counts"].decode()}
    rows = [{"mask": code, "click": [70, 70], "box": [40, 30, 80, 90]}]
    (folder / "truth.json").write_text(json.dumps({"a.png": rows}))
    options = ["--art", str(catalog.root), "--count", "0", "--out", str(tmp_path), "--json"]
    assert main([*options, "--photographs", str(folder)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["photo_filled_box"] == pytest.approx(0.75, abs=0.001)
    assert 0 < report["photo_box"] <= report["photo_box_cut"] <= 1  # the thing is all within its box
    assert 0 <= report["photo_click"] <= 1 and report["photo_box_75"] in (0.0, 1.0)
    (folder / "truth.json").write_text(json.dumps({"b.png": rows}))
    assert main([*options, "--photographs", str(folder)]) == 2
    assert "b.png" in capsys.readouterr().err


def test_what_is_labelled_was_never_trained_on_and_has_names_of_the_table(tmp_path: Path) -> None:
    rows = yaml.safe_load(Path(named.__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    assert set(rows) == {"demo", "counted", "art", "packages"} and sum(map(len, rows.values())) >= 100
    assert all(held_out(tmp_path / name) for name in rows["art"])
    for source, folder in (("demo", "pictures"), ("counted", "counted")):
        assert all((ROOT / "demo" / folder / name).is_file() for name in rows[source])
    packages = {name.split("/")[0] for name in rows["packages"]}
    assert packages == set(LABELLED) and not packages & {*PHOTOGRAPHS, *CLIPPINGS, *BACKGROUNDS} - {TEST_BACKGROUNDS}
    labelled = [row for pictures in rows.values() for listed in pictures.values() for row in listed]
    assert {name for row in labelled for name in row["names"]} <= set(kinds())
    for left, top, right, bottom in (row["box"] for row in labelled):
        assert 0 <= left < right <= 100 and 0 <= top < bottom <= 100
    with pytest.raises(ArtMissing, match="volleyball"):
        list(named.things(tmp_path))
    inside = (name.split("/", 1) for name in rows["packages"])
    files = [tmp_path / "packages" / package / LABELLED[package] / name for package, name in inside]
    for file in (*files, *(tmp_path / "photographs" / name for name in rows["art"])):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert len(list(named.things(tmp_path))) == len(labelled)


def test_a_wrong_name_is_worse_than_object(monkeypatch: pytest.MonkeyPatch) -> None:
    cup, strange = ("cup", "coffee"), ()
    told = [(cup, "coffee"), (cup, "object"), (cup, "cat"), (strange, "object"), (strange, "dog")]
    picture = ROOT / "demo" / "pictures" / "coffee.jpg"
    asked = [named.Labelled(picture, (0, 0, 1, 1), names) for names, _ in told]
    monkeypatch.setattr(named, "things", lambda _: iter(asked))
    words = iter([word for _, word in told])
    pam = SimpleNamespace(
        perceive=lambda *_: SimpleNamespace(texts=[{"recognize": SimpleNamespace(string=next(words))}])
    )
    rates, said = named.figures(pam, Path(), Console(quiet=True))  # type: ignore[arg-type]
    assert rates == pytest.approx({"named_top1": 1 / 3, "named_right": 2 / 5, "named_wrong": 2 / 5})
    assert said[0] == ("coffee", "cup, coffee", "coffee") and said[-1] == ("coffee", "object", "dog")
