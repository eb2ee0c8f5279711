"""The Semantic Perceiver and the projectors: from SAM 2's features to vectors of the language model.

arXiv 2506.05302, section 3.2. The perceiver is SAM's own two-way transformer with 16 learned semantic tokens, so
the class of the `sam2` package is used as it is and the published parameter names fit without renaming.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sam2.modeling.position_encoding import PositionEmbeddingRandom
from sam2.modeling.sam.transformer import TwoWayTransformer
from torch import nn

from model.compute.precision import full_float32
from model.values.region import RegionFeatures

SEMANTIC_TOKENS = 16
MASK_TOKENS = 2


def pixel_shuffle(keys: torch.Tensor, factor: int) -> torch.Tensor:
    """Merge factor × factor neighbours of image tokens (B, n·n, C) into (B, (n / factor)², factor²·C).

    The order is PAM's: tokens run down the columns (x block first), features run (dy, dx, channel).
    """
    batch, tokens, channels = keys.shape
    side = int(tokens**0.5)
    blocks = side // factor
    grid = keys.view(batch, blocks, factor, blocks, factor, channels).permute(0, 3, 1, 2, 4, 5)
    return grid.reshape(batch, blocks * blocks, factor * factor * channels)


class SemanticPerceiver(TwoWayTransformer):
    """Reads (B, C, n, n) image features and (B, 2, C) mask tokens, C = 256 as published."""

    def __init__(self, channels: int = 256) -> None:
        super().__init__(depth=2, embedding_dim=channels, num_heads=8, mlp_dim=2048)
        self.pe_layer = PositionEmbeddingRandom(channels // 2)
        self.sem_tokens = nn.Embedding(SEMANTIC_TOKENS, channels)
        self.proj = nn.Linear(16 * channels, 4 * channels)

    def forward(
        self, image: torch.Tensor, mask_tokens: torch.Tensor, factor: int = 2
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image tokens (B, (n / factor)², 4C) and semantic tokens (B, 16, C).

        Args:
            image: (B, C, n, n), the image side of SAM 2's mask decoder.
            mask_tokens: (B, 2, C).
            factor: 2 for a picture (and a clip's first frame), 4 for the other frames of a clip.
        """
        batch, _, height, width = image.shape
        # sine and cosine in float32 (under autocast too), then cast: the published order of roundings
        with torch.autocast(image.device.type, enabled=False):
            position = self.pe_layer((height, width)).to(image.dtype).expand(batch, -1, -1, -1)
        queries = torch.cat([mask_tokens, self.sem_tokens.weight.expand(batch, -1, -1)], dim=1)
        queries, keys = super().forward(image, position, queries)
        tokens = pixel_shuffle(keys, factor)
        return (self.proj(tokens) if factor == 4 else tokens), queries[:, MASK_TOKENS:]


def projector(inputs: int, hidden: int) -> nn.Sequential:
    """The published `mlp2x_gelu`: Linear, exact GELU, Linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden))


class Vision(nn.Module):
    """Everything between SAM 2 and the language model, under the published parameter names (`model.` stripped)."""

    def __init__(self, hidden: int, channels: int = 256) -> None:
        super().__init__()
        self.vision_resampler = SemanticPerceiver(channels)
        self.mm_projector_img = projector(4 * channels, hidden)
        self.mm_projector_semT = projector(channels, hidden)
        self.image_newline = nn.Parameter(torch.empty(hidden))
        self.semT_newline = nn.Parameter(torch.empty(hidden))
        self.frame_newline = nn.Parameter(torch.empty(hidden))

    @staticmethod
    def length(side: int) -> int:
        """Vectors of a region's image block, for image features of side n."""
        return (side // 2) ** 2 + SEMANTIC_TOKENS + 2

    @classmethod
    def clip_length(cls, side: int, frames: int) -> int:
        """Vectors of a clip's block."""
        other = (side // 4) ** 2 + SEMANTIC_TOKENS + 2
        return cls.length(side) + (frames - 1) * other + frames

    def bytes_each(self, side: int) -> int:
        """Memory that a region takes on the way to its block, for image features of side n."""
        hidden, channels = len(self.image_newline), self.vision_resampler.sem_tokens.embedding_dim
        return (7 * channels * side**2 + 3 * hidden * self.length(side)) * self.dtype.itemsize

    @property
    def dtype(self) -> torch.dtype:
        return self.image_newline.dtype

    @property
    def device(self) -> torch.device:
        return self.image_newline.device

    def cast(self, dtype: torch.dtype) -> Vision:
        """Cast all parameters but the positional matrix, which stays float32 (see SemanticPerceiver.forward)."""
        self.to(dtype)
        self.vision_resampler.pe_layer.float()
        return self

    def forward(self, image: torch.Tensor, mask_tokens: torch.Tensor) -> torch.Tensor:
        """The image block of the prompt: (B, (n/2)² + 1 + 16 + 1, hidden), 1042 vectors for the published n = 64."""
        tokens, semantic = self.vision_resampler(image.to(self.dtype), mask_tokens.to(self.dtype))
        return self.block(tokens, semantic)

    @torch.no_grad()
    @full_float32
    def blocks(self, regions: Sequence[RegionFeatures]) -> torch.Tensor:
        """The vectors that stand for each region in the language model's prompt: (R, K, hidden), see `forward`."""
        found: torch.Tensor = self(*_stacked(regions))
        return found

    @torch.no_grad()
    @full_float32
    def clip_block(self, frames: Sequence[RegionFeatures]) -> torch.Tensor:
        """The vectors that stand for a clip in the prompt: (K, hidden), see `clip`."""
        return self.clip(*_stacked(frames))

    def clip(self, images: torch.Tensor, mask_tokens: torch.Tensor) -> torch.Tensor:
        """The block of a clip of F frames: (K, hidden), 5168 vectors for the published n = 64 and 16 frames.

        The first frame is as in a picture, of the others four times four neighbours become one; each ends in
        `frame_newline`.

        Args:
            images: (F, C, n, n), the image side of SAM 2's mask decoder on each frame.
            mask_tokens: (F, 2, C).
        """
        images, mask_tokens = images.to(self.dtype), mask_tokens.to(self.dtype)
        first = self.block(*self.vision_resampler(images[:1], mask_tokens[:1]))
        others = self.block(*self.vision_resampler(images[1:], mask_tokens[1:], factor=4))
        end = self.frame_newline[None]
        return torch.cat([vectors for frame in (*first, *others) for vectors in (frame, end)])

    def block(self, tokens: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
        """The image block, see `forward`, of the perceiver's image tokens (B, L, 4C) and semantic tokens (B, 16, C)."""
        newline = self.image_newline.expand(len(tokens), 1, -1)
        end = self.semT_newline.expand(len(tokens), 1, -1)
        return torch.cat([self.mm_projector_img(tokens), newline, self.mm_projector_semT(semantic), end], dim=1)


def _stacked(features: Sequence[RegionFeatures]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([f.image for f in features]), torch.stack([f.mask_tokens for f in features])
