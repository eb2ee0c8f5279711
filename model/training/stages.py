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

from model.device import pick_device
from model.tower import Tower
from model.training import card, crops, export, language, memory, segmentation, telling
from model.training.art import load
from model.training.batch import Batch, batch_of
from model.training.clips import Director
from model.training.diary import Diary, numbers
from model.training.place import LONGEST_STEP, Place, follow, sam2, taught, write
from model.training.pool import Pool, draw
from model.training.recipe import Lesson, Recipe
from model.training.scenes import Painter
from model.training.segmentation import Learner, descend, schedule

_FILMED = 3  # of every eight steps, the one about clips


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
    learner = Learner(sam2(place, start).to(device), recipe.rates.segment)
    moving = films(place, recipe)[0] if any(lesson.pieces for lesson in recipe.segment) else None
    if not place.segment_state.is_file():
        card.note_start(place.log, "segment", start)
        if moving is not None and start is None:  # what is fine-tuned knows how to remember
            first = memory.scraps(np.random.default_rng(recipe.seed), moving, 8, 4)
            memory.begin(learner.sam, first.pictures.flatten(0, 1).to(device))
    gone = learner.load(place.segment_state) if place.segment_state.is_file() else 0.0
    if recipe.compiled:  # a quarter less time for the encoder, after a minute or two
        learner.sam.image_encoder.trunk.compile()
    pool, val = Pool(place.run / "pool" / "train"), Pool(place.run / "pool" / "val")
    clippings = crops.Clippings(load(place.art))
    rng, ahead = np.random.default_rng([recipe.seed, learner.step]).spawn(2)
    lessons = sum(lesson.minutes for lesson in recipe.segment)
    planned = recipe.crops.minutes + lessons

    def draw(step: int, minutes: float) -> crops.Cutouts | crops.Crowd | Batch | memory.Scraps:
        # crops alone go by turns with crowds, crowds with scenes: a step of both would cost the same, learn once
        alone = minutes < recipe.crops.minutes
        lesson = _lesson(recipe, minutes - recipe.crops.minutes)
        if moving is not None and not alone and lesson.pieces and step % 8 == _FILMED:
            return memory.scraps(ahead, moving, lesson.pieces, recipe.memory.frames)
        if step % 2:
            return clippings.crowd(ahead, recipe.crops.crowds, recipe.side)
        if alone:
            return clippings.batch(ahead, recipe.crops.batch, recipe.crops.side)
        return batch_of(ahead, pool, lesson.pictures, lesson.regions, lesson.side, ground=lesson.grounds)

    # the next batch is drawn while this one is learned
    with Diary(place.log, "segment") as diary, ThreadPoolExecutor(1) as drawer:
        coming = drawer.submit(draw, learner.step, gone)
        while gone < planned:
            began = time.perf_counter()
            batch = coming.result().to(device)
            coming = drawer.submit(draw, learner.step + 1, gone)
            with segmentation.arithmetic(device, recipe.precision):
                loss, parts = _losses(learner, batch, rng)
            learner.update(loss, gone / planned)
            gone += min(time.perf_counter() - began, LONGEST_STEP) / 60
            diary.note(learner.step, gone, planned, parts)
            if learner.step % 200 == 0:
                pool.refresh()  # scenes may still be being drawn beside it
                val.refresh()
                learner.save(place.segment_state, gone)
                if gone >= recipe.crops.minutes and len(val):
                    figures = segmentation.probe(learner, val, 96, recipe.side)
                    diary.tell("val " + " ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    learner.save(place.segment_state, gone)


def _losses(
    learner: Learner, batch: crops.Cutouts | crops.Crowd | Batch | memory.Scraps, rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
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
    return segmentation.total(parts), parts


def films(place: Place, recipe: Recipe) -> tuple[memory.Films, memory.Films]:
    """The clips to learn from and those to look at, drawn where they are not there yet."""
    catalog = load(place.art)
    return (
        memory.draw(
            Director(Painter(catalog, "train", recipe.seed + 50)),
            place.run / "films" / "train",
            recipe.memory.clips,
            recipe.side,
        ),
        memory.draw(Director(Painter(catalog, "val", recipe.seed + 51)), place.run / "films" / "val", 16, recipe.side),
    )


def remember(place: Place, recipe: Recipe, device: torch.device, start: Path | None = None) -> None:
    """The memory stage over the SAM 2 that the first one left (without one, over that of `start`)."""
    sam = taught(place, recipe, start, with_memory=False).to(device).eval()
    train, val = films(place, recipe)
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
        if start is None and not any(lesson.pieces for lesson in recipe.segment):
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
        telling.save(telling.watch(Tower(average), train), place.told)


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


def _lesson(recipe: Recipe, minutes: float) -> Lesson:
    for lesson in recipe.segment:
        minutes -= lesson.minutes
        if minutes < 0:
            return lesson
    return recipe.segment[-1]
