"""What is computed of pictures and regions once and used in every round: as much of it as memory has room for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from model.pam import PerceiveAnything
from model.tuning.lessons import Example, Pictures
from model.values.embedding import Embedding

MOST_BYTES = 1 << 30
"""Of everything kept, in host memory."""


class Shelf:
    """Embeddings of pictures, and what SAM 2's decoder sees at a prompt; made anew where they had to make room.

    Args:
        pam: with the base on: what is kept here is the same for all versions.
        pictures: opens them.
        most_bytes: of what is kept.
    """

    def __init__(self, pam: PerceiveAnything, pictures: Pictures, most_bytes: int = MOST_BYTES) -> None:
        self._pam = pam
        self._pictures = pictures
        self._most = most_bytes
        self._kept: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def embedding(self, picture: str) -> Embedding:
        """Of a picture, on the model's device."""
        kept: Embedding = self._get(("picture", picture), lambda: self._pam.encode(self._pictures(picture)).to("cpu"))
        return kept.to(self._pam.device)

    def seen(self, example: Example, prompt: int) -> tuple[torch.Tensor, torch.Tensor]:
        """At one of an example's prompts: the decoder's image side (256, n, n) and its mask tokens (2, 256)."""
        return self._tensors(("seen", id(example), prompt), lambda: self._look(example, prompt))

    def told(self, example: Example, prompt: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What the Semantic Perceiver makes of that: image tokens and semantic tokens, before the projectors."""

        def make() -> tuple[torch.Tensor, torch.Tensor]:
            vision = self._pam.vision
            image, tokens = (tensor[None].to(vision.dtype) for tensor in self.seen(example, prompt))
            with torch.no_grad():
                told, semantic = vision.vision_resampler(image, tokens)
            return told[0], semantic[0]

        return self._tensors(("told", id(example), prompt), make)

    def _look(self, example: Example, prompt: int) -> tuple[torch.Tensor, torch.Tensor]:
        (region,) = self._pam.segment(self.embedding(example.picture), [example.prompts()[prompt]])
        return region.features.image, region.features.mask_tokens

    def _tensors(self, key: Any, make: Callable[[], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        one, other = self._get(key, lambda: tuple(tensor.cpu() for tensor in make()))
        return one.to(self._pam.device), other.to(self._pam.device)

    def _get(self, key: Any, make: Callable[[], Any]) -> Any:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        made = make()
        size = made.nbytes if isinstance(made, Embedding) else sum(tensor.nbytes for tensor in made)
        self._kept[key] = (made, size)
        self._bytes += size
        while self._bytes > self._most and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1][1]
        return made
