"""What is known of a project while it is taught."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from backend.labeling.roles import Roles
from backend.learning.memory import Entry
from backend.predict.lessons import Lessons


@dataclass
class TaughtProject:
    """One project and its examples.

    Attributes:
        number: of the project.
        roles: of its config; None where that cannot work.
        entries: the examples.
        of_task: the ids of their regions by task.
        changed: since when something is to be published, by the monotonic clock; None: nothing is.
        begun: when it was read, by the same clock.
    """

    number: int
    roles: Roles | None
    entries: dict[str, Entry]
    of_task: dict[int, set[str]] = field(default_factory=dict)
    changed: float | None = None
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.reload(self.entries)

    def reload(self, entries: dict[str, Entry]) -> None:
        """These are the examples."""
        self.entries, self.of_task = entries, {}
        for name, entry in entries.items():
            self.of_task.setdefault(entry.task, set()).add(name)

    def same(self, lessons: Lessons) -> set[str]:
        """Examples whose features are known: nothing of their shape has changed."""
        known = self.entries
        return {one.id for one in lessons.examples if one.id in known and known[one.id].shape == one.entry.shape}

    def note(self, changed: Mapping[str, Entry], gone: Iterable[str] = (), disputes: Sequence[object] = ()) -> None:
        """These examples are new or others than before, those are not there any more, and annotators disagree so."""
        gone = list(gone)
        for name in gone:
            entry = self.entries.pop(name, None)
            if entry is not None:
                self.of_task.get(entry.task, set()).discard(name)
        for name, entry in changed.items():
            self.entries[name] = entry
            self.of_task.setdefault(entry.task, set()).add(name)
        if (changed or gone or disputes) and self.changed is None:
            self.changed = time.monotonic()
