"""COCO's panoptic segmentation: a PNG whose colours are the segments' numbers, and what each segment is."""

from __future__ import annotations

import numpy as np
from PIL import Image

from backend.export.formats.base import Format, Page, about, painted, palette, said
from backend.export.parts import replace_with
from model.values.mask import mask_box


class Panoptic(Format):
    """No two segments overlap: of two regions the smaller one is on top, and one that is covered is left out."""

    def add(self, page: Page) -> None:
        number = self.number("image")
        image = {"id": number, "file_name": f"{page.split}/{page.file}", "width": page.width, "height": page.height}
        self.parts.add(f"images-{page.split}", image | about(page.sheet))
        places = painted(page, np.uint32)
        segments = []
        for place, (region, _) in enumerate(page.regions, start=1):
            box = mask_box(places == place)
            if box is None:
                continue
            x1, y1, x2, y2 = map(int, box)
            area = int((places == place).sum())
            label = {"id": place, "category_id": self.categories.place(region.label) + 1}
            where = {"area": area, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
            segments.append(label | where | said(region))
        folder = self.out / f"panoptic_{page.split}"
        folder.mkdir(parents=True, exist_ok=True)
        colours = np.stack([places & 255, places >> 8 & 255, places >> 16], axis=-1).astype(np.uint8)
        Image.fromarray(colours).save(folder / f"{page.name}.png")
        annotation = {"image_id": number, "file_name": f"{page.name}.png", "segments_info": segments}
        self.parts.add(f"annotations-{page.split}", annotation)

    def finish(self) -> None:
        colours = palette()
        categories = [
            {"id": place, "name": name, "isthing": 1, "color": colours[3 * (place % 256) : 3 * (place % 256) + 3]}
            for place, name in enumerate(self.categories.names, start=1)
        ]
        for split in self.splits:
            replace_with(self.out / f"panoptic_{split}.json", self.document(split, categories))
