"""A line of JSON for each picture, with all that is known: nothing is lost."""

from __future__ import annotations

import shutil

from backend.export.formats.base import Format, Page, about, said


class JsonLines(Format):
    def add(self, page: Page) -> None:
        regions = []
        for region, shape in page.regions:
            one = {"label": region.label, "bbox": list(shape.box), "area": shape.area, "segmentation": shape.rle}
            outline = {} if shape.ring is None else {"polygon": [[round(x, 3), round(y, 3)] for x, y in shape.ring]}
            regions.append(one | outline | said(region))
        size = {"width": page.width, "height": page.height}
        line = {"file_name": self.picture(page), "split": page.split} | size | about(page.sheet)
        self.parts.add(page.split, line | {"regions": regions})

    def finish(self) -> None:
        self.parts.close()
        for split in self.splits:
            part, new = self.parts.folder / f"{split}.part", self.out / f".{split}.jsonl.new"
            if part.exists():
                shutil.copyfile(part, new)
            else:
                new.touch()
            new.replace(self.out / f"{split}.jsonl")
