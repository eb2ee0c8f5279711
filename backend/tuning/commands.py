"""`fit`, `models`, `promote` and `rollback` as the terminal has them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from backend.adapters.runs import FAILED, FINISHED, INTERRUPTED, FitRun, Runs
from backend.adapters.store import Store, Version, parse, project_of
from backend.adapters.table import Table
from backend.errors import BackendError, FitError, VersionError
from backend.queueing import heartbeat
from backend.queueing.connection import connect, queue_down
from backend.run.embedded_redis import running
from backend.run.serve import stop_signal
from backend.settings import Settings


def run(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """Do what was asked; the process's exit code.

    Raises:
        BackendError: it cannot be done; the message says why.
    """
    do = {"fit": _fit, "models": _models, "promote": _promote, "rollback": _rollback}[options.command]
    try:
        with running(settings):
            return do(settings, options, connect(settings), console)
    except redis.RedisError as error:
        raise queue_down(error) from None
    except OSError as error:
        raise FitError(f"the folder of versions cannot be written ({error.strerror or error})") from None


def _fit(settings: Settings, options: argparse.Namespace, client: redis.Redis, console: Console) -> int:
    from backend.tuning.run import Fit
    from backend.tuning.wanted import wanted

    try:
        asked = wanted(settings, options)
    except BackendError as error:
        if options.job is not None:  # who pressed the button sees it on the status page
            failed = FitRun(project=options.project, job=options.job, state=FAILED, message=str(error), by_button=True)
            Runs(client).note(failed)
        raise
    with stop_signal() as stop, _shown(console) as show:
        found = Fit(settings, client, stop, lambda line: _say(console, line), show).begin(asked)
    for line in _figures(found.figures):
        _say(console, line)
    _say(console, found.message)
    return {FINISHED: 0, INTERRUPTED: 130}.get(found.state, 1)


class _Lines:
    """Progress where there is no terminal: a line a stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""

    def __call__(self, stage: str, share: float) -> None:
        name = stage.partition(",")[0]
        if name != self._stage:
            self._stage = name
            _say(self._console, name)


@contextmanager
def _shown(console: Console) -> Iterator[Any]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task: TaskID = progress.add_task("fit", total=1.0)
        yield lambda stage, share: progress.update(task, description=stage, completed=share)


def _figures(figures: dict[str, Any]) -> Iterator[str]:
    measures = {"labels": "label top-1", "captions": "caption similarity", "masks": "mask IoU"}
    for kind, gain in figures.get("kinds", {}).items():
        yield (
            f"{measures[kind]}: {gain['before']:.3f} → {gain['after']:.3f} on {gain['regions']} held-out regions of "
            f"{gain['groups']} tasks (gain {gain['low']:+.3f} to {gain['high']:+.3f}): "
            f"{'kept' if kind in figures['kept'] else figures['reasons'].get(kind, 'not kept')}"
        )
    for name, (before, after) in figures.get("guard", {}).items():
        yield f"on known pictures, {name}: {before:.3f} → {after:.3f}"


def _models(settings: Settings, options: argparse.Namespace, client: redis.Redis, console: Console) -> int:
    store, table = Store(settings), Table(client)
    base = heartbeat.published_version(client) or settings.model
    grid = Grid("version", "in use", "labels", "captions", "masks", "base, or what is wrong", title=f"base: {base}")
    count = 0
    for project in store.projects():
        state = store.in_use(project)
        for version in store.versions(project):
            used = "yes" if version.name == state.active else "shadow" if version.name == state.shadow else ""
            grid.add_row(version.name, used, *_cells(version), version.fault or version.card["base"])
            count += 1
    if not count:
        _say(
            console,
            f"base: {base}; no versions yet: `python -m backend fit --project NUMBER` learns from reviewed work",
        )
        return 0
    console.print(grid)
    for name, why in table.faults().items():
        _say(console, f"{name} is not used, the base answers: {why}")
    return 0


def _cells(version: Version) -> list[str]:
    kinds = version.card.get("figures", {}).get("kinds", {}) if not version.fault else {}
    cells = []
    for kind in ("labels", "captions", "masks"):
        gain = kinds.get(kind)
        cells.append("" if gain is None else f"{gain['before']:.3f} → {gain['after']:.3f}")
    return cells


def _promote(settings: Settings, options: argparse.Namespace, client: redis.Redis, console: Console) -> int:
    store = Store(settings)
    project, number = parse(options.version)
    name = f"{project}.{number}"
    adapter = store.read(name)
    base = heartbeat.published_version(client)
    if base is not None and adapter.base != base:
        raise VersionError(f"{name} was learned on {adapter.base}, and the workers have {base}: fit again")
    state = store.in_use(project)
    if options.shadow:
        change: dict[str, Any] = {"shadow": name}
    else:
        shadow = None if state.shadow == name else state.shadow
        change = {"active": name, "before": [*state.before, state.active], "shadow": shadow}
    _use(store, client, project, change)
    share = f", for {settings.shadow_share:.0%} of the clicks" if options.shadow else ""
    _say(console, f"{adapter.version} answers from the next job on{share}")
    return 0


def _rollback(settings: Settings, options: argparse.Namespace, client: redis.Redis, console: Console) -> int:
    store, project = Store(settings), project_of(options.project)
    state = store.in_use(project)
    if options.shadow:
        if state.shadow is None:
            raise VersionError(f"{project} has no version in the shadow")
        _use(store, client, project, {"shadow": None})
        _say(console, f"{state.shadow} answers no more clicks")
        return 0
    if state.active is None:
        raise VersionError(f"{project} is answered by the base already: `python -m backend models` lists what there is")
    earlier = [*state.before]
    active = earlier.pop() if earlier else None
    _use(store, client, project, {"active": active, "before": earlier})
    _say(console, f"{active or 'the base'} answers from the next job on, no longer {state.active}")
    return 0


def _use(store: Store, client: redis.Redis, project: str, change: dict[str, Any]) -> None:
    before = store.in_use(project)
    store.use(project, before.model_copy(update=change))
    try:
        Table(client).publish(store, project)
    except BaseException:
        store.use(project, before)
        raise


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True, highlight=False)
