"""The arguments of `python -m backend export`; apart from the rest, so that other commands need not import it."""

from __future__ import annotations

import argparse
from pathlib import Path

FORMATS = ("coco", "coco-panoptic", "yolo-seg", "masks", "voc", "jsonl")
SOURCES = ("annotations", "predictions", "reviewed")
PICTURES = ("copy", "link", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    what = parser.add_argument_group("tasks")
    what.add_argument("--project", type=int, help="a project's number in Label Studio")
    what.add_argument("--input", type=Path, help="instead: a JSON list of tasks, e.g. what a bulk job wrote")
    what.add_argument("--config", type=Path, default=Path("label_config.xml"), help="labelling config for --input")
    what.add_argument("--source", choices=SOURCES, default="annotations", help="whose regions (annotations)")
    what.add_argument("--model-version", help="of several predictions those of this version; unset: the newest")
    how = parser.add_argument_group("where and how")
    how.add_argument("--format", choices=FORMATS, required=True, dest="export_format", help="what is written")
    how.add_argument("--out", type=Path, required=True, help="folder; the same command again goes on where it stopped")
    how.add_argument("--split", default="", help="shares of train, val and test, e.g. 80/10/10, by a hash; unset: one")
    how.add_argument("--pictures", choices=PICTURES, default="copy", help="link: files on this disk are hard links")
    how.add_argument("--frame-step", type=int, default=1, help="of videos each N-th frame")
