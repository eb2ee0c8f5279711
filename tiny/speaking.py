"""The language stage: SAM 2 frozen; perceiver, projectors and language model learn what to say."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import Qwen2Tokenizer

from model.sam.tower import Tower
from tiny import card, language, telling, tokenizer
from tiny.album import Album
from tiny.art import load
from tiny.batch import batch_of
from tiny.diary import Diary
from tiny.place import LONGEST_STEP, Place, follow, taught, write
from tiny.pool import Pool
from tiny.recipe import Recipe
from tiny.segmentation import descend, schedule

_NAMED = 6.0  # a region of a photograph that has a name is asked for so many times as often
_WORDS = "model.embed_tokens.weight"
_FILMED = 4  # every so manieth step is about clips, once they have been watched


def speak(place: Place, recipe: Recipe, device: torch.device, start: Path | None = None) -> None:
    """The language stage over the SAM 2 that the other ones left (without one, over that of `start`, to fine-tune)."""
    tower = Tower(taught(place, recipe, start).to(device))
    if not (place.checkpoint / "tokenizer.json").is_file():
        tokenizer.learn(place.checkpoint, recipe.vocabulary)
    config = language.qwen_config(place.checkpoint, recipe.language_model)
    speaker = language.Speaker(config, recipe.speak.precision).to(device)
    if start is None:
        speaker.learn_from(tower.sam)
    else:
        _load_speaker(speaker, start, place.checkpoint)
    learner = _Learner(speaker, recipe.rates.speak)
    if place.speak_state.is_file():
        learner.load(place.speak_state, device)
    else:
        card.note_start(place.log, "speak", start)
    lessons = _Lessons(place, recipe, tower, np.random.default_rng([recipe.seed, 1, learner.step]))
    planned = recipe.speak.minutes
    with Diary(place.log, "speak") as diary:
        while learner.minutes < planned:
            began = time.perf_counter()
            shown = lessons.take(learner.step)
            parts = learner.learn(shown, planned)
            learner.minutes += min(time.perf_counter() - began, LONGEST_STEP) / 60
            name = "clip " if shown.image.ndim == 5 else ""
            diary.note(learner.step, learner.minutes, planned, {f"{name}{key}": part for key, part in parts.items()})
            if learner.step % 50 == 0:
                learner.save(place.speak_state)
                lessons.refresh()
    learner.save(place.speak_state)


@dataclass
class _Learner:
    """The speaker, its running average and its optimisers."""

    speaker: language.Speaker
    rate: float
    minutes: float = 0.0
    step: int = 0

    def __post_init__(self) -> None:
        self.average = copy.deepcopy(self.speaker)
        self.optimizers = language.optimizers(self.speaker, self.rate)

    def learn(self, shown: telling.Lesson, planned: float) -> dict[str, Tensor]:
        """One step; the loss and two rates."""
        logits, kind = self.speaker(shown.image, shown.mask_tokens, shown.packed)
        loss, right = language.loss(logits, shown.packed)
        help_loss = functional.cross_entropy(kind, shown.kind)
        descend(self.optimizers, loss + 0.6 * help_loss, schedule(self.step, self.minutes / planned, 60))
        self.step += 1
        follow(self.average, self.speaker, min(0.995, (1 + self.step) / (20 + self.step)))
        return {"loss": loss, "right words": right, "top-1": (kind.argmax(-1) == shown.kind).float().mean()}

    def load(self, file: Path, device: torch.device) -> None:
        """Go on where `save` was."""
        state = torch.load(file, weights_only=True, map_location=device)
        self.speaker.load_state_dict(state["speaker"])
        self.average.load_state_dict(state["average"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.minutes, self.step = state["minutes"], state["step"]

    def save(self, file: Path) -> None:
        """Write everything that resuming needs."""
        state = {
            "speaker": self.speaker.state_dict(),
            "average": self.average.state_dict(),
            "minutes": self.minutes,
            "step": self.step,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        write(file, state)


@dataclass
class _Lessons:
    """Random regions of scenes, and of clips once the memory stage has watched some."""

    place: Place
    recipe: Recipe
    tower: Tower
    rng: Generator
    scenes: list[telling.Scene] = field(default_factory=list)

    def __post_init__(self) -> None:
        words = Qwen2Tokenizer.from_pretrained(self.place.checkpoint)
        tokens = (self.recipe.side // 32) ** 2
        self.packer = language.Packer(words, tokens + 18)
        self.clip_packer = language.Packer(words, tokens + 19 + 15 * (tokens // 4 + 19))
        self.pool = Pool(self.place.run / "pool" / "train")
        self.album = Album(load(self.place.art), self.recipe.side) if self.recipe.speak.photographs else None
        self.refresh()

    def refresh(self) -> None:
        """Take the clips that have been watched meanwhile: the memory stage may run beside this one."""
        if not self.scenes and self.place.told.is_file():
            self.scenes = telling.load(self.place.told)

    def take(self, step: int) -> telling.Lesson:
        """The next one."""
        wanted, device = self.recipe.speak, self.tower.device
        if self.scenes and step % _FILMED == _FILMED - 1:
            return telling.lesson(self.rng, self.clip_packer, self.scenes, wanted.clips, wanted.answers, device)
        if self.album is not None and self.rng.random() < wanted.photographs:
            batch = self.album.batch(self.rng, wanted.pictures, wanted.regions, self.recipe.side, _NAMED)
        else:
            batch = batch_of(
                self.rng, self.pool, wanted.pictures, wanted.regions, self.recipe.side, wanted.skipped, wanted.grounds
            )
        batch = batch.to(device)
        seen = language.regions(self.rng, self.tower, batch, wanted.precision)
        packed = self.packer.pack(self.rng, list(batch.truths), wanted.answers).to(device)
        return telling.Lesson(seen.image.float(), seen.mask_tokens.float(), batch.kind, packed)


def _load_speaker(speaker: language.Speaker, start: Path, checkpoint: Path) -> None:
    """Begin with a checkpoint's perceiver, projectors and language model, and the words of both vocabularies."""
    tensors = {name: value.float() for name, value in load_file(start / "model.safetensors").items()}
    vision = {
        name.removeprefix("model."): value
        for name, value in tensors.items()
        if name.removeprefix("model.") in speaker.vision.state_dict()
    }
    speaker.vision.load_state_dict(vision)
    words = {n: v for n, v in tensors.items() if n.removeprefix("model.") not in vision}
    words[_WORDS] = _carried(speaker.qwen.state_dict()[_WORDS], words[_WORDS], start, checkpoint)
    speaker.qwen.load_state_dict(words, strict=False)


def _carried(fresh: Tensor, known: Tensor, start: Path, checkpoint: Path) -> Tensor:
    """`fresh` word vectors (V, C) with those that the checkpoint in `start` `known` (W, C) for the same tokens."""
    before, now = (Qwen2Tokenizer.from_pretrained(folder).get_vocab() for folder in (start, checkpoint))
    carried = fresh.detach().clone()
    for word, place in now.items():
        if before.get(word, len(known)) < len(known) and place < len(carried):
            carried[place] = known[before[word]].to(carried.device)
    return carried
