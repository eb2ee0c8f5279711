"""How far a bulk job is: one line that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from backend.bulk.ledger import RUNNING, Ledger

_EVERY_S = 60.0


@dataclass(frozen=True)
class Status:
    """A bulk job at one moment; rate in tasks a second, times in seconds.

    `under_way` is what the tasks that are in work amount to: half a video is 0.5.
    """

    state: str
    total: int | None
    done: int
    skipped: int
    failed: int
    waiting: int
    rate: float
    clicks: int
    note: str
    under_way: float = 0.0

    @property
    def settled(self) -> int:
        return self.done + self.skipped + self.failed

    @property
    def left_s(self) -> float | None:
        """None where nobody can tell."""
        if self.total is None or self.rate <= 0:
            return None
        return max(0, self.total - self.settled) / self.rate

    def line(self) -> str:
        """In words."""
        of = f" of {self.total}" if self.total is not None else ""
        parts = [f"{self.done + self.skipped}{of} done"]
        if self.skipped:
            parts.append(f"{self.skipped} of them with nothing to do")
        if self.state == RUNNING and self.under_way >= 0.1:
            parts.append(f"{self.under_way:.1f} more under way")
        parts.append(f"{self.failed} failed")
        if self.waiting:
            parts.append(f"{self.waiting} to be tried again")
        parts.append(f"{self.rate:.2f} a second")
        if self.state == RUNNING and self.left_s is not None:
            parts.append(f"{duration(self.left_s)} left")
        parts.append(f"{self.clicks} clicks served meanwhile")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)


def status_of(ledger: Ledger) -> Status:
    """From the books."""
    fields = ledger.fields()
    state = fields.get("state", "")
    if state == RUNNING and not ledger.is_worked_on():
        state = "interrupted"
    total = fields.get("total")
    return Status(
        state=state,
        total=int(total) if total else None,
        done=int(fields.get("done", 0)),
        skipped=sum(int(count) for name, count in fields.items() if name.startswith("skipped ")),
        failed=ledger.failures(),
        waiting=ledger.waiting(),
        rate=float(fields.get("rate", 0)),
        clicks=int(fields.get("clicks", 0)),
        note=fields.get("note", ""),
        under_way=float(fields.get("under_way", 0)),
    )


class Show:
    """Shows a job while the block runs; call `update` about once a second."""

    def __init__(self, ledger: Ledger, console: Console) -> None:
        self._ledger = ledger
        self._console = console
        self._said = -_EVERY_S
        self._bar: Progress | None = None

    def __enter__(self) -> Show:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[words]}"),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task(f"bulk {self._ledger.job}", total=None, words="")
        return self

    def __exit__(self, *_: object) -> None:
        self.update(last=True)
        if self._bar is not None:
            self._bar.stop()

    def update(self, last: bool = False) -> None:
        status = status_of(self._ledger)
        if self._bar is not None:
            left = f", {duration(status.left_s)} left" if status.left_s is not None and not last else ""
            again = f", {status.waiting} again" if status.waiting else ""
            words = f"{status.failed} failed{again}, {status.rate:.2f}/s{left}, {status.clicks} clicks served"
            note = f" — {status.note}" if status.note else ""
            self._bar.update(
                self._task, total=status.total, completed=status.settled + status.under_way, words=words + note
            )
        elif last or time.monotonic() - self._said >= _EVERY_S:
            self._said = time.monotonic()
            self._console.print(
                f"bulk {self._ledger.job}: {status.line()}", soft_wrap=True, highlight=False, markup=False
            )


def duration(seconds: float) -> str:
    """3 h 07 min, 12 min 05 s, 9 s."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
