"""How well the others of a kind are found, by one of them or by its name, against the plain way.

The plain way proposes regions and takes those whose likeliest label of the class table is the name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from model import PerceiveAnything, Prompt
from model.finding import calibration
from model.finding.candidates import overlaps
from model.finding.finder import Measured
from model.sam.features import coverage
from model.values.embedding import Embedding
from model.values.region import Region
from tiny import clicks
from tiny.art import kinds
from tiny.looks import UNKNOWN
from tiny.scenes import Painter
from tiny.several import Several, several
from tiny.texts import label

TARGETS: dict[str, float | None] = {"find_by_example": 0.75, "find_by_word": 0.6, "find_plainly": None}
"""F1 at IoU 0.5, by key; None where only a figure is wanted."""

_RIGHT, _NOTHING = 0.5, 0.2  # IoU from which on a mask is the thing, up to which it is something else


@dataclass
class Tally:
    """Things that were found, things that were not, and what was found and is none."""

    right: int = 0
    missed: int = 0
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)

    def count(self, found: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> None:
        """Masks, the surest first, against the true ones: each of those counts once, with an IoU of at least 0.5."""
        left = list(truths)
        for mask in found:
            best = max(left, key=lambda truth: clicks.iou(truth, mask), default=None)
            if best is not None and clicks.iou(best, mask) >= _RIGHT:
                left = [truth for truth in left if truth is not best]
                self.right += 1
            else:
                self.wrong += 1
        self.missed += len(left)

    @property
    def f1(self) -> float:
        return 2 * self.right / max(1, 2 * self.right + self.wrong + self.missed)


@dataclass(frozen=True)
class _Case:
    """A scene, its things of the kind, and one of its other things, if it has one."""

    several: Several
    embedding: Embedding
    truths: list[np.ndarray]
    other: np.ndarray | None

    def example(self, pam: PerceiveAnything) -> Region:
        """The first of the kind, as a person would accept it."""
        return pam.segment(self.embedding, [Prompt(mask=self.truths[0])])[0]


def run(pam: PerceiveAnything, painter: Painter, count: int, console: Console) -> dict[str, Tally]:
    """Tallies by example, by word and of the plain way, over the first `count` scenes of a painter."""
    tallies = {name: Tally() for name in TARGETS}
    names = list(kinds())
    for case in _cases(pam, painter, count, console):
        word = label(case.several.kind)

        def by_example(case: _Case = case) -> list[Region]:
            return [*pam.alike(case.embedding, [case.example(pam)])]

        def by_word(case: _Case = case, word: str = word) -> list[Region]:
            return [*pam.find(case.embedding, word)]

        def plainly(case: _Case = case, word: str = word) -> list[Region]:
            regions = pam.propose(case.embedding)
            likeliest = pam.score(regions, names).argmax(axis=1) if regions else ()
            return [region for region, best in zip(regions, likeliest, strict=True) if names[best] == word]

        ways = zip(tallies.values(), (by_example, by_word, plainly), (1, 0, 0), strict=True)
        for tally, way, known in ways:
            begin = time.perf_counter()
            found = way()
            tally.seconds.append(time.perf_counter() - begin)
            tally.count([region.mask for region in found], case.truths[known:])
    return tallies


def figures(tallies: Mapping[str, Tally]) -> dict[str, float]:
    """F1 by key, and the median seconds of a question."""
    found = {name: tally.f1 for name, tally in tallies.items()}
    return found | {f"{name}_s": float(np.median(tally.seconds)) for name, tally in tallies.items() if tally.seconds}


def fit(pam: PerceiveAnything, painter: Painter, count: int, console: Console) -> dict[str, dict[str, float]]:
    """The numbers of `model.finding.calibration`, from the first `count` scenes of a painter; by their name there."""
    rows: dict[str, list[tuple[dict[str, Tensor], Tensor]]] = {"BY_EXAMPLE": [], "BY_WORD": []}
    for number, case in enumerate(_cases(pam, painter, count, console)):
        example, name = case.example(pam), label(case.several.kind)
        there = {thing.truth.kind for thing in case.several.scene.things}
        absent = [kind for kind in painter.names if kind not in there]
        # a counter-example in every second scene
        unlike = pam.segment(case.embedding, [Prompt(mask=case.other)]) if case.other is not None and number % 2 else []
        for key, names, like in (
            ("BY_EXAMPLE", (), [example]),
            ("BY_WORD", (name,), []),
            ("BY_WORD", (label(absent[number % len(absent)]),), []),
        ):
            (found,) = pam.search.measured(case.embedding, names, like, unlike if like else ())
            right = _right(case, found, 1 if like else 0)
            if names and names != (name,):
                right = torch.zeros_like(right)
            weights = getattr(calibration, key)
            rows[key].append(({name: found.measures[name] for name in weights if name in found.measures}, right))
    return {key: logistic(parts) for key, parts in rows.items()}


def logistic(rows: Sequence[tuple[dict[str, Tensor], Tensor]], ridge: float = 1e-3) -> dict[str, float]:
    """Weights by name ("" is the constant) of a logistic regression, from measures (N,) and whether they were right
    (N,), -1 where that does not count."""
    names = list(rows[0][0])
    inputs = torch.cat([torch.stack([part[name].double() for name in names], 1) for part, _ in rows])
    right = torch.cat([part for _, part in rows])
    inputs, target = inputs[right >= 0], right[right >= 0].double()
    if not len(inputs):
        return dict.fromkeys(["", *names], 0.0)
    middle, spread = inputs.mean(0), inputs.std(0, correction=0).clamp(min=1e-6)
    weights = torch.zeros(len(names) + 1, dtype=torch.double, requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        logits = (inputs - middle) / spread @ weights[1:] + weights[0]
        total = (
            torch.nn.functional.binary_cross_entropy_with_logits(logits, target) + ridge * weights[1:].square().sum()
        )
        total.backward()
        return total

    search.step(loss)
    slopes = (weights[1:] / spread).detach()
    constant = float(weights[0].detach() - (slopes * middle).sum())
    return {"": round(constant, 3)} | {name: round(float(w), 3) for name, w in zip(names, slopes, strict=True)}


def _cases(pam: PerceiveAnything, painter: Painter, count: int, console: Console) -> Iterator[_Case]:
    for number in track(range(count), description=f"several, {painter.split}", console=console, transient=True):
        made = several(painter, number)
        things = made.scene.things
        truths = [thing.mask for thing in things if thing.truth.kind == made.kind]
        if len(truths) < 2:
            continue
        other = next((t.mask for t in things if t.truth.kind not in (made.kind, UNKNOWN)), None)
        yield _Case(made, pam.encode(made.scene.picture), truths, other)


def _right(case: _Case, found: Measured, known: int) -> Tensor:
    """Whether each candidate is one of the kind: 1 or 0; -1 where it is the example, or the mask is neither here nor
    there, so that it says nothing about likeness and words."""
    masks = found.candidates.masks
    cells = [coverage(truth, masks.shape[-1]) for truth in case.truths]
    truths = torch.from_numpy(np.stack([cell > cell.max() / 2 for cell in cells])).to(masks.device)
    ious, best = overlaps(masks, truths)[0].max(dim=1)
    doubtful = (ious > _NOTHING) & ((ious < _RIGHT) | (best < known))
    return torch.where(doubtful, -1, (ious >= _RIGHT).long()).cpu()
