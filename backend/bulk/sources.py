"""Where a bulk job's tasks come from: read one after another, from any place on, never all at once."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ijson
import redis
from pydantic import ValidationError

from backend.bulk import json_min
from backend.bulk.spec import PREDICTIONS, Spec
from backend.errors import BackendError, BadRequest, TaskGone
from backend.label_studio.api import LabelStudioApi, versions_of
from backend.label_studio.protocol import LabelStudioTask
from backend.labeling.roles import Roles

_PAGE = 100
_LISTS = ("annotations", "drafts", "predictions")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
VIDEOS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".ogv")


@dataclass(frozen=True)
class Item:
    """One task.

    Attributes:
        key: of the task in this job: its id in Label Studio, or its place in the input.
        place: grows from item to item; reading goes on after it.
        task: None where it cannot be read; then `error` says why.
        raw: as it came, for the output.
        versions: model versions that it has predictions of.
    """

    key: str
    place: int
    task: LabelStudioTask | None
    raw: dict[str, Any] = field(default_factory=dict)
    versions: frozenset[str] = frozenset()
    error: BackendError | None = None


class Source(ABC):
    """Tasks in an order that does not change."""

    folder: Path | None = None
    """Relative paths of pictures are below it; None where tasks have none."""

    @abstractmethod
    def total(self) -> int | None:
        """How many tasks, as far as is known."""

    @abstractmethod
    def items(self, after: int) -> Iterator[Item]:
        """Those with a place above `after`, in order; -1 for all."""

    @abstractmethod
    def pick(self, keys: Iterable[str]) -> Iterator[Item]:
        """Some of them again."""


class ProjectSource(Source):
    """A project of Label Studio, by ascending task id; or some tasks of it, in the order of a list in Redis."""

    def __init__(self, api: LabelStudioApi, spec: Spec, client: redis.Redis, list_key: str) -> None:
        assert spec.project is not None
        self._api = api
        self._project = spec.project
        self._listed = bool(spec.task_ids) or spec.view is not None
        self._more = ("predictions",) if spec.regions == PREDICTIONS else ()
        self._redis = client
        self._list = list_key
        self._total: int | None = None
        if self._listed and not client.exists(list_key):
            self._write_list(spec)

    def total(self) -> int | None:
        if self._total is None:
            if self._listed:
                self._total = int(self._redis.llen(self._list))
            else:
                self._total = self._api.tasks_after(self._project, 0, 1)[1]
        return self._total

    def items(self, after: int) -> Iterator[Item]:
        if self._listed:
            yield from self._list_items(after)
            return
        while True:
            tasks, _ = self._api.tasks_after(self._project, max(after, 0), _PAGE, self._more)
            if not tasks:
                return
            for raw in tasks:
                after = int(raw["id"])
                yield _item(str(after), after, raw)

    def pick(self, keys: Iterable[str]) -> Iterator[Item]:
        for key in keys:
            yield self._one(key, int(key))

    def _list_items(self, after: int) -> Iterator[Item]:
        while True:
            ids: Sequence[Any] = self._redis.lrange(self._list, after + 1, after + _PAGE)
            if not ids:
                return
            for number in ids:
                after += 1
                yield self._one(number.decode(), after)

    def _one(self, key: str, place: int) -> Item:
        try:
            return _item(key, place, self._api.task(self._project, int(key), self._more))
        except TaskGone as error:
            return Item(key, place, None, error=error)

    def _write_list(self, spec: Spec) -> None:
        """The tasks of a tab as it is now: what the job does would else move them from page to page."""
        assert spec.project is not None
        named = dict.fromkeys(spec.task_ids)
        ids: Iterator[int] = iter(named)
        if spec.view is not None:
            shown = self._api.view_task_ids(spec.project, spec.view)
            ids = (number for number in shown if number in named) if named else shown
        part = f"{self._list}:new"
        self._redis.delete(part)
        while page := list(islice(ids, _PAGE)):
            self._redis.rpush(part, *page)
        if self._redis.exists(part):
            self._redis.rename(part, self._list)


class JsonSource(Source):
    """A JSON list of tasks as Label Studio imports and exports them: {"data": {...}, ...}, the data alone, JSON-MIN.

    `roles` are those of the config, for JSON-MIN.
    """

    def __init__(self, path: Path, roles: Roles | None = None) -> None:
        self._path = path
        self._roles = roles
        self.folder = path.resolve().parent
        self._total: int | None = None

    def total(self) -> int | None:
        if self._total is None:
            self._total = sum(1 for _ in self._raw())
        return self._total

    def items(self, after: int) -> Iterator[Item]:
        for place, raw in enumerate(self._raw()):
            if place > after:
                yield self._item(place, raw)

    def pick(self, keys: Iterable[str]) -> Iterator[Item]:
        wanted = set(keys)
        for place, raw in enumerate(self._raw()):
            if str(place) in wanted:
                yield self._item(place, raw)

    def _item(self, place: int, raw: Any) -> Item:
        if self._roles is not None and isinstance(raw, dict) and json_min.is_task(raw):
            raw = json_min.task(raw, self._roles)
        return _item(str(place), place, raw)

    def _raw(self) -> Iterator[Any]:
        try:
            with self._path.open("rb") as file:
                yield from ijson.items(file, "item", use_float=True)
        except OSError as error:
            raise BadRequest(f"{self._path} cannot be read ({error.strerror})") from None
        except ijson.JSONError as error:
            raise BadRequest(f"{self._path} is no JSON list of tasks ({str(error).splitlines()[0]})") from None


class FolderSource(Source):
    """All pictures, or all videos, of a folder and its subfolders, by name.

    `data_of` makes a task's data of an address.
    """

    def __init__(
        self,
        folder: Path,
        data_of: Callable[[str], dict[str, Any]],
        url_prefix: str | None,
        suffixes: tuple[str, ...] = PICTURES,
    ) -> None:
        self._suffixes = suffixes
        self.folder = self._folder = folder.resolve()
        self._data_of = data_of
        # what Label Studio's local storage would call them, with the folder's parent as its root
        self._prefix = f"/data/local-files/?d={quote(self._folder.name)}/" if url_prefix is None else url_prefix
        self._total: int | None = None

    def total(self) -> int | None:
        if self._total is None:
            self._total = sum(1 for _ in self._paths(self._folder))
        return self._total

    def items(self, after: int) -> Iterator[Item]:
        for place, path in enumerate(self._paths(self._folder)):
            if place > after:
                relative = path.relative_to(self._folder).as_posix()
                task = LabelStudioTask(data=self._data_of(str(path)))
                yield Item(str(place), place, task, {"data": self._data_of(self._prefix + quote(relative))})

    def pick(self, keys: Iterable[str]) -> Iterator[Item]:
        wanted = set(keys)
        return (item for item in self.items(-1) if item.key in wanted)

    def _paths(self, folder: Path) -> Iterator[Path]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise BadRequest(f"{folder} cannot be read ({error.strerror})") from None
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._paths(Path(entry.path))
            elif entry.name.lower().endswith(self._suffixes) and entry.is_file():
                yield Path(entry.path)


def _item(key: str, place: int, raw: Any) -> Item:
    if not isinstance(raw, dict):
        return Item(key, place, None, error=BadRequest("it is no JSON object: a task has data"))
    if "data" not in raw:
        raw = {"data": raw}
    # exports may have numbers in place of what they leave out
    raw |= {k: [one for one in raw[k] if isinstance(one, dict)] for k in _LISTS if isinstance(raw.get(k), list)}
    known = {name: raw[name] for name in ("id", "data", "annotations", "drafts") if raw.get(name) is not None}
    versions = versions_of(raw) | {str(found.get("model_version")) for found in raw.get("predictions") or []}
    try:
        return Item(key, place, LabelStudioTask.model_validate(known), raw, frozenset(versions))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return Item(key, place, None, raw, error=BadRequest(f"{where}: {first['msg']}"))
