"""The training itself: pool, SAM 2, language. Each stage can be stopped at any time and goes on where it was."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file
from sam2.modeling.sam2_base import SAM2Base
from torch import nn
from torch.nn import functional
from transformers import Qwen2Tokenizer

from model.device import pick_device
from model.sam2_loading import build_sam2
from model.tower import Tower
from model.training import card, crops, export, language, segmentation, tokenizer
from model.training.art import load
from model.training.batch import batch_of
from model.training.diary import Diary, numbers
from model.training.pool import Pool, draw
from model.training.recipe import Lesson, Recipe
from model.training.scenes import Painter
from model.training.segmentation import Learner, descend, schedule

_LONGEST_STEP = 10.0  # seconds that one step may count: a machine that slept has not trained


@dataclass(frozen=True)
class Place:
    """Where a training keeps things: `art` (fetched), `run` (pool, states, log), `checkpoint` (sam2.yaml, result)."""

    art: Path
    run: Path
    checkpoint: Path

    @property
    def segment_state(self) -> Path:
        """State of the SAM 2 stage."""
        return self.run / "segment.pt"

    @property
    def speak_state(self) -> Path:
        """State of the language stage."""
        return self.run / "speak.pt"

    @property
    def log(self) -> Path:
        """One JSON object a line: stage, step, minutes, means of losses and rates."""
        return self.run / "log.jsonl"


def prepare(seed: int, device: str = "auto") -> torch.device:
    """Fixed seeds, no more threads than cores (OpenCV would fight with torch), and the device to train on."""
    torch.manual_seed(seed)
    cv2.setNumThreads(1)
    return pick_device(device)


def draw_pool(place: Place, recipe: Recipe) -> None:
    """Draw the scenes that are not there yet."""
    catalog = load(place.art)
    for shard in numbers(recipe.shards, "pool"):
        draw(Painter(catalog, "train", recipe.seed), place.run / "pool" / "train", shard, recipe.side)
    draw(Painter(catalog, "val", recipe.seed + 8), place.run / "pool" / "val", 0, recipe.side)


def segment(place: Place, recipe: Recipe, device: torch.device, start: Path | None = None) -> None:
    """The SAM 2 stage: crops alone, then whole lessons. `start` is a checkpoint folder to fine-tune."""
    learner = Learner(_sam2(place, start).to(device), recipe.rates.segment)
    if not place.segment_state.is_file():
        card.note_start(place.log, "segment", start)
    gone = learner.load(place.segment_state) if place.segment_state.is_file() else 0.0
    pool, val = Pool(place.run / "pool" / "train"), Pool(place.run / "pool" / "val")
    clippings = crops.Clippings(load(place.art))
    rng = np.random.default_rng([recipe.seed, learner.step])
    lessons = sum(lesson.minutes for lesson in recipe.segment)
    planned = recipe.crops.minutes + lessons
    with Diary(place.log, "segment") as diary:
        while gone < planned:
            began = time.perf_counter()
            learner.sam.train()
            alone = gone < recipe.crops.minutes
            encoder, heads = learner.sam.image_encoder, learner.heads
            if alone:
                drawn = clippings.batch(rng, recipe.crops.batch, recipe.crops.side)
                parts = crops.losses(encoder, heads, *(part.to(device) for part in drawn))
            elif learner.step % 2:
                # by turns with the scenes: a step of both would cost the same and learn once
                crowd = clippings.crowd(rng, recipe.crops.crowds, recipe.side)
                parts = crops.crowd_losses(encoder, heads, *(part.to(device) for part in crowd))
            else:
                lesson = _lesson(recipe, gone - recipe.crops.minutes)
                segmentation.at_size(learner.sam, lesson.side)
                batch = batch_of(rng, pool, lesson.pictures, lesson.regions, lesson.side).to(device)
                parts = segmentation.losses(learner, batch, rng)
            learner.update(segmentation.total(parts), gone / planned)
            gone += min(time.perf_counter() - began, _LONGEST_STEP) / 60
            diary.note(learner.step, gone, planned, parts)
            if learner.step % 100 == 0:
                pool.refresh()  # scenes may still be being drawn beside it
                val.refresh()
                learner.save(place.segment_state, gone)
                if not alone and len(val):
                    figures = segmentation.probe(learner, val, 96, recipe.side)
                    diary.tell("val " + " ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    learner.save(place.segment_state, gone)


def speak(place: Place, recipe: Recipe, device: torch.device, start: Path | None = None) -> None:
    """The language stage over the SAM 2 that the first one left (without one, over that of `start`, to fine-tune)."""
    tower = Tower(_taught(place, recipe, start).to(device))
    if not (place.checkpoint / "tokenizer.json").is_file():
        tokenizer.learn(place.checkpoint, recipe.vocabulary)
    config = language.qwen_config(place.checkpoint, recipe.language_model)
    speaker = language.Speaker(config, getattr(torch, recipe.speak.precision)).to(device)
    if not place.speak_state.is_file():
        card.note_start(place.log, "speak", start)
    if start is None:
        speaker.learn_from(tower.sam)
    else:
        _load_speaker(speaker, start)
    average = copy.deepcopy(speaker)
    cells = recipe.side // 32
    packer = language.Packer(Qwen2Tokenizer.from_pretrained(place.checkpoint), cells * cells + 18)
    chosen = language.optimizers(speaker, recipe.rates.speak)
    pool = Pool(place.run / "pool" / "train")
    gone, step = 0.0, 0
    if place.speak_state.is_file():
        state = torch.load(place.speak_state, weights_only=True, map_location=device)
        speaker.load_state_dict(state["speaker"])
        average.load_state_dict(state["average"])
        for optimizer, values in zip(chosen, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        gone, step = state["minutes"], state["step"]
    rng = np.random.default_rng([recipe.seed, 1, step])
    planned = recipe.speak.minutes

    def save() -> None:
        _write(
            place.speak_state,
            {
                "speaker": speaker.state_dict(),
                "average": average.state_dict(),
                "minutes": gone,
                "step": step,
                "optimizers": [optimizer.state_dict() for optimizer in chosen],
            },
        )

    with Diary(place.log, "speak") as diary:
        while gone < planned:
            began = time.perf_counter()
            wanted = recipe.speak
            batch = batch_of(rng, pool, wanted.pictures, wanted.regions, recipe.side, wanted.skipped).to(device)
            seen = language.regions(rng, tower, batch)
            packed = packer.pack(rng, list(batch.truths), recipe.speak.answers).to(device)
            logits, kind = speaker(seen.image, seen.mask_tokens, packed)
            loss, right = language.loss(logits, packed)
            help_loss = functional.cross_entropy(kind, batch.kind)
            descend(chosen, loss + 0.6 * help_loss, schedule(step, gone / planned, 60))
            step += 1
            _follow(average, speaker, min(0.995, (1 + step) / (20 + step)))
            gone += min(time.perf_counter() - began, _LONGEST_STEP) / 60
            top = (kind.argmax(-1) == batch.kind).float().mean()
            diary.note(step, gone, planned, {"loss": loss, "right words": right, "top-1": top})
            if step % 50 == 0:
                save()
    save()


def finish(place: Place, recipe: Recipe, figures: dict[str, object] | None = None) -> int:
    """Export both stages' running averages with run card and curves; returns the bytes of the weights."""
    sam = _taught(place, recipe, None)
    config = language.qwen_config(place.checkpoint, recipe.language_model)
    speaker = language.Speaker(config)
    speaker.load_state_dict(torch.load(place.speak_state, weights_only=True, map_location="cpu")["average"])
    taken = export.export(place.checkpoint, sam.state_dict(), speaker, config, unsure=recipe.speak.unsure)
    card.write_card(place.checkpoint / "run.json", recipe, load(place.art), place.log, figures)
    card.curves(place.log, place.checkpoint / "curves.png")
    return taken


def _sam2(place: Place, start: Path | None) -> SAM2Base:
    config = place.checkpoint / "sam2.yaml"
    if start is not None:
        return build_sam2(config, start / "sam2.safetensors", torch.device("cpu")).requires_grad_(True)
    sam: SAM2Base = instantiate(OmegaConf.load(config).model, _recursive_=True)
    return sam


def _taught(place: Place, recipe: Recipe, start: Path | None) -> SAM2Base:
    """SAM 2 as the first stage left it."""
    trained = place.segment_state.is_file()
    sam = _sam2(place, None if trained else start)
    if trained:
        sam.load_state_dict(torch.load(place.segment_state, weights_only=True, map_location="cpu")["average"])
    elif start is None:
        raise FileNotFoundError(
            f"{place.segment_state} is missing: run `python -m model.training fit --stage segment` first"
        )
    segmentation.at_size(sam, recipe.side)
    return sam


def _load_speaker(speaker: language.Speaker, folder: Path) -> None:
    """Begin with a checkpoint's perceiver, projectors and language model."""
    tensors = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    vision = {
        name.removeprefix("model."): value
        for name, value in tensors.items()
        if name.removeprefix("model.") in speaker.vision.state_dict()
    }
    speaker.vision.load_state_dict(vision)
    speaker.qwen.load_state_dict(
        {n: v for n, v in tensors.items() if n.removeprefix("model.") not in vision}, strict=False
    )


def _lesson(recipe: Recipe, minutes: float) -> Lesson:
    for lesson in recipe.segment:
        minutes -= lesson.minutes
        if minutes < 0:
            return lesson
    return recipe.segment[-1]


@torch.no_grad()
def _follow(slow: nn.Module, fast: nn.Module, keep: float) -> None:
    for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
        old.lerp_(new, 1 - keep)


def _write(file: Path, state: Mapping[str, object]) -> None:
    part = file.with_suffix(".part")
    torch.save(dict(state), part)
    part.replace(file)
