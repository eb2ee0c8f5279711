"""What is wrong with the labelling configs of projects: Label Studio shows only "400" of a backend that refuses one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from backend.errors import ConfigError
from backend.label_studio.protocol import Prediction
from backend.labeling.tags import unknown_wishes
from backend.labeling.template import read_tree
from backend.predict import notice

_KEY = "pallas:configs"
_TOLD = "pallas:configs:told"
_MOST = 100
_KEPT_S = 30 * 86_400


@dataclass(frozen=True)
class ConfigNote:
    """A project's number and what is wrong with its config."""

    project: str
    text: str


class ConfigNotes:
    """The list of them, in Redis; of each project the newest config alone."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def see(self, project: str, label_config: str, fault: ConfigError | None) -> str:
        """Note what is wrong with a project's config, or that nothing is; what was noted, in a line."""
        number = project.partition(".")[0]
        text = str(fault) if fault is not None else "; ".join(unknown_wishes(read_tree(label_config)))
        if not number:
            return text
        before: Any = self._redis.hget(_KEY, number)
        if text and (before or b"").decode() != text:
            self._redis.hset(_KEY, number, text)
            self._redis.expire(_KEY, _KEPT_S)
            self._redis.hdel(_TOLD, number)
            for note in self.all()[_MOST:]:
                self._redis.hdel(_KEY, note.project)
        elif not text and before is not None:
            self._redis.hdel(_KEY, number)
        return text

    def tell(self, project: str, label_config: str, fault: ConfigError, model_version: str) -> Prediction | None:
        """A prediction whose message says it, for the first task that is opened; None where nothing can show it."""
        shown = notice.of_config(label_config, fault)
        number = project.partition(".")[0]
        if shown is None or not self._redis.hsetnx(_TOLD, number, 1):
            return None
        self._redis.expire(_TOLD, _KEPT_S)
        return Prediction(result=shown, model_version=f"{model_version} (labelling config)")

    def all(self) -> list[ConfigNote]:
        """By project."""
        found: Any = self._redis.hgetall(_KEY)
        notes = [ConfigNote(project.decode(), text.decode()) for project, text in found.items()]
        return sorted(notes, key=lambda note: (len(note.project), note.project))
