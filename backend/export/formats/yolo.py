"""Ultralytics' format for segmentation: a text file for each picture, a line with class and outline for each region."""

from __future__ import annotations

import json

from backend.export.formats.base import Format, Page, said
from backend.export.parts import replace_with


class YoloSeg(Format):
    """The format has one ring a region: holes and pieces are joined by bridges without width.

    It has no place for texts and scores either: they are in regions.jsonl, by file and line.
    """

    def add(self, page: Page) -> None:
        lines = []
        for region, shape in page.regions:
            ring = shape.outline()
            if len(ring) < 3:
                # nothing is left of what is one pixel wide
                x, y, width, height = shape.box
                ring = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
            inside = [(min(max(x / page.width, 0), 1), min(max(y / page.height, 0), 1)) for x, y in ring]
            numbers = " ".join(f"{number:.6f}" for corner in inside for number in corner)
            lines.append(f"{self.categories.place(region.label)} {numbers}\n")
            line = {"file": f"{page.split}/{page.name}.txt", "line": len(lines), "label": region.label}
            self.parts.add("regions", line | said(region))
        replace_with(self.out / "labels" / page.split / f"{page.name}.txt", iter(lines))

    def finish(self) -> None:
        folders = {split: f"images/{split}" for split in self.splits}
        first = next(iter(folders.values()))
        # its trainer asks for both, whatever there is
        known = {"train": folders.get("train", first), "val": folders.get("val", first)} | {
            split: folder for split, folder in folders.items() if split == "test"
        }
        paths = "".join(f"{key}: {folder}\n" for key, folder in known.items())
        # JSON is YAML, and needs no care for odd names
        names = "".join(
            f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(self.categories.names)
        )
        replace_with(self.out / "data.yaml", iter([f"path: .\n{paths}names:\n{names}"]))
        replace_with(self.out / "regions.jsonl", (line + "\n" for line in self.parts.lines("regions")))
