"""A run: measure, learn masks, measure, learn words, measure; what is better is kept, and all can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model.adapter import MASKS as MASKS_PART
from model.adapter import WORDS as WORDS_PART
from model.adapter import Adapter
from model.errors import TuningError
from model.pam import PerceiveAnything
from model.tuning import borders, measure, rehearsal, words
from model.tuning.exam import caption_gain, label_gain, mean, word_guard
from model.tuning.gate import FORGOTTEN, Gain, gain
from model.tuning.lessons import CAPTIONS, KINDS, LABELS, MASKS, Example, Lessons
from model.tuning.measure import Asked, Said
from model.tuning.shelf import Shelf
from model.values.task import Task

LEAST_REGIONS, LEAST_GROUPS = 40, 5
"""Reviewed regions that a kind needs, and groups of them that are held out."""

_MASKS_SHARE = 0.3
_BOOK = "stages.json"
_PLAIN: tuple[Asked, ...] = ((Task.BRIEF, "en"), (Task.EXPLAIN, "en"))
"""What is asked about the guard's pictures, as far as it is not taught."""

Say = Callable[[str, float], None]


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        gains: by kind.
        guard: figures on the pictures that must not be forgotten: by name, before and after.
        kept: kinds that are better, and nothing is forgotten over them.
        reasons: of each kind that is not kept, why.
        tensors: of what is kept, and of the version before it where nothing took its place; by their names in an
            `Adapter`.
    """

    gains: dict[str, Gain] = field(default_factory=dict)
    guard: dict[str, tuple[float, float]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def adapter(self, name: str, base: str, card: Mapping[str, Any]) -> Adapter:
        """What is kept, as a version of a base."""
        return Adapter(name, base, self.tensors, words.SCALE, card)

    def figures(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "kinds": {kind: found.to_json() for kind, found in self.gains.items()},
            "guard": {name: [round(before, 4), round(after, 4)] for name, (before, after) in self.guard.items()},
            "kept": list(self.kept),
            "reasons": dict(self.reasons),
        }


class TuningRun:
    """One run, in a folder that holds what going on needs.

    Args:
        pam: the base, not in eight bits; it is the base again afterwards.
        lessons: see there.
        folder: of this run alone.
        seconds: of training, all stages together.
        pause: called between steps: it may wait, or raise what ends the run.
        say: called with the stage and the share of it that is done.
        current: the version that answers now, which a new one has to beat; None: the base.
    """

    def __init__(
        self,
        pam: PerceiveAnything,
        lessons: Lessons,
        folder: Path,
        seconds: float,
        pause: Callable[[], None] = lambda: None,
        say: Say = lambda _stage, _share: None,
        current: Adapter | None = None,
    ) -> None:
        self._pam = pam
        self._lessons = lessons
        self._folder = folder
        self._seconds = seconds
        self._pause = pause
        self._say = say
        self._current = current
        self._again: list[Example] | None = None
        self._shelf = Shelf(pam, lessons.pictures)
        self._outcome = Outcome(tensors=dict(current.tensors) if current is not None else {})

    @staticmethod
    def lacking(train: Sequence[Example], held: Sequence[Example], kinds: Sequence[str]) -> dict[str, str]:
        """Of each kind that cannot be learned, why not: how much there is and how much is needed."""
        lacking = {}
        for kind in kinds:
            examined = [example for example in held if example.teaches(kind)]
            count = sum(example.teaches(kind) for example in train) + len(examined)
            groups = len({example.group for example in examined})
            if count < LEAST_REGIONS or count == len(examined):
                lacking[kind] = f"{count} reviewed regions have {kind}, at least {LEAST_REGIONS} are needed"
            elif groups < LEAST_GROUPS:
                lacking[kind] = (
                    f"the {count} regions with {kind} are of too few tasks: {groups} are held out, {LEAST_GROUPS} are "
                    f"needed, which about {LEAST_GROUPS * 7} reviewed tasks have"
                )
        return lacking

    def run(self) -> Outcome:
        """To the end; the adapter's tensors are those of the kinds that are kept.

        Raises:
            TuningError: no kind has enough regions.
            OSError: the disk is full or cannot be written to.
        """
        lacking = self.lacking(self._lessons.train, self._lessons.held, self._lessons.kinds)
        self._outcome.reasons |= lacking
        kinds = [kind for kind in KINDS if kind in self._lessons.kinds and kind not in lacking]
        if not kinds:
            raise TuningError("; ".join(lacking.values()) or "nothing is to be learned")
        spoken = [kind for kind in kinds if kind != MASKS]
        try:
            if MASKS in kinds:
                self._masks(self._seconds * (_MASKS_SHARE if spoken else 1.0))
            if spoken:
                self._words(spoken, self._seconds * (1 - _MASKS_SHARE if MASKS in kinds else 1.0))
        finally:
            self._pam.use(None)
        return self._outcome

    def _masks(self, seconds: float) -> None:
        held = [example for example in self._lessons.held if example.mask is not None]
        guard = [example for example in self._lessons.guard if example.mask is not None]
        train = [example for example in self._lessons.train if example.mask is not None]
        before: dict[str, list[float]] = self._once(
            "masks before", lambda: {"held": self._before(lambda: self._ious(held)), "guard": self._ious(guard)}
        )
        self._say("masks", 0.0)
        file = self._folder / "masks.safetensors"
        tensors = borders.learn(
            self._pam,
            train,
            self._rehearsed(),
            self._shelf,
            seconds,
            file,
            self._pause,
            lambda share: self._say("masks", share),
        )
        with self._wearing(_replaced(self._outcome.tensors, tensors, prefix=MASKS_PART)):
            self._say("measuring masks", 0.0)
            after, safe = self._ious(held), self._ious(guard)
            strange = measure.strange_ious(self._pam, held, self._shelf, self._pause)
        found = gain([example.group for example in held], before["held"], after, strange)
        self._judge({MASKS: found}, {"mask IoU": (mean(before["guard"]), mean(safe))} if guard else {}, tensors)

    def _words(self, kinds: list[str], seconds: float) -> None:
        lessons = Lessons(
            self._lessons.train, self._lessons.held, self._lessons.guard, self._lessons.pictures, tuple(kinds)
        )
        held = [example for example in lessons.held if any(example.teaches(kind) for kind in kinds)]
        plain = [asked for asked in _PLAIN if asked not in lessons.taught()]
        asked = sorted({asked for example in held for asked in example.texts}) if CAPTIONS in kinds else []

        def own() -> list[Said]:
            return [self._speak([example], [a for a in asked if a in example.texts])[0] for example in held]

        def ask() -> dict[str, list[dict[str, Any]]]:
            found = {"held": self._before(own), "guard": self._speak(lessons.guard, plain)}
            return {name: [_to_json(said) for said in each] for name, each in found.items()}

        known: dict[str, list[dict[str, Any]]] = self._once("words before", ask)
        before = {name: [_said(one) for one in each] for name, each in known.items()}
        self._say("words", 0.0)
        file = self._folder / "words.safetensors"
        tensors = words.learn(
            self._pam,
            lessons,
            self._rehearsed(),
            self._shelf,
            seconds,
            file,
            self._pause,
            lambda share: self._say("words", share),
        )
        with self._wearing(_replaced(self._outcome.tensors, tensors, prefix=WORDS_PART)):
            self._say("measuring words", 0.0)
            after = {"held": own(), "guard": self._speak(lessons.guard, plain)}
        gains = {}
        if LABELS in kinds:
            gains[LABELS] = label_gain(held, before["held"], after["held"])
        if CAPTIONS in kinds:
            gains[CAPTIONS] = caption_gain(held, before["held"], after["held"])
        self._judge(gains, word_guard(lessons.guard, before["guard"], after["guard"]), tensors)

    def _judge(
        self, gains: dict[str, Gain], guard: dict[str, tuple[float, float]], tensors: Mapping[str, torch.Tensor]
    ) -> None:
        """Keep what was learned together if something of it is better, nothing of it worse, and nothing forgotten."""
        self._outcome.gains |= gains
        self._outcome.guard |= guard
        forgotten = [name for name, (before, after) in guard.items() if before - after > FORGOTTEN]
        worse = [kind for kind, found in gains.items() if found.worse]
        for kind, found in gains.items():
            if forgotten:
                self._outcome.reasons[kind] = f"forgotten on known pictures: {', '.join(forgotten)}"
            elif worse and kind not in worse:
                self._outcome.reasons[kind] = f"{' and '.join(worse)} became worse over it"
            elif not found.better:
                self._outcome.reasons[kind] = found.why
            else:
                self._outcome.kept.append(kind)
        if any(kind in self._outcome.kept for kind in gains):
            prefix = MASKS_PART if MASKS in gains else WORDS_PART
            self._outcome.tensors = _replaced(self._outcome.tensors, tensors, prefix)

    def _rehearsed(self) -> list[Example]:
        if self._again is None:
            self._again = rehearsal.regions(self._pam, self._lessons.rehearsed, self._shelf)
        return self._again

    def _ious(self, examples: Sequence[Example]) -> list[float]:
        return measure.ious(self._pam, examples, self._shelf, self._pause)

    def _speak(self, examples: Sequence[Example], asked: Sequence[Asked]) -> list[Said]:
        return measure.speak(self._pam, examples, self._shelf, asked, self._pause)

    def _before(self, work: Callable[[], list[Any]]) -> list[Any]:
        """What the version says that answers now."""
        self._pam.use(self._current)
        try:
            return work()
        finally:
            self._pam.use(None)

    @contextmanager
    def _wearing(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """The model as it would answer with these."""
        self._pam.use(Adapter("trial", self._pam.base_version, dict(tensors), words.SCALE))
        try:
            yield
        finally:
            self._pam.use(None)

    def _once(self, stage: str, work: Callable[[], Any]) -> Any:
        """What a stage found, in an earlier try of this run or now."""
        file = self._folder / _BOOK
        try:
            known: dict[str, Any] = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            known = {}
        if stage not in known:
            self._say(stage, 0.0)
            known[stage] = work()
            part = file.with_suffix(".part")
            part.write_text(json.dumps(known), "utf-8")
            part.replace(file)
        return known[stage]


def _replaced(
    tensors: Mapping[str, torch.Tensor], part: Mapping[str, torch.Tensor], prefix: str
) -> dict[str, torch.Tensor]:
    """Tensors with a new part in place of what they have of it."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)} | dict(part)


def _to_json(said: Said) -> dict[str, Any]:
    texts = [[task.value, language, text] for (task, language), text in said.texts.items()]
    return {"group": said.group, "label": said.label, "texts": texts}


def _said(value: dict[str, Any]) -> Said:
    return Said(value["group"], value["label"], {(Task(task), lang): text for task, lang, text in value["texts"]})
