"""`python -m benchmarks.tuning --art FOLDER`: what a run of `fit` makes of a house style, in so many minutes.

Scenes are generated (`python -m tiny art` fetches the drawings once). People are made up: they write every caption in a
style of their own, and draw every mask some pixels wider than the thing. The run is that of the command line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from backend.adapters.store import INPUT, Store
from backend.label_studio import rle
from backend.settings import Settings
from backend.tuning.gather import is_held
from model import PerceiveAnything, Prompt, Task
from model.errors import ModelError
from model.values.mask import mask_box
from tiny.art import ArtMissing, load
from tiny.looks import UNKNOWN
from tiny.scenes import Painter

STYLE = re.compile(r"^[^:]+: [a-z]+, (in|on|at) [^.]+$")
WIDER = 3
"""Pixels on each side."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--art", type=Path, default=Path(".art"), help="drawings, as `python -m tiny art` fetches them")
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--regions", type=int, default=400)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--what", default="labels,captions,masks")
    parser.add_argument("--shuffle", action="store_true", help="each region gets another one's annotation")
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        painter = Painter(load(options.art), "test", options.seed)
        with tempfile.TemporaryDirectory(prefix="pallas-tuning-") as folder:
            found = measure(options, painter, Path(folder))
    except (ArtMissing, ModelError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(found["said"])
        print(f"captions in the style, of {found['captions']} held-out ones: {found['in_style']:.3f}")
        print(f"processor time: {found['cpu_s'] / 60:.1f} minutes")
    return 0


def measure(options: argparse.Namespace, painter: Painter, folder: Path) -> dict[str, Any]:
    """Make the work, fit on it, and ask the new version for the held-out captions. Raises RuntimeError."""
    works = list(work(painter, options.regions, folder, options.shuffle))
    kinds = sorted({thing["label"] for task in works for thing in task["things"]})
    (folder / "tasks.json").write_text(json.dumps([task["task"] for task in works]))
    (folder / "config.xml").write_text(config(kinds))
    command = [sys.executable, "-m", "backend", "fit", "--input", str(folder / "tasks.json"), "--model"]
    command += [options.checkpoint, "--config", str(folder / "config.xml"), "--minutes", str(options.minutes)]
    environment = os.environ | {"PALLAS_STATE_DIR": str(folder / "state")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, "--what", options.what], env=environment, check=False, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or done.stdout.strip())
    store = Store(Settings(state_dir=folder / "state"))
    versions = list(store.versions(INPUT))
    pam = PerceiveAnything.from_pretrained(options.checkpoint)
    if versions:
        pam.use(store.read(versions[-1].name))
    captions = [text for task in works if is_held(str(task["task"]["id"])) for text in said(pam, task)]
    return {
        "said": done.stdout.strip(),
        "promoted": bool(versions),
        "figures": versions[-1].card["figures"] if versions else {},
        "in_style": float(np.mean([bool(STYLE.match(text)) for text in captions])) if captions else 0.0,
        "captions": len(captions),
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def work(painter: Painter, regions: int, folder: Path, shuffle: bool) -> Iterator[dict[str, Any]]:
    """So many reviewed regions, task by task, their pictures in the folder."""
    scenes = []
    number = count = 0
    while count < regions:
        scene = painter.scene(number)
        number += 1
        things = [thing for thing in scene.things if thing.truth.kind != UNKNOWN][: regions - count]
        count += len(things)
        if things:
            scenes.append((scene.picture, things))
    every = [thing for _, things in scenes for thing in things]
    order = iter(np.random.default_rng(0).permutation(len(every)) if shuffle else range(len(every)))
    for task, (picture, things) in enumerate(scenes, start=1):
        Image.fromarray(picture).save(folder / f"{task}.png")
        told = []
        for _ in things:
            other = every[next(order)]
            wide = cv2.dilate(other.mask.astype(np.uint8), np.ones((2 * WIDER + 1,) * 2, np.uint8))
            mask = cv2.resize(wide, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
            truth = other.truth
            text = f"{truth.kind}: {truth.colour}, {truth.place}"
            told.append({"mask": mask, "label": truth.kind, "text": text})
        result = [item for place, thing in enumerate(told) for item in _items(f"{task}-{place}", thing)]
        annotation = {"id": task, "result": result, "updated_at": "2026-11-20T10:00:00Z"}
        yield {
            "task": {"id": task, "data": {"image": f"{task}.png"}, "annotations": [annotation]},
            "picture": picture,
            "things": told,
        }


def _items(name: str, thing: dict[str, Any]) -> list[dict[str, Any]]:
    height, width = thing["mask"].shape
    shell = {"id": name, "to_name": "image", "original_width": width, "original_height": height}
    brush = {"format": "rle", "rle": rle.encode(thing["mask"]), "brushlabels": [thing["label"]]}
    return [
        shell | {"from_name": "mask", "type": "brushlabels", "value": brush},
        shell | {"from_name": "caption", "type": "textarea", "value": {"text": [thing["text"]]}},
    ]


def config(kinds: list[str]) -> str:
    """A labelling config with these labels."""
    labels = "".join(f'<Label value="{kind}"/>' for kind in kinds)
    return f"""<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image">{labels}</BrushLabels>
<TextArea name="caption" toName="image" perRegion="true" pallas="brief"/></View>"""


def said(pam: PerceiveAnything, task: dict[str, Any]) -> list[str]:
    """The brief captions of a task's regions."""
    boxes = [mask_box(thing["mask"]) for thing in task["things"]]
    regions = pam.segment(pam.encode(task["picture"]), [Prompt(box=box) for box in boxes if box is not None])
    return [texts[Task.BRIEF].string for texts in pam.describe(regions, [Task.BRIEF])]


if __name__ == "__main__":
    sys.exit(main())
