"""The photographs that regions are made of: which they are, and their regions on disk, each file a view of one.

A view is the model's square: the whole photograph, or a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from tiny import regions, trunk
from tiny.children import end_with_parent
from tiny.packages import LABELLED, PHOTOGRAPHS, unpack_deb
from tiny.resources import entries

STORED_SIDE = 1024
"""Longer side, in pixels, of a photograph in the art folder."""
_LEAST_SIDE = 150
_HELD_OUT = 0.08  # share of the photographs that only the training's own probe sees
_GCOMPRIS = re.compile(
    r"/(erase|explore_farm_animals|explore_world_animals|explore_monuments|explore_world_music)/"
    r"|/categorization/resource/images/(?!numbers|alphabets)|/details/resource/image/(?!.*Gogh|NDP|Portrait|Eglise)"
)
_PICTURES = re.compile(  # drawn or computed, not photographed
    r"abstract|stripe|RainDrops|Flow|Altai|Canopee|Cascade|Cluster|ColdRipple|DarkestHour|Elarun|FlyingKonqui|Honeywave"
    r"|IceCold|Kay|Kokkini|MilkyWay|Opal|PastelHills|Patak|SafeLanding|Shell|Volna|summer_1am|screenshot|vertical"
    r"|2004default|firstgeneration|fluent|focal|rhythm|rollpaper|string|Infinite|Painting|Next|\.svg|earthrise|/space"
    r"|starter|_medium|/Grey",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class View:
    """A square of a photograph and its regions: picture S×S×3 uint8, masks (R, S, S) bool, and the IoU that two ways
    agreed to (R,)."""

    picture: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    agreed: NDArray[np.float32]


def fetch(root: Path) -> tuple[Path, ...]:
    """Download the packages and store the photographs to learn from below `root`; those that are there are kept.

    What is only measured with stays in its package.

    Raises RuntimeError when apt-get or dpkg is missing or fails.
    """
    for package, folder in (PHOTOGRAPHS | LABELLED).items():
        if not (root / "packages" / package / folder).is_dir():
            unpack_deb(package, root / "packages" / package)
    for package, folder in PHOTOGRAPHS.items():
        for name, read in _found(root / "packages" / package / folder):
            target = root / "photographs" / package / f"{re.sub(r'[^a-zA-Z0-9]+', '-', name)}.jpg"
            if target.is_file():
                continue
            with Image.open(read()) as opened:
                picture = opened.convert("RGB")
            if min(picture.size) < _LEAST_SIDE:
                continue
            picture.thumbnail((STORED_SIDE, STORED_SIDE), Image.Resampling.BOX)
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.save(target, quality=92)
    return listed(root)


def _found(base: Path) -> Iterator[tuple[str, Reader]]:
    for file in sorted(base.rglob("*")):
        if file.suffix == ".rcc":
            for name, body in entries(file):
                if name.endswith((".webp", ".jpg")) and len(body) > 8000 and _GCOMPRIS.search(name):
                    yield "-".join(Path(name).with_suffix("").parts[-3:]), Reader(body)
        elif file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp") and not file.is_symlink():
            name = file.relative_to(base).with_suffix("").as_posix()
            if file.stat().st_size > 30_000 and not _PICTURES.search(f"/{name}"):
                yield name, Reader(file)


@dataclass(frozen=True)
class Reader:
    """Where a picture's bytes are."""

    source: Path | bytes

    def __call__(self) -> Path | BytesIO:
        return BytesIO(self.source) if isinstance(self.source, bytes) else self.source


def listed(root: Path) -> tuple[Path, ...]:
    """The stored photographs in an order that mixes the packages and never changes."""
    found = (root / "photographs").glob("*/*.jpg")
    return tuple(sorted(found, key=lambda file: sha256(_name(file).encode()).digest()))


def _name(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


def held_out(file: Path) -> bool:
    """Whether a photograph is only looked at by the training's own probe."""
    return int.from_bytes(sha256(_name(file).encode()).digest()[-4:], "big") < _HELD_OUT * 2**32


def make(root: Path, views: int, side: int, workers: int = 1) -> Iterator[Path]:
    """Make the regions that are not there yet, the first view of every photograph first; yields each file when done."""
    jobs = _jobs(root, views, side)
    if workers < 2:
        yield from map(_make, jobs)
        return
    with ProcessPoolExecutor(workers, initializer=_alone) as pool:
        yield from pool.map(_make, jobs)


def waiting(root: Path, views: int, side: int) -> int:
    """How many views are not made yet."""
    return len(_jobs(root, views, side))


def _jobs(root: Path, views: int, side: int) -> list[tuple[Path, Path, int, int]]:
    jobs = [(root, file, number, side) for number in range(views) for file in listed(root)]
    return [job for job in jobs if not _file(*job).is_file()]


def _alone() -> None:
    end_with_parent()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _file(root: Path, photograph: Path, number: int, side: int) -> Path:
    return root / "regions" / f"{side}" / f"{photograph.parent.name}-{photograph.stem}-{number}.npz"


def _make(job: tuple[Path, Path, int, int]) -> Path:
    root, photograph, number, side = job
    target = _file(*job)
    seed = int.from_bytes(sha256(_name(photograph).encode()).digest()[:4], "big")
    rng = np.random.default_rng([seed, number])
    picture = np.asarray(Image.open(photograph).convert("RGB"))
    part = picture if number == 0 else _part(rng, picture)
    view = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8)
    found = regions.propose(view, trunk.known(root).trunk)
    masks = np.stack([region.mask for region in found]) if found else np.zeros((0, side, side), bool)
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_suffix(".part.npz")
    np.savez_compressed(
        half,
        picture=view,
        masks=np.packbits(masks.reshape(len(masks), -1), axis=1),
        agreed=np.array([region.agreed for region in found], np.float16),
    )
    half.replace(target)
    return target


def _part(rng: Generator, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A random part of a photograph, nearly square, a third to four fifths as long as its shorter side."""
    high, wide = picture.shape[:2]
    span = min(high, wide) * rng.uniform(0.4, 0.9)
    stretch = np.exp(rng.normal(0, 0.15))
    tall, broad = min(high, int(span * stretch)), min(wide, int(span / stretch))
    top, left = rng.integers(high - tall + 1), rng.integers(wide - broad + 1)
    return picture[top : top + tall, left : left + broad]


def read(file: Path) -> View:
    """A stored view. Raises ValueError where the file is damaged."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            picture = stored["picture"]
            bits = np.unpackbits(stored["masks"], axis=1)[:, : picture.shape[0] * picture.shape[1]]
            return View(
                picture,
                bits.reshape(-1, *picture.shape[:2]).astype(bool),
                stored["agreed"].astype(np.float32),
            )
    except (OSError, KeyError, BadZipFile) as error:
        raise ValueError(f"{file} is damaged ({error}): delete it, `python -m tiny fit` makes it again") from None


def stored(root: Path, side: int, held: bool, photographs: Sequence[Path] | None = None) -> list[Path]:
    """The files of the views that have been made, of held-out photographs or of the others."""
    chosen = [file for file in photographs or listed(root) if held_out(file) == held]
    found = [_file(root, file, number, side) for file in chosen for number in range(16)]
    return [file for file in found if file.is_file()]
