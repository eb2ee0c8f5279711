"""The classifiers that hang on SAM 2 while it learns and are thrown away afterwards."""

from __future__ import annotations

from torch import nn

from tiny.batch import NAMES
from tiny.looks import COLOURS, PLACES


class Heads(nn.Module):
    """For class, colour and place: on mask tokens, on features under the mask, on cells, and on cut-outs."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.kind = nn.Linear(width, len(NAMES))
        self.colour = nn.Linear(width, len(COLOURS))
        self.place = nn.Linear(width, len(PLACES))
        self.pooled = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(NAMES)))
        self.cells = nn.Conv2d(width, len(NAMES) + 1, 1)
        self.crop_norm = nn.LayerNorm(width)
        self.crop_kind = nn.Linear(width, len(NAMES))
        self.crop_colour = nn.Linear(width, len(COLOURS))
