"""Finds all things of a kind in a picture, by words, by examples, or by both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from model.finding import calibration, words
from model.finding.candidates import Candidates, decoded, overlaps, piece
from model.finding.likeness import Examples, likeness, places
from model.finding.scales import SAME_IOU, SAME_SHARE, Scales, apart, is_whole, of_picture
from model.finding.seen import Part, Seeing, Seen, uncut
from model.reading import Reading
from model.sam import tiles
from model.sam.features import coverage
from model.sam.tiles import MAX_TILES, Encode, View
from model.sam.tower import Tower
from model.values.embedding import Embedding
from model.values.prompt import Prompt
from model.values.region import Found, Region, Segment
from model.values.window import Window

SURE = 0.5
"""Score from which on what the words found is an example for the rest."""
EXAMPLES = 4
"""So many of them, at most."""
SAME_MASK = 0.9
"""IoU with a candidate from which on another one need not be held against the words."""
PEAKS = 32
"""Places at most where things like the examples are asked for, in a view."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What was seen in a view of a picture: N candidates, what is measured of them by name (N,), their scores (N,)."""

    window: Window
    candidates: Candidates
    measures: dict[str, torch.Tensor]
    scores: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Hit:
    """A candidate that is good enough."""

    window: Window
    prompt: Prompt
    mask: torch.Tensor
    score: float


class Search:
    """Searches with one loaded model; may be used from several threads.

    Attributes:
        seeing: what words are held against.

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
        readings: Callable[[Sequence[Segment]], Iterator[Reading]],
        encode: Encode,
    ) -> None:
        self._tower = tower
        self._model = model
        self._encode = encode
        self.seeing = Seeing(tower, model, readings)

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
        seen = self.seeing.look(embedding, max_tiles)
        found = []
        for part, fit in zip(seen.parts, self.seeing.fit(seen, names), strict=True):
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
        alike = self._like(part.view, examples, embedding, self.seeing.room)
        alike = alike.take(_new(alike, part.candidates))
        more = Seen(embedding, [Part(part.view, alike)])
        return _joined(by_word, _scored(part.view.window, alike, examples, *self.seeing.fit(more, names)))

    def _like(self, view: View, examples: Examples, picture: Embedding, room: int = 0) -> Candidates:
        found = decoded(self._tower, view.embedding, places(view.embedding, examples, PEAKS), room=room)
        return uncut(found, view, picture)

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


def _piece(region: Region) -> Region:
    return replace(region, mask=piece(region.mask, region.prompt))


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
