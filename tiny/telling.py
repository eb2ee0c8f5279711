"""What a thing does in a clip, for the language stage: clips tracked once and kept as features, and their questions.

The layout is the one that serves: 16 frames of which the first is seen in full, and the caption before in the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from model.sam.tower import Tower
from model.values.task import LANGUAGES, VideoTask, video_instruction
from model.video.track import clip_numbers
from tiny.batch import MEAN, NAMES, STD
from tiny.language import Packed, Packer
from tiny.looks import box_of
from tiny.memory import Films, follow
from tiny.pool import truth_from
from tiny.texts import ACTS, Truth, tell

_BEFORE = {"nothing": 0.4, "same": 0.25, "other": 0.35}


@dataclass(frozen=True)
class Scene:
    """One thing doing one thing: image (16, C, n, n) float16 and mask_tokens (16, 2, C) float16, as
    `Vision.clip` takes them, its truth and what it does (a key of ACTS)."""

    image: Tensor
    mask_tokens: Tensor
    truth: Truth
    act: str


def watch(tower: Tower, films: Films, count: int) -> list[Scene]:
    """Track the first thing of `count` clips through each of its acts, from its box at the beginning."""
    scenes = []
    for number in range(min(count, len(films))):
        for act in films.acts[number]:
            times = np.arange(act.first, act.last + 1)
            masks = films.owners[number] == 1
            before = [int(t) for t in np.flatnonzero(masks.any((1, 2))) if t <= act.first]
            picture = torch.from_numpy(films.frames[number, times]).permute(0, 3, 1, 2).float() / 255
            pictures = ((picture - MEAN[:, None, None]) / STD[:, None, None]).to(tower.device)
            found = follow(tower, pictures, box_of(masks[before[-1]]))
            kept = [found[i] for i in clip_numbers(len(found))]
            scenes.append(
                Scene(
                    torch.cat([out.image for out in kept]).half().cpu(),
                    torch.cat([out.mask_tokens for out in kept]).half().cpu(),
                    films.truths[number],
                    act.name,
                )
            )
    return scenes


def save(scenes: list[Scene], file: Path) -> None:
    """Write what was watched."""
    rows = [{**vars(scene), "truth": vars(scene.truth)} for scene in scenes]
    torch.save(rows, file.with_suffix(".part"))
    file.with_suffix(".part").replace(file)


def load(file: Path) -> list[Scene]:
    """Read it again."""
    rows = torch.load(file, weights_only=True)
    return [Scene(r["image"], r["mask_tokens"], truth_from(r["truth"]), r["act"]) for r in rows]


def questions(rng: Generator, scene: Scene, count: int) -> list[tuple[str, str]]:
    """`count` instructions about a clip, each with a caption before or without one, and their answers."""
    asked = []
    for _ in range(count):
        language = str(rng.choice(LANGUAGES))
        kind = str(rng.choice(list(_BEFORE), p=list(_BEFORE.values())))
        if kind == "nothing" and scene.act == "gone":
            kind = "other"  # what is gone can only be told from what was said
        before = None if kind == "nothing" else scene.act
        if kind == "other":
            before = str(rng.choice([act for act in ACTS if act not in (scene.act, "gone")]))
        earlier = str(rng.choice([*ACTS, ""])) or None  # the caption before may itself go on from one
        said = "" if before is None else tell(scene.truth, before, earlier, language)
        asked.append(
            (video_instruction(VideoTask.CAPTION, language, said), tell(scene.truth, scene.act, before, language))
        )
    return asked


@dataclass(frozen=True)
class Lesson:
    """B clips with their questions: image (B, 16, C, n, n), mask_tokens (B, 16, 2, C), classes (B,). Or R regions of
    pictures: image (R, C, n, n), mask_tokens (R, 2, C)."""

    image: Tensor
    mask_tokens: Tensor
    kind: Tensor
    packed: Packed


def lesson(
    rng: Generator, packer: Packer, scenes: list[Scene], count: int, answers: int, device: torch.device
) -> Lesson:
    """A random one."""
    chosen = [scenes[int(i)] for i in rng.integers(len(scenes), size=count)]
    return Lesson(
        torch.stack([scene.image for scene in chosen]).float().to(device),
        torch.stack([scene.mask_tokens for scene in chosen]).float().to(device),
        torch.tensor([NAMES.index(scene.truth.kind) for scene in chosen], device=device),
        packer.lay([questions(rng, scene, answers) for scene in chosen]).to(device),
    )
