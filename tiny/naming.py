"""Names for regions of photographs, from the thousand classes that the trunk was trained on, where it is sure.

A classifier answers for whatever is in a picture. That a region *is* the thing takes more: the class is seen in the
region's surroundings, under its mask and in the region alone, and no longer once the region is painted over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tiny.art import kinds
from tiny.batch import MEAN, STD
from tiny.looks import UNKNOWN
from tiny.photographs import View, read
from tiny.trunk import Pretrained, known

SURE = 0.4
"""How likely a class has to be that a region gets its name."""
_SIDE = 192  # pixels of what the classifier looks at
_SLACK = 0.1  # of the region's box, on each side
_WORTH = 0.3  # chance in the surroundings from which the other looks are taken
_PART = 0.8  # a region that lies so far within another of the same name is a part of the thing


@torch.no_grad()
def chances(seeing: Pretrained, view: View) -> NDArray[np.float32]:
    """(R, classes of the table): how sure it is that each region is that thing, 0…1."""
    table = _table()
    found = np.zeros((len(view.masks), table.shape[1]), np.float32)
    if not len(view.masks):
        return found
    pieces = [_piece(view.picture, mask) for mask in view.masks]
    images, covers = np.stack([piece for piece, _ in pieces]), np.stack([cover for _, cover in pieces])
    last = seeing.trunk(_ready(images))[-1]
    cover = functional.adaptive_avg_pool2d(torch.from_numpy(covers)[:, None], last.shape[-2:])
    about = (seeing.classifier(last).softmax(-1) @ table).numpy()
    under = (seeing.classifier(last, cover).softmax(-1) @ table).numpy()
    worth = np.flatnonzero((about.max(1) > _WORTH) & (under.max(1) > _WORTH))
    if not len(worth):
        return found
    shown = images[worth].astype(np.float32)
    soft = np.stack([cv2.GaussianBlur(cover, (0, 0), 2) for cover in covers[worth]])[..., None]
    grey = shown.mean((1, 2), keepdims=True)
    looks = [shown * soft + grey * (1 - soft), shown * (1 - soft) + grey * soft]
    alone, without = ((seeing.classifier(seeing.trunk(_ready(look))[-1]).softmax(-1) @ table).numpy() for look in looks)
    found[worth] = np.cbrt(about[worth] * under[worth] * alone) * (1 - without)
    return found


def names(view: View, sure: NDArray[np.float32]) -> list[str]:
    """The name of each region, from `chances`; `object` where it is not sure, or where it is a part of the thing."""
    if not len(sure):
        return []
    table = list(kinds())
    best = sure.argmax(1)
    said = [table[i] if chance >= SURE else UNKNOWN for i, chance in zip(best, sure.max(1), strict=True)]
    sizes = view.masks.sum((1, 2))
    return [UNKNOWN if _within(view.masks, sizes, said, number) else name for number, name in enumerate(said)]


def _within(masks: NDArray[np.bool_], sizes: NDArray[np.int64], said: Sequence[str], number: int) -> bool:
    return any(
        said[other] == said[number]
        and sizes[other] > sizes[number]
        and (masks[other] & masks[number]).sum() > _PART * sizes[number]
        for other in range(len(said))
    )


def _table() -> Tensor:
    """(1000, classes): which of the thousand belong to each class of the table."""
    rows = list(kinds().values())
    table = torch.zeros(1000, len(rows))
    for column, kind in enumerate(rows):
        table[list(kind.seen), column] = 1
    return table


def _piece(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The square about a region, and the region in it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    middle = np.array([columns[0] + columns[-1] + 1, rows[0] + rows[-1] + 1]) / 2
    span = (1 + 2 * _SLACK) * max(columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])
    span = min(span, float(min(mask.shape)))
    left, top = np.clip(middle - span / 2, 0, np.array(mask.shape[::-1]) - span)
    scale = _SIDE / span
    matrix = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    size = (_SIDE, _SIDE)
    return cv2.warpAffine(picture, matrix, size), cv2.warpAffine(mask.astype(np.float32), matrix, size)  # type: ignore[return-value]


def _ready(images: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (tensor - MEAN[:, None, None]) / STD[:, None, None]


def book(root: Path, files: Sequence[Path]) -> dict[str, list[str]]:
    """The names of the regions of every stored view, by the file's name; those that are not there yet are looked at.

    They are kept in a file beside the views whose name follows from the class table, so that another table names anew.
    """
    kept = _kept(root)
    found: dict[str, list[str]] = dict(_lines(kept))
    missing = [file for file in files if file.stem not in found]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open("a", encoding="utf-8") as out:
        for file in missing:
            view = read(file)
            found[file.stem] = names(view, chances(known(root), view))
            out.write(json.dumps([file.stem, found[file.stem]]) + "\n")
            out.flush()
    return found


def told(root: Path) -> dict[str, list[str]]:
    """What `book` has kept already, without looking at anything."""
    return dict(_lines(_kept(root)))


def _kept(root: Path) -> Path:
    rows = [(kind.en, kind.seen) for kind in kinds().values()]
    return root / "regions" / f"names-{sha256(repr((SURE, rows)).encode()).hexdigest()[:10]}.jsonl"


def _lines(file: Path) -> Iterator[tuple[str, list[str]]]:
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.endswith("]]"):  # the last one may have been cut off
                name, row = json.loads(line)
                yield name, row
