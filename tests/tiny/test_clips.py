"""Clips: the same seed gives the same clip, and the truth is true of every frame."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from model.values.mask import from_rle
from tiny import looks
from tiny.__main__ import main
from tiny.art import Catalog
from tiny.clips import SEEN, Clip, Director
from tiny.scenes import Painter
from tiny.texts import ACTS


@pytest.fixture(scope="module")
def director(catalog: Catalog) -> Director:
    return Director(Painter(catalog, "train", 2))


@pytest.fixture(scope="module")
def several(director: Director) -> list[Clip]:
    return [director.clip(number, 20) for number in range(10)]


def test_same_seed_same_clip(catalog: Catalog, several: list[Clip]) -> None:
    again = Director(Painter(catalog, "train", 2)).clip(3, 20)
    assert np.array_equal(again.frames, several[3].frames)
    assert [a.acts for a in again.actors] == [a.acts for a in several[3].actors]
    other = Director(Painter(catalog, "train", 3)).clip(3, 20)
    assert other.frames.shape != again.frames.shape or not np.array_equal(other.frames, again.frames)


def test_acts_fill_the_clip_and_change_once(several: list[Clip]) -> None:
    for clip in several:
        first, second = clip.actors[0].acts
        assert (first.first, second.first, second.last) == (0, first.last + 1, len(clip.frames) - 1)
        assert first.name != second.name and {first.name, second.name} <= set(ACTS)
        assert clip.boundaries == (second.first,)


def test_things_do_what_the_truth_says(several: list[Clip]) -> None:
    heading = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
    told = set()
    for clip in several:
        subject = clip.actors[0]
        assert all(looks.box_of(mask) for mask in subject.masks[: subject.acts[0].last + 1])
        for act in subject.acts:
            told.add(act.name)
            if act.name == "gone":
                assert not subject.seen[act.first :].any() and subject.seen[: act.first].all()
                continue
            whole = subject.masks[act.first : act.last + 1]
            if any(other.masks.any() for other in clip.actors[1:]):
                continue  # what covers it moves its visible middle
            boxes = np.array([looks.box_of(mask) for mask in whole])
            middles = (boxes[:, :2] + boxes[:, 2:]) / 2
            way = (middles[-1] - middles[0]) / (len(middles) - 1)
            wanted = np.array(heading[act.name])
            if act.name == "still":
                assert np.abs(way).max() < 1.0
            else:
                assert way @ wanted > 1.0 and abs(way @ wanted[::-1]) < 1.0
    assert len(told) >= 4


def test_masks_of_a_frame_do_not_overlap(several: list[Clip]) -> None:
    for clip in several:
        assert (np.sum([actor.masks for actor in clip.actors], axis=0) <= 1).all()
        assert all((actor.masks.sum((1, 2)) >= SEEN).any() for actor in clip.actors)


def test_captions_know_the_one_before(several: list[Clip]) -> None:
    for clip in several:
        first, second = clip.captions()
        truth = clip.actors[0].truth
        assert f"{truth.colour} {truth.kind}" in first and second.startswith(f"The {truth.colour} {truth.kind} ")
        assert second.endswith(" now.")
        assert all("\u4e00" <= text[0] <= "\u9fff" for text in clip.captions("zh"))


def test_the_command_writes_videos_with_their_truth(catalog: Catalog, tmp_path: Path) -> None:
    arguments = ["clips", "--art", str(catalog.root), "--count", "2", "--out", str(tmp_path), "--split", "train"]
    assert main([*arguments, "--seed", "2"]) == 0
    data = json.loads((tmp_path / "clips.json").read_text(encoding="utf-8"))
    assert data["split"] == "train" and len(data["clips"]) == 2
    truth = Director(Painter(catalog, "train", 2)).clip(1)
    row = data["clips"][1]
    with av.open(str(tmp_path / row["file"])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == row["frames"] == len(truth.frames)
    shown, drawn = frames[5].astype(int), truth.frames[5].astype(int)
    assert np.abs(shown - drawn).mean() < 0.3 * np.abs(shown - drawn[::-1]).mean(), "the video shows another picture"
    thing = row["things"][0]
    assert np.array_equal(from_rle(thing["masks"][5]), truth.actors[0].masks[5])
    assert thing["boxes"][5] == list(looks.box_of(truth.actors[0].masks[5]))
    assert thing["seen"] == truth.actors[0].seen.tolist()
    assert row["boundaries"] == list(truth.boundaries)
