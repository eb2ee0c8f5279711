"""The folder of all versions, in the state folder: it says which there are, and which are in use."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from backend.errors import BadRequest, VersionError
from backend.settings import Settings

if TYPE_CHECKING:
    from model import Adapter

FOLDER = "versions"
INPUT = "input"
"""Stands for a project's name where the work came from a file."""

_WEIGHTS, _CARD, _PROJECT = "adapter.safetensors", "card.json", "project.json"
_NAME = re.compile(r"(project-\d{1,12}|input)\.(\d{1,6})")
_MOST_CARD = 1 << 20


class InUse(BaseModel):
    """Which versions of a project answer.

    Attributes:
        key: of the project in Label Studio's requests, `id.created`; empty of a file's.
        active: name of the version; None: the base.
        before: what was active before, the newest last.
        shadow: name of a second version that answers a share of the clicks, or None.
    """

    model_config = ConfigDict(extra="ignore")

    key: str = ""
    active: str | None = None
    before: list[str | None] = []
    shadow: str | None = None


@dataclass(frozen=True)
class Version:
    """One version as its card describes it; `fault` says why it cannot be used."""

    name: str
    card: dict[str, Any] = field(default_factory=dict)
    fault: str = ""


def project_of(number: int | None) -> str:
    """What a project's versions begin with; None for those of a file."""
    return INPUT if number is None else f"project-{number}"


def parse(name: str) -> tuple[str, int]:
    """A version's project and its number; `tiny@…+project-7.3` and `project-7.3` are the same.

    Raises:
        BadRequest: it is no name of a version.
    """
    found = _NAME.fullmatch(name.rpartition("+")[2])
    if found is None:
        raise BadRequest(f"{name!r} is no version: `python -m backend models` lists them, e.g. project-7.3")
    return found[1], int(found[2])


class Store:
    """Reads and writes the folder; one program at a time writes a project's.

    Raises (where it writes): OSError.
    """

    def __init__(self, settings: Settings) -> None:
        self.root = settings.state_dir / FOLDER

    def projects(self) -> list[str]:
        """Those that have versions, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(folder.name for folder in self.root.iterdir() if _NAME.fullmatch(f"{folder.name}.0"))

    def versions(self, project: str) -> Iterator[Version]:
        """The versions of a project by number, also damaged ones."""
        folder = self.root / project
        numbers = [int(one.name) for one in folder.iterdir() if one.name.isdigit()] if folder.is_dir() else []
        for number in sorted(numbers):
            yield self._version(f"{project}.{number}")

    def _version(self, name: str) -> Version:
        folder = self.folder(name)
        try:
            with (folder / _CARD).open("rb") as file:
                card = json.loads(file.read(_MOST_CARD))
            if not isinstance(card, dict) or not isinstance(card.get("base"), str):
                raise ValueError("it does not name its base")
        except (OSError, ValueError) as error:
            return Version(name, fault=f"{_CARD} cannot be read ({error})")
        missing = not (folder / _WEIGHTS).is_file()
        return Version(name, card, f"{_WEIGHTS} is missing" if missing else "")

    def folder(self, name: str) -> Path:
        project, number = parse(name)
        return self.root / project / str(number)

    def next_name(self, project: str) -> str:
        """For a version that is to be written."""
        folder = self.root / project
        numbers = [int(one.name) for one in folder.iterdir() if one.name.isdigit()] if folder.is_dir() else []
        return f"{project}.{max(numbers, default=0) + 1}"

    def write(self, adapter: Adapter) -> Path:
        """A new version: all of its folder, or nothing."""
        target = self.folder(adapter.name)
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            (part / _WEIGHTS).write_bytes(adapter.to_bytes())
            card = {"name": adapter.name, "base": adapter.base, **adapter.card}
            (part / _CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
            part.replace(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return target

    def read(self, name: str) -> Adapter:
        """A version's weights, looked through.

        Raises:
            VersionError: there is no such version, or it is damaged.
        """
        from model import Adapter
        from model.errors import AdapterError

        folder = self.folder(name)
        if not folder.is_dir():
            raise VersionError(f"there is no version {name} in {self.root}: `python -m backend models` lists them")
        try:
            adapter = Adapter.read(folder / _WEIGHTS)
        except AdapterError as error:
            raise VersionError(str(error)) from None
        if adapter.name != name:
            raise VersionError(f"{folder} holds {adapter.name}, not {name}: give each version its own folder back")
        return adapter

    def in_use(self, project: str) -> InUse:
        """What answers for a project; a file that cannot be read counts as the base alone."""
        try:
            return InUse.model_validate_json((self.root / project / _PROJECT).read_bytes())
        except (OSError, ValidationError):
            return InUse()

    def use(self, project: str, state: InUse) -> None:
        """From now on this answers."""
        file = self.root / project / _PROJECT
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(state.model_dump_json(indent=1) + "\n", encoding="utf-8")
        part.replace(file)

    def delete(self, project: str) -> None:
        """All of a project's versions."""
        parse(f"{project}.0")
        shutil.rmtree(self.root / project, ignore_errors=True)
