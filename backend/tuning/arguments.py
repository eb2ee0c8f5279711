"""The arguments of `fit`, `models`, `promote` and `rollback`; apart, so that others need not import the rest."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_fit(parser: argparse.ArgumentParser) -> None:
    """Those of `fit`."""
    parser.add_argument("--project", type=int, help="a project's number in Label Studio")
    parser.add_argument("--input", type=Path, help="instead: a JSON export with annotations")
    parser.add_argument("--config", type=Path, default=Path("label_config.xml"), help="labelling config for --input")
    parser.add_argument("--since", help="only what was saved since then, e.g. 2026-11-01")
    parser.add_argument("--what", default="labels,captions,masks", help="labels, captions, masks, by commas (all)")
    parser.add_argument("--minutes", type=float, help="of training, PALLAS_FIT_MINUTES otherwise")
    parser.add_argument("--job", help=argparse.SUPPRESS)


def add_promote(parser: argparse.ArgumentParser) -> None:
    """Those of `promote`."""
    parser.add_argument("version", help="as `models` lists it, e.g. project-7.3")
    parser.add_argument(
        "--shadow",
        action="store_true",
        help="it answers a share of the clicks beside the one in use (PALLAS_SHADOW_SHARE)",
    )


def add_rollback(parser: argparse.ArgumentParser) -> None:
    """Those of `rollback`."""
    parser.add_argument("--project", type=int, help="a project's number; none: the versions of a file")
    parser.add_argument("--shadow", action="store_true", help="only the version in the shadow goes")
