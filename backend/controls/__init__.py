"""Output controls: one small file each, one line in the registry.

The order is the order of a region's items in the answer. Geometry comes first: Label Studio shows nothing of a region
whose text comes before its mask.
"""

from backend.controls.base import Control, RegionContext
from backend.controls.brush import Brush
from backend.controls.choices import RegionChoices
from backend.controls.textarea import RegionText

REGISTRY: tuple[type[Control], ...] = (Brush, RegionChoices, RegionText)

__all__ = ["REGISTRY", "Control", "RegionContext"]
