"""What examples say about a region's label, in numbers: a discriminant for each control, and how far to trust it.

Regions are compared by what they look like, with the directions in which things of one label differ made small. Whether
the likeliest label is right is a logistic function of how near the region is, fitted by leaving each example out; other
places of the same pictures show what it has to be silent about.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from backend.learning.logistic import logistic_of, sure_of

_FOLDS = 5
_PRIOR = np.array([-2.0, 3.0, 3.0, -2.0])
"""Of the logistic function, before there are examples: constant, gain, lead, distance (see `_signs`)."""
_DOUBT = 3.0
"""A label's examples are believed like so many fewer of them; by it a label with one or two is silent."""
_LEAST_NEAR = 0.05
_LEAST_SPREAD = 1e-6
_STRANGERS = 0.2
"""So much of an example counts what would be said of it had its label never been taught."""

_Rows = np.ndarray


class Example(Protocol):
    """What is known of an example beside its features; see `memory.Entry`."""

    @property
    def labels(self) -> dict[str, tuple[str, ...]]: ...

    @property
    def weight(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Section:
    """What one control's examples say.

    Attributes:
        labels: C of them.
        centre: (d,), of all examples and the background.
        matrix: (d, d'), makes the directions small in which things of one label differ.
        means: (C, d') of the labels' examples.
        near: (C,) distance at which their own examples lie.
        gain: of a right answer, by which gains are measured.
        logistic: (4,), whether the likeliest label is right.
        trust: (C,) 0..1, how far each label is believed at all.
        counts: (C,) examples.
    """

    labels: tuple[str, ...]
    centre: _Rows
    matrix: _Rows
    means: _Rows
    near: _Rows
    gain: float
    logistic: _Rows
    trust: _Rows
    counts: _Rows

    def say(self, features: _Rows, wanted: Sequence[str]) -> list[dict[str, float]]:
        """For each row (n, d) the likeliest of the wanted labels, and how likely; 0 of the others that are known."""
        mine = [place for place, label in enumerate(self.labels) if label in set(wanted)]
        if not mine:
            return [{} for _ in features]
        rows = _unit(features - self.centre) @ self.matrix
        gains, distances = _compared(rows, self.means[mine])
        top, signs = _signs(gains, distances, self.near[mine], self.gain)
        sure = sure_of(signs @ self.logistic) * self.trust[mine][top]
        known = {self.labels[place]: 0.0 for place in mine if self.trust[place] > 0}
        return [
            known | ({self.labels[mine[place]]: float(p)} if p > 0 else {}) for place, p in zip(top, sure, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Judge:
    """What a project's label memory says of regions.

    Attributes:
        model: whose features it reads.
        sections: by control.
        version: grows whenever it is made anew.
    """

    model: str
    sections: dict[str, Section]
    version: int = 0

    def say(self, features: np.ndarray, labels: Sequence[str]) -> list[dict[str, float]]:
        """For each region the label that the memory is for, with its probability, and 0 of the others that it knows.

        Empty where it knows none of the labels.

        Args:
            features: (n, d) float32, of regions.
            labels: of one control, as results carry them; no other is ever said.
        """
        # controls are known by their labels: a job does not name them
        wanted = set(labels)
        fits = {name: sum(part.counts[i] for i, one in enumerate(part.labels) if one in wanted) for name, part in
                self.sections.items()}  # fmt: skip
        best = max(fits, key=lambda name: fits[name], default=None)
        if best is None or not fits[best] or features.shape[1:] != self.sections[best].centre.shape:
            return [{} for _ in features]
        return self.sections[best].say(features, labels)

    def trusted(self) -> dict[str, float]:
        """How far each label is believed, 0..1; of several controls with the same label the first one's."""
        found: dict[str, float] = {}
        for part in self.sections.values():
            for label, trust in zip(part.labels, part.trust, strict=True):
                found.setdefault(label, round(float(trust), 3))
        return found

    def to_bytes(self) -> bytes:
        """One line of JSON, then the numbers as float32."""
        about: dict[str, Any] = {"model": self.model, "version": self.version, "sections": []}
        arrays = []
        for name, part in self.sections.items():
            mine = [part.centre, part.matrix, part.means, part.near, part.logistic, part.trust, part.counts]
            shapes = [array.shape for array in mine]
            about["sections"].append({"name": name, "labels": part.labels, "gain": part.gain, "shapes": shapes})
            arrays += mine
        return json.dumps(about).encode() + b"\n" + b"".join(array.astype("<f4").tobytes() for array in arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Judge:
        """Raises ValueError for what `to_bytes` did not write."""
        try:
            head, _, body = data.partition(b"\n")
            about = json.loads(head)
            at, sections = 0, {}
            for one in about["sections"]:
                arrays = []
                for shape in one["shapes"]:
                    size = int(np.prod(shape))
                    arrays.append(np.frombuffer(body, "<f4", size, at).reshape(shape))
                    at += 4 * size
                centre, matrix, means, near, logistic, trust, counts = arrays
                sections[str(one["name"])] = Section(
                    tuple(one["labels"]), centre, matrix, means, near, float(one["gain"]), logistic, trust, counts
                )
            return cls(str(about["model"]), sections, int(about["version"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no judge: {type(error).__name__}") from None


def fit(features: np.ndarray, examples: Sequence[Example], model: str) -> Judge:
    """The judge of a project's examples.

    Args:
        features: (n, d) float32.
        examples: what is known of each; those without a label are background.
        model: whose features they are.
    """
    background = features[[place for place, one in enumerate(examples) if not one.labels]]
    controls = dict.fromkeys(name for one in examples for name in one.labels)
    sections = {}
    for name in controls:
        places = [place for place, one in enumerate(examples) if one.labels.get(name)]
        said = [examples[place].labels[name][0] for place in places]
        labels = tuple(dict.fromkeys(said))
        numbers = np.array([labels.index(label) for label in said])
        weights = np.array([examples[place].weight for place in places], np.float32)
        sections[name] = _section(labels, features[places], numbers, weights, background)
    return Judge(model, sections)


def _section(labels: tuple[str, ...], features: _Rows, numbers: _Rows, weights: _Rows, background: _Rows) -> Section:
    count = len(labels)
    sums = np.zeros(count, np.float32)
    np.add.at(sums, numbers, weights)
    # each label counts the same, and so does the background
    shares = weights / sums[numbers]
    centre = (shares @ features + (background.mean(0) if len(background) else 0)) / (count + bool(len(background)))
    rows, others = _unit(features - centre), _unit(background - centre)
    means = _means(rows, numbers, weights, count)
    apart = (rows - means[numbers]) * np.sqrt(weights)[:, None]
    folds = np.arange(len(rows)) % _FOLDS
    gains, distances = np.zeros((len(rows), count)), np.zeros((len(rows), count))
    alone = sums[numbers] - weights <= 0
    rest = np.where(alone, 1, sums[numbers] - weights)[:, None]
    left_out = (means[numbers] * sums[numbers][:, None] - rows * weights[:, None]) / rest
    for fold in range(_FOLDS):
        mine = np.flatnonzero(folds == fold)
        matrix = _whitening(apart[folds != fold], count)
        seen = rows[mine] @ matrix
        gains[mine], distances[mine] = _compared(seen, means @ matrix)
        # against its own label without itself
        own = left_out[mine] @ matrix
        distances[mine, numbers[mine]] = ((seen - own) ** 2).sum(1)
        gains[mine, numbers[mine]] = (seen**2).sum(1) - distances[mine, numbers[mine]]
    usable = ~alone
    # an only example shows nothing of how far its label reaches
    gains[alone, numbers[alone]], distances[alone, numbers[alone]] = -np.inf, np.inf
    matrix = _whitening(apart, count)
    own_distance = distances[np.arange(len(rows)), numbers]
    typical = float(np.median(own_distance[usable])) if usable.any() else 1.0
    near: _Rows = np.full(count, typical, np.float32)
    for place in range(count):
        mine = own_distance[(numbers == place) & usable]
        near[place] = (mine.sum() + _DOUBT * typical) / (len(mine) + _DOUBT)
    own_gain = gains[np.arange(len(rows)), numbers][usable]
    gain = max(float(np.median(own_gain)), 1e-6) if usable.any() else 1.0
    # of the same picture again and again examples lie on one another
    near = np.asarray(np.maximum(near, _LEAST_NEAR * gain), np.float32)
    top, signs = _signs(gains, distances, near, gain)
    right = top == numbers
    if len(others):
        elsewhere, away = _compared(others @ matrix, means @ matrix)
        more = _signs(elsewhere, away, near, gain)[1]
        signs, right = np.vstack([signs, more]), np.concatenate([right, np.zeros(len(more), bool)])
    known = np.concatenate([usable.astype(float), np.ones(len(others))])
    if count > 1:
        # had its label never been taught: what the others then say is wrong
        strange, afar = gains.copy(), distances.copy()
        strange[np.arange(len(rows)), numbers], afar[np.arange(len(rows)), numbers] = -np.inf, np.inf
        more = _signs(strange, afar, near, gain)[1]
        signs, right = np.vstack([signs, more]), np.concatenate([right, np.zeros(len(more), bool)])
        known = np.concatenate([known, np.full(len(more), _STRANGERS)])
    logistic = logistic_of(signs, right, known, _PRIOR)
    sure = sure_of(signs[: len(rows)] @ logistic) >= 0.5
    trust = np.zeros(count, np.float32)
    # a lone label with nothing beside it would be said of everything
    for place in range(count if count > 1 or len(others) else 0):
        claimed = (top == place) & sure & usable
        trust[place] = (claimed & (numbers == place)).sum() / (claimed.sum() + _DOUBT)
    counts = np.bincount(numbers, minlength=count)
    return Section(labels, centre, matrix, means @ matrix, near, gain, logistic, trust, counts)


def _means(rows: _Rows, numbers: _Rows, weights: _Rows, count: int) -> _Rows:
    sums, whole = np.zeros((count, rows.shape[1]), np.float32), np.zeros(count, np.float32)
    np.add.at(sums, numbers, rows * weights[:, None])
    np.add.at(whole, numbers, weights)
    return sums / whole[:, None]


def _whitening(apart: _Rows, labels: int) -> _Rows:
    """(d, d): makes small what differs within labels, of examples (n, d) with their labels' means taken away."""
    width = apart.shape[1]
    freedom = len(apart) - labels
    if freedom < 2:
        return np.eye(width, dtype=np.float32)
    spread = apart.T @ apart / freedom
    # of the same picture again and again nothing differs
    even = max(float(np.trace(spread)) / width, _LEAST_SPREAD)
    # few examples say little of so many directions
    shrunk = width / (width + freedom)
    spread = (1 - shrunk) * spread + shrunk * even * np.eye(width, dtype=np.float32)
    values, vectors = np.linalg.eigh(spread)
    return np.asarray(vectors * np.sqrt(even / np.maximum(values, 1e-3 * _LEAST_SPREAD)), np.float32)


def _compared(rows: _Rows, means: _Rows) -> tuple[_Rows, _Rows]:
    """(n, C): by how much nearer each mean is than the centre, and how far it is; both squared."""
    whole = (rows**2).sum(1)[:, None]
    gains = 2 * rows @ means.T - (means**2).sum(1)
    return gains, whole - gains


def _signs(gains: _Rows, distances: _Rows, near: _Rows, gain: float) -> tuple[_Rows, _Rows]:
    """The likeliest label of each row, and what says whether it is right: (n, 4) constant, gain, lead, distance."""
    top = gains.argmax(1)
    each = np.arange(len(gains))
    best = gains[each, top]
    lead = best.copy()
    if gains.shape[1] > 1:
        others = gains.copy()
        others[each, top] = -np.inf
        lead = best - np.maximum(others.max(1), 0)
    far = distances[each, top] / np.maximum(near[top], 1e-9)
    signs = np.stack([np.ones(len(gains)), best / gain, lead / gain, far], axis=1)
    # what cannot be compared at all
    return top, np.nan_to_num(signs, nan=0.0, posinf=10.0, neginf=-10.0).clip(-10, 10)


def _unit(rows: _Rows) -> _Rows:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9), np.float32)
