"""Where a bulk job's predictions go: into Label Studio, or into a file that Label Studio imports."""

from __future__ import annotations

import json
import os
import threading
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from backend.bulk.sources import Item, Source
from backend.errors import TaskGone
from backend.label_studio.protocol import Prediction
from backend.predict.uploads import Uploader


class Sink(ABC):
    """Takes predictions, from several threads."""

    @abstractmethod
    def store(self, item: Item, prediction: Prediction) -> None:
        """Keep it, so that no crash loses it; storing it again changes nothing."""

    def finish(self, source: Source, limit: int | None, complete: bool) -> Path | None:
        """All tasks are settled; without failures if complete. The file that was written, if any."""
        return None


class LabelStudioSink(Sink):
    def __init__(self, uploader: Uploader) -> None:
        self._uploader = uploader

    def store(self, item: Item, prediction: Prediction) -> None:
        assert item.task is not None
        if item.task.id is None:
            raise TaskGone("the task has no id")
        self._uploader.upload(item.task.id, prediction)


class FileSink(Sink):
    """A line for each prediction beside the output while the job runs; in the end one JSON list, in the input's order.

    Args:
        output: the list, {"data": ..., "predictions": [...]} each.
        job: a name for the file of lines.
    """

    def __init__(self, output: Path, job: str) -> None:
        self._output = output
        self.lines = output.with_name(f"{output.name}.{job}.part")
        self._lock = threading.Lock()
        output.parent.mkdir(parents=True, exist_ok=True)
        self._mend()

    def store(self, item: Item, prediction: Prediction) -> None:
        line = json.dumps([item.place, prediction.to_wire()], ensure_ascii=False) + "\n"
        data = line.encode()
        # unbuffered: what does not fit on the disk must not be written again when the file is closed
        with self._lock, self.lines.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                # half a line would hide the next one
                file.truncate(before)
                raise

    def finish(self, source: Source, limit: int | None, complete: bool) -> Path | None:
        """Every task of the input is in it once, also those without a prediction."""
        offsets = self._offsets()
        part = self._output.with_name(f".{self._output.name}.new")
        with part.open("w", encoding="utf-8") as out:
            out.write("[")
            for number, item in enumerate(islice(source.items(-1), limit)):
                out.write(",\n" if number else "\n")
                json.dump(_task(item, self._stored(offsets, item.place)), out, ensure_ascii=False)
            out.write("\n]\n")
            out.flush()
            os.fsync(out.fileno())
        part.replace(self._output)
        if complete:
            self.lines.unlink(missing_ok=True)
        return self._output

    def _mend(self) -> None:
        """Cut off a last line that was not written to its end."""
        if not self.lines.exists():
            return
        with self.lines.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            while size > 0:
                begin = max(0, size - (1 << 16))
                file.seek(begin)
                at = file.read(size - begin).rfind(b"\n")
                if at >= 0:
                    file.truncate(begin + at + 1)
                    return
                size = begin
            file.truncate(0)

    def _offsets(self) -> array[int]:
        """By place, where its last line begins, plus one; eight bytes a task."""
        offsets = array("Q")
        at = 0
        for line in self._each_line():
            place = int(line[1 : line.index(b",")])
            if place >= len(offsets):
                offsets.frombytes(bytes(8 * (place + 1 - len(offsets))))
            offsets[place] = at + 1
            at += len(line)
        return offsets

    def _each_line(self) -> Iterator[bytes]:
        if self.lines.exists():
            with self.lines.open("rb") as file:
                yield from file

    def _stored(self, offsets: array[int], place: int) -> dict[str, Any] | None:
        if place >= len(offsets) or not offsets[place]:
            return None
        with self.lines.open("rb") as file:
            file.seek(offsets[place] - 1)
            _, prediction = json.loads(file.readline())
            return prediction


def _task(item: Item, prediction: dict[str, Any] | None) -> dict[str, Any]:
    raw = item.raw
    version = prediction["model_version"] if prediction else None
    others = [found for found in raw.get("predictions") or [] if found.get("model_version") != version]
    task: dict[str, Any] = {"data": raw.get("data", raw)}
    if raw.get("meta"):
        task["meta"] = raw["meta"]
    # of an export only what was drawn: its users and ids are those of another Label Studio
    if annotations := [{"result": one["result"]} for one in raw.get("annotations") or [] if one.get("result")]:
        task["annotations"] = annotations
    task["predictions"] = [*others, prediction] if prediction else others
    return task
