"""What words are held against in a picture: candidates from a grid of clicks, read once for all questions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
import torch

from model.compute.batches import fitting
from model.finding import words
from model.finding.candidates import Candidates, decoded, grid, small
from model.finding.scales import is_whole
from model.reading import Reading
from model.sam import tiles
from model.sam.proposals import distinct
from model.sam.tiles import View
from model.sam.tower import Tower
from model.values.embedding import Embedding
from model.values.prompt import Prompt
from model.values.region import RegionFeatures, Segment
from model.values.window import Window

POINTS_PER_SIDE, POINTS_PER_TILE = 16, 8
"""Along each side of the grid of clicks that candidates for words come from, of a picture and of each tile."""
LEAST_IOU, LEAST_STABILITY = 0.5, 0.5
"""Of those candidates: lower than of proposals, since the words say what is wanted."""
READ = 256
"""Candidates at most that the words are held against, in however many views."""
TOGETHER = 64
"""Candidates that are handed on to be read in one go: what is read takes 4 MB each with the published weights."""
KEPT_ON_CPU, KEPT_ON_GPU = 256 << 20, 4 << 30
"""Bytes of a picture's readings that are kept for the next question at most, where three times as many are free; and,
before it is read, of what the clicks answered: the rest is decoded once more."""
MOST_OVERLAP = 0.7
"""IoU of two candidates for words above which the less certain one is dropped."""
KEPT_PICTURES = 2
"""Pictures whose candidates for words are kept."""


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


class Seeing:
    """Sees what words may name, reads it, and holds words against it; may be used from several threads.

    Args:
        tower: SAM 2.
        model: describes and scores regions, and shows a large picture in parts.
        readings: reads regions for it, as many at a time as fit.
    """

    def __init__(
        self, tower: Tower, model: words.Model, readings: Callable[[Sequence[Segment]], Iterator[Reading]]
    ) -> None:
        self._tower = tower
        self._model = model
        self._readings = readings
        self._seen: OrderedDict[tuple[int, int, str], Seen] = OrderedDict()
        self._lock = Lock()

    def _read(self, seen: Seen) -> Iterator[Reading]:
        """All candidates, read; kept, if there is room, where all of them have been."""
        if seen.readings is not None:
            yield from seen.readings
            return
        kept: list[Reading] = []
        for segments in self._segments(seen.parts):
            for reading in self._readings(segments):
                each = reading.prefix.nbytes // max(1, len(reading))
                if each * len(seen) <= self.room:
                    # what the language model has read of them is all that is asked for again
                    kept.append(Reading(tuple(_light(region) for region in reading.regions), reading.prefix))
                yield reading
        if sum(map(len, kept)) == len(seen):
            seen.readings = kept
            seen.parts = [replace(part, candidates=part.candidates.light()) for part in seen.parts]

    def _segments(self, parts: Sequence[Part]) -> Iterator[list[Segment]]:
        """What is to be read of the candidates, some at a time; what was not kept of it is decoded again."""
        asked: list[tuple[Embedding, Prompt, Segment | None]] = []
        for part in parts:
            embedding, side = part.view.embedding, part.candidates.masks.shape[-1]
            across, down = side / embedding.width, side / embedding.height
            picture = small(embedding, side)
            for prompt, segment in zip(part.candidates.prompts, part.candidates.segments, strict=True):
                asked.append((picture, _scaled(prompt, across, down), segment))
        for first in range(0, len(asked), TOGETHER):
            some = asked[first : first + TOGETHER]
            missing = [(picture, prompt) for picture, prompt, segment in some if segment is None]
            again = iter(self._tower.segment([picture for picture, _ in missing], [prompt for _, prompt in missing]))
            yield [next(again) if segment is None else segment for _, _, segment in some]

    @property
    def room(self) -> int:
        """Bytes that what is kept of a picture's candidates may take."""
        return fitting(self._tower.device, 3, KEPT_ON_CPU if self._tower.device.type == "cpu" else KEPT_ON_GPU)

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
        views, room = list(self._model.views(embedding, max_tiles)), self.room
        clicked: list[Candidates] = []
        for view in views:
            clicked.append(self._clicked(view, embedding, room))
            room -= clicked[-1].bytes_to_read
        found = _best(clicked, views, embedding)
        seen = Seen(embedding, [Part(view, some) for view, some in zip(views, found, strict=True)])
        with self._lock:
            self._seen[key] = seen
            while len(self._seen) > KEPT_PICTURES:
                self._seen.popitem(last=False)
        return seen

    def _clicked(self, view: View, picture: Embedding, room: int) -> Candidates:
        """What a grid of clicks finds in a view, the best first, without doubles."""
        clicks = grid(view.embedding, POINTS_PER_SIDE if is_whole(view.window, picture) else POINTS_PER_TILE)
        found = uncut(decoded(self._tower, view.embedding, clicks, LEAST_IOU, LEAST_STABILITY, room), view, picture)
        found = found.take(_quality(found).argsort(descending=True, stable=True).tolist())
        return found.take(distinct(found.masks, MOST_OVERLAP, READ))


def _quality(candidates: Candidates) -> torch.Tensor:
    return candidates.ious * candidates.stabilities


def uncut(candidates: Candidates, view: View, picture: Embedding) -> Candidates:
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


def _light(region: Segment) -> Segment:
    """Without what it was read from."""
    none = region.low_res.new_zeros(0)
    return replace(region, low_res=none, features=RegionFeatures(none, none))


def _scaled(prompt: Prompt, across: float, down: float) -> Prompt:
    points = [(x * across, y * down, label) for x, y, label in prompt.points or ()]
    if prompt.box is None:
        return Prompt(points=points)
    x1, y1, x2, y2 = prompt.box
    return Prompt(points=points, box=(x1 * across, y1 * down, x2 * across, y2 * down))
