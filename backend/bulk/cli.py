"""`python -m backend bulk …`: begin, watch and steer bulk jobs."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from backend.bulk.ledger import CANCELLED, FINISHED, PAUSED, RUNNING, Ledger, names
from backend.bulk.progress import Show, status_of
from backend.bulk.spec import FIELD, Spec
from backend.errors import BadRequest, ConfigError
from backend.job import Example
from backend.settings import Settings
from backend.system.memory import peak_bytes
from backend.tasks.search import is_name

_WORKER_PATIENCE_S = 600.0
_NICE = 5


def run(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """Do what was asked; the process's exit code.

    Raises:
        BackendError: it cannot be done; the message says why.
    """
    from backend.queueing.connection import connect, queue_down
    from backend.run.embedded_redis import running

    try:
        with running(settings):
            client = connect(settings)
            if options.verb not in (None, "resume", "retry-failed"):
                return _look(settings, options, client, console)
            ledger = _begin(settings, options, client, console)
            if ledger is None:
                return 0
            if not options.detach:
                return _work(settings, ledger, options, console)
        # outside: an embedded Redis that this process started has ended, and the next one starts its own
        return _detach(settings, ledger, options, console)
    except redis.RedisError as error:
        raise queue_down(error) from None


def _begin(settings: Settings, options: argparse.Namespace, client: redis.Redis, console: Console) -> Ledger | None:
    """The job to work on; None where that was all."""
    if options.verb is None:
        spec = _spec(settings, options)
        if options.dry_run:
            _dry_run(settings, spec, client, console)
            return None
        ledger = Ledger.create(client, spec)
        console.print(f"bulk {ledger.job}: {spec.where}", markup=False, soft_wrap=True, highlight=False)
        return ledger
    ledger = Ledger.open(client, _job(options))
    if ledger.is_worked_on():
        raise BadRequest(f"bulk {ledger.job} is being worked on already: `bulk status {ledger.job}`")
    if options.verb == "retry-failed":
        count = ledger.retry_failed()
        console.print(f"bulk {ledger.job}: {count} failed tasks are tried again", highlight=False)
    elif ledger.state() in (FINISHED, CANCELLED) and not ledger.waiting():
        console.print(f"bulk {ledger.job} is {ledger.state()}: nothing to go on with", highlight=False)
        return None
    ledger.set_state(RUNNING)
    return ledger


def _work(settings: Settings, ledger: Ledger, options: argparse.Namespace, console: Console) -> int:
    from backend.bulk.run import run_job, wait_for_worker
    from backend.queueing.janitor import Janitor
    from backend.run.serve import stop_signal

    with stop_signal() as stop, _own_workers(settings, _worker_count(settings, options, console)):
        # planning and storing give way to clicks where cores are few; the job's own workers have begun before
        os.nice(_NICE)
        janitor = Janitor(settings)
        janitor.start()
        try:
            with Show(ledger, console) as show:
                if not wait_for_worker(settings, ledger, stop, show.update, _WORKER_PATIENCE_S):
                    return 130
                state = run_job(settings, ledger, stop, show.update)
        finally:
            janitor.stop()
    _end(settings, ledger, options, console)
    if state == PAUSED:
        console.print(f"go on with: python -m backend bulk resume {ledger.job}", highlight=False)
    return 0 if state == FINISHED and not ledger.failures() else 130 if state == PAUSED else 1


def _worker_count(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """How many workers of its own a job gets: as asked; one where the Redis is this machine's and nobody works."""
    from backend.queueing import heartbeat
    from backend.queueing.connection import connect

    if options.own_workers or not settings.embedded_redis or heartbeat.everybody(connect(settings)):
        return int(options.own_workers)
    console.print("no worker is running: one is started for this job", highlight=False)
    return 1


def _end(settings: Settings, ledger: Ledger, options: argparse.Namespace, console: Console) -> None:
    from backend.bulk.summary import print_summary, summarize

    summary = summarize(ledger)
    print_summary(summary, ledger.job, console)
    if options.report is not None:
        from backend.bulk.report import write_report
        from backend.queueing.connection import connect

        folder = _folder(ledger.spec())
        written = write_report(settings, connect(settings), ledger, summary, folder, options.report)
        console.print(f"report: {written}", markup=False, highlight=False)


def _folder(spec: Spec) -> Path | None:
    if spec.input is None:
        return None
    return spec.input if spec.input.is_dir() else spec.input.parent


def _look(settings: Settings, options: argparse.Namespace, client: redis.Redis, console: Console) -> int:
    if options.verb == "status" and options.job is None:
        table = Table("job", "state", "tasks", "what")
        for name in names(client):
            ledger = Ledger.open(client, name)
            status = status_of(ledger)
            of = f"{status.settled}/{status.total}" if status.total is not None else str(status.settled)
            table.add_row(name, status.state, of, ledger.spec().where)
        console.print(table)
        return 0
    ledger = Ledger.open(client, _job(options))
    if options.verb == "status":
        status = status_of(ledger)
        console.print(
            f"bulk {ledger.job}: {status.state}; {status.line()}", markup=False, soft_wrap=True, highlight=False
        )
    elif options.verb == "failed":
        _export(ledger, options.output, console)
    elif options.verb == "report":
        if options.report is None:
            raise BadRequest("say where: --report FILE.html")
        _end(settings, ledger, options, console)
    else:
        _steer(ledger, {"pause": PAUSED, "cancel": CANCELLED}[options.verb], console)
    return 0


def _steer(ledger: Ledger, state: str, console: Console) -> None:
    before = ledger.state()
    if before in (FINISHED, CANCELLED):
        raise BadRequest(f"bulk {ledger.job} is {before} already")
    ledger.set_state(state)
    until = time.monotonic() + 60
    while ledger.is_worked_on() and time.monotonic() < until:
        time.sleep(0.2)
    console.print(f"bulk {ledger.job}: {state}", highlight=False)


def _export(ledger: Ledger, output: Path | None, console: Console) -> None:
    """The failed list as JSON, to the output or to the console."""
    version = ledger.spec().model_version
    rows: list[dict[str, Any]] = [
        {"task": one.key, "file": one.file, "reason": one.type, "message": one.message, "tries": one.tries}
        | {"model_version": version}
        for one in ledger.all_failed()
    ]
    rows.sort(key=lambda row: int(row["task"]))
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    if output is None:
        console.out(text, end="", highlight=False)
    else:
        output.write_text(text, encoding="utf-8")
        console.print(f"{len(rows)} failed tasks in {output}", markup=False, highlight=False)


def _detach(settings: Settings, ledger: Ledger, options: argparse.Namespace, console: Console) -> int:
    log = settings.state_dir / f"bulk-{ledger.job}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "backend", "bulk", "resume", ledger.job, "--workers", str(options.own_workers)]
    if options.report is not None:
        command += ["--report", str(options.report.resolve())]
    with log.open("ab") as out:
        subprocess.Popen(
            command,
            env=os.environ | settings.to_environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    console.print(
        f"bulk {ledger.job} goes on in the background: bulk status {ledger.job}; its log: {log}",
        markup=False,
        soft_wrap=True,
        highlight=False,
    )
    return 0


def _dry_run(settings: Settings, spec: Spec, client: redis.Redis, console: Console) -> None:
    from backend.bulk.run import make_source, plan_only
    from backend.bulk.summary import DO_MARK

    ledger = Ledger(client, f"dry-{os.getpid()}")
    try:
        source = make_source(settings, spec, client, ledger.list_key, threading.Event())
        begin = time.monotonic()
        counts = plan_only(settings, spec, islice(source.items(-1), spec.limit))
    finally:
        client.delete(ledger.list_key)
    peak = peak_bytes() / 2**20
    console.print(
        f"{counts.tasks} tasks: {counts.to_do} to do with {counts.jobs} jobs and {counts.regions} regions"
        f"{' and proposals' if counts.proposals else ''}, {counts.predicted} predicted already, {counts.nothing} with "
        f"nothing to predict, {counts.broken} that cannot be read; planned in {time.monotonic() - begin:.1f} s, "
        f"peak memory {peak:.0f} MB",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    if counts.unmarked:
        console.print(f"nothing marked in {counts.unmarked} of {counts.tasks} tasks: {DO_MARK}", markup=False)
    for message in counts.examples:
        console.print(f"  {message}", markup=False, soft_wrap=True)


def _spec(settings: Settings, options: argparse.Namespace) -> Spec:
    from backend.bulk.run import complete
    from backend.bulk.wanted import wanted_roles
    from backend.labeling.roles import read_roles

    if (options.project is None) == (options.input is None):
        raise BadRequest("say which tasks: --project NUMBER, or --input FILE_OR_FOLDER with --output FILE")
    if options.input is not None and options.output is None and not options.dry_run:
        raise BadRequest("say where the result goes: --output FILE")
    config = ""
    if options.input is not None:
        if not options.input.exists():
            raise BadRequest(f"there is no {options.input}")
        try:
            config = options.config.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"the labelling config {options.config} cannot be read ({error.strerror}): --config"
            ) from None
    regions, field = _regions(options.regions)
    spec = Spec(
        project=options.project,
        view=options.view,
        task_ids=_numbers(options.task_ids),
        input=options.input.resolve() if options.input is not None else None,
        output=options.output.resolve() if options.output is not None else None,
        label_config=config,
        regions=regions,
        regions_field=field,
        find=tuple(_looked_for(text) for text in options.find),
        texts=tuple(part.strip() for part in options.texts.split(",")) if options.texts is not None else None,
        url_prefix=options.url_prefix,
        limit=options.limit,
    )
    spec = complete(settings, spec)
    if options.like_labeled:
        spec = spec.model_copy(update={"like": _examples(settings, spec, options.like_labeled)})
    wanted_roles(read_roles(spec.label_config, settings.language), spec)
    return spec


def _regions(words: list[str] | None) -> tuple[str | None, str]:
    if not words:
        return None, ""
    kind, *more = words
    known = ("from-annotations", "from-predictions", FIELD, "propose")
    if kind not in known or len(more) != (kind == FIELD):
        raise BadRequest("--regions takes from-annotations, from-predictions, from-field NAME, or propose")
    return kind, more[0] if more else ""


def _examples(settings: Settings, spec: Spec, labels: list[str]) -> dict[str, tuple[Example, ...]]:
    from backend.bulk.examples import examples
    from backend.bulk.sources import ProjectSource
    from backend.label_studio.api import LabelStudioApi
    from backend.queueing.connection import connect

    if spec.project is None:
        raise BadRequest("--like-labeled takes annotated regions of a project: give --project")
    whole = spec.model_copy(update={"view": None, "task_ids": ()})
    source = ProjectSource(LabelStudioApi(settings), whole, connect(settings), "")
    return examples(settings, source.items(-1), spec.label_config, labels)


def _looked_for(option: str) -> tuple[str, str]:
    """A text, and the label of what is found."""
    text, _, label = option.partition("=")
    if not is_name(text):
        raise BadRequest(f"--find {option[:40]!r}: give a word or a short phrase, and perhaps =LABEL")
    return text.strip(), label.strip()


def _numbers(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        if text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8").replace("\n", ",")
        found = tuple(int(part) for part in text.split(",") if part.strip())
    except (OSError, ValueError) as error:
        raise BadRequest(f"--task-ids cannot be read ({error}): give numbers, or @FILE") from None
    if not found:
        raise BadRequest("--task-ids names no task")
    return found


def _job(options: argparse.Namespace) -> str:
    if options.job is None:
        raise BadRequest(f"say which job: bulk {options.verb} JOB; `bulk status` lists all")
    return str(options.job)


@contextlib.contextmanager
def _own_workers(settings: Settings, count: int) -> Iterator[None]:
    if not count:
        yield
        return
    from backend.run.serve import WorkerProcess

    workers = [WorkerProcess(settings.model_copy(update={"workers": count}), number) for number in range(count)]
    for worker in workers:
        worker.wanted.set()
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join(time.monotonic() + 10)
