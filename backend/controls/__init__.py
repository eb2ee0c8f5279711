"""Output controls: one small file each, one line in the registry.

The order of the geometries is the order of preference where a config has several; they come first, since Label Studio
shows nothing of a region whose text comes before its mask.
"""

from backend.controls.base import Control, Geometry, RegionContext, Taste
from backend.controls.bitmask import Bitmask
from backend.controls.brush import Brush
from backend.controls.choices import Choices
from backend.controls.labels import RegionLabels
from backend.controls.polygon import Polygon
from backend.controls.rectangle import Rectangle
from backend.controls.taxonomy import Taxonomy
from backend.controls.textarea import TextArea
from backend.controls.vector import Vector

REGISTRY: tuple[type[Control], ...] = (
    Brush,
    Bitmask,
    Polygon,
    Vector,
    Rectangle,
    RegionLabels,
    Choices,
    Taxonomy,
    TextArea,
)

__all__ = ["REGISTRY", "Control", "Geometry", "RegionContext", "Taste"]
