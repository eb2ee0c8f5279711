"""Plain icons of many hands as further drawings of the class table: which icon shows what, and its outline filled in.

Emoji sets draw a thing a dozen times; icon sets draw it a hundred times, mostly without colours. A line drawing is
filled, so that its outline is a thing, and gets its colours when it is pasted (`paint.inked`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import sha256
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from PIL import Image

from tiny.packages import COLOUR_ICONS, ICONS

_PREFERRED = ("fill", "filled", "solid", "bold", "duotone", "outline", "linear", "regular")
PER_SET = 4
"""Drawings of one class from one set at most: a set repeats itself."""
STRANGE_SETS = ("game-icons", "streamline-ultimate", "healthicons", "fluent-emoji-high-contrast")
"""Sets whose icons of nothing in the table serve as things outside it."""
STRANGE = 450
"""Of each of those."""
TWINS = {
    "emojione-monotone": ("emojione",),
    "fluent-emoji-high-contrast": ("fluent-emoji", "fluent-emoji-flat"),
}
"""Sets that draw another set's pictures again, by the same names: what is held out there is held out here."""


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("icons.yaml").read_text(encoding="utf-8"))
    return table


@cache
def names() -> dict[str, str]:
    """Plain icon name (no word of style) to class."""
    return {name: label for label, row in _table()["names"].items() for name in row.split()}


@cache
def refused() -> frozenset[str]:
    """Icons (set:name) whose name promises what they do not show."""
    return frozenset(_table()["refused"])


@cache
def _style() -> frozenset[str]:
    return frozenset(_table()["style"].split())


def plain(name: str) -> str:
    """An icon's name without words of style and numbers."""
    words = [word for word in name.split("-") if word not in _style()]
    return "-".join(words)


def chosen(packages: Path, words: set[str]) -> Iterator[tuple[str, str, str | None, str]]:
    """(set, name, label, SVG text) of the icons to draw; no word of `words` names a thing outside the table."""
    for style in (*COLOUR_ICONS, *ICONS):
        data = json.loads((packages / style / "icons.json").read_text(encoding="utf-8"))
        found: dict[str, list[str]] = {}
        strange = []
        for name in data["icons"]:
            base = plain(name)
            label = names().get(base)
            if label is not None and not refused() & {
                f"{style}:{name}",
                f"{style}:{base}",
                f"{style}:{_unstyled(name)}",
            }:
                found.setdefault(label, []).append(name)
            elif style in STRANGE_SETS and not words & set(re.split(r"[^a-z]+", name)):
                strange.append(name)
        for label, rows in found.items():
            for name in _spread(rows):
                yield style, name, label, _svg(data, name)
        strange.sort(key=lambda name: sha256(name.encode()).digest())
        for name in strange[:STRANGE]:
            yield style, name, None, _svg(data, name)


def _unstyled(name: str) -> str:
    return re.sub(r"(-(fill|filled|solid|bold|duotone|outline|linear|line|rounded|sharp))+$", "", name)


def _spread(rows: list[str]) -> list[str]:
    """At most PER_SET icons: different things first, then their styles."""

    def rank(name: str) -> tuple[int, int]:
        words = name.split("-")
        return next((i for i, word in enumerate(_PREFERRED) if word in words), len(_PREFERRED)), len(name)

    by_base: dict[str, list[str]] = {}
    for name in sorted(rows, key=rank):
        by_base.setdefault(plain(name), []).append(name)
    turns = [group[i] for i in range(2) for group in by_base.values() if i < len(group)]
    return turns[:PER_SET]


def _svg(data: dict[str, Any], name: str) -> str:
    icon = data["icons"][name]
    wide, high = (icon.get(key, data.get(key, 16)) for key in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {wide} {high}"
    body = icon["body"].replace("currentColor", "#000")
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{body}</svg>'


def filled(svg: str) -> bytes | None:
    """A plain icon as PNG with its outline filled in: red is how much is drawn, alpha the whole thing.

    None when its lines do not close, so that no outline can be told.
    """
    import resvg_py  # only fetching needs it

    try:
        drawn = Image.open(BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=224, height=224)))).convert("RGBA")
    except (OSError, ValueError):
        return None
    ink = np.pad(np.asarray(drawn)[..., 3], 16)
    if (ink > 128).mean() < 0.02:
        return None
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    closed = cv2.morphologyEx((ink > 60).astype(np.uint8), cv2.MORPH_CLOSE, disk)
    sea = closed.copy()
    cv2.floodFill(sea, None, (0, 0), 2)
    whole = ((sea != 2) & ((closed == 0) | (ink > 60))).astype(np.uint8) | (ink > 60)
    thick = cv2.distanceTransform((ink > 100).astype(np.uint8), cv2.DIST_L2, 3).max()
    if thick < 14 and (ink > 60).sum() > 0.62 * whole.sum():
        return None  # open lines
    alpha = np.maximum(cv2.GaussianBlur(whole * 255.0, (0, 0), 0.8), ink).clip(0, 255).astype(np.uint8)
    out = BytesIO()
    Image.fromarray(np.dstack([ink, ink, ink, alpha])).save(out, "PNG")
    return out.getvalue()


def held_out(rows: Iterable[tuple[str, str, str | None]], held: set[tuple[str, str]], share: float) -> list[bool]:
    """Which of (set, name, label) training may not see: a fixed share of each class, all styles of an icon together,
    and every redrawing of a picture in `held` (set, name)."""
    table = list(rows)
    groups: dict[str | None, set[str]] = {}
    for style, name, label in table:
        groups.setdefault(label, set()).add(f"{style}/{plain(name)}")
    out: set[tuple[str | None, str]] = set()
    for label, keys in groups.items():
        ranked = sorted(keys, key=lambda key: sha256(key.encode()).digest())
        out |= {(label, key) for key in ranked[: round(share * len(ranked))]}
    return [
        (label, f"{style}/{plain(name)}") in out or any((twin, name) in held for twin in TWINS.get(style, ()))
        for style, name, label in table
    ]
