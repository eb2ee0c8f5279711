"""Random weights from names and a seed, and the checkpoint folders made of them.

The rule, for each float32 tensor of `spec.json`: numpy's PCG64 seeded with the first eight bytes (little-endian) of
sha256("{seed}:{name}") gives z = standard_normal(shape); the name decides mean and scale (`_scaled`); `recipe.json`
then scales, casts, sets, adds to and overrides some of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

_HALF = ("image_newline", "semT_newline", "frame_newline", "embed_tokens", "lm_head")
_PLAIN = (
    "point_embeddings",
    "not_a_point_embed",
    "no_mask_embed",
    "iou_token",
    "mask_tokens",
    "obj_score_token",
    "sem_tokens",
)
_SMALL = ("maskmem_tpos_enc", "no_mem_embed", "no_mem_pos_enc", "no_obj_ptr", "no_obj_embed_spatial")


def random_tensor(name: str, shape: list[int], seed: int) -> torch.Tensor:
    """The float32 tensor of that name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))
    values = _scaled(name, generator.standard_normal(tuple(shape), dtype=np.float32))
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _scaled(name: str, z: np.ndarray) -> np.ndarray:
    last = name.rsplit(".", 1)[-1]
    if name.endswith("positional_encoding_gaussian_matrix"):
        return z
    if any(part in name for part in _HALF):
        return z * 0.5
    if last == "gamma":
        return 0.4 + 0.1 * z
    if name in _SMALL or "pos_embed" in name:
        return 0.3 * z
    if z.ndim == 1:
        return 1.0 + 0.1 * z if last == "weight" else 0.05 * z
    if any(part in name for part in _PLAIN):
        return z
    fan_in = z.shape[0] if "output_upscaling" in name else int(np.prod(z.shape[1:]))
    return z * (1.0 / math.sqrt(fan_in))


def write_checkpoint(source: Path, target: Path) -> None:
    """Write `pam/` with model.safetensors, SAM 2's .pt and its .yaml to target, from source's spec and recipe."""
    spec, recipe = (json.loads((source / name).read_text()) for name in ("spec.json", "recipe.json"))
    pam = {name: random_tensor(name, shape, recipe["seed"]) for name, shape in spec["pam"].items()}
    for name, tensor in pam.items():
        if name.startswith("model.layers.") and name.endswith(".weight") and tensor.ndim == 2:
            tensor.mul_(recipe["layers"])
        if name.startswith("model.mm_projector") and name.endswith("2.weight"):
            tensor.mul_(recipe["projectors"])
    dtype = getattr(torch, recipe["sam2_dtype"])
    sam = {name: random_tensor(name, shape, recipe["seed"]).to(dtype) for name, shape in spec["sam2"].items()}
    for name, value in recipe.get("sam2_set", {}).items():
        sam[name][:] = value
    for name, value in recipe.get("sam2_add", {}).items():
        sam[name] += value
    if "sam2_overrides" in recipe:
        sam |= {name: torch.from_numpy(array) for name, array in np.load(source / recipe["sam2_overrides"]).items()}
    shutil.copytree(source / "pam", target / "pam", dirs_exist_ok=True)
    save_file(
        {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in pam.items()},
        target / "pam" / "model.safetensors",
        metadata={"format": "pt"},
    )
    torch.save({"model": sam}, target / recipe["sam2_file"])
    for config in source.glob("*.yaml"):
        shutil.copy(config, target)
