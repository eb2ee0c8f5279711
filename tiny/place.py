"""Where a training keeps things, and SAM 2 as its stages left it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import nn

from model.loading.sam import empty_sam2
from model.loading.weights import load_into, read_tensors
from model.sam.trunk import EfficientNetLite
from tiny import segmentation, transplant, trunk
from tiny.growth import deeper
from tiny.recipe import Recipe

SHAPE = Path(__file__).parent / "checkpoint" / "sam2.yaml"
"""The shape of the checkpoint that is to be trained."""
LONGEST_STEP = 10.0
"""Seconds that one step may count: a machine that slept has not trained."""


@dataclass(frozen=True)
class Place:
    """Where a training keeps things: `art` (fetched), `run` (pool, states, log), `checkpoint` (sam2.yaml, result)."""

    art: Path
    run: Path
    checkpoint: Path

    def prepare(self) -> None:
        """Let the checkpoint folder have a shape: the new one, where it has none."""
        if not (self.checkpoint / "sam2.yaml").is_file():
            self.checkpoint.mkdir(parents=True, exist_ok=True)
            shutil.copy(SHAPE, self.checkpoint / "sam2.yaml")

    @property
    def segment_state(self) -> Path:
        """State of the SAM 2 stage."""
        return self.run / "segment.pt"

    @property
    def memory_state(self) -> Path:
        """State of the memory stage."""
        return self.run / "memory.pt"

    @property
    def speak_state(self) -> Path:
        """State of the language stage."""
        return self.run / "speak.pt"

    @property
    def told(self) -> Path:
        """Clips as SAM 2 sees them, for the language stage."""
        return self.run / "told.pt"

    @property
    def log(self) -> Path:
        """One JSON object a line: stage, step, minutes, means of losses and rates."""
        return self.run / "log.jsonl"


def sam2(place: Place, start: Path | None) -> SAM2Base:
    """SAM 2 of the checkpoint's config, with the weights of `start` (whose encoder may have fewer blocks, or another
    trunk) or none, but for a trunk that was trained elsewhere."""
    config = place.checkpoint / "sam2.yaml"
    sam = empty_sam2(config)
    if start is None:
        _plant(sam, place)
        return sam
    weights = start / "sam2.safetensors"
    tensors = {name: tensor.float() for name, tensor in read_tensors(weights).items()}
    if isinstance(sam.image_encoder.trunk, EfficientNetLite) and "image_encoder.trunk.stem.weight" not in tensors:
        _plant(sam, place)
        transplant.transplant(sam, start / "sam2.yaml", weights, tensors, place.art)
    else:
        load_into(sam, deeper(sam, tensors), weights, f"The checkpoint to fine-tune has to fit {config}")
    return sam


def _plant(sam: SAM2Base, place: Place) -> None:
    if isinstance(sam.image_encoder.trunk, EfficientNetLite):
        trunk.begin(sam.image_encoder, place.art)


def taught(place: Place, recipe: Recipe, start: Path | None, with_memory: bool = True) -> SAM2Base:
    """SAM 2 as the first stage left it, and the memory stage, if there was one."""
    trained = place.segment_state.is_file()
    sam = sam2(place, None if trained else start)
    if trained:
        sam.load_state_dict(torch.load(place.segment_state, weights_only=True, map_location="cpu")["average"])
    elif start is None:
        raise FileNotFoundError(f"{place.segment_state} is missing: run `python -m tiny fit --stage segment` first")
    if with_memory and place.memory_state.is_file():
        learned = torch.load(place.memory_state, weights_only=True, map_location="cpu")["average"]
        sam.load_state_dict(learned, strict=False)
    segmentation.at_size(sam, recipe.side)
    return sam


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, keep: float) -> None:
    """Move a running average on: `keep` 0…1 of it stays."""
    for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
        old.lerp_(new, 1 - keep)


def write(file: Path, state: Mapping[str, object]) -> None:
    """Write a state whole or not at all."""
    part = file.with_suffix(".part")
    torch.save(dict(state), part)
    part.replace(file)
