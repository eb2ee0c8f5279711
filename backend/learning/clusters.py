"""Groups of pictures that look alike: by the sides of a few fixed planes on which their features lie.

Locality-sensitive hashing: the planes go through the mean of the pictures so far, so that groups are about as large as
each other; a picture's group does not depend on later ones, and nothing has to be sorted anew.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import redis

_KEY = "pallas:clusters:"
_PLANES = 3
_KEPT_S = 90 * 86_400


class Clusters:
    """Those of one project, 2^planes at most; safe to use from many threads."""

    def __init__(self, planes: int = _PLANES) -> None:
        self._planes = planes
        self._lock = threading.Lock()
        self._mean: np.ndarray = np.zeros(0)
        self._seen = 0

    def of(self, features: np.ndarray) -> int:
        """The number of a picture's group; features (d,) of any length but 0."""
        with self._lock:
            if len(self._mean) != len(features):
                # of another model nothing can be compared
                self._mean, self._seen = np.zeros(len(features)), 0
            self._seen += 1
            self._mean = self._mean + (features - self._mean) / self._seen
            sides = _directions(self._planes, len(features)) @ (features - self._mean) > 0
        return int(sides @ (1 << np.arange(self._planes)))

    def to_bytes(self) -> bytes:
        """One line of JSON, then the mean as float32."""
        with self._lock:
            return json.dumps({"seen": self._seen}).encode() + b"\n" + self._mean.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, planes: int = _PLANES) -> Clusters:
        """Raises ValueError for what `to_bytes` did not write."""
        head, _, body = data.partition(b"\n")
        found = cls(planes)
        try:
            found._seen = int(json.loads(head)["seen"])
            found._mean = np.frombuffer(body, "<f4").astype(float)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no clusters: {type(error).__name__}") from None
        return found


def _directions(planes: int, width: int) -> np.ndarray:
    """The same ones always."""
    return np.random.default_rng(0).normal(0, 1, (planes, width))


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
