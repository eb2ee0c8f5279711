"""The run card (run.json) and the loss curves that lie beside a checkpoint or a run."""

from __future__ import annotations

import json
import platform
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import torch

from model.loading.checkpoint import Checkpoint
from tiny.art import Catalog
from tiny.recipe import Recipe

SHOWN = {
    "segment": ("mean IoU", "top-1", "colour right", "crop top-1", "clip J"),
    "memory": ("J", "dice", "bce", "score right"),
    "speak": ("loss", "right words", "top-1"),
}
"""Curves drawn of each stage."""


def rows(log: Path) -> list[dict[str, float | str]]:
    """The lines of a training log."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []


def note_start(log: Path, stage: str, start: Path | None) -> None:
    """Write down which checkpoint a stage goes on from; nothing for one that begins anew."""
    if start is not None:
        name = f"{start.name}@{Checkpoint.find(start).fingerprint()}"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "started_from": name}) + "\n")


def write_card(file: Path, recipe: Recipe, catalog: Catalog, log: Path, figures: dict[str, object] | None) -> None:
    """What was trained on what, for how long, where, with what result."""
    drawings = Counter(f"{d.split}, {'of the table' if d.label else 'outside the table'}" for d in catalog.drawings)
    stages = {}
    for stage in SHOWN:
        mine = [row for row in rows(log) if row["stage"] == stage and "step" in row]
        started = [row["started_from"] for row in rows(log) if row["stage"] == stage and "started_from" in row]
        if mine:
            stages[stage] = {
                **{"started_from": started[-1] if started else None},
                **{"steps": mine[-1]["step"], "minutes": mine[-1]["minutes"], "last": mine[-1]},
            }
    card = {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": recipe.model_dump(),
        "data": {
            "classes": len({d.label for d in catalog.drawings} - {None}),
            "drawings": dict(sorted(drawings.items())),
            "styles": dict(sorted(Counter(d.style for d in catalog.drawings).items())),
            "backgrounds": {split: len(names) for split, names in catalog.backgrounds.items()},
            "scenes": recipe.shards * 1000,
        },
        "stages": stages,
        "device": {
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "gpu": _gpu(),
            "torch": torch.__version__,
        },
        "figures": figures,
    }
    file.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def curves(log: Path, target: Path) -> None:
    """Draw the log as one PNG, a row of small charts for each stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    done = {str(line["stage"]) for line in rows(log)}
    shown = {stage: names for stage, names in SHOWN.items() if stage in done} or SHOWN
    figure, charts = pyplot.subplots(len(shown), 5, figsize=(16, 3 * len(shown)), squeeze=False)
    for row, (stage, names) in zip(charts, shown.items(), strict=True):
        mine = [line for line in rows(log) if line["stage"] == stage and "step" in line]
        for chart, name in zip(row, names, strict=False):
            points = [(line["step"], line[name]) for line in mine if name in line]
            if points:
                chart.plot(*zip(*points, strict=True))
            chart.set_title(f"{stage}: {name}", fontsize=9)
            chart.grid(alpha=0.3)
        for chart in row[len(names) :]:
            chart.set_axis_off()
    figure.tight_layout()
    figure.savefig(target, dpi=70)
    pyplot.close(figure)


def _gpu() -> str | None:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
