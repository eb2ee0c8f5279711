"""Building SAM 2 from a Hydra config and a weight file of the published layout."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES
from sam2.modeling.sam2_base import SAM2Base
from torch.overrides import TorchFunctionMode

from model.errors import CheckpointError
from model.loading.frozen_copy import list_frozen_copy
from model.loading.weights import Listing, check_fit, list_file, shapes_of
from model.sam.boxes import box_inside

_BY_FILE_NAME = {
    Path(weights).stem: config for config, weights in HF_MODEL_ID_TO_FILENAMES.values()
}  # sam2.1_hiera_large → configs/sam2.1/sam2.1_hiera_l.yaml

_OWN = frozenset({"model.sam.trunk.EfficientNetLite"})
"""What a config may name beside SAM 2's own classes."""

_PACKAGED = ", ".join(sorted(Path(config).name for config in _BY_FILE_NAME.values()))


def find_config(weights: Path) -> Path:
    """The config that belongs to SAM 2's weights: the one .yaml beside them, else the `sam2` package's by file name.

    For a PAM folder with a copy of SAM 2 in its shards: its sam2.yaml, else that of SAM 2.1-large.

    Raises:
        CheckpointError: neither is there.
    """
    if weights.is_dir():
        inside = weights / "sam2.yaml"
        return inside if inside.is_file() else packaged_config(_BY_FILE_NAME["sam2.1_hiera_large"])
    for beside in (weights.with_suffix(".yaml"), weights.parent / "sam2.yaml"):
        if beside.is_file():
            return beside
    if weights.stem in _BY_FILE_NAME:
        return packaged_config(_BY_FILE_NAME[weights.stem])
    alone = sorted(weights.parent.glob("*.yaml"))
    if len(alone) == 1:
        return alone[0]
    raise CheckpointError(
        f"no SAM 2 config for {weights}: give sam2_config (--sam2-config), a YAML file or one of {_PACKAGED}"
    )


def packaged_config(name: str) -> Path:
    """A config of the `sam2` package by its path or bare file name, e.g. sam2.1_hiera_l.yaml.

    Raises:
        CheckpointError: the package has no such config.
    """
    root = Path(str(resources.files("sam2"))) / "configs"
    for candidate in _BY_FILE_NAME.values():
        if name in (candidate, Path(candidate).name):
            return root.parent / candidate
    raise CheckpointError(f"no SAM 2 config {name!r}: give a YAML file or one of {_PACKAGED}")


def build_sam2(config: Path, weights: Path, device: torch.device) -> SAM2Base:
    """SAM 2 with its weights in float32, in eval mode on the device.

    Args:
        config: a Hydra YAML.
        weights: a weight file, or a PAM folder with a copy in its shards.
        device: a tensor at a time goes there.

    Raises:
        CheckpointError: an unreadable config, one that would build anything but SAM 2, or weights that do not fit it.
    """
    sam, tensors = _fitting(config, weights, device)
    sam.load_state_dict({name: tensor.to(device).float() for name, tensor in tensors.read()}, assign=True)
    return sam.to(device).eval()


def check_sam2(config: Path, weights: Path) -> None:
    """Whether `build_sam2` would: everything but reading; raises CheckpointError as it does."""
    _fitting(config, weights, torch.device("cpu"))


class _Hollow(TorchFunctionMode):
    """New parameters have shapes and no memory: weights will take their places, and random ones take long to draw."""

    _FOR_PARAMETERS = (torch.empty, torch.zeros, torch.ones, torch.randn)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._FOR_PARAMETERS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _fitting(config: Path, weights: Path, device: torch.device) -> tuple[SAM2Base, Listing]:
    """SAM 2 without its weights, and those: they fit."""
    tensors = list_frozen_copy(weights) if weights.is_dir() else list_file(weights)
    # sam2 makes some tables on the current CUDA device, whatever others there are
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext(), _Hollow():
        sam = empty_sam2(config)
    fix = f"Its SAM 2 config is {config}: give the one it was trained with (--sam2-config)"
    check_fit(shapes_of(sam), tensors.shapes, weights, fix)
    return sam, tensors


def empty_sam2(config: Path) -> SAM2Base:
    """SAM 2 as a config says, with fresh random weights; raises CheckpointError as `build_sam2` does.

    What the config says of prompts is its `box_inside` (see `model.sam.boxes`), None in those of the `sam2` package.
    """
    try:
        tree = OmegaConf.load(config)
        whole: Any = OmegaConf.to_container(tree, resolve=True)
        model: Any = whole["model"]
    except FileNotFoundError:
        raise CheckpointError(f"{config} is missing: give a SAM 2 config, a YAML file or one of {_PACKAGED}") from None
    except Exception as error:
        raise CheckpointError(f"{config} is not a SAM 2 config ({str(error).splitlines()[0]})") from None
    for target in _targets(model):
        # instantiate() calls whatever a config names, so a config may name SAM 2's own classes and our trunk only
        if not target.startswith("sam2.modeling.") and target not in _OWN:
            raise CheckpointError(f"{config} would build {target}, which is no part of SAM 2: it is not loaded")
    try:
        sam = instantiate(model, _recursive_=True)
    except Exception as error:
        raise CheckpointError(f"{config} does not build a SAM 2 model: {str(error).splitlines()[0]}") from None
    if not isinstance(sam, SAM2Base):
        raise CheckpointError(f"{config} builds {type(sam).__name__} instead of SAM2Base: give a SAM 2 config")
    sam.box_inside = box_inside(whole.get("prompts"), config)
    return sam


def _targets(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [target for value in node.values() for target in _targets(value)]
    if isinstance(node, list):
        return [target for value in node for target in _targets(value)]
    return []
