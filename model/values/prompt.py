"""A visual prompt: the points, the box or the mask that picks one region of a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from model.errors import PromptError
from model.values.mask import Box, mask_box


def _finite(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise PromptError(f"{what} is {value!r}: give a number of pixels") from None
    if not math.isfinite(number):
        raise PromptError(f"{what} is {number}: give a finite number of pixels")
    return number


@dataclass(frozen=True, eq=False)
class Prompt:
    """One region's prompt, in pixels of the original picture (x right, y down, EXIF orientation applied).

    Points, a box, both together, or a mask. All points of a prompt belong to one region (PAM gives them to SAM 2
    in one call).

    Args:
        points: (x, y, label) triples, label 1 = inside the region, 0 = outside it; 0 <= x <= width, 0 <= y <= height.
        box: (x1, y1, x2, y2) with x1 < x2 and y1 < y2; fractions of a pixel are fine.
        mask: boolean array (height, width); it may not be combined with points or a box.

    Raises:
        PromptError: when nothing is given, a number is not finite, a label is neither 0 nor 1, the box is empty or
            inverted, or the mask is empty, not two-dimensional, or comes with points or a box.
    """

    points: Sequence[tuple[float, float, int]] | None = None
    box: Box | None = None
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        points = self._checked_points() if self.points is not None and len(self.points) else None
        box = self._checked_box() if self.box is not None else None
        mask = self._checked_mask() if self.mask is not None else None
        if points is None and box is None and mask is None:
            raise PromptError("an empty prompt: give points=[(x, y, 1)], box=(x1, y1, x2, y2) or mask=array")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "box", box)
        object.__setattr__(self, "mask", mask)

    def _checked_points(self) -> tuple[tuple[float, float, int], ...]:
        checked = []
        for i, point in enumerate(self.points or ()):
            if len(point) != 3:
                raise PromptError(f"point {i} is {tuple(point)!r}: give (x, y, label) with label 1 inside, 0 outside")
            x, y, label = point
            if label not in (0, 1):
                raise PromptError(f"point {i} has the label {label!r}: 1 means inside the region, 0 outside it")
            checked.append((_finite(x, f"x of point {i}"), _finite(y, f"y of point {i}"), int(label)))
        return tuple(checked)

    def _checked_box(self) -> Box:
        assert self.box is not None
        if len(self.box) != 4:
            raise PromptError(f"a box of {len(self.box)} numbers: give (x1, y1, x2, y2)")
        x1, y1, x2, y2 = (
            _finite(v, f"{name} of the box") for v, name in zip(self.box, ("x1", "y1", "x2", "y2"), strict=True)
        )
        if x2 <= x1 or y2 <= y1:
            raise PromptError(f"the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) is empty or inverted: x1 < x2 and y1 < y2")
        return x1, y1, x2, y2

    def _checked_mask(self) -> np.ndarray:
        if (self.points is not None and len(self.points)) or self.box is not None:
            raise PromptError("a mask together with points or a box: a mask is a prompt of its own")
        mask = np.asarray(self.mask)
        if mask.ndim != 2 or mask.dtype.kind not in "biuf":
            raise PromptError(f"a mask of shape {mask.shape} and dtype {mask.dtype}: give a boolean array (H, W)")
        mask = mask.astype(bool)
        if not mask.any():
            raise PromptError("an empty mask: mark at least one pixel")
        return mask

    def check_inside(self, width: int, height: int) -> None:
        """Raise PromptError when the prompt does not lie on a picture of this size (pixels)."""
        for x, y, _ in self.points or ():
            if not (0 <= x <= width and 0 <= y <= height):
                raise PromptError(f"the point ({x:g}, {y:g}) is outside the picture of {width}×{height} pixels")
        if self.box is not None:
            x1, y1, x2, y2 = self.box
            if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
                raise PromptError(
                    f"the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) is outside the picture of {width}×{height} pixels"
                )
        if self.mask is not None and self.mask.shape != (height, width):
            raise PromptError(
                f"a mask of {self.mask.shape[1]}×{self.mask.shape[0]} for a picture of {width}×{height} pixels"
            )

    @property
    def kind(self) -> tuple[int, bool, bool]:
        """What is equal of prompts that may be decoded together: rows of `sparse`, whether there is a box, a mask."""
        return len(self.sparse()[1]), self.box is not None, self.mask is not None

    def sparse(self) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (N, 2) float64 and SAM 2 labels (N,) int32: 1 / 0 for points, 2 and 3 for a box's corners.

        A mask contributes its own box; the box's corners come first, as in SAM 2's image predictor.
        """
        return self._sparse

    @cached_property
    def _sparse(self) -> tuple[np.ndarray, np.ndarray]:
        box = self.box if self.mask is None else mask_box(self.mask)
        rows = [(box[0], box[1], 2), (box[2], box[3], 3)] if box is not None else []
        rows += list(self.points or ())
        table = np.asarray(rows, dtype=np.float64)
        return table[:, :2], table[:, 2].astype(np.int32)
