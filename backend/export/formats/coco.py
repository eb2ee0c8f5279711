"""COCO's instances: masks as run-length encodings with every hole and piece, boxes as polygons with four corners."""

from __future__ import annotations

from typing import Any

from backend.export.formats.base import Format, Page, about, said
from backend.export.parts import replace_with
from backend.export.shapes import Shape


class Coco(Format):
    def add(self, page: Page) -> None:
        number = self.number("image")
        image = {"id": number, "file_name": f"{page.split}/{page.file}", "width": page.width, "height": page.height}
        self.parts.add(f"images-{page.split}", image | about(page.sheet))
        for region, shape in page.regions:
            annotation = {
                "id": self.number("annotation"),
                "image_id": number,
                "category_id": self.categories.place(region.label) + 1,
                "segmentation": _segmentation(shape),
                "bbox": list(shape.box),
                "area": shape.area,
                "iscrowd": 0,
            }
            track = {"track_id": region.id} if page.sheet.video is not None else {}
            self.parts.add(f"annotations-{page.split}", annotation | track | said(region))

    def finish(self) -> None:
        categories = [{"id": place, "name": name} for place, name in enumerate(self.categories.names, start=1)]
        for split in self.splits:
            replace_with(self.out / "annotations" / f"instances_{split}.json", self.document(split, categories))


def _segmentation(shape: Shape) -> Any:
    if shape.kind == "rectangle" and shape.ring is not None:
        return [[round(number, 3) for corner in shape.ring for number in corner]]
    return shape.rle
