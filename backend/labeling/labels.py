"""The project's closed set of labels, and their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from backend.job import PATH, Candidate, LabelSet
from backend.labeling.tags import Tag

_HAN = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Labels:
    """The labels of one control.

    Attributes:
        candidates: each label as results carry it (its alias, if it has one; of nested ones its whole path, see
            `path`), with all its names: value, alias and the synonyms of `predicted_values`.
        values: of each candidate, by which labels of several controls are the same.
        hints: of each candidate, words that it may be looked for by beside its names.
        free: labels marked pallas="auto": choosing one at the prompt leaves the choice to the model.
        several: a region may have more than one of them.
    """

    candidates: tuple[Candidate, ...] = ()
    values: tuple[str, ...] = ()
    hints: tuple[tuple[str, ...], ...] = ()
    free: frozenset[str] = frozenset()
    several: bool = False

    @classmethod
    def of(cls, tag: Tag, nested: bool = False) -> Labels:
        """Of a control's <Label> or <Choice> children; nested: each stands for its path."""
        labels = [PATH.join(path) for path in tag.paths] if nested else [child.label for child in tag.children]
        return cls(
            tuple(Candidate(label=label, names=c.names) for label, c in zip(labels, tag.children, strict=True)),
            tuple(child.value for child in tag.children),
            tuple(child.hints for child in tag.children),
            frozenset(label for label, c in zip(labels, tag.children, strict=True) if "auto" in c.wishes),
            tag.attributes.get("choice", "").lower() == "multiple",
        )

    def __bool__(self) -> bool:
        return bool(self.candidates)

    def __contains__(self, label: object) -> bool:
        return any(candidate.label == label for candidate in self.candidates)

    def matching(self, chosen: Iterable[str]) -> tuple[str, ...]:
        """Of values that the annotator chose in any control, the labels of this one; one where it takes no more."""
        found = []
        for value in chosen:
            own = next((c.label for c, v in zip(self.candidates, self.values, strict=True) if v == value), None)
            # what comes from elsewhere than a control may be an alias
            found += [own] if own is not None else [value] if value in self else []
        return tuple(dict.fromkeys(found))[: None if self.several else 1]

    def fixed(self, chosen: Iterable[str]) -> tuple[str, ...]:
        """The annotator's own choice, as far as this control has it and does not leave it to the model."""
        return tuple(label for label in self.matching(chosen) if label not in self.free)

    def open_to(self, chosen: Iterable[str]) -> bool:
        """Whether the model chooses among its labels: it has some, and the annotator's choice fixes none."""
        return bool(self.candidates) and not self.fixed(chosen)

    def values_of(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Of labels as results carry them, the values; a stranger stays as it is."""
        known = {c.label: value for c, value in zip(self.candidates, self.values, strict=True)}
        return tuple(known.get(label, label) for label in labels)

    @cached_property
    def label_set(self) -> LabelSet:
        """For the job: the names are asked in Chinese where they are Chinese."""
        names = [name for candidate in self.candidates for name in candidate.names]
        chinese = sum(bool(_HAN.search(name)) for name in names) * 2 > len(names)
        return LabelSet(candidates=self.candidates, language="zh" if chinese else "en")


def path(label: str) -> list[str]:
    """The parts of a nested candidate's label."""
    return label.split(PATH)
