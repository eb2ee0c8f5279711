"""How good a checkpoint is on clips it never saw: tracks, names and events.

Every thing that is seen on the first frame is tracked from its box there. J is the mean over the other frames of the
mask's IoU, 1 where the thing is gone and nothing is found. A subject's events are told by the stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track as shown

from model import PerceiveAnything, Prompt, Task
from tiny import clicks
from tiny.clips import SEEN, Clip, Director
from tiny.evaluation.pictures import mean
from tiny.looks import UNKNOWN, box_of
from tiny.texts import ACTS, label

TARGETS: dict[str, float | None] = {"clip_j": 0.70, "clip_class_top1": 0.90, "event_within_3": None}
"""The promised figures, by key; None where no number was promised."""

NEAR = 3
"""Frames by which an event may begin early or late."""


@dataclass(frozen=True)
class Case:
    """One clip with what the model made of it: masks (things, frames, H, W) of the things `followed`, each one's class,
    and (first frame, caption) of each event of the subject."""

    clip: Clip
    followed: tuple[int, ...]
    masks: np.ndarray
    classes: tuple[str, ...]
    events: tuple[tuple[int, str], ...]

    def j(self, row: int) -> float:
        """J of one of the followed things."""
        truth = self.clip.actors[self.followed[row]].masks
        return mean(clicks.iou(t, m) for t, m in zip(truth[1:], self.masks[row, 1:], strict=True))

    @property
    def boundary_error(self) -> float:
        """Frames from the subject's change to the nearest beginning of an event; infinite when none was found."""
        begins = [first for first, _ in self.events[1:]]
        return min((abs(first - self.clip.boundaries[0]) for first in begins), default=float("inf"))

    @property
    def acts_right(self) -> list[bool]:
        """For each event, whether its caption says what the subject does on most of its frames."""
        ends = [first for first, _ in self.events[1:]] + [len(self.clip.frames)]
        found = []
        for (first, caption), end in zip(self.events, ends, strict=True):
            acts = [a.name for a in self.clip.actors[0].acts for t in range(first, end) if a.first <= t <= a.last]
            said = ACTS[max(set(acts), key=acts.count)]
            found.append(any(phrase in caption for phrase in said[:2]))
        return found


def run(pam: PerceiveAnything, director: Director, count: int, console: Console) -> list[Case]:
    """The first `count` clips of a director."""
    numbers = shown(range(count), description="clips", console=console, transient=True)
    return [_case(pam, director.clip(number)) for number in numbers]


def _case(pam: PerceiveAnything, clip: Clip) -> Case:
    frames = [Image.fromarray(frame) for frame in clip.frames]
    followed = tuple(i for i, actor in enumerate(clip.actors) if actor.masks[0].sum() >= 3 * SEEN)
    prompts = [Prompt(box=box_of(clip.actors[i].masks[0])) for i in followed]
    tracking = pam.track(frames, prompts)
    masks = np.zeros((len(followed), *clip.frames.shape[:3]), bool)
    for found in tracking:
        for row, region in found.regions.items():
            masks[row, found.frame] = region.mask
    said = [pam.describe_video(tracking.tracks[row], [Task.RECOGNIZE]) for row in range(len(followed))]
    events = tuple((event.start_frame, event.caption.string) for event in pam.stream(frames, prompts[0]))
    return Case(clip, followed, masks, tuple(texts[Task.RECOGNIZE].string for texts in said), events)


def figures(cases: Sequence[Case]) -> dict[str, float]:
    """The figures by key: J and rates 0…1."""
    rows = [(case, row) for case in cases for row in range(len(case.followed))]
    known = [(case, row) for case, row in rows if _kind(case, row) != UNKNOWN]
    return {
        "clip_j": mean(case.j(row) for case, row in rows),
        "clip_j_subject": mean(case.j(0) for case in cases),
        "clip_class_top1": mean(case.classes[row] == label(_kind(case, row)) for case, row in known),
        "event_within_3": mean(case.boundary_error <= NEAR for case in cases),
        "events_too_many": mean(max(0, len(case.events) - 2) for case in cases),
        "event_act": mean(right for case in cases for right in case.acts_right),
    }


def _kind(case: Case, row: int) -> str:
    return case.clip.actors[case.followed[row]].truth.kind


def filmstrips(cases: Iterable[Case], across: int = 8) -> Image.Image:
    """Frames of each clip in a row, the subject's mask over them, what was said beneath."""
    side, foot = 150, 44
    rows = list(cases)
    sheet = Image.new("RGB", (across * side, max(1, len(rows)) * (side + foot)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, case in enumerate(rows):
        top = number * (side + foot)
        for column, time in enumerate(np.linspace(0, len(case.clip.frames) - 1, across, dtype=int)):
            picture = case.clip.frames[time].copy()
            mask = case.masks[0, time]
            picture[mask] = (0.5 * picture[mask] + 0.5 * np.array([255, 40, 160])).astype(np.uint8)
            shrunk = Image.fromarray(picture)
            shrunk.thumbnail((side - 4, side - 4))
            sheet.paste(shrunk, (column * side + 2, top + 2))
        told = "   ".join(f"{first}: {caption}" for first, caption in case.events)
        pen.text((4, top + side), f"{case.classes[0]}, J {case.j(0):.2f}.  {told}", fill="black")
        truth = "   ".join(
            f"{act.first}: {text}" for act, text in zip(case.clip.actors[0].acts, case.clip.captions(), strict=True)
        )
        pen.text((4, top + side + 16), f"truth: {truth}", fill="grey")
    return sheet
