"""PASCAL VOC: boxes in XML, classes and objects as PNGs with a palette, lists of names for each split."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from backend.export.formats.base import COLOURS, Format, Page, painted, palette
from backend.export.parts import replace_with
from backend.export.sheets import Region

_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_VOID = 255  # what VOC calls the border; no class and no object has it


class Voc(Format):
    pictures = "JPEGImages"

    def add(self, page: Page) -> None:
        root = ElementTree.Element("annotation")
        for tag, text in (("folder", "JPEGImages"), ("filename", page.file)):
            ElementTree.SubElement(root, tag).text = text
        size = ElementTree.SubElement(root, "size")
        for tag, number in (("width", page.width), ("height", page.height), ("depth", 3)):
            ElementTree.SubElement(size, tag).text = str(number)
        ElementTree.SubElement(root, "segmented").text = "1"
        for region, shape in page.regions:
            one = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(one, "name").text = self.categories.names[self.categories.place(region.label)]
            for tag in ("truncated", "difficult"):
                ElementTree.SubElement(one, tag).text = "0"
            x, y, width, height = shape.box
            box = ElementTree.SubElement(one, "bndbox")
            # VOC counts pixels from 1, and the last one belongs to the box
            corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + width, "ymax": y + height}
            for tag, corner in corners.items():
                ElementTree.SubElement(box, tag).text = f"{round(corner)}"
            _say(one, region)
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="unicode")
        replace_with(self.out / "Annotations" / f"{page.name}.xml", iter([text + "\n"]))
        self.parts.write(f"Main-{page.split}", page.name)
        if len(page.regions) < _VOID and len(self.categories.names) < _VOID:
            self._paint(page)
            self.parts.write(f"Segmentation-{page.split}", page.name)

    def _paint(self, page: Page) -> None:
        places = painted(page, np.uint8)
        classes = np.array([0, *(self.categories.place(region.label) + 1 for region, _ in page.regions)])
        for kind, pixels in (("SegmentationObject", places), ("SegmentationClass", classes[places].astype(np.uint8))):
            image = Image.fromarray(pixels)
            image.putpalette(palette())
            folder = self.out / kind
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{page.name}.png")

    def finish(self) -> None:
        for split in self.splits:
            for kind in ("Main", "Segmentation"):
                lines = (line + "\n" for line in self.parts.lines(f"{kind}-{split}"))
                replace_with(self.out / "ImageSets" / kind / f"{split}.txt", lines)
        names = "".join(f"{name}\n" for name in self.categories.names)
        replace_with(self.out / "labels.txt", iter([names]))


def _say(element: ElementTree.Element, region: Region) -> None:
    """Fields of our own, which readers of VOC pass over."""
    if region.score is not None:
        ElementTree.SubElement(element, "score").text = str(region.score)
    for kind, words in (("caption", region.texts), ("class", region.classes)):
        for name, text in words.items():
            ElementTree.SubElement(element, kind, {"control": name}).text = _clean(text)


def _clean(text: str) -> str:
    """Without characters that XML does not have."""
    return _NOT_IN_XML.sub("", text)


assert COLOURS > _VOID
