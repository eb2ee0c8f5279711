"""The project's closed set of labels, and their names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from backend.job import Candidate, LabelSet
from backend.labeling.tags import Tag

_HAN = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Labels:
    """The labels of one control.

    Attributes:
        candidates: each label as results carry it (its alias, if it has one), with all its names: value, alias and the
            synonyms of `predicted_values`.
        free: labels marked pallas="auto": choosing one at the prompt leaves the choice to the model.
    """

    candidates: tuple[Candidate, ...] = ()
    free: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tag: Tag) -> Labels:
        """Of a control's <Label> or <Choice> children."""
        return cls(
            tuple(Candidate(label=child.value, names=child.names) for child in tag.children),
            frozenset(child.value for child in tag.children if "auto" in child.wishes),
        )

    def __bool__(self) -> bool:
        return bool(self.candidates)

    def __contains__(self, label: object) -> bool:
        return any(candidate.label == label for candidate in self.candidates)

    def fixed(self, label: str | None) -> str | None:
        """The annotator's own choice, if this control has it and does not leave it to the model; else None."""
        return label if label in self and label not in self.free else None

    def label_set(self) -> LabelSet:
        """For the job: the names are asked in Chinese where they are Chinese."""
        names = [name for candidate in self.candidates for name in candidate.names]
        chinese = sum(bool(_HAN.search(name)) for name in names) * 2 > len(names)
        return LabelSet(candidates=self.candidates, language="zh" if chinese else "en")
