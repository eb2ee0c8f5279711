"""A deeper image encoder from a shallower one: blocks that are new begin as the identity, so nothing is unlearned."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

_BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.")
_LAST = ("attn.proj.weight", "attn.proj.bias", "mlp.layers.1.weight", "mlp.layers.1.bias")
"""What ends the two branches of a block: where it is zero, the block passes its input on."""


def deeper(sam: SAM2Base, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` of an encoder with fewer blocks in its last stage, completed for `sam`; others come back as they are.

    The blocks that `tensors` lacks take `sam`'s fresh weights, with zeros where their two branches end (as in
    Net2Net, arXiv 1511.05641).
    """
    own = sam.state_dict()
    known = max((int(found[1]) for name in tensors if (found := _BLOCK.match(name))), default=-1)
    new = {name for name in own if (found := _BLOCK.match(name)) and int(found[1]) > known}
    grown = {name: torch.zeros_like(own[name]) if name.endswith(_LAST) else own[name] for name in new}
    return {**tensors, **grown}
