"""Files that grow line by line, and what a stopped export goes on from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_FOLDER, _STATE = ".parts", "state.json"


class Parts:
    """Append-only files in a folder of their own; `save` and `load` make them and a few values a state that holds.

    After a stop the files are cut back to what the state says, and the work goes on from there.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / _FOLDER
        self._files: dict[str, BinaryIO] = {}

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last, with the files as they were; None where nothing was begun."""
        self.close()
        try:
            state: dict[str, Any] = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        for path in self.folder.iterdir():
            if path.suffix == ".part":
                size = state["sizes"].get(path.stem, 0)
                with path.open("rb+") as file:
                    file.truncate(size)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Whatever was added until now is kept."""
        sizes = {}
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            sizes[name] = file.tell()
        known = {path.stem: path.stat().st_size for path in self.folder.glob("*.part")} | sizes
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.folder / f".{_STATE}"
        new.write_text(json.dumps(state | {"sizes": known}, ensure_ascii=False), encoding="utf-8")
        new.replace(self.folder / _STATE)

    def add(self, name: str, value: Any) -> None:
        """A line of JSON."""
        self.write(name, json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    def write(self, name: str, line: str) -> None:
        if name not in self._files:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._files[name] = (self.folder / f"{name}.part").open("ab")
        # half a character (a lone surrogate) has no bytes
        self._files[name].write(line.encode("utf-8", "replace") + b"\n")

    def lines(self, name: str) -> Iterator[str]:
        """Without their ends; none where nothing was added."""
        if name in self._files:
            self._files[name].flush()
        path = self.folder / f"{name}.part"
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    yield line[:-1].decode("utf-8")

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def remove(self) -> None:
        """The work is done."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def replace_with(path: Path, chunks: Iterator[str]) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
