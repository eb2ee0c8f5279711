"""Labelling configs and results, read and written without any of the product's own code."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import numpy as np
from label_studio_sdk.converter import brush

from demo.truth import Mask

SHAPES = ("brush", "brushlabels", "keypoint", "rectangle")


def with_labels(config: str, labels: list[str]) -> str:
    """The config with these labels and choices in place of its own."""
    tree = ElementTree.fromstring(config)
    for control in tree.iter():
        child = {"Choices": "Choice"}.get(control.tag, "Label" if control.tag.endswith("Labels") else None)
        if child is not None:
            for old in list(control):
                control.remove(old)
            control.extend([ElementTree.Element(child, value=label) for label in labels])
    return ElementTree.tostring(tree, encoding="unicode")


def drawn_box(
    config: str, box: tuple[float, float, float, float], size: tuple[int, int], label: str
) -> list[dict[str, Any]]:
    """A labelled rectangle as an annotator draws it; the box in percentages as left, top, right, bottom."""
    tree = ElementTree.fromstring(config)
    control, image, labels = (tree.find(f".//{tag}") for tag in ("Rectangle", "Image", "Labels"))
    assert control is not None and image is not None and labels is not None
    left, top, right, bottom = box
    value = {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}
    both = {"id": uuid.uuid4().hex, "to_name": image.get("name"), "image_rotation": 0, "origin": "manual"}
    both |= {"original_width": size[0], "original_height": size[1]}
    return [
        both | {"type": "rectangle", "from_name": control.get("name"), "value": value},
        both | {"type": "labels", "from_name": labels.get("name"), "value": value | {"labels": [label]}},
    ]


@dataclass
class Region:
    """What one region id of a result holds."""

    masks: list[Mask] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)


def regions(result: list[dict[str, Any]]) -> dict[str, Region]:
    """The regions of a saved annotation, a prediction or an interactive answer, by id."""
    found: dict[str, Region] = {}
    shapes = {item["id"] for item in result if item["type"] in SHAPES}
    for item in result:
        if item["id"] not in shapes:
            continue  # what the message field says is saved too
        region, value = found.setdefault(item["id"], Region()), item["value"]
        region.types.append(item["type"])
        # Label Studio copies the mask into the texts' items: the type tells which is which
        if item["type"] in ("brush", "brushlabels"):
            region.masks.append(_mask(item))
        region.labels += value.get("brushlabels", []) + value.get("labels", [])
        region.texts += value.get("text", [])
    return found


def _mask(item: dict[str, Any]) -> Mask:
    pixels = brush.decode_rle(item["value"]["rle"])
    whole: Mask = np.reshape(pixels, (item["original_height"], item["original_width"], 4))[:, :, 3] > 127
    return whole
