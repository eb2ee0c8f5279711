"""What came out of a bulk job: counts, classes, scores, seconds, failures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from backend.bulk.ledger import NOTHING_MARKED, Ledger
from backend.bulk.naming import name_of
from backend.bulk.progress import Status, duration, status_of
from backend.bulk.tally import STAGES

_MOST_LABELS = 30
DO_MARK = "add `--regions propose`, or draw boxes first"


@dataclass(frozen=True)
class Summary:
    """Of a job as it stands.

    Attributes:
        skipped: tasks by why nothing was done.
        labels: regions by label, the most frequent first.
        scores: tasks by the tenth that their score (the least certain region) is in: 0 is 0 to 0.1.
        seconds: of all done tasks by stage.
        reasons: failed tasks by type of error, with one of them and its message as an example.
    """

    where: str
    model_version: str
    status: Status
    worked_s: float
    regions: int
    skipped: dict[str, int]
    labels: list[tuple[str, int]]
    scores: list[int]
    seconds: dict[str, float]
    reasons: list[tuple[str, int, str]]


def summarize(ledger: Ledger) -> Summary:
    fields, spec = ledger.fields(), ledger.spec()
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    for trouble in ledger.all_failed():
        counts[trouble.type] += 1
        name = name_of(trouble.key, trouble.file, spec.project is not None)
        example.setdefault(trouble.type, f"{name}: {trouble.message}")
    spent = {n.removeprefix("seconds "): float(s) for n, s in fields.items() if n.startswith("seconds ")}
    return Summary(
        where=spec.where,
        model_version=spec.model_version,
        status=status_of(ledger),
        worked_s=float(fields.get("worked", 0)),
        regions=int(fields.get("regions", 0)),
        skipped={name.removeprefix("skipped "): int(n) for name, n in fields.items() if name.startswith("skipped ")},
        labels=sorted(ledger.labels().items(), key=lambda found: (-found[1], found[0])),
        scores=[int(fields.get(f"score {tenth}", 0)) for tenth in range(10)],
        seconds={stage: spent[stage] for stage in (*STAGES, *sorted(spent.keys() - set(STAGES))) if stage in spent},
        reasons=[(kind, count, example[kind]) for kind, count in counts.most_common()],
    )


def print_summary(summary: Summary, job: str, console: Console) -> None:
    """Tables on a console."""
    status = summary.status
    skipped = sum(summary.skipped.values())
    why = ", ".join(f"{count} {reason}" for reason, count in summary.skipped.items())
    version = f"; {summary.model_version}" if summary.model_version else ""
    console.print(f"bulk {job}: {status.state}; {summary.where}{version}", markup=False, soft_wrap=True)
    console.print(
        f"{status.done} tasks predicted with {summary.regions} regions, {skipped} left alone"
        f"{f' ({why})' if why else ''}, {status.failed} failed, in {duration(summary.worked_s)}; "
        f"{status.clicks} clicks served meanwhile",
        markup=False,
        soft_wrap=True,
    )
    if unmarked := summary.skipped.get(NOTHING_MARKED):
        console.print(
            f"nothing marked in {unmarked} of {status.settled} tasks: {DO_MARK}", markup=False, soft_wrap=True
        )
    if status.note:
        console.print(status.note, markup=False, soft_wrap=True)
    if summary.labels:
        table = Table("label", "regions")
        for label, count in summary.labels[:_MOST_LABELS]:
            table.add_row(label, str(count))
        if len(summary.labels) > _MOST_LABELS:
            table.add_row(f"… {len(summary.labels) - _MOST_LABELS} more", "")
        console.print(table)
    if any(summary.scores):
        table = Table("score (least certain region)", "tasks", "")
        for tenth, count in enumerate(summary.scores):
            bar = "█" * round(30 * count / max(summary.scores))
            table.add_row(f"{tenth / 10:.1f} – {(tenth + 1) / 10:.1f}", str(count), bar)
        console.print(table)
    if status.done and summary.seconds:
        table = Table("stage", "seconds in all", "a task")
        for stage, seconds in summary.seconds.items():
            table.add_row(stage, f"{seconds:.1f}", f"{seconds / status.done:.3f}")
        console.print(table)
    if summary.reasons:
        table = Table("failed because of", "tasks", "for example")
        for kind, count, example in summary.reasons:
            table.add_row(kind, str(count), example)
        console.print(table)
        console.print(f"the list: bulk failed {job}; again: bulk retry-failed {job}", markup=False)
