"""PNGs: the class of each pixel, the instance of each pixel, and what each instance is."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from backend.errors import PictureError
from backend.export.formats.base import COLOURS, Format, Page, painted, palette, said
from backend.export.parts import replace_with


class Masks(Format):
    """`semantic/…` has the class from 1 with VOC's colours (0: none), `instances/…` the region's number in 16 bits."""

    def add(self, page: Page) -> None:
        if len(page.regions) >= 1 << 16:
            raise PictureError(f"{len(page.regions)} regions in one picture are more than 16 bits can number")
        places = painted(page, np.uint16)
        classes = np.array([0, *(self.categories.place(region.label) + 1 for region, _ in page.regions)])
        if classes.max(initial=0) >= COLOURS:
            raise PictureError(f"{len(self.categories.names)} classes are more than a PNG with a palette has")
        semantic = Image.fromarray(classes[places].astype(np.uint8))
        semantic.putpalette(palette())
        for kind, image in (("semantic", semantic), ("instances", Image.fromarray(places))):
            folder = self.out / kind / page.split
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{page.name}.png")
        for place, (region, _) in enumerate(page.regions, start=1):
            line = {"file": f"{page.split}/{page.name}.png", "instance": place, "label": region.label}
            self.parts.add("regions", line | said(region))

    def finish(self) -> None:
        names = dict(enumerate(self.categories.names, start=1))
        replace_with(self.out / "categories.json", iter([json.dumps(names, ensure_ascii=False, indent=1) + "\n"]))
        replace_with(self.out / "regions.jsonl", (line + "\n" for line in self.parts.lines("regions")))
