"""What the SAM 2 stage learns from, drawn ahead in a process of its own.

In a thread it would take turns with the training for Python's lock: a third of the steps.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from types import TracebackType

import cv2
import numpy as np
import torch

from tiny import crops, memory
from tiny.album import Album
from tiny.art import load
from tiny.batch import Batch, batch_of
from tiny.children import end_with_parent
from tiny.clips import Director
from tiny.place import Place
from tiny.pool import Pool
from tiny.recipe import Lesson, Recipe
from tiny.scenes import Painter

Shown = crops.Cutouts | crops.Crowd | Batch | memory.Scraps
"""One step's pictures, of any kind."""

_FILMED = (3, 7, 5, 1)  # of every eight steps, those that may be about clips, in this order
_REFRESH = 200  # steps; scenes may still be being drawn beside it
_KINDNESS = 5  # the drawing waits rather than the training


class Supply:
    """Draws the batches of the stage, each after its step's number and the minutes gone."""

    def __init__(self, place: Place, recipe: Recipe, seed: list[int]) -> None:
        self._recipe = recipe
        self._films = films(place, recipe, "train") if filmed(recipe) else None
        self._pool = Pool(place.run / "pool" / "train")
        catalog = load(place.art)
        self._clippings = crops.Clippings(catalog)
        self._album = Album(catalog, recipe.side) if any(lesson.photographs for lesson in recipe.segment) else None
        self._rng = np.random.default_rng(seed)

    def draw(self, step: int, minutes: float) -> Shown:
        """The batch of step number `step`, `minutes` after the begin."""
        recipe, rng = self._recipe, self._rng
        if step % _REFRESH == 0:
            self._pool.refresh()
        # crops alone go by turns with crowds, crowds with scenes: a step of both would cost the same, learn once
        alone = minutes < recipe.crops.minutes
        lesson = lesson_at(recipe, minutes)
        if self._films is not None and not alone and lesson.pieces and step % 8 in _FILMED[: lesson.films]:
            return memory.scraps(rng, self._films, lesson.pieces, recipe.memory.frames)
        if self._album is not None and not alone and rng.random() < lesson.photographs:
            return self._album.batch(rng, lesson.pictures, lesson.regions, lesson.side)
        if step % 2:
            return self._clippings.crowd(rng, recipe.crops.crowds, recipe.side)
        if alone:
            return self._clippings.batch(rng, recipe.crops.batch, recipe.crops.side)
        return batch_of(rng, self._pool, lesson.pictures, lesson.regions, lesson.side, ground=lesson.grounds)


def films(place: Place, recipe: Recipe, split: str) -> memory.Films:
    """The clips to learn from (train) or those to look at (val), drawn where they are not there yet."""
    count, seed = (recipe.memory.clips, recipe.seed + 50) if split == "train" else (16, recipe.seed + 51)
    director = Director(Painter(load(place.art), split, seed))
    return memory.draw(director, place.run / "films" / split, count, recipe.side)


def filmed(recipe: Recipe) -> bool:
    """Whether a lesson has pieces of clips."""
    return any(lesson.pieces for lesson in recipe.segment)


def lesson_at(recipe: Recipe, minutes: float) -> Lesson:
    """The lesson that is on so many minutes after the begin of the stage."""
    minutes -= recipe.crops.minutes
    for lesson in recipe.segment:
        minutes -= lesson.minutes
        if minutes < 0:
            return lesson
    return recipe.segment[-1]


class Ahead:
    """A supply in another process; to be used as a context. Batches come in the order in which they were ordered."""

    def __init__(self, place: Place, recipe: Recipe, seed: list[int]) -> None:
        # forked, it would share locks of torch's threads that nobody opens there
        context = multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(1, context, _begin, (place, recipe, seed))
        self._coming: deque[Future[Shown]] = deque()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.shutdown(wait=True, cancel_futures=True)

    def order(self, step: int, minutes: float) -> None:
        """Have the batch of a step drawn."""
        self._coming.append(self._process.submit(_draw, step, minutes))

    def take(self) -> Shown:
        """The oldest batch that was ordered and not taken yet."""
        return self._coming.popleft().result()


_supply: Supply  # of the process that draws


def _begin(place: Place, recipe: Recipe, seed: list[int]) -> None:
    global _supply
    end_with_parent()
    os.nice(_KINDNESS)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _supply = Supply(place, recipe, seed)


def _draw(step: int, minutes: float) -> Shown:
    return _supply.draw(step, minutes)
