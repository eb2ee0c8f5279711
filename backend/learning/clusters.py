"""Groups of pictures that look alike: k-means over their features, one picture after the other.

Sequential k-means (MacQueen, 1967): a picture joins the nearest centre, which moves towards it. Predictions are stored
with their group as they come, a million of them if need be, so nothing is held back and nothing is sorted anew. The
first pictures, which are often of one kind, must not keep all centres to themselves: until some have been seen, centres
are spread out as k-centre does it. A picture that is farther from all centres than two of them are from each other
becomes a centre in the place of one of these.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import redis

_KEY = "pallas:clusters:"
_MOST = 8
_SPREAD = 64
"""Pictures over which centres are spread out; later on a stray one must not take another group's number."""
_KEPT_S = 90 * 86_400


class Clusters:
    """Those of one project, `most` at most; safe to use from many threads."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._centres: np.ndarray = np.zeros((0, 0))
        self._counts: np.ndarray = np.zeros(0)

    def of(self, features: np.ndarray) -> int:
        """The number of a picture's group; features (d,) of any length but 0."""
        row = np.asarray(features, dtype=float)
        with self._lock:
            if self._centres.shape[1:] != row.shape:
                # of another model nothing can be compared
                self._centres, self._counts = np.zeros((0, len(row))), np.zeros(0)
            number = self._own(row)
            if number is None:
                number = int(np.linalg.norm(self._centres - row, axis=1).argmin())
            self._counts[number] += 1
            if self._counts.sum() > _SPREAD:
                self._centres[number] += (row - self._centres[number]) / self._counts[number]
            return number

    def _own(self, row: np.ndarray) -> int | None:
        """The number of a group that a picture begins, if it does."""
        away = np.linalg.norm(self._centres - row, axis=1)
        if len(away) and not away.min() > 0:
            return None
        if len(away) < self._most:
            self._centres = np.vstack([self._centres, row])
            self._counts = np.append(self._counts, 0)
            return len(away)
        if self._counts.sum() >= _SPREAD:
            return None
        gaps = np.linalg.norm(self._centres[:, None] - self._centres[None], axis=2)
        gaps[np.tril_indices(len(gaps))] = np.inf
        one, other = (int(place) for place in np.unravel_index(gaps.argmin(), gaps.shape))
        if away.min() <= gaps[one, other]:
            return None
        self._centres[other] = row
        self._counts[one] += self._counts[other]
        self._counts[other] = 0
        return other

    def to_bytes(self) -> bytes:
        """One line of JSON, then the centres as float64."""
        with self._lock:
            return (
                json.dumps({"counts": self._counts.tolist()}).encode() + b"\n" + self._centres.astype("<f8").tobytes()
            )

    @classmethod
    def from_bytes(cls, data: bytes, most: int = _MOST) -> Clusters:
        """Raises ValueError for what `to_bytes` did not write."""
        head, _, body = data.partition(b"\n")
        found = cls(most)
        try:
            found._counts = np.array(json.loads(head)["counts"], dtype=float)
            centres = np.frombuffer(body, "<f8").astype(float)
            count = len(found._counts)
            if count > most or (count == 0) != (centres.size == 0):
                raise ValueError("other groups")
            found._centres = centres.reshape(count, -1) if count else np.zeros((0, 0))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no clusters: {type(error).__name__}") from None
        return found


def read_clusters(client: redis.Redis, project: int, model: str) -> Clusters:
    """Those of a project, of the features of this model; empty ones where there are none yet."""
    data: Any = client.get(_key(project, model))
    try:
        return Clusters.from_bytes(data) if data is not None else Clusters()
    except ValueError:
        return Clusters()


def keep_clusters(client: redis.Redis, project: int, model: str, clusters: Clusters) -> None:
    """For the next program that goes on with them; of two at once the last one's stay."""
    client.set(_key(project, model), clusters.to_bytes(), ex=_KEPT_S)


def _key(project: int, model: str) -> str:
    return f"{_KEY}{project}:{model}"
