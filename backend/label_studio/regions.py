"""The regions of an annotation, read back: which items belong together, their shape, their labels and texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from backend.job import Drawing
from backend.label_studio.geometry import BOXES, KINDS, MASKS, POINTS, hull, kind_of, mask_of
from backend.label_studio.protocol import ResultItem, items_of


class Picture(Protocol):
    """What says whether an item is about one picture of several, e.g. `ImageRoles`."""

    def has(self, item: ResultItem) -> bool: ...


def is_leftover(item: ResultItem) -> bool:
    """Whether an item only looks like a prompt.

    Label Studio files a mask's RLE under a prompt's type when a prompt label is selected at accept time.
    """
    kind = kind_of(item.type)
    if kind in (*POINTS, *BOXES):
        return item.value.x is None and item.value.y is None and item.is_positive is None
    return False


def by_region(items: Iterable[ResultItem]) -> list[list[ResultItem]]:
    """The items of each region, in the order in which they come; an item without an id is left out."""
    found: dict[str, list[ResultItem]] = {}
    for item in items:
        if item.id:
            found.setdefault(item.id, []).append(item)
    return list(found.values())


def regions_of(result: Sequence[dict[str, Any]], image: Picture | None = None) -> list[list[ResultItem]]:
    """The regions of one picture, or of all, each as its items with the geometry first; what has no geometry is left
    out.
    """
    regions = []
    mine = (item for item in items_of(result) if image is None or image.has(item))
    for items in by_region(item for item in mine if not is_leftover(item)):
        shapes = [item for item in items if kind_of(item.type) in KINDS]
        if shapes:
            regions.append([shapes[0], *(item for item in items if item is not shapes[0])])
    return regions


def shape_of(geometry: ResultItem, most_pixels: int) -> dict[str, Any]:
    """The field of a `RegionPrompt` that an item's geometry fills: a mask, a box, or a drawing.

    Raises:
        PromptError: it cannot be read.
    """
    kind = kind_of(geometry.type)
    assert kind is not None
    if kind in MASKS and geometry.sized:
        return {"mask": rle_of(geometry, most_pixels)}
    if kind not in MASKS:
        upright = hull(kind, geometry.value, geometry.aspect)
        if geometry.sized or not geometry.value.rotation:
            return {"box": upright}
    return {"drawing": Drawing(kind=kind, value=geometry.value.model_dump(exclude_unset=True))}


def rle_of(item: ResultItem, most_pixels: int) -> dict[str, Any]:
    """The mask of a brush, bitmask, polygon or vector item as COCO RLE. Raises PromptError where it cannot be read."""
    from model.values.mask import to_rle

    kind = kind_of(item.type)
    assert kind in MASKS
    value = item.value.model_extra or {}
    return to_rle(mask_of(kind, value, item.original_width, item.original_height, most_pixels))


def words_of(items: Iterable[dict[str, Any]]) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and texts of a region's items, by control name."""
    labels: dict[str, str] = {}
    texts: dict[str, str] = {}
    for item in items:
        kind, name = str(item.get("type", "")), str(item.get("from_name", ""))
        value = item.get("value", {}).get({"textarea": "text", "videorectangle": "labels"}.get(kind, kind))
        if not isinstance(value, list) or not value:
            continue
        if kind == "textarea":
            texts[name] = "\n".join(str(part) for part in value)
        else:
            labels[name] = ", ".join(" / ".join(map(str, v)) if isinstance(v, list) else str(v) for v in value)
    return labels, texts
