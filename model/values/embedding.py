"""What SAM 2's image encoder knows of one picture: computed once, used by every prompt on that picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save

from model.values.window import Window


class Detail(Protocol):
    """Where the pixels of one large picture can be had again; it may be asked from several threads."""

    def crop(self, window: Window) -> Image.Image:
        """The upright RGB pixels in a window."""
        ...

    def remembered(self, window: Window) -> Embedding | None:
        """What `remember` was last given for this window, if it is still there."""
        ...

    def remember(self, window: Window, embedding: Embedding) -> None:
        """Keep the embedding of a window, if there is room."""
        ...


@dataclass(frozen=True, eq=False)
class Embedding:
    """The image features of one picture, in the dtype that the encoder computes in; who needs float32 casts them.

    n = the model's image_size / 16 (64 for the published weights): 17 MB in float32, half of it in lower dtypes.

    Attributes:
        width: width of the original picture, pixels (EXIF orientation applied).
        height: height of the original picture, pixels.
        features: (1, 256, n, n), the encoder's top level, before SAM 2's `no_mem_embed` is added.
        high_resolution: (1, 32, 4n, 4n) and (1, 64, 2n, 2n), the decoder's levels, the finest first.
        detail: of a large picture, where its pixels can be had for a closer look; None: it is seen as a whole only.
    """

    width: int
    height: int
    features: torch.Tensor
    high_resolution: tuple[torch.Tensor, torch.Tensor]
    detail: Detail | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that the features take on their device (an upper bound of what dropping this object frees)."""
        return sum(t.numel() * t.element_size() for t in (self.features, *self.high_resolution))

    @property
    def device(self) -> torch.device:
        return self.features.device

    def to_bytes(self) -> bytes:
        """To be sent to another process, which has the same model; `detail` is not in it."""
        tensors = {"features": self.features, "finest": self.high_resolution[0], "finer": self.high_resolution[1]}
        size = {"width": str(self.width), "height": str(self.height)}
        return save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, size)

    @classmethod
    def from_bytes(cls, data: bytes) -> Embedding:
        """What `to_bytes` made, on the CPU.

        Raises:
            ValueError: it is something else.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            size = json.loads(data[8 : 8 + length])["__metadata__"]
            found = load(data)
            return cls(int(size["width"]), int(size["height"]), found["features"], (found["finest"], found["finer"]))
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"these bytes are no embedding ({error})") from None

    def to(self, device: torch.device | str) -> Embedding:
        """The same features on another device."""
        finest, finer = (t.to(device) for t in self.high_resolution)
        return Embedding(self.width, self.height, self.features.to(device), (finest, finer), self.detail)
