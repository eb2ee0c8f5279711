"""Reading weight files: safetensors, or torch files with weights_only; every fault names the file and the fix."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from model.errors import CheckpointError
from model.loading.folder import again, index_of, weight_files, weight_map

log = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Listing:
    """The tensors of a file or a folder, none of them read yet.

    Attributes:
        source: the file or the folder.
        places: of each tensor by name: its file, and its name there.
        shapes: by the same names.
    """

    source: Path
    places: dict[str, tuple[Path, str]]
    shapes: dict[str, Shape]

    def only(self, names: Mapping[str, str]) -> Listing:
        """Some of the tensors under other names: new ones to those of this listing."""
        return Listing(
            self.source,
            {new: self.places[old] for new, old in names.items()},
            {new: self.shapes[old] for new, old in names.items()},
        )

    def read(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors on the CPU, file by file, in the order in which they lie there.

        Each is read when its turn comes: host memory holds one of them, if the caller moves it on.

        Raises:
            CheckpointError: a file is damaged.
        """
        for file in dict.fromkeys(file for file, _ in self.places.values()):
            names = {there: name for name, (at, there) in self.places.items() if at == file}
            with _opened(file) as (shapes, read):
                for there in shapes:
                    if there in names:
                        yield names[there], read(there)


def list_file(path: Path) -> Listing:
    """The tensors of one .safetensors, .pt, .pth or .bin file.

    Of a torch file those below a key "model" (as in Meta's SAM 2 files).

    Raises:
        CheckpointError: the file is missing, empty, a Git LFS pointer, damaged, or holds other things than tensors.
    """
    with _opened(path) as (shapes, _):
        return Listing(path, {name: (path, name) for name in shapes}, shapes)


def list_folder(folder: Path) -> Listing:
    """The tensors of a Hugging Face folder: one file, or shards with their index.

    Raises:
        CheckpointError: no weight file, a missing or damaged shard, or one that lacks a tensor its index names.
    """
    names = weight_files(folder)
    if not names:
        raise CheckpointError(
            f"{folder} has no model.safetensors and no model.safetensors.index.json: "
            "the download stopped half-way (run `python -m model fetch` again), or this is another folder"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(names)} weight files, first {missing[0]}: "
            "the download stopped half-way, run `python -m model fetch` again"
        )
    parts = [list_file(folder / name) for name in names]
    places = {name: place for part in parts for name, place in part.places.items()}
    index = index_of(folder)
    promised = weight_map(index) if index is not None else {}
    for name, file in promised.items():
        if name not in places or places[name][0] != folder / file:
            raise CheckpointError(f"{index} promises {name}, which {file} lacks: {again(folder / file)}")
    return Listing(folder, places, {name: shape for part in parts for name, shape in part.shapes.items()})


def read_tensors(path: Path) -> Tensors:
    """All tensors of one file at once; see `list_file`."""
    return dict(list_file(path).read())


def check_fit(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], source: Path, fix: str, strict: bool = True
) -> None:
    """Hold what a module wants against what there is.

    Args:
        expected: shapes by parameter name.
        found: the same of the file or folder.
        source: which that is, for the message.
        fix: what to do when they do not fit, for the message.
        strict: tensors that nothing wants are a fault; otherwise one warning names them.

    Raises:
        CheckpointError: names the first missing, unexpected or wrongly shaped ones.
    """
    unknown = [name for name in found if name not in expected]
    faults = [
        *_listed("lacks", (name for name in expected if name not in found)),
        *_listed(
            "has another shape for",
            (
                f"{name} {list(found[name])} instead of {list(shape)}"
                for name, shape in expected.items()
                if name in found and found[name] != tuple(shape)
            ),
        ),
    ]
    if faults or (unknown and strict):
        faults[1:1] = _listed("has unknown", unknown)
        raise CheckpointError(f"{source} does not fit: it {'; it '.join(faults)}. {fix}")
    if unknown:
        (what,) = _listed("has more than this model reads, and it is left out:", unknown)
        log.warning("%s %s", source, what)


def shapes_of(module: nn.Module) -> dict[str, Shape]:
    """Of everything in the module's state."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def load_into(module: nn.Module, tensors: Tensors, source: Path, fix: str) -> None:
    """Copy tensors into a module, all of them or none; see `check_fit`."""
    check_fit(shapes_of(module), {name: tuple(tensor.shape) for name, tensor in tensors.items()}, source, fix)
    module.load_state_dict(tensors, strict=True)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, Shape], Callable[[str], torch.Tensor]]]:
    """The shapes of a file's tensors in their order there, and a function that reads one."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: download it again, or correct the path")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder")
    try:
        if path.suffix == ".safetensors":
            # not mapped: its pages would count as the process's memory until the file is closed
            with safe_open(path, framework="pt", backend="pread") as tensors:
                yield (
                    {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.offset_keys()},
                    tensors.get_tensor,
                )
            return
        table = _torch_file(path)
        yield {name: tuple(tensor.shape) for name, tensor in table.items()}, lambda name: table[name].clone()
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise CheckpointError(
                f"{path} holds more than tensors and is not loaded, since such a file can run code: "
                "convert it to safetensors where you trust it"
            ) from None
        raise CheckpointError(f"{path} is truncated or damaged: {again(path)}") from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is truncated or damaged ({reason}): {again(path)}") from None


def _torch_file(path: Path) -> Tensors:
    # those that torch wrote before 2020 are no archives, and cannot be mapped
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
        loaded = loaded["model"]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path} is not a table of tensors: give a SAM 2 or Hugging Face weight file")
    return loaded


def _listed(what: str, keys: Iterable[str]) -> list[str]:
    found = list(keys)
    if not found:
        return []
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [f"{what} {', '.join(found[:3])}{more}"]
