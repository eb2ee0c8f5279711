"""Predictions of a bulk job into groups of tasks that look alike, by which Label Studio can vary the order of tasks."""

from __future__ import annotations

from collections.abc import Iterable

import redis

from backend.bulk.spec import Spec
from backend.job import JobReply
from backend.label_studio.protocol import Prediction
from backend.learning.clusters import Clusters, keep_clusters, read_clusters
from backend.learning.packing import unpack_features
from backend.learning.published import base_model
from backend.settings import Settings
from backend.tasks.planner import TaskResult

_KEPT_EVERY = 100


class Grouping:
    """The groups of one project; safe to use from many threads."""

    def __init__(self, client: redis.Redis, project: int, model: str) -> None:
        self._redis = client
        self._project = project
        self._model = base_model(model)
        self._clusters: Clusters = read_clusters(client, project, self._model)
        self._seen = 0

    @classmethod
    def of(cls, settings: Settings, client: redis.Redis, spec: Spec) -> Grouping | None:
        """Of a job that stores in Label Studio; None of another, and where it is turned off."""
        if spec.project is None or not settings.learn_clusters:
            return None
        return cls(client, spec.project, spec.model_version)

    def grouped(self, prediction: Prediction, result: TaskResult) -> Prediction:
        """The prediction with the group of its task's first picture; as it is where that was not looked at."""
        number = self.number(reply for _, reply in result.replies)
        return prediction if number is None else prediction.model_copy(update={"cluster": number})

    def number(self, replies: Iterable[JobReply]) -> int | None:
        """Of the first picture that was looked at."""
        features = next((found for reply in replies if (found := unpack_features(reply.features)).size), None)
        if features is None:
            return None
        number = self._clusters.of(features)
        self._seen += 1
        if self._seen % _KEPT_EVERY == 0:
            self.keep()
        return number

    def keep(self) -> None:
        """For the next job, which goes on with them."""
        if self._seen:
            keep_clusters(self._redis, self._project, self._model, self._clusters)
