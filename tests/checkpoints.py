"""Small random-weight checkpoints for tests, in the released layout."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

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
