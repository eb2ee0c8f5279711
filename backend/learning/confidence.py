"""How sure an answer about a region is, as one number: a logistic function of what the model says of itself.

Its weights are a project's own where people have reviewed enough of our answers there, else the ones below.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import redis

from backend.learning.logistic import logistic_of, sure_of

SIGNS = ("constant", "mask", "edge", "label", "memory", "text")
"""Of which a confidence is made; each is 0 where it is not known.

mask: SAM 2's estimate of the mask's IoU, less 0.8. edge: the mask's stability, less 0.8. label: by how much the label
is above the next, less 0.5. memory: by how much the label memory speaks for the label rather than the model, less 0.5.
text: exp of the texts' mean log-probability, less 0.6.
"""
_TYPICAL = {"mask": 0.8, "edge": 0.8, "label": 0.5, "memory": 0.5, "text": 0.6}
DEFAULT = np.array([1.5, 4.0, 2.0, 3.0, 1.0, 2.0])
"""The weights of the signs before there are reviews."""

LEAST = 30
"""So many reviewed regions of a project are fitted; at least `_EACH` of them kept, and as many not."""
_EACH = 5
_MOST = 2000
_FRESH_S = 60.0
_KEY = "pallas:confidence:"
_KEPT_S = 180 * 86_400

log = logging.getLogger(__name__)

Signs = dict[str, float]


def signs_of(**known: float | None) -> Signs:
    """Signs by their names, of what is known: mask, edge, label, memory, text, as they are, 0..1."""
    return {name: round(value - _TYPICAL[name], 4) for name, value in known.items() if value is not None}


@dataclass(frozen=True, eq=False)
class Confidence:
    """What says how sure an answer is.

    Attributes:
        weights: of `SIGNS`.
        reviewed: regions that they were fitted to; 0: none, they are the defaults.
    """

    weights: np.ndarray
    reviewed: int = 0

    def of(self, signs: Mapping[str, float]) -> float:
        """0..1."""
        return float(sure_of(_row(signs) @ self.weights))


PLAIN = Confidence(DEFAULT)


@dataclass(frozen=True)
class Case:
    """A reviewed region: what was known of it, how sure we said to be, and whether people kept it."""

    signs: Signs
    said: float
    kept: bool


def fit(cases: Sequence[Case]) -> Confidence:
    """A project's own weights, or the defaults where there is too little to fit."""
    kept = np.array([case.kept for case in cases], bool)
    if len(cases) < LEAST or min(kept.sum(), (~kept).sum()) < _EACH:
        return PLAIN
    rows = np.stack([_row(case.signs) for case in cases])
    return Confidence(logistic_of(rows, kept, np.ones(len(rows)), DEFAULT), len(cases))


def reliability(cases: Sequence[Case], bins: int = 5) -> list[tuple[float, float, int, float, float]]:
    """Of each part of 0..1 in which cases lie: from, to, how many, what was said on average, the share kept."""
    found = []
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        mine = [case for case in cases if low <= case.said < high or (case.said >= 1 and number == bins - 1)]
        if mine:
            said, kept = np.mean([case.said for case in mine]), np.mean([case.kept for case in mine])
            found.append((low, high, len(mine), float(said), float(kept)))
    return found


class Confidences:
    """What says how sure answers are, by project; safe to use from many threads.

    Args:
        client: Redis, in which reviewed regions are kept, the newest of each project.
        learns: False: the defaults always.
    """

    def __init__(self, client: redis.Redis, learns: bool = True) -> None:
        self._redis = client
        self._learns = learns
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Confidence, float]] = {}

    def of(self, project: str) -> Confidence:
        """Of a project (its number, or `number.created_at`); the defaults where Redis does not answer."""
        number = project.partition(".")[0]
        if not self._learns or not number:
            return PLAIN
        with self._lock:
            found, until = self._known.get(number, (PLAIN, 0.0))
        if time.monotonic() < until:
            return found
        try:
            found = fit(self.cases(number))
        except redis.RedisError as error:
            log.debug("Redis does not answer (%s): confidence by the defaults", type(error).__name__)
        with self._lock:
            self._known[number] = (found, time.monotonic() + _FRESH_S)
        return found

    def note(self, project: str, region: str, case: Case) -> None:
        """A region was reviewed; what was noted of it before is replaced."""
        if not self._learns or not project:
            return
        key = _KEY + project.partition(".")[0]
        said = json.dumps([time.time(), case.signs, case.said, case.kept])
        self._redis.hset(key, region, said)
        self._redis.expire(key, _KEPT_S)
        if self._redis.hlen(key) > _MOST * 1.1:
            every: dict[Any, Any] = self._redis.hgetall(key)
            oldest = sorted(every, key=lambda name: float(json.loads(every[name])[0]))
            self._redis.hdel(key, *oldest[: len(oldest) - _MOST])

    def cases(self, project: str) -> list[Case]:
        """The reviewed regions of a project (its number)."""
        found: dict[Any, Any] = self._redis.hgetall(_KEY + project)
        cases = []
        for text in found.values():
            try:
                _, signs, said, kept = json.loads(text)
                cases.append(Case({str(name): float(value) for name, value in signs.items()}, float(said), bool(kept)))
            except (TypeError, ValueError, AttributeError):
                continue  # written by another version
        return cases

    def projects(self) -> list[str]:
        """The numbers of those of which something was reviewed."""
        return sorted(
            (key.decode()[len(_KEY) :] for key in self._redis.scan_iter(f"{_KEY}*")), key=lambda one: (len(one), one)
        )


def _row(signs: Mapping[str, float]) -> np.ndarray:
    return np.array([1.0, *(signs.get(name, 0.0) for name in SIGNS[1:])])
