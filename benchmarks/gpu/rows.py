"""What a part of the run finds: one figure beside its aim and beside what the card could do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        part: the part of the run it belongs to.
        name: what was measured.
        value: the figure; None where it could not be measured, then `note` says why.
        unit: of the value.
        aim: what it should be, with its sign ("≤ 135", "≥ 28"); "" where none was set.
        floor: what the card's memory and arithmetic allow, in the same unit; None where that is not counted.
        note: what else must be known.
    """

    part: str
    name: str
    value: float | None
    unit: str = "ms"
    aim: str = ""
    floor: float | None = None
    note: str = ""

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps({"row": asdict(self)})

    def cells(self) -> list[str]:
        """As a row of a table: name, value, aim, floor, note."""
        value = "not measured" if self.value is None else f"{self.value:.4g} {self.unit}"
        floor = "" if self.floor is None else f"{self.floor:.3g}"
        return [self.name, value, self.aim, floor, self.note]


def read_row(line: str) -> Row | None:
    """The row of a line that `Row.line` made; None for any other line."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return Row(**found["row"]) if isinstance(found, dict) and "row" in found else None


class Timer:
    """Times work on a device, waiting until the device has done it: launches alone would say nothing."""

    def __init__(self, device: torch.device, seconds_each: float = 6.0, most: int = 9) -> None:
        self.device = device
        self._seconds_each = seconds_each
        self._most = most

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def once(self, work: Callable[[], Any]) -> float:
        """Milliseconds of one run."""
        self.wait()
        begin = perf_counter()
        work()
        self.wait()
        return (perf_counter() - begin) * 1000

    def median(self, work: Callable[[], Any], warm: int = 1) -> float:
        """Milliseconds, the median of as many runs as a few seconds allow, after some that do not count."""
        for _ in range(warm):
            self.once(work)
        end, taken = perf_counter() + self._seconds_each, [self.once(work)]
        while len(taken) < self._most and perf_counter() < end:
            taken.append(self.once(work))
        return median(taken)


def markdown(rows: list[Row], facts: dict[str, str]) -> str:
    """The whole run as a page for RESULTS.md: what it ran on, then a table a part."""
    lines = [f"{name}: {value}  " for name, value in facts.items()]
    for part in dict.fromkeys(row.part for row in rows):
        lines += ["", f"### {part}", "", "| what | measured | aim | floor | |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(row.cells())} |" for row in rows if row.part == part]
    return "\n".join(lines) + "\n"


def write_page(folder: Path, rows: list[Row], facts: dict[str, str]) -> Path:
    """Write the page of what is known so far; its path."""
    page = folder / "gpu.md"
    page.write_text(markdown(rows, facts), encoding="utf-8")
    return page
