"""Formats: one small file each, one line in the registry."""

from backend.export.formats.base import Format, Page
from backend.export.formats.coco import Coco
from backend.export.formats.jsonl import JsonLines
from backend.export.formats.masks import Masks
from backend.export.formats.panoptic import Panoptic
from backend.export.formats.voc import Voc
from backend.export.formats.yolo import YoloSeg

REGISTRY: dict[str, type[Format]] = {
    "coco": Coco,
    "coco-panoptic": Panoptic,
    "yolo-seg": YoloSeg,
    "masks": Masks,
    "voc": Voc,
    "jsonl": JsonLines,
}

__all__ = ["REGISTRY", "Format", "Page"]
