"""What the label memory learns of twenty new classes, and how many wrong labels the doubtful tasks hold.

    python -m benchmarks.learning [--checkpoint tiny] [--seed 0] [--out benchmarks] [--quick]

Scenes show made-up machine parts that no checkpoint has seen and things that it knows (`benchmarks/parts.py`). Regions
are what the model makes of a box around each thing, as a person accepts them; some scenes teach, the others are
labelled, each region with one of all labels together. The memory's constants were chosen on the scenes of seed 0: what
other seeds say was not looked at before. Seconds are of this machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from backend.job import Candidate, LabelReply
from backend.learning.clusters import Clusters
from backend.learning.confidence import PLAIN, Case, Confidence, Signs, fit, signs_of
from backend.learning.judge import Judge
from backend.learning.judge import fit as fit_judge
from backend.learning.memory import Entry
from backend.worker.replies import best_label
from benchmarks.charts import panels
from benchmarks.parts import NEW, SIZE, known, scene
from model import PerceiveAnything, Prompt
from model.values.mask import mask_box

COUNTS = (1, 3, 10, 30)
THRESHOLD = 0.4
_EACH = 12  # things of a class that are labelled
_THINGS = 2  # in a scene
_ELSEWHERE = 2


@dataclass(frozen=True, eq=False)
class Seen:
    """A region: its class, or none of a place beside the things; its features; likelihoods of all labels."""

    label: str
    features: np.ndarray
    likelihoods: np.ndarray | None = None
    iou: float = 0.0
    edge: float = 0.0


@dataclass(frozen=True, eq=False)
class Task:
    """A scene that is labelled: its regions, and what the whole picture looks like."""

    regions: tuple[Seen, ...]
    picture: np.ndarray


class Bench:
    """The scenes of both halves, looked at once."""

    def __init__(self, pam: PerceiveAnything, each: int, taught: int, seed: int = 0) -> None:
        self._pam = pam
        self.known = [label for label in known() if label != "object"]
        self.labels = [*NEW, *self.known]
        rng, first = np.random.default_rng(29 + seed), 100_000 * seed
        lessons = [label for label in NEW for _ in range(taught + taught // 5)]  # some find no room in their scene
        self.lessons = [
            self._look(number, mine, teaches=True) for number, mine in enumerate(_pairs(rng, lessons), first)
        ]
        asked = [label for label in self.labels for _ in range(each)]
        self.tasks = [self._look(number, mine) for number, mine in enumerate(_pairs(rng, asked), first + 50_000)]

    def judge(self, count: int, seed: int) -> Judge:
        """Taught so many examples of each new class, and places beside them."""
        rng = np.random.default_rng(seed)
        shown = [region for lesson in self.lessons for region in lesson.regions]
        examples: list[tuple[Seen, Entry]] = []
        for label in NEW:
            mine = [region for region in shown if region.label == label]
            chosen = [mine[place] for place in rng.permutation(len(mine))[:count]]
            examples += [(region, Entry(task=0, labels={"mask": (label,)})) for region in chosen]
        beside = [region for region in shown if not region.label]
        most = min(len(beside), 512, count * len(NEW) * _ELSEWHERE // _THINGS)
        examples += [(beside[place], Entry(task=0)) for place in rng.permutation(len(beside))[:most]]
        features = np.stack([region.features for region, _ in examples]).astype(np.float16).astype(np.float32)
        return fit_judge(features, [entry for _, entry in examples], self._pam.version)

    def answers(self, judge: Judge | None) -> list[list[LabelReply]]:
        """Of each task the label of each region."""
        return [[self._answer(region, judge) for region in task.regions] for task in self.tasks]

    def _answer(self, region: Seen, judge: Judge | None) -> LabelReply:
        assert region.likelihoods is not None
        said = judge.say(region.features[None], self.labels)[0] if judge is not None else {}
        candidates = [Candidate(label=label, names=(label,)) for label in self.labels]
        return best_label(candidates, dict(zip(self.labels, region.likelihoods.tolist(), strict=True)), said)

    def _look(self, number: int, labels: Sequence[str], teaches: bool = False) -> Task:
        drawn = scene(number, list(labels))
        embedding = self._pam.encode(drawn.picture)
        boxes = [mask_box(thing.mask) for thing in drawn.things]
        prompts = [Prompt(box=box) for box in boxes if box is not None]
        names = [thing.label for thing, box in zip(drawn.things, boxes, strict=True) if box is not None]
        if teaches:
            rng = np.random.default_rng([3, number])
            places = rng.uniform(0.05, 0.95, (40, 2)) * SIZE
            taken = [box for box in boxes if box is not None]
            free = [(float(x), float(y), 1) for x, y in places if not any(_near(box, x, y) for box in taken)]
            free = free[:_ELSEWHERE]
            prompts, names = [*prompts, *(Prompt(points=[place]) for place in free)], [*names, *[""] * len(free)]
        regions = self._pam.segment(embedding, prompts)
        features = self._pam.features(regions)
        scores = [None] * len(regions) if teaches else list(self._pam.score(regions, self.labels))
        found = [
            Seen(name, row, score, region.iou, region.stability)
            for name, row, score, region in zip(names, features, scores, regions, strict=True)
        ]
        return Task(tuple(found), self._pam.picture_features(embedding))


def _near(box: tuple[float, float, float, float], x: float, y: float) -> bool:
    return box[0] - 8 <= x <= box[2] + 8 and box[1] - 8 <= y <= box[3] + 8


def _pairs(rng: np.random.Generator, labels: list[str]) -> list[list[str]]:
    shuffled = [labels[place] for place in rng.permutation(len(labels))]
    return [shuffled[first : first + _THINGS] for first in range(0, len(shuffled), _THINGS)]


@dataclass(frozen=True)
class Point:
    """Shares after so many examples: right of new and of known classes, and of all answers those set that are wrong."""

    new: float
    known: float
    wrong: float


def curve(bench: Bench, counts: Sequence[int], seeds: int) -> dict[int, Point]:
    """By examples of each new class; 0 is the model alone. The mean over choices of examples."""
    found = {0: _point(bench, None)}
    for count in counts:
        each = [_point(bench, bench.judge(count, seed)) for seed in range(seeds)]
        found[count] = Point(*(float(np.mean([getattr(one, name) for one in each])) for name in vars(each[0])))
    return found


def _point(bench: Bench, judge: Judge | None) -> Point:
    said = [
        (region.label in NEW, region.label == reply.label, reply.probability >= THRESHOLD)
        for task, replies in zip(bench.tasks, bench.answers(judge), strict=True)
        for region, reply in zip(task.regions, replies, strict=True)
    ]
    new = [right for is_new, right, _ in said if is_new]
    old = [right for is_new, right, _ in said if not is_new]
    return Point(
        float(np.mean(new)), float(np.mean(old)), float(np.mean([loud and not right for _, right, loud in said]))
    )


def doubtful(bench: Bench, judge: Judge) -> dict[str, float]:
    """The share of wrong labels in the half of the tasks that comes first, by each way of sorting them.

    The first half of the tasks is what was reviewed before; the other half is sorted.
    """
    answers = bench.answers(judge)
    half = len(bench.tasks) // 2
    cases = [
        Case(signs, PLAIN.of(signs), right)
        for task, replies in zip(bench.tasks[:half], answers[:half], strict=True)
        for signs, right in _signs(task, replies)
    ]
    tasks = list(zip(bench.tasks[half:], answers[half:], strict=True))
    wrong = [sum(not right for _, right in _signs(task, replies)) for task, replies in tasks]
    own = fit(cases)
    clusters = Clusters()
    groups = [clusters.of(task.picture) for task, _ in tasks]
    by = {"by the defaults": PLAIN, f"fitted to {own.reviewed} reviews": own}
    found = {}
    for name, confidence in by.items():
        scores = [_score(confidence, task, replies) for task, replies in tasks]
        found[f"{name}, lowest score first"] = _share(wrong, list(np.argsort(scores, kind="stable")))
        found[f"{name}, as Label Studio takes them (groups)"] = _share(wrong, _stream(scores, groups))
    rng = np.random.default_rng(1)
    found["in random order"] = float(np.mean([_share(wrong, list(rng.permutation(len(wrong)))) for _ in range(200)]))
    return found


def _signs(task: Task, replies: Sequence[LabelReply]) -> list[tuple[Signs, bool]]:
    found = []
    for region, reply in zip(task.regions, replies, strict=True):
        share = None if reply.memory is None else reply.memory / max(reply.probability, 1e-9)
        signs = signs_of(mask=min(max(region.iou, 0.0), 1.0), edge=region.edge, label=reply.margin, memory=share)
        found.append((signs, region.label == reply.label))
    return found


def _score(confidence: Confidence, task: Task, replies: Sequence[LabelReply]) -> float:
    return min((confidence.of(signs) for signs, _ in _signs(task, replies)), default=1.0)


def _stream(scores: Sequence[float], groups: Sequence[int]) -> list[int]:
    """Places in the order of *Uncertainty sampling*: the group that was done least, in it the lowest score."""
    left, done, order = set(range(len(scores))), dict.fromkeys(groups, 0), []
    while left:
        first = min(left, key=lambda place: (done[groups[place]], scores[place]))
        left.remove(first)
        done[groups[first]] += 1
        order.append(first)
    return order


def _share(wrong: Sequence[int], order: Sequence[int]) -> float:
    return sum(wrong[place] for place in order[: len(order) // 2]) / max(1, sum(wrong))


def seconds(width: int, examples: int = 10_000, labels: int = 100) -> tuple[float, float]:
    """To make a judge of so many examples, and what it takes for one region, the median of many."""
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 1, (labels, width))[np.arange(examples) % labels] + rng.normal(0, 1, (examples, width))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    names = [f"label {number}" for number in range(labels)]
    entries = [Entry(task=0, labels={"mask": (names[number % labels],)}) for number in range(examples)]
    begin = time.perf_counter()
    judge = fit_judge(rows, entries, "m")
    made = time.perf_counter() - begin
    judge = Judge.from_bytes(replace(judge, version=1).to_bytes())
    each = []
    for row in rows[:200]:
        begin = time.perf_counter()
        judge.say(row[None], names)
        each.append(time.perf_counter() - begin)
    return made, float(np.median(each))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables and draw the curve."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="tiny", help="name or folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes; 0: those that the constants were chosen on")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder for learning.png")
    parser.add_argument("--quick", action="store_true", help="few scenes: does it run at all")
    options = parser.parse_args(arguments)
    console = Console(width=120)
    pam = PerceiveAnything.from_pretrained(options.checkpoint, device=options.device)
    counts, each, seeds = ((1, 2), 1, 1) if options.quick else (COUNTS, _EACH, 3)
    begin = time.perf_counter()
    bench = Bench(pam, each, max(counts), options.seed)
    looked = sum(len(task.regions) for task in [*bench.lessons, *bench.tasks])
    console.print(f"{pam.version}: {looked} regions looked at in {time.perf_counter() - begin:.0f} s", highlight=False)
    found = curve(bench, counts, seeds)
    table = Table("examples of each", "new classes, top-1", "known classes, top-1", "wrong labels set, of all")
    for count, point in found.items():
        table.add_row(str(count), f"{point.new:.3f}", f"{point.known:.3f}", f"{point.wrong:.3f}")
    console.print(table)
    sorted_by = doubtful(bench, bench.judge(10 if not options.quick else 2, 0))
    table = Table("order of the tasks", "wrong labels in the first half")
    for name, share in sorted_by.items():
        table.add_row(name, f"{share:.2f}")
    console.print(table)
    made, one = seconds(bench.tasks[0].picture.size, 1000 if options.quick else 10_000)
    console.print(f"a judge of 10,000 examples is made in {made:.1f} s and takes {1000 * one:.2f} ms a region")
    options.out.mkdir(parents=True, exist_ok=True)
    lines = {name: {str(count): getattr(point, key) for count, point in found.items()} for name, key in
             (("20 new classes", "new"), ("classes that the model knows", "known"))}  # fmt: skip
    panels(lines, options.out / "learning.png", dict.fromkeys(lines, "top-1, of 31 labels"))


if __name__ == "__main__":
    main()
