"""Finds all things of a kind in a picture, by words, by examples, or by both."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
import torch

from model.finding import calibration, words
from model.finding.candidates import Candidates, decoded, grid, overlaps, piece
from model.finding.likeness import Examples, likeness, places
from model.reading import Reading
from model.sam.features import coverage
from model.sam.proposals import distinct
from model.sam.tower import Tower
from model.values.embedding import Embedding
from model.values.prompt import Prompt
from model.values.region import Found, Region

POINTS_PER_SIDE = 16
"""Of the grid of clicks that candidates for words come from."""
LEAST_IOU, LEAST_STABILITY = 0.5, 0.5
"""Of those candidates: lower than of proposals, since the words say what is wanted."""
READ = 64
"""Candidates at most that the words are held against."""
SURE = 0.5
"""Score from which on what the words found is an example for the rest."""
EXAMPLES = 4
"""So many of them, at most."""
SAME_IOU, SAME_SHARE = 0.5, 0.8
"""Overlap with something better, or known, from which on a candidate is that thing once more: IoU, or share of the
smaller one."""
SAME_MASK = 0.9
"""IoU with a candidate from which on another one need not be held against the words."""
MOST_OVERLAP = 0.7
"""IoU of two candidates for words above which the less certain one is dropped."""
PEAKS = 32
"""Places at most where things like the examples are asked for."""
KEPT_PICTURES = 2
"""Pictures whose candidates for words are kept."""


Measured = tuple[Candidates, dict[str, torch.Tensor], torch.Tensor]
"""N candidates, what is measured of them by name (N,), their scores (N,)."""


@dataclass(eq=False)
class _Seen:
    """What words are held against in one picture: made once."""

    embedding: Embedding  # held, so that no other one has its id
    candidates: Candidates
    regions: list[Region]
    own: dict[str, list[words.Usual]] = field(default_factory=dict)


class Search:
    """Searches with one loaded model; may be used from several threads.

    Args:
        tower: SAM 2.
        model: segments, describes and scores regions.
        readings: reads regions for it, as many at a time as fit.
    """

    def __init__(
        self, tower: Tower, model: words.Model, readings: Callable[[Sequence[Region]], Iterator[Reading]]
    ) -> None:
        self._tower = tower
        self._model = model
        self._readings = readings
        self._seen: OrderedDict[int, _Seen] = OrderedDict()
        self._lock = Lock()

    def find(
        self,
        embedding: Embedding,
        names: Sequence[str],
        like: Sequence[Region],
        unlike: Sequence[Region],
        known: Sequence[np.ndarray],
        limit: int,
        threshold: float,
    ) -> list[Found]:
        """See `PerceiveAnything.find`; one of `names` and `like` is not empty."""
        here = [region.mask for region in (*like, *unlike) if region.embedding is embedding]
        taken = _low_res([*here, *known], embedding)
        candidates, _, scores = self.measured(embedding, names, like, unlike)
        chosen = _apart(candidates, scores, taken, threshold, limit)
        regions = self._regions(embedding, candidates.take(chosen))
        return [Found.scored(region, float(scores[i])) for region, i in zip(regions, chosen, strict=True)]

    def measured(
        self, embedding: Embedding, names: Sequence[str], like: Sequence[Region], unlike: Sequence[Region]
    ) -> Measured:
        """All candidates, what is measured of each (N,), and the scores (N,) that `calibration` makes of it."""
        examples = Examples.of(like, unlike) if like else None
        if not names:
            assert examples is not None
            return _scored(self._like(embedding, examples), examples)
        seen = self._look(embedding)
        fit = self._fit(seen, names)
        by_word = _scored(seen.candidates, examples, fit)
        if examples is None:
            # what looks like the surest of it is found, too
            scores = by_word[2]
            sure = [i for i in scores.argsort(descending=True).tolist()[:EXAMPLES] if scores[i] >= SURE]
            if not sure:
                return by_word
            examples = Examples.of([seen.regions[i] for i in sure])
        more = self._like(embedding, examples)
        more = more.take(_new(more, seen.candidates))
        fit_of_more = self._fit(_Seen(embedding, more, self._small(embedding, more)), names)
        return _joined(by_word, _scored(more, examples, fit_of_more))

    def _like(self, embedding: Embedding, examples: Examples) -> Candidates:
        return decoded(self._tower, embedding, places(embedding, examples, PEAKS))

    def _regions(self, embedding: Embedding, candidates: Candidates) -> list[Region]:
        """At the picture's size."""
        regions = self._model.segment(embedding, candidates.prompts)
        return [replace(region, mask=piece(region.mask, region.prompt)) for region in regions]

    def _small(self, embedding: Embedding, candidates: Candidates) -> list[Region]:
        """To be read only: with masks of the low-res size, since many at a large picture's size would fill memory."""
        side = candidates.masks.shape[-1]
        across, down = side / embedding.width, side / embedding.height
        small = replace(embedding, width=side, height=side, detail=None)
        prompts = [_scaled(prompt, across, down) for prompt in candidates.prompts]
        regions = self._tower.segment([small] * len(prompts), prompts)
        return [replace(region, mask=piece(region.mask, region.prompt)) for region in regions]

    def _fit(self, seen: _Seen, names: Sequence[str]) -> torch.Tensor:
        """How well the names fit each candidate, (N,), see `words.fits`."""
        language = words.language_of(names)
        rows: list[np.ndarray] = []
        own = seen.own.setdefault(language, [])
        for reading in self._readings(seen.regions):
            first = sum(map(len, rows))
            if len(own) < first + len(reading):
                own += words.usual(self._model, reading, language)
            rows.append(words.fits(self._model, reading, names, own[first : first + len(reading)], language))
        found = np.concatenate(rows) if rows else np.zeros(0, np.float32)
        return torch.from_numpy(found.astype(np.float32)).to(seen.candidates.ious.device)

    def _look(self, embedding: Embedding) -> _Seen:
        """What words are held against in a picture, kept for the next question about it."""
        with self._lock:
            seen = self._seen.get(id(embedding))
            if seen is not None:
                self._seen.move_to_end(id(embedding))
                return seen
        found = decoded(self._tower, embedding, grid(embedding, POINTS_PER_SIDE))
        good = (found.ious >= LEAST_IOU) & (found.stabilities >= LEAST_STABILITY)
        found = found.take(good.nonzero()[:, 0].tolist())
        found = found.take((found.ious * found.stabilities).argsort(descending=True, stable=True).tolist())
        found = found.take(distinct(found.masks, MOST_OVERLAP, READ))
        seen = _Seen(embedding, found, self._small(embedding, found))
        with self._lock:
            self._seen[id(embedding)] = seen
            while len(self._seen) > KEPT_PICTURES:
                self._seen.popitem(last=False)
        return seen


def _scored(candidates: Candidates, examples: Examples | None, fit: torch.Tensor | None = None) -> Measured:
    found = {"iou": candidates.ious, "stability": candidates.stabilities}
    if examples is not None:
        found |= likeness(candidates, examples)
    if fit is not None:
        found["fit"] = fit
    return candidates, found, calibration.score(found)


def _joined(first: Measured, second: Measured) -> Measured:
    """Of candidates of one picture; measures that only one of them has are left out."""
    both = first[1].keys() & second[1].keys()
    found = {name: torch.cat([first[1][name], second[1][name]]) for name in both}
    return Candidates.join([first[0], second[0]]), found, torch.cat([first[2], second[2]])


def _scaled(prompt: Prompt, across: float, down: float) -> Prompt:
    points = [(x * across, y * down, label) for x, y, label in prompt.points or ()]
    if prompt.box is None:
        return Prompt(points=points)
    x1, y1, x2, y2 = prompt.box
    return Prompt(points=points, box=(x1 * across, y1 * down, x2 * across, y2 * down))


def _low_res(masks: Sequence[np.ndarray], embedding: Embedding) -> torch.Tensor:
    """(M, 4n, 4n) bool: the cells that each mask touches."""
    side = embedding.high_resolution[0].shape[-1]
    cells = [torch.from_numpy(coverage(mask, side) > 0) for mask in masks]
    found = torch.stack(cells) if cells else torch.zeros(0, side, side, dtype=torch.bool)
    return found.to(embedding.device)


def _new(candidates: Candidates, others: Candidates) -> list[int]:
    """Those that are no candidate already."""
    if not len(others) or not len(candidates):
        return list(range(len(candidates)))
    iou, _ = overlaps(candidates.masks, others.masks)
    return (iou.amax(1) < SAME_MASK).nonzero()[:, 0].tolist()


def _apart(
    candidates: Candidates, scores: torch.Tensor, taken: torch.Tensor, threshold: float, limit: int
) -> list[int]:
    """The best of what is good enough, is no thing that is taken, and is no better one once more."""
    if not len(candidates):
        return []
    order = [i for i in scores.argsort(descending=True, stable=True).tolist() if scores[i] >= threshold]
    same_iou, same_share = overlaps(candidates.masks, torch.cat([taken, candidates.masks]))
    same = ((same_iou > SAME_IOU) | (same_share > SAME_SHARE)).cpu().numpy()
    found: list[int] = []
    for i in order:
        better = [*range(len(taken)), *(len(taken) + j for j in found)]
        if len(found) < limit and not same[i, better].any():
            found.append(i)
    return found
