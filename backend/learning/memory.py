"""What a project's labels look like: examples that people labelled, as features, and the judge that is made of them.

In Redis, and a copy in the state folder from which it comes back. Of no more than some thousand examples: where there
are too many, those of the largest label leave first, of it the lightest, of these the oldest.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from backend.learning.judge import fit
from backend.learning.mirror import load, save
from backend.learning.published import publish_judge, withdraw_judge
from backend.settings import Settings

_ALL = "pallas:memory"
_FOLDER = "learning"
_BACKGROUND = 512
_OF_ENTRY = 300
"""Bytes that Redis takes for an example beside its features, nearly."""

log = logging.getLogger(__name__)


class Entry(BaseModel):
    """What is known of an example beside its features.

    Attributes:
        task, annotations: where it is from.
        labels: by control, as results carry them; empty of what only shows what else there is in pictures.
        weight: how much it counts: 2 of ground truth, else 1.
        shape: a digest of its geometry: while it stays the same, so do its features.
        at: when it was taught, seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True)

    task: int
    annotations: tuple[int, ...] = ()
    labels: dict[str, tuple[str, ...]] = {}
    weight: float = 1.0
    shape: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class State:
    """Of one project's memory.

    Attributes:
        model: whose features they are; without what was tuned on top of it.
        examples: by label, of all controls; `background` are those without one.
        bytes: of Redis' memory, nearly.
        at: when it was last made, seconds since the epoch.
        trusted: of each label how often the judge was right about it, leaving the example out; 0..1.
        disagreements: tasks in which annotators disagree.
    """

    project: int
    model: str
    examples: dict[str, int]
    background: int = 0
    bytes: int = 0
    at: float = 0.0
    trusted: dict[str, float] | None = None
    disagreements: int = 0


class LabelMemory:
    """All projects' memories; of several programs one writes at a time (see `predict.teacher`).

    Args:
        client: Redis.
        settings: bounds, and the state folder.
    """

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis = client
        self._folder = settings.state_dir / _FOLDER
        self._most = settings.learn_examples
        self._most_bytes = settings.learn_bytes

    def states(self) -> list[State]:
        """Of all projects, by their numbers."""
        found: dict[Any, Any] = self._redis.hgetall(_ALL)
        states = []
        for text in found.values():
            try:
                states.append(State(**json.loads(text)))
            except (TypeError, ValueError):
                continue  # written by another version
        return sorted(states, key=lambda state: state.project)

    def state(self, project: int) -> State | None:
        return next((state for state in self.states() if state.project == project), None)

    def entries(self, project: int) -> dict[str, Entry]:
        """The examples, by the ids of their regions."""
        found: dict[Any, Any] = self._redis.hgetall(_index(project))
        entries = {}
        for name, text in found.items():
            try:
                entries[name.decode()] = Entry.model_validate_json(text)
            except ValidationError:
                continue
        return entries

    def disagreements(self, project: int) -> dict[int, list[dict[str, Any]]]:
        """By task, what annotators disagree about: {"region", "labels": {who: label}}."""
        found: dict[Any, Any] = self._redis.hgetall(_disputes(project))
        return {int(task): json.loads(text) for task, text in sorted(found.items(), key=lambda one: int(one[0]))}

    def keep(self, project: int, model: str, examples: Mapping[str, tuple[Entry, np.ndarray]]) -> None:
        """Add examples, each in the place of an older one of its region.

        Args:
            project: its number.
            model: whose features they are; those of another model are forgotten.
            examples: by the id of the region: what is known of it, and its features (d,).
        """
        before = self.state(project)
        if before is None or before.model != model:
            self._clear(project)
            self._note(State(project, model, {}))
        if examples:
            pipe = self._redis.pipeline()
            pipe.hset(_index(project), mapping={name: entry.model_dump_json() for name, (entry, _) in examples.items()})
            pipe.hset(_features(project), mapping={name: _packed(found) for name, (_, found) in examples.items()})
            pipe.execute()

    def relabel(self, project: int, entries: Mapping[str, Entry]) -> None:
        """Change what is known of examples whose features stay."""
        if entries:
            self._redis.hset(_index(project), mapping={name: one.model_dump_json() for name, one in entries.items()})

    def drop(self, project: int, regions: Iterable[str]) -> None:
        """These teach no more."""
        names = list(regions)
        if names:
            pipe = self._redis.pipeline()
            pipe.hdel(_index(project), *names)
            pipe.hdel(_features(project), *names)
            pipe.execute()

    def dispute(self, project: int, task: int, found: Sequence[dict[str, Any]]) -> None:
        """What annotators disagree about in a task; nothing where they do not."""
        if found:
            self._redis.hset(_disputes(project), str(task), json.dumps(list(found)))
        else:
            self._redis.hdel(_disputes(project), str(task))

    def forget(self, project: int) -> bool:
        """All of a project, in Redis and in the state folder; whether there was anything."""
        there = bool(self._redis.hdel(_ALL, str(project)))
        self._clear(project)
        self._redis.delete(_disputes(project))
        withdraw_judge(self._redis, project)
        path = self._path(project)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            there = True
        return there

    def publish(self, project: int) -> State | None:
        """Make the judge of what is there, for the workers; and the copy in the state folder."""
        before = self.state(project)
        if before is None:
            return None
        entries = self._bounded(project, self.entries(project))
        names, features = self._matrix(project, entries)
        entries = {name: entries[name] for name in names}
        judge = fit(features, list(entries.values()), before.model)
        publish_judge(self._redis, project, judge)
        counts = Counter(label for entry in entries.values() for mine in entry.labels.values() for label in mine)
        state = State(
            project,
            before.model,
            dict(counts.most_common()),
            sum(not entry.labels for entry in entries.values()),
            features.nbytes // 2 + len(entries) * _OF_ENTRY,
            time.time(),
            judge.trusted(),
            int(self._redis.hlen(_disputes(project))),
        )
        self._note(state)
        save(self._path(project), state.model, {name: one.model_dump() for name, one in entries.items()}, features)
        return state

    def restore(self) -> list[int]:
        """Take back from the state folder the memories that Redis has lost; their projects."""
        there = {state.project for state in self.states()}
        back = []
        for path in sorted(self._folder.glob("*.safetensors")):
            if path.stem.isdigit() and int(path.stem) not in there and self._read(path, int(path.stem)):
                self.publish(int(path.stem))
                back.append(int(path.stem))
        return back

    def _bounded(self, project: int, entries: dict[str, Entry]) -> dict[str, Entry]:
        """Without those that there is no room for, which leave."""
        background = [name for name, entry in entries.items() if not entry.labels]
        gone = sorted(background, key=lambda name: entries[name].at)[: max(0, len(background) - _BACKGROUND)]
        groups: dict[str, list[str]] = {}
        for name, entry in entries.items():
            if entry.labels:
                groups.setdefault(next(iter(entry.labels.values()))[0], []).append(name)
        for mine in groups.values():
            mine.sort(key=lambda name: (-entries[name].weight, -entries[name].at))
        size = int(self._redis.hstrlen(_features(project), next(iter(entries))) or 0) if entries else 0
        most = min(self._most, self._most_bytes // max(1, size + _OF_ENTRY))
        for _ in range(sum(map(len, groups.values())) - most):
            largest = max(groups.values(), key=len)
            gone.append(largest.pop())
        self.drop(project, gone)
        return {name: entry for name, entry in entries.items() if name not in set(gone)}

    def _matrix(self, project: int, entries: Mapping[str, Entry]) -> tuple[list[str], np.ndarray]:
        """The examples that have features, and these: (n, d) float32; of one length, that of the most."""
        found: Sequence[Any] = self._redis.hmget(_features(project), list(entries)) if entries else []
        sizes = Counter(len(packed) for packed in found if packed)
        size = sizes.most_common(1)[0][0] if sizes else 0
        names = [name for name, packed in zip(entries, found, strict=True) if packed and len(packed) == size]
        data = b"".join(packed for packed in found if packed and len(packed) == size)
        return names, np.frombuffer(data, np.float16).reshape(len(names), size // 2).astype(np.float32)

    def _clear(self, project: int) -> None:
        self._redis.delete(_index(project), _features(project))

    def _note(self, state: State) -> None:
        self._redis.hset(_ALL, str(state.project), json.dumps(vars(state)))

    def _path(self, project: int) -> Path:
        return self._folder / f"{project}.safetensors"

    def _read(self, path: Path, project: int) -> bool:
        found = load(path)
        if found is None:
            return False
        model, about, features = found
        try:
            entries = {name: Entry.model_validate(one) for name, one in about.items()}
        except ValidationError:
            log.warning("%s is left out: it is of another version", path.name)
            return False
        self.keep(project, model, {name: (entries[name], row) for name, row in zip(entries, features, strict=True)})
        return True


def _packed(features: np.ndarray) -> bytes:
    return features.astype(np.float16).tobytes()


def _index(project: int) -> str:
    return f"pallas:memory:{project}:examples"


def _features(project: int) -> str:
    return f"pallas:memory:{project}:features"


def _disputes(project: int) -> str:
    return f"pallas:memory:{project}:disputes"
