"""Finds all things of a kind in a picture, by words, by examples, or by both."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
import torch

from model.compute.batches import fitting
from model.finding import calibration, words
from model.finding.candidates import Candidates, decoded, grid, overlaps, piece
from model.finding.likeness import Examples, likeness, places
from model.finding.scales import SAME_IOU, SAME_SHARE, Scales, apart, is_whole, of_picture
from model.reading import Reading
from model.sam import tiles
from model.sam.features import coverage
from model.sam.proposals import distinct
from model.sam.tiles import MAX_TILES, Encode, View
from model.sam.tower import Tower
from model.values.embedding import Embedding
from model.values.prompt import Prompt
from model.values.region import Found, Region, RegionFeatures, Segment
from model.values.window import Window

POINTS_PER_SIDE, POINTS_PER_TILE = 16, 8
"""Along each side of the grid of clicks that candidates for words come from, of a picture and of each tile."""
LEAST_IOU, LEAST_STABILITY = 0.5, 0.5
"""Of those candidates: lower than of proposals, since the words say what is wanted."""
READ = 256
"""Candidates at most that the words are held against, in however many views."""
TOGETHER = 64
"""Candidates that are segmented to be read in one go: their features take 4 MB each with the published weights."""
KEPT_ON_CPU, KEPT_ON_GPU = 256 << 20, 4 << 30
"""Bytes of a picture's readings that are kept for the next question at most, where three times as many are free."""
SURE = 0.5
"""Score from which on what the words found is an example for the rest."""
EXAMPLES = 4
"""So many of them, at most."""
SAME_MASK = 0.9
"""IoU with a candidate from which on another one need not be held against the words."""
MOST_OVERLAP = 0.7
"""IoU of two candidates for words above which the less certain one is dropped."""
PEAKS = 32
"""Places at most where things like the examples are asked for, in a view."""
KEPT_PICTURES = 2
"""Pictures whose candidates for words are kept."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What was seen in a view of a picture: N candidates, what is measured of them by name (N,), their scores (N,)."""

    window: Window
    candidates: Candidates
    measures: dict[str, torch.Tensor]
    scores: torch.Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """What words are held against in a view."""

    view: View
    candidates: Candidates


@dataclass(eq=False)
class Seen:
    """What words are held against in one picture: made once.

    Attributes:
        embedding: of the picture; held, so that no other one has its id.
        parts: its views and what was seen in them.
        own: by language what the model says itself of each candidate, all parts' in their order.
        readings: of all candidates in that order, where there is room for them.
    """

    embedding: Embedding
    parts: list[Part]
    own: dict[str, list[words.Usual]] = field(default_factory=dict)
    readings: list[Reading] | None = None

    def __len__(self) -> int:
        return sum(len(part.candidates) for part in self.parts)


@dataclass(frozen=True, eq=False)
class _Hit:
    """A candidate that is good enough."""

    window: Window
    prompt: Prompt
    mask: torch.Tensor
    score: float


class Search:
    """Searches with one loaded model; may be used from several threads.

    Args:
        tower: SAM 2.
        model: segments, describes and scores regions, and shows a large picture in parts.
        readings: reads regions for it, as many at a time as fit.
        encode: makes embeddings of parts of pictures.
    """

    def __init__(
        self,
        tower: Tower,
        model: words.Model,
        readings: Callable[[Sequence[Region]], Iterator[Reading]],
        encode: Encode,
    ) -> None:
        self._tower = tower
        self._model = model
        self._readings = readings
        self._encode = encode
        self._seen: OrderedDict[tuple[int, int, str], Seen] = OrderedDict()
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
        max_tiles: int = MAX_TILES,
    ) -> list[Found]:
        """See `PerceiveAnything.find`; one of `names` and `like` is not empty."""
        taken = [region.mask for region in (*like, *unlike) if of_picture(region, embedding)] + [*known]
        hits: list[_Hit] = []
        for one in self.measured(embedding, names, like, unlike, max_tiles):
            candidates = one.candidates
            chosen = _apart(candidates, one.scores, _low_res(taken, one.window, candidates), threshold, limit)
            rows = zip(candidates.take(chosen).prompts, candidates.masks[chosen], one.scores[chosen], strict=True)
            hits += [_Hit(one.window, prompt, mask, float(score)) for prompt, mask, score in rows]
        hits.sort(key=lambda hit: -hit.score)
        if any(not is_whole(hit.window, embedding) for hit in hits):
            hits = _once(hits, embedding, limit)
        return [
            Found.scored(region, hit.score) for region, hit in zip(self._regions(embedding, hits), hits, strict=True)
        ]

    def measured(
        self,
        embedding: Embedding,
        names: Sequence[str],
        like: Sequence[Region],
        unlike: Sequence[Region],
        max_tiles: int = MAX_TILES,
    ) -> list[Measured]:
        """Of each view of a picture that is searched all candidates, what is measured of each, and the scores that
        `calibration` makes of it."""
        scales = Scales.of(self._encode, like, unlike, self._tower.image_size, max_tiles) if like else None
        if not names:
            assert scales is not None
            return [
                _scored(view.window, self._like(view, examples, embedding), examples)
                for view in self._model.views(embedding, max_tiles if scales.tiled else 1)
                if (examples := scales.at(view.window, embedding)) is not None
            ]
        seen = self.look(embedding, max_tiles)
        found = []
        for part, fit in zip(seen.parts, self.fit(seen, names), strict=True):
            examples = None if scales is None else scales.at(part.view.window, embedding)
            if scales is None or examples is not None:
                found.append((part, _scored(part.view.window, part.candidates, examples, fit)))
        if scales is None:
            # what looks like the surest of it is found, too
            scales = _surest(found, embedding)
        return [
            self._with_alike(part, by_word, names, scales.at(by_word.window, embedding), embedding)
            for part, by_word in found
        ]

    def _with_alike(
        self, part: Part, by_word: Measured, names: Sequence[str], examples: Examples | None, embedding: Embedding
    ) -> Measured:
        """With what looks like examples in that view, held against the words, too."""
        if examples is None:
            return by_word
        alike = self._like(part.view, examples, embedding)
        alike = alike.take(_new(alike, part.candidates))
        more = Seen(embedding, [Part(part.view, alike)])
        return _joined(by_word, _scored(part.view.window, alike, examples, *self.fit(more, names)))

    def _like(self, view: View, examples: Examples, picture: Embedding) -> Candidates:
        found = decoded(self._tower, view.embedding, places(view.embedding, examples, PEAKS))
        return _uncut(found, view, picture)

    def _regions(self, embedding: Embedding, hits: Sequence[_Hit]) -> list[Region]:
        """At the picture's size; tiles that are not remembered any more are encoded again for it."""
        found: dict[int, Region] = {}
        for window in dict.fromkeys(hit.window for hit in hits):
            here = {i: hit.prompt for i, hit in enumerate(hits) if hit.window == window}
            if is_whole(window, embedding):
                regions = self._model.segment(embedding, list(here.values()))
                found |= zip(here, (_piece(region) for region in regions), strict=True)
                continue
            seen = next(tiles.encoded(self._encode, [(embedding, window)]))[2]
            regions = self._tower.segment([seen] * len(here), list(here.values()))
            found |= zip(here, (tiles.placed(_piece(region), window, embedding) for region in regions), strict=True)
        return [found[i] for i in range(len(hits))]

    def _read(self, seen: Seen) -> Iterator[Reading]:
        """All candidates, read; kept, if there is room, where all of them have been."""
        if seen.readings is not None:
            yield from seen.readings
            return
        most, kept = (KEPT_ON_CPU if self._tower.device.type == "cpu" else KEPT_ON_GPU), []
        for regions in self._small(seen.parts):
            for reading in self._readings(regions):
                each = reading.prefix.nbytes // max(1, len(reading))
                if each * len(seen) <= most and fitting(self._tower.device, 3 * each, len(seen)) == len(seen):
                    # what the language model has read of them is all that is asked for again
                    kept.append(Reading(tuple(_light(region) for region in reading.regions), reading.prefix))
                yield reading
        if sum(map(len, kept)) == len(seen):
            seen.readings = kept

    def _small(self, parts: Sequence[Part]) -> Iterator[list[Region]]:
        """Candidates as regions, some at a time: with masks of the low-res size, since they are to be read only."""
        asked: list[tuple[Embedding, Prompt]] = []
        for part in parts:
            embedding, side = part.view.embedding, part.candidates.masks.shape[-1]
            across, down = side / embedding.width, side / embedding.height
            small = replace(embedding, width=side, height=side, detail=None)
            asked += [(small, _scaled(prompt, across, down)) for prompt in part.candidates.prompts]
        for first in range(0, len(asked), TOGETHER):
            pictures, prompts = zip(*asked[first : first + TOGETHER], strict=True)
            yield self._tower.segment(pictures, prompts)

    def fit(self, seen: Seen, names: Sequence[str]) -> list[torch.Tensor]:
        """How well the names fit each candidate of each part, (N,) each, see `words.fits`."""
        language = words.language_of(names)
        rows: list[np.ndarray] = []
        own = seen.own.setdefault(language, [words.Usual() for _ in range(len(seen))])
        for reading in self._read(seen):
            first = sum(map(len, rows))
            rows.append(words.fits(self._model, reading, names, own[first : first + len(reading)], language))
        found = torch.from_numpy(np.concatenate([*rows, np.zeros(0)]).astype(np.float32))
        return [part.to(self._tower.device) for part in found.split([len(part.candidates) for part in seen.parts])]

    def holding(self, embedding: Embedding, candidates: Candidates) -> Seen:
        """These candidates of a whole picture, to be held against words."""
        window = Window(0, 0, embedding.width, embedding.height)
        return Seen(embedding, [Part(View(window, embedding), candidates)])

    def look(self, embedding: Embedding, max_tiles: int) -> Seen:
        """What words are held against in a picture, kept for the next question about it."""
        key = id(embedding), max_tiles, self._model.version
        with self._lock:
            seen = self._seen.get(key)
            if seen is not None:
                self._seen.move_to_end(key)
                return seen
        views = list(self._model.views(embedding, max_tiles))
        found = _best([self._clicked(view, embedding) for view in views], views, embedding)
        seen = Seen(embedding, [Part(view, some) for view, some in zip(views, found, strict=True)])
        with self._lock:
            self._seen[key] = seen
            while len(self._seen) > KEPT_PICTURES:
                self._seen.popitem(last=False)
        return seen

    def _clicked(self, view: View, picture: Embedding) -> Candidates:
        """What a grid of clicks finds in a view, the best first, without doubles."""
        clicks = POINTS_PER_SIDE if is_whole(view.window, picture) else POINTS_PER_TILE
        found = decoded(self._tower, view.embedding, grid(view.embedding, clicks))
        good = (found.ious >= LEAST_IOU) & (found.stabilities >= LEAST_STABILITY)
        found = _uncut(found.take(good.nonzero()[:, 0].tolist()), view, picture)
        found = found.take(_quality(found).argsort(descending=True, stable=True).tolist())
        return found.take(distinct(found.masks, MOST_OVERLAP, READ))


def _quality(candidates: Candidates) -> torch.Tensor:
    return candidates.ious * candidates.stabilities


def _uncut(candidates: Candidates, view: View, picture: Embedding) -> Candidates:
    """Without what the view's edge cuts: that is whole in another view."""
    if is_whole(view.window, picture):
        return candidates
    masks = candidates.masks.cpu().numpy()
    return candidates.take(
        [i for i, mask in enumerate(masks) if not view.window.cuts(mask, picture.width, picture.height)]
    )


def _best(found: Sequence[Candidates], views: Sequence[View], picture: Embedding) -> list[Candidates]:
    """Of the candidates of each view those that are read: the closer look at what several have seen, and the best."""
    if len(views) == 1:
        return list(found)
    rows = [
        (view.window.width, -quality, number, i, seen)
        for number, (view, some) in enumerate(zip(views, found, strict=True))
        for i, quality in enumerate(_quality(some).tolist())
        if (seen := tiles.piece(some.masks[i], view.window, picture.width, picture.height)) is not None
    ]
    rows.sort(key=lambda row: row[:2])
    kept = [rows[i] for i in tiles.merged([row[-1] for row in rows], MOST_OVERLAP)]
    kept = sorted(kept, key=lambda row: row[1])[:READ]
    return [some.take([i for _, _, own, i, _ in kept if own == number]) for number, some in enumerate(found)]


def _once(hits: Sequence[_Hit], picture: Embedding, limit: int) -> list[_Hit]:
    """What several views have found, the surest first, without doubles."""
    seen = [(hit, tiles.piece(hit.mask, hit.window, picture.width, picture.height)) for hit in hits]
    there = [(hit, piece) for hit, piece in seen if piece is not None]
    return [there[i][0] for i in apart([piece for _, piece in there], limit)]


def _surest(found: Sequence[tuple[Part, Measured]], picture: Embedding) -> Scales:
    """What words are surest of, as examples for the rest: what a tile has shown in tiles, the other in the whole."""
    sure = [(one, i, score) for _, one in found for i, score in enumerate(one.scores.tolist()) if score >= SURE]
    best = sorted(sure, key=lambda row: -row[2])[:EXAMPLES]
    examples = []
    for wanted in (True, False):
        some = [one.candidates.take([i]) for one, i, _ in best if is_whole(one.window, picture) is wanted]
        examples.append(Examples.seen(Candidates.join(some)) if some else None)
    return Scales(*examples)


def _scored(
    window: Window, candidates: Candidates, examples: Examples | None, fit: torch.Tensor | None = None
) -> Measured:
    found = {"iou": candidates.ious, "stability": candidates.stabilities}
    if examples is not None:
        found |= likeness(candidates, examples)
    if fit is not None:
        found["fit"] = fit
    return Measured(window, candidates, found, calibration.score(found))


def _joined(first: Measured, second: Measured) -> Measured:
    """Of candidates of one view; measures that only one of them has are left out."""
    both = first.measures.keys() & second.measures.keys()
    found = {name: torch.cat([first.measures[name], second.measures[name]]) for name in both}
    scores = torch.cat([first.scores, second.scores])
    return Measured(first.window, Candidates.join([first.candidates, second.candidates]), found, scores)


def _light(region: Segment) -> Segment:
    """Without what it was read from."""
    none = region.low_res.new_zeros(0)
    return replace(region, low_res=none, features=RegionFeatures(none, none))


def _piece(region: Region) -> Region:
    return replace(region, mask=piece(region.mask, region.prompt))


def _scaled(prompt: Prompt, across: float, down: float) -> Prompt:
    points = [(x * across, y * down, label) for x, y, label in prompt.points or ()]
    if prompt.box is None:
        return Prompt(points=points)
    x1, y1, x2, y2 = prompt.box
    return Prompt(points=points, box=(x1 * across, y1 * down, x2 * across, y2 * down))


def _low_res(masks: Sequence[np.ndarray], window: Window, candidates: Candidates) -> torch.Tensor:
    """(M, 4n, 4n) bool: the cells of a window that each mask of the picture touches."""
    side = candidates.masks.shape[-1]
    inside = [mask[window.top : window.bottom, window.left : window.right] for mask in masks]
    cells = [torch.from_numpy(coverage(mask, side) > 0) for mask in inside]
    found = torch.stack(cells) if cells else torch.zeros(0, side, side, dtype=torch.bool)
    return found.to(candidates.masks.device)


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
