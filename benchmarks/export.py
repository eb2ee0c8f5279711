"""An export of many regions: how much memory it takes at most, and how long.

    python -m benchmarks.export [--regions 1000000] [--each 100] [--format coco]

Polygons on pictures of 1,000 × 800 pixels that are not there (`--pictures none`), from a JSON file made for it.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from backend.export.arguments import FORMATS

CONFIG = (
    '<View><Image name="i" value="$i"/><PolygonLabels name="p" toName="i"><Label value="a"/></PolygonLabels></View>'
)


def region(number: int) -> dict[str, Any]:
    """A polygon with eight corners, somewhere."""
    x, y = 10 + number * 7 % 80, 10 + number * 13 % 80
    ring = [(3, 0), (2, 2), (0, 3), (-2, 2), (-3, 0), (-2, -2), (0, -3), (2, -2)]
    return {
        **{"id": f"r{number}", "type": "polygonlabels", "from_name": "p", "to_name": "i"},
        **{"original_width": 1000, "original_height": 800},
        "value": {"points": [[x + dx, y + dy] for dx, dy in ring], "polygonlabels": ["a"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--regions", type=int, default=1_000_000)
    parser.add_argument("--each", type=int, default=100, help="regions of one picture")
    parser.add_argument("--format", choices=FORMATS, default="coco")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.xml").write_text(CONFIG)
        with (folder / "in.json").open("w") as file:
            for task in range(given.regions // given.each):
                result = [region(task * given.each + number) for number in range(given.each)]
                line = json.dumps({"data": {"i": f"{task}.png"}, "annotations": [{"result": result}]})
                file.write(("," if task else "[") + line)
            file.write("]")
        command = [sys.executable, "-m", "backend", "export", "--input", str(folder / "in.json"), "--pictures", "none"]
        command += ["--config", str(folder / "config.xml"), "--format", given.format, "--out", str(folder / "out")]
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - begin
        # of the export alone: its input was made here
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        peak = re.search(r"peak memory (\d+) MB", done.stdout)
        assert peak is not None, done.stdout
        size = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
    Console().print(
        f"{given.regions:,} regions as {given.format}: {seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of the "
        f"processor; peak memory {peak[1]} MB, {size / 2**20:.0f} MB written",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
