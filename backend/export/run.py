"""`python -m backend export …`: reads task by task, writes page by page, goes on where it stopped."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backend.errors import BackendError, BadRequest, ConfigError, from_model
from backend.export import sheets, splits
from backend.export.categories import Categories
from backend.export.formats import REGISTRY, Page
from backend.export.parts import Parts, replace_with
from backend.export.pictures import Pictures
from backend.export.shapes import Shape
from backend.export.sheets import Clip, Region, Sheet
from backend.export.spec import Spec
from backend.export.tasks import Source, Tasks, result_of
from backend.fetching.videos import fetch, opened
from backend.label_studio.api import LabelStudioApi
from backend.label_studio.video_clock import Clock
from backend.labeling.roles import read_roles
from backend.settings import Settings
from backend.system.memory import peak_bytes

_SAVE_EVERY_S = 5.0
_DONE = "export.json"
_PROBLEMS = "problems"
_PATIENCE_S = 20.0
_QUALITY = 95
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

log = logging.getLogger(__name__)


def run(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """Do what was asked; the process's exit code.

    Raises:
        BackendError: it cannot be done; the message says why.
    """
    spec = _spec(settings, options)
    out: Path = options.out
    export = Export(settings, spec, out)
    try:
        export.work(console)
    finally:
        export.parts.close()
    return 0


def _spec(settings: Settings, options: argparse.Namespace) -> Spec:
    if (options.project is None) == (options.input is None):
        raise BadRequest("say which tasks: --project NUMBER, or --input FILE")
    if options.frame_step < 1:
        raise BadRequest("--frame-step: give 1 or more")
    if options.project is not None:
        config = LabelStudioApi(settings, patience_s=_PATIENCE_S).project(options.project).label_config
    else:
        if not options.input.is_file():
            raise BadRequest(f"there is no file {options.input}: --input takes a JSON list of tasks")
        try:
            config = options.config.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"the labelling config {options.config} cannot be read ({error}): --config") from None
    return Spec(
        project=options.project,
        input=options.input.resolve() if options.input is not None else None,
        label_config=config,
        source=options.source,
        model_version=options.model_version,
        format=options.export_format,
        shares=splits.shares_of(options.split),
        pictures=options.pictures,
        frame_step=options.frame_step,
    )


class Export:
    """One export into one folder.

    Raises:
        BadRequest: the folder holds something else, or an export that was finished.
    """

    def __init__(self, settings: Settings, spec: Spec, out: Path) -> None:
        self._settings = settings
        self._spec = spec
        self._out = out
        self.parts = Parts(out)
        state = self._begun()
        self._place = int(state.get("place", -1))
        self.counts: Counter[str] = Counter(state.get("counts", {}))
        self._numbers: dict[str, int] = dict(state.get("numbers", {}))
        self._roles = read_roles(spec.label_config, settings.language)
        self._categories = Categories(self._roles, state.get("more", ()))
        self._pictures = Pictures(settings, spec.input.parent if spec.input is not None else None, spec.pictures)
        names = splits.names(spec.shares)
        self._format = REGISTRY[spec.format](out, self.parts, self._categories, names, self._numbers)

    def work(self, console: Console) -> None:
        """To the end. Raises what reading the tasks, or writing to the disk, raises."""
        tasks = Tasks(self._settings, self._spec, self._roles)
        total = tasks.total()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            shown = progress.add_task("tasks", total=total, completed=self.counts["tasks"])
            saved = time.monotonic()
            for task in tasks.after(self._place):
                self._task(task)
                self._place = task.place
                progress.update(shown, completed=self.counts["tasks"])
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    self._save()
                    saved = time.monotonic()
        self._save()
        self._finish(console)

    def _task(self, task: Source) -> None:
        self.counts["tasks"] += 1
        try:
            if task.error is not None:
                raise task.error
            result = result_of(task.raw, self._spec.source, self._spec.model_version)
            if result is None:
                self.counts["tasks without such work"] += 1
                return
            pieces = list(sheets.read(task.key, task.raw["data"], result, self._roles))
        except BackendError as error:
            self._problem(task.key, error)
            return
        split = splits.split_of(pieces[0].address, self._spec.shares) if pieces else ""
        for piece in pieces:
            try:
                for page in self._pages(piece, task, split):
                    self._format.add(page)
                    self.counts[f"pictures in {split}"] += 1
                    self.counts["regions"] += len(page.regions)
            except BackendError as error:
                self._problem(task.key, error)
            except OSError as error:
                raise BadRequest(
                    f"{self._out} cannot be written ({error.strerror}): the same command goes on"
                ) from None

    def _pages(self, piece: Sheet | Clip, task: Source, split: str) -> Iterator[Page]:
        if isinstance(piece, Clip):
            yield from self._frames(piece, task, split)
            return
        data = None
        if self._spec.pictures != "none" or piece.size is None:
            data = self._pictures.data(piece.address, task.id)
        size = piece.size if data is None else self._pictures.size(data)
        assert size is not None
        file = piece.name + _suffix_of(piece.address)
        if data is not None and self._spec.pictures != "none":
            file = self._pictures.keep(data, piece.address, task.id, self._folder(split) / piece.name).name
        yield Page(piece, split, *size, file, self._shapes(piece, size, task))

    def _frames(self, clip: Clip, task: Source, split: str) -> Iterator[Page]:
        address = self._pictures.address(clip.address, task.id)
        try:
            with fetch(self._pictures.store, address, self._pictures.settings) as file:
                video = opened(Path(file.name), self._settings)
                count = sheets.duration_frames(clip.result, clip.roles) or Clock(clip.rate, video.duration_s).count
                pictures: Iterator[tuple[int, Image.Image]] | None = None
                number, picture = -1, None
                if self._spec.pictures != "none":
                    wanted = [video.nearest((f - 1) / clip.rate) for f in range(1, count + 1, self._spec.frame_step)]
                    pictures = video.read(list(dict.fromkeys(wanted)))
                for sheet in clip.sheets(count, self._spec.frame_step):
                    nearest = video.nearest(sheet.time_s)
                    while pictures is not None and number < nearest:
                        number, picture = next(pictures, (nearest, picture))
                    if picture is not None:
                        path = self._folder(split) / f"{sheet.name}.jpg"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        picture.save(path, quality=_QUALITY)
                    size = video.width, video.height
                    yield Page(sheet, split, *size, f"{sheet.name}.jpg", self._shapes(sheet, size, task))
        except Exception as error:
            known = from_model(error)
            if known is None:
                raise
            raise known from None

    def _shapes(self, sheet: Sheet, size: tuple[int, int], task: Source) -> list[tuple[Region, Shape]]:
        shapes = []
        for region in sheet.regions:
            try:
                shape = Shape.of(region.item, *size, self._settings.max_picture_pixels)
                assert shape.rle
                shapes.append((region, shape))
            except (BackendError, ValidationError) as error:
                # one region that cannot be read must not cost the others
                self._problem(task.key, error, region.id)
        return shapes

    def _folder(self, split: str) -> Path:
        return self._out / self._format.pictures.format(split=split)

    def _problem(self, key: str, error: BackendError | ValidationError, region: str | None = None) -> None:
        what = "regions left out" if region is not None else "pictures left out"
        self.counts[what] += 1
        where = {"task": key} | ({"region": region} if region is not None else {})
        self.parts.add(_PROBLEMS, where | {"reason": type(error).__name__, "message": str(error)})
        log.info("task %s: %s: %s", key, type(error).__name__, ascii(str(error)))

    def _begun(self) -> dict[str, Any]:
        """The state of this very export, if it was begun; an empty one where the folder is new."""
        if (self._out / _DONE).exists():
            raise BadRequest(f"{self._out} holds a finished export: give another --out, or delete it")
        state = self.parts.load()
        if state is None:
            if self._out.exists() and any(path for path in self._out.iterdir() if path != self.parts.folder):
                raise BadRequest(f"{self._out} holds something else: give a new folder as --out")
            return {}
        if Spec.model_validate(state["spec"]) != self._spec:
            raise BadRequest(f"{self._out} holds the begin of another export: give its options, or another --out")
        return state

    def _save(self) -> None:
        self.parts.save(
            {
                "spec": self._spec.model_dump(mode="json"),
                "place": self._place,
                "counts": dict(self.counts),
                "numbers": self._numbers,
                "more": self._categories.more,
            }
        )

    def _finish(self, console: Console) -> None:
        self._format.finish()
        if problems := self.counts["regions left out"] + self.counts["pictures left out"]:
            replace_with(self._out / "problems.jsonl", (line + "\n" for line in self.parts.lines(_PROBLEMS)))
        counts = {name: count for name, count in self.counts.items() if count}
        said = {"format": self._spec.format, "source": self._spec.source, "counts": counts}
        replace_with(self._out / _DONE, iter([json.dumps(said | {"classes": self._categories.names}, indent=1) + "\n"]))
        self.parts.remove()
        line = ", ".join(f"{count} {name}" for name, count in counts.items())
        console.print(f"{self._out}: {line}", markup=False, soft_wrap=True, highlight=False)
        if problems:
            console.print(f"why: {self._out / 'problems.jsonl'}", markup=False, soft_wrap=True, highlight=False)
        console.print(f"peak memory {peak_bytes() / 2**20:.0f} MB", highlight=False)


def _suffix_of(address: str) -> str:
    """Of a picture that is not looked at."""
    suffix = PurePosixPath(address.partition("?")[0][-20:]).suffix.lower()
    return suffix if suffix in _SUFFIXES else ".jpg"
