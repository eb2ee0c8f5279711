"""What a checkpoint's folder holds, told from names and small files: no weights are read, no torch is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model.errors import CheckpointError

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin")


def model_folder(outer: Path) -> Path | None:
    """The folder that holds config.json: this one, or the only one directly in it that does; None where none does.

    The published repositories are nested: PAM-3B holds one folder PAM-3B with all files.

    Raises:
        CheckpointError: several folders in it are models; the message names them.
    """
    if (outer / "config.json").is_file():
        return outer
    inner = sorted(p for p in outer.iterdir() if (p / "config.json").is_file()) if outer.is_dir() else []
    if len(inner) > 1:
        names = ", ".join(str(path) for path in inner)
        raise CheckpointError(f"{outer} holds {len(inner)} models: give one of {names}")
    return inner[0] if inner else None


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
        raise CheckpointError(f"{path} cannot be read as JSON ({error}): {again(path)}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is JSON but not an object: {again(path)}")
    return value


def index_of(folder: Path) -> Path | None:
    """The file that says which shard each tensor lies in; None where the weights are one file."""
    return next((folder / name for name in _INDEXES if (folder / name).is_file()), None)


def weight_map(index: Path) -> dict[str, str]:
    """Tensor names to file names, as an index has them.

    Raises:
        CheckpointError: it is no index, or names a file outside its folder.
    """
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(shard, str) for shard in table.values()):
        raise CheckpointError(f"{index} has no weight_map: {again(index)}")
    for shard in sorted(set(table.values())):
        # a shard's name comes from a downloaded file: it may not point out of the folder
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names {shard!r}, which is not a file of its own folder: do not use it")
    return table


def weight_files(folder: Path) -> list[str]:
    """Names of the weight files that belong together, there or not; empty where the folder names none."""
    index = index_of(folder)
    if index is not None:
        return sorted(set(weight_map(index).values()))
    return [name for name in _WHOLE if (folder / name).is_file()][:1]


def missing_files(folder: Path) -> list[str]:
    """What a folder lacks to be loaded, SAM 2's files aside."""
    shards = weight_files(folder)
    missing = [name for name in ("config.json", *shards) if not (folder / name).is_file()]
    if not shards:
        missing.append("model.safetensors or model.safetensors.index.json")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        missing.append("tokenizer.json")
    return missing


def again(path: Path) -> str:
    """How to get a damaged file anew: the hub's client takes what its cache has for whole, so that has to go first."""
    if path.is_symlink():
        return f"delete {path} and {path.resolve()}, which it links to, and fetch it again"
    return "download it again"
