"""What a training tells while it runs: a progress display on a terminal, plain lines elsewhere, and a log of means."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, track
from torch import Tensor

SHOWN = ("mean IoU", "top-1", "crop top-1", "J", "loss", "right words", "clip loss")
"""The figures that are shown; the log has all."""


def numbers(count: int, stage: str, console: Console | None = None) -> Iterator[int]:
    """0 … count − 1, with a progress display on a terminal and a line for each elsewhere."""
    console = console or Console()
    if console.is_terminal:
        yield from track(range(count), stage, console=console, transient=True)
        return
    for number in range(count):
        console.print(f"{stage} {number + 1} of {count}", highlight=False)
        yield number


class Diary:
    """The progress of one stage; to be used as a context, which shows and removes the display."""

    def __init__(self, log: Path, stage: str, every: int = 25, console: Console | None = None) -> None:
        """`log` gets a JSON object a line; `every` is the number of steps that one mean is of."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.stage, self.every = log, stage, every
        self.console = console or Console(soft_wrap=True, highlight=False)
        self.values: defaultdict[str, list[float]] = defaultdict(list)
        self.count = 0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.1f} of {task.total:.0f} min, step {task.fields[step]}"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
        )
        # figures flicker by: four times a second is enough, and the training needs the processor
        self.display = Progress(*columns, console=self.console, refresh_per_second=4, transient=True)
        self.task = self.display.add_task(stage, total=1.0, step=0, figures="")

    def __enter__(self) -> Diary:
        if self.console.is_terminal:
            self.display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:  # it would print an empty line elsewhere
            self.display.stop()

    def note(self, step: int, minutes: float, planned: float, parts: Mapping[str, Tensor | float]) -> None:
        """Add one step's figures; every few steps their means are shown and logged."""
        for name, value in parts.items():
            self.values[name].append(float(value.detach() if isinstance(value, Tensor) else value))
        self.count += 1
        self.display.update(self.task, completed=minutes, total=planned, step=step)
        if self.count < self.every:
            return
        # not every step has every figure: lessons take turns
        means = {name: round(sum(values) / len(values), 4) for name, values in self.values.items()}
        row = {"stage": self.stage, "step": step, "minutes": round(minutes, 2), **means}
        with self.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        figures = " ".join(f"{name} {value:.2f}" for name, value in means.items() if name in SHOWN)
        self.display.update(self.task, figures=figures)
        if not self.console.is_terminal:
            self.tell(f"step {step}, {minutes:.1f} of {planned:.0f} min: {figures}")
        self.values.clear()
        self.count = 0

    def tell(self, text: str) -> None:
        """A line that stays."""
        self.console.print(f"{self.stage} {text}", markup=False)
