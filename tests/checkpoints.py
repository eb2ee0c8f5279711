"""Small random-weight checkpoints for tests, in the released layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.parity.weights import write_checkpoint

COMPACT = Path(__file__).parent / "parity" / "compact"


def write_small(folder: Path, image_size: int = 256) -> Path:
    """The compact parity checkpoint with a smaller picture size and SAM 2 inside the folder: quick, but meaningless.

    None of SAM 2's weights depends on image_size, so the same ones fit.
    """
    staging = folder / "staging"
    staging.mkdir(parents=True)
    write_checkpoint(COMPACT, staging)
    target = folder / "small"
    (staging / "pam").rename(target)
    save_file(torch.load(staging / "sam2_tiny.pt", weights_only=True)["model"], target / "sam2.safetensors")
    config = (staging / "sam2_tiny.yaml").read_text()
    assert "image_size: 1024" in config
    (target / "sam2.yaml").write_text(config.replace("image_size: 1024", f"image_size: {image_size}"))
    return target


def shard(folder: Path) -> None:
    """Split model.safetensors into two shards with an index, as the hub does with large models."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    table: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        table |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    (folder / "model.safetensors").unlink()
