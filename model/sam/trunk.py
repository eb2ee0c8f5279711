"""A convolutional trunk for SAM 2's image encoder: EfficientNet-Lite (Tan and Le, arXiv 1905.11946, less what is slow).

SAM 2's neck takes any trunk that gives feature maps of falling size and says their widths; a config names this one in
place of Hiera. Batch normalisation is folded into the convolutions, as it stays fixed once the trunk has been trained
on pictures of a thousand kinds, so a convolution here is a kernel and a bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Conv(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME" does: one more column on the right and row below where it is odd."""

    def __init__(self, width: int, wider: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(width, wider, kernel, stride, groups=groups)
        spare = kernel - stride  # of an input whose side is a multiple of the stride
        self._before, self._after = spare // 2, spare - spare // 2
        if self._before == self._after:
            self.padding = (self._before, self._before)

    def forward(self, features: Tensor) -> Tensor:
        if self._before != self._after:
            features = functional.pad(features, (self._before, self._after) * 2)
        return super().forward(features)


class _Block(nn.Module):
    """Widen, look around in each channel, narrow; with a shortcut where the shape stays."""

    def __init__(self, width: int, wider: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.expand = _Conv(width, inner) if expansion > 1 else None
        self.depthwise = _Conv(inner, inner, kernel, stride, groups=inner)
        self.project = _Conv(inner, wider)
        self.shortcut = stride == 1 and width == wider

    def forward(self, features: Tensor) -> Tensor:
        inner = features if self.expand is None else functional.relu6(self.expand(features))
        narrow: Tensor = self.project(functional.relu6(self.depthwise(inner)))
        return features + narrow if self.shortcut else narrow


class EfficientNetLite(nn.Module):
    """Pictures to feature maps, one for each stride from 4 on.

    Attributes:
        channel_list: widths of the maps, the coarsest first, as SAM 2's neck wants to be told them.
    """

    def __init__(self, stages: Sequence[Sequence[int]], stem: int = 32) -> None:
        """`stages` are rows of kernel, stride, expansion, width and depth; `stem` is the width at half the side.

        Raises:
            ValueError: a row with other than five positive numbers.
        """
        super().__init__()
        if any(len(row) != 5 or min(row) < 1 for row in stages):
            raise ValueError("a stage of EfficientNetLite is [kernel, stride, expansion, width, depth], all positive")
        self.stem = _Conv(3, stem, 3, 2)
        self.stages = nn.ModuleList()
        self._ends: list[int] = []  # the last stage of each stride
        widths: list[int] = []
        width, reach = stem, 2
        for number, (kernel, stride, expansion, wider, depth) in enumerate(stages):
            blocks = [_Block(wider if i else width, wider, kernel, 1 if i else stride, expansion) for i in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
            width, reach = wider, reach * stride
            if stride > 1:
                self._ends.append(number)
                widths.append(wider)
            elif widths:
                self._ends[-1], widths[-1] = number, wider
        self.channel_list = widths[::-1]

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Maps (B, C, s, s), the finest first, of pictures (B, 3, S, S) normalised as SAM 2's, S a multiple of 32."""
        features = functional.relu6(self.stem(pictures))
        maps = []
        for number, stage in enumerate(self.stages):
            features = stage(features)
            if number in self._ends:
                maps.append(features)
        return maps


def fold(kernel: Tensor, norm: tuple[Tensor, Tensor, Tensor, Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution (O, I, k, k) with the batch normalisation behind it: its weight, bias, running
    mean and variance, (O,) each."""
    weight, bias, mean, variance = norm
    scale = weight / torch.sqrt(variance + eps)
    return kernel * scale[:, None, None, None], bias - mean * scale
