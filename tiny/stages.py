"""The training itself: pool, SAM 2, its memory. Each stage can be stopped at any time and goes on where it was."""

from __future__ import annotations

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from model.compute.device import pick_device
from model.sam.tower import Tower
from model.sam.trunk import EfficientNetLite
from tiny import card, crops, export, language, memory, naming, photographs, segmentation, telling
from tiny.album import Album
from tiny.art import load
from tiny.batch import Batch
from tiny.diary import Diary, numbers
from tiny.place import LONGEST_STEP, Place, follow, sam2, taught, write
from tiny.pool import Pool, draw
from tiny.recipe import Recipe
from tiny.scenes import Painter
from tiny.segmentation import Learner, descend, schedule
from tiny.supply import Ahead, Shown, filmed, films, lesson_at

_SETTLING = 3e-3  # learning rate of the throw-away heads alone
_WORKERS = 2  # processes that make regions
_AHEAD = 3  # batches that are drawn while one is learned


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


def segment(
    place: Place, recipe: Recipe, device: torch.device, start: Path | None = None, after: Path | None = None
) -> None:
    """The SAM 2 stage: crops alone, then whole lessons. `start` is a checkpoint folder to fine-tune, `after` the run
    folder that it came from."""
    sam = sam2(place, start)
    pretrained = isinstance(sam.image_encoder.trunk, EfficientNetLite)
    learner = Learner(sam.to(device), recipe.rates.segment, trunk_rate=recipe.rates.trunk if pretrained else None)
    if not place.segment_state.is_file():
        if after is not None:
            learner.inherit(after / place.segment_state.name)
        elif start is None and filmed(recipe):  # what is fine-tuned knows how to remember
            first = memory.scraps(np.random.default_rng(recipe.seed), films(place, recipe, "train"), 8, 4)
            memory.begin(learner.sam, first.pictures.flatten(0, 1).to(device))
        card.note_start(place.log, "segment", start)
    gone = learner.load(place.segment_state) if place.segment_state.is_file() else 0.0
    val = Pool(place.run / "pool" / "val")
    held = _held_out(place, recipe)
    rng = np.random.default_rng([recipe.seed, learner.step])
    planned = recipe.crops.minutes + sum(lesson.minutes for lesson in recipe.segment)
    with Ahead(place, recipe, [recipe.seed, learner.step, 1]) as ahead, Diary(place.log, "segment") as diary:
        if start is not None and after is None and learner.step == 0:
            _settle(learner, ahead, recipe)
        if recipe.compiled:  # a quarter less time for the encoder, after a minute or two
            learner.sam.image_encoder.trunk.compile()
        for step in range(_AHEAD):
            ahead.order(learner.step + step, gone)
        while gone < planned:
            began = time.perf_counter()
            batch = ahead.take().to(device)
            ahead.order(learner.step + _AHEAD, gone)
            if pretrained:
                learner.sam.image_encoder.trunk.requires_grad_(not lesson_at(recipe, gone).frozen)
            with segmentation.arithmetic(device, recipe.precision):
                loss, parts = _losses(learner, batch, rng)
            learner.update(loss, gone / planned)
            gone += min(time.perf_counter() - began, LONGEST_STEP) / 60
            diary.note(learner.step, gone, planned, parts)
            if learner.step % 200 == 0:
                val.refresh()  # scenes may still be being drawn beside it
                learner.save(place.segment_state, gone)
                if gone >= recipe.crops.minutes and len(val):
                    figures = segmentation.probe(learner, val, 96, recipe.side)
                    if held:
                        figures |= segmentation.probe_photographs(learner, held)
                    diary.tell("val " + " ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    learner.save(place.segment_state, gone)


def _settle(learner: Learner, ahead: Ahead, recipe: Recipe) -> None:
    """Let the throw-away heads learn alone: their first errors would undo what a checkpoint's features know already."""
    device = next(learner.sam.parameters()).device
    optimizer = torch.optim.AdamW(learner.heads.parameters(), betas=(0.9, 0.98))
    for group in optimizer.param_groups:
        group["peak"] = _SETTLING
    learner.sam.requires_grad_(False)
    gone, number = 0.0, 0
    while gone < recipe.settle:
        ahead.order(number % 2, recipe.crops.minutes)  # scenes and crowds by turns
        began = time.perf_counter()
        with segmentation.arithmetic(device, recipe.precision):
            loss, _ = _losses(learner, ahead.take().to(device), np.random.default_rng(number))
        descend([optimizer], loss, schedule(number, gone / recipe.settle, 10))
        gone += min(time.perf_counter() - began, LONGEST_STEP) / 60
        number += 1
    learner.sam.requires_grad_(True)
    learner.average_heads.load_state_dict(learner.heads.state_dict())


def _losses(learner: Learner, batch: Shown, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """What a batch of any kind teaches: the loss, and its parts by name."""
    encoder, heads = learner.sam.train().image_encoder, learner.heads
    if isinstance(batch, crops.Crowd):
        parts = crops.crowd_losses(encoder, heads, batch)
    elif isinstance(batch, crops.Cutouts):
        parts = crops.losses(encoder, heads, batch)
    else:
        segmentation.at_size(learner.sam, batch.pictures.shape[-1])
        if isinstance(batch, memory.Scraps):
            tracked = memory.losses(learner.sam.eval(), batch, rng)
            return memory.total(tracked), {f"clip {name}": value for name, value in tracked.items()}
        parts = segmentation.losses(learner, batch, rng)
        if batch.of_photographs:
            return segmentation.total(parts), {f"photo {name}": value for name, value in parts.items()}
    return segmentation.total(parts), parts


def make_regions(place: Place, recipe: Recipe) -> None:
    """Make the regions of the photographs and their names, as far as they are not there yet."""
    if recipe.regions is None:
        return
    waiting = photographs.waiting(place.art, recipe.regions.views, recipe.side)
    made = photographs.make(place.art, recipe.regions.views, recipe.side, _WORKERS)
    for _ in numbers(waiting, "regions"):
        next(made)
    naming.book(place.art, photographs.stored(place.art, recipe.side, held=False))


def _held_out(place: Place, recipe: Recipe) -> list[Batch]:
    """Regions of photographs that are not learned from, the same each time."""
    if not any(lesson.photographs for lesson in recipe.segment):
        return []
    album = Album(load(place.art), recipe.side, held=True)
    return [album.plain(number, 8, 6) for number in range(4)]


def remember(place: Place, recipe: Recipe, device: torch.device, start: Path | None = None) -> None:
    """The memory stage over the SAM 2 that the first one left (without one, over that of `start`)."""
    sam = taught(place, recipe, start, with_memory=False).to(device).eval()
    train, val = (films(place, recipe, split) for split in ("train", "val"))
    chosen = memory.parameters(sam)
    optimizer = torch.optim.AdamW(
        [{"params": chosen, "peak": recipe.rates.memory}], betas=(0.9, 0.98), weight_decay=0.02
    )
    wanted = recipe.memory
    gone, step = 0.0, 0
    if place.memory_state.is_file():
        state = torch.load(place.memory_state, weights_only=True, map_location=device)
        sam.load_state_dict(state["sam"], strict=False)
        average = copy.deepcopy(sam)
        average.load_state_dict(state["average"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        gone, step = state["minutes"], state["step"]
    else:
        card.note_start(place.log, "memory", start)
        if start is None and not filmed(recipe):
            first = memory.scraps(np.random.default_rng(recipe.seed), train, 8, 4)
            memory.begin(sam, first.pictures.flatten(0, 1).to(device))
        average = copy.deepcopy(sam)
    rng, ahead = np.random.default_rng([recipe.seed, 2, step]).spawn(2)

    def save() -> None:
        write(
            place.memory_state,
            {
                "sam": memory.learned(sam),
                "average": memory.learned(average),
                "optimizer": optimizer.state_dict(),
                "minutes": gone,
                "step": step,
            },
        )

    with Diary(place.log, "memory", every=10) as diary, ThreadPoolExecutor(1) as drawer:
        coming = drawer.submit(memory.scraps, ahead, train, wanted.pieces, wanted.frames)
        while gone < wanted.minutes:
            began = time.perf_counter()
            batch = coming.result().to(device)
            coming = drawer.submit(memory.scraps, ahead, train, wanted.pieces, wanted.frames)
            with segmentation.arithmetic(device, recipe.precision):
                parts = memory.losses(sam, batch, rng)
            descend([optimizer], memory.total(parts), schedule(step, gone / wanted.minutes, 20))
            step += 1
            follow(average, sam, min(0.99, (1 + step) / (10 + step)))
            gone += min(time.perf_counter() - began, LONGEST_STEP) / 60
            diary.note(step, gone, wanted.minutes, parts)
            if step % 50 == 0:
                save()
                figures = memory.probe(average, val, 16)
                diary.tell("val " + " ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    save()
    if not place.told.is_file():
        telling.save(telling.watch(Tower(average), train, wanted.told), place.told)


def finish(place: Place, recipe: Recipe, figures: dict[str, object] | None = None) -> int:
    """Export both stages' running averages with run card and curves; returns the bytes of the weights."""
    sam = taught(place, recipe, None)
    config = language.qwen_config(place.checkpoint, recipe.language_model)
    speaker = language.Speaker(config)
    speaker.load_state_dict(torch.load(place.speak_state, weights_only=True, map_location="cpu")["average"])
    taken = export.export(place.checkpoint, sam.state_dict(), speaker, config, unsure=recipe.speak.unsure)
    card.write_card(place.checkpoint / "run.json", recipe, load(place.art), place.log, figures)
    card.curves(place.log, place.checkpoint / "curves.png")
    return taken
