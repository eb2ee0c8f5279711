"""Output controls: one small file each, one line in the registry.

The order of the geometries is the order of preference where a config has several; they come first, since Label Studio
shows nothing of a region whose text comes before its mask.
"""

from backend.labeling.controls.base import Control, Geometry, RegionContext, ShapingOptions, shown
from backend.labeling.controls.bitmask import Bitmask
from backend.labeling.controls.brush import Brush
from backend.labeling.controls.choices import Choices
from backend.labeling.controls.labels import RegionLabels
from backend.labeling.controls.polygon import Polygon
from backend.labeling.controls.rectangle import Rectangle
from backend.labeling.controls.taxonomy import Taxonomy
from backend.labeling.controls.textarea import TextArea
from backend.labeling.controls.vector import Vector

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

__all__ = ["REGISTRY", "Control", "Geometry", "RegionContext", "RegionLabels", "ShapingOptions", "shown"]
