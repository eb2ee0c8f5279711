"""Reading weight files: safetensors, or torch files with weights_only; every fault names the file and the fix."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from model.errors import CheckpointError

Tensors = dict[str, torch.Tensor]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's folder.

    Raises:
        CheckpointError: the file is missing or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing: the folder is not a PAM checkpoint, or its download stopped half-way; "
            "run `python -m model fetch` again, or give the folder that holds config.json"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}): download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is JSON but not an object: download it again")
    return value


def read_tensors(path: Path) -> Tensors:
    """All tensors of one .safetensors, .pt, .pth or .bin file, on the CPU.

    A torch file is read with weights_only=True; tensors below a key "model" (Meta's SAM 2 files) are unwrapped.

    Raises:
        CheckpointError: the file is missing, empty, a Git LFS pointer, damaged, or holds other things than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: download it again, or correct the path")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder")
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise CheckpointError(
                f"{path} holds more than tensors and is not loaded, since such a file can run code: "
                "convert it to safetensors where you trust it"
            ) from None
        raise CheckpointError(f"{path} is truncated or damaged: download it again") from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is truncated or damaged ({reason}): download it again") from None
    if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
        loaded = loaded["model"]
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise CheckpointError(f"{path} is not a table of tensors: give a SAM 2 or Hugging Face weight file")
    return loaded


def read_folder(folder: Path) -> Tensors:
    """All tensors of a Hugging Face folder: one file, or shards with their index.

    Raises:
        CheckpointError: no weight file, a missing shard, or a shard that lacks a tensor its index names.
    """
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / name).is_file():
            return _read_shards(folder, folder / name)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return read_tensors(folder / name)
    raise CheckpointError(
        f"{folder} has no model.safetensors and no model.safetensors.index.json: "
        "the download stopped half-way (run `python -m model fetch` again), or this is another folder"
    )


def _read_shards(folder: Path, index: Path) -> Tensors:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict):
        raise CheckpointError(f"{index} has no weight_map: download it again")
    shards = sorted(set(table.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(shards)} weight files, first {missing[0]}: "
            "the download stopped half-way, run `python -m model fetch` again"
        )
    tensors: Tensors = {}
    for shard in shards:
        # a shard's name comes from a downloaded file: it may not point out of the folder
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names {shard!r}, which is not a file of its own folder: do not use it")
        tensors |= read_tensors(folder / shard)
    absent = [name for name in table if name not in tensors]
    if absent:
        raise CheckpointError(f"{index} promises {absent[0]}, which {table[absent[0]]} lacks: download it again")
    return tensors


def load_into(module: nn.Module, tensors: Tensors, source: Path, fix: str, assign: bool = False) -> None:
    """Load tensors into a module, all of them or none.

    Args:
        module: receives the tensors.
        tensors: by parameter name.
        source: the file or folder they came from, for the message.
        fix: what to do when they do not fit, for the message.
        assign: put the tensors themselves in place (for modules on the meta device).

    Raises:
        CheckpointError: names the first missing, unexpected or wrongly shaped keys.
    """
    expected = module.state_dict()
    faults = [
        *_listed("lacks", (k for k in expected if k not in tensors)),
        *_listed("has unknown", (k for k in tensors if k not in expected)),
        *_listed(
            "has another shape for",
            (
                f"{k} {list(tensors[k].shape)} instead of {list(v.shape)}"
                for k, v in expected.items()
                if k in tensors and tensors[k].shape != v.shape
            ),
        ),
    ]
    if faults:
        raise CheckpointError(f"{source} does not fit: it {'; it '.join(faults)}. {fix}")
    module.load_state_dict(tensors, strict=True, assign=assign)


def _listed(what: str, keys: Iterable[str]) -> list[str]:
    found = list(keys)
    if not found:
        return []
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [f"{what} {', '.join(found[:3])}{more}"]
