"""The freely licensed drawings and photographs that the scenes are made of: fetching, cutting out, splitting.

Nothing of it is committed: `fetch` takes it from Debian and npm packages through `apt-get download` and `npm pack`,
unpacks it without installing and draws every object once as an RGBA picture, trimmed, with a longer side of 192 pixels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import yaml
from PIL import Image

from tiny import icons
from tiny.children import end_with_parent
from tiny.packages import (
    BACKGROUNDS,
    CLIPPINGS,
    COLOUR_ICONS,
    ICONS,
    STYLES,
    TEST_BACKGROUNDS,
    unpack_deb,
    unpack_npm,
)

DRAWN_SIDE = 192
"""Longer side, in pixels, of a drawing in the art folder."""
BACKGROUND_SIDE = 1024
"""Longer side, in pixels, of a background in the art folder."""
HELD_OUT_SHARE = 0.15
"""Share of the drawings of each class that training never sees."""
TRANSFER_STYLE = "twemoji"
"""The emoji set that training never sees at all."""
_CATEGORIES = {"Animals & Nature", "Food & Drink", "Objects", "Travel & Places", "Activities"}
_CLIPPING_FOLDERS = {
    "tuxpaint-stamps-default": ("animals", "food", "household", "clothes", "vehicles", "hobbies", "sports", "plants"),
    "openclipart-png": (
        "animals",
        "food",
        "recreation/music",
        "recreation/sports",
        "plants",
        "office",
        "tools",
        "transportation/vehicles",
        "transportation/boating",
        "clothing",
        "buildings",
        "electronics",
    ),
}
_BACKGROUND_DENY = re.compile(
    r"screenshot|captures|LadyBird|goldfish|sheep|mouse|\.svg|no-logo|Stripes|starters|grid-|pixels-|symbolic",
    re.IGNORECASE,
)
_VARIANT = re.compile(r"skin-tone|-light$|-dark$|^flag|face-|person|woman|man-|hand|arrow|button|clock-|oclock|thirty")


@dataclass(frozen=True)
class Kind:
    """One row of the class table; `seen` are the numbers of ImageNet's classes that are it."""

    en: str
    zh: str
    measure: str
    art: tuple[str, ...]
    does_en: str
    does_zh: str
    seen: tuple[int, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """One cut-out object: `file` is an RGBA picture relative to the art folder, `label` an English class name or None
    for a thing outside the table, `split` one of train, test, icons, transfer. `ink`: a plain icon without colours of
    its own, whose red channel says how much of a pixel is drawn (see `paint.inked`)."""

    file: str
    name: str
    style: str
    label: str | None
    split: str
    ink: bool = False


@dataclass(frozen=True)
class Catalog:
    """What the art folder holds; `backgrounds` maps train and test to RGB pictures relative to the folder."""

    root: Path
    drawings: tuple[Drawing, ...]
    backgrounds: dict[str, tuple[str, ...]]


class ArtMissing(FileNotFoundError):
    """The art folder has not been fetched."""


@cache
def kinds() -> dict[str, Kind]:
    """The class table, by English name."""
    rows = yaml.safe_load(files(__package__).joinpath("classes.yaml").read_text(encoding="utf-8"))
    table = [
        Kind(
            en=row["en"],
            zh=row["zh"],
            measure=row["measure"],
            art=tuple(row["art"]),
            does_en=row["does"][0],
            does_zh=row["does"][1],
            seen=_numbers(row.get("seen", ())),
        )
        for row in rows
    ]
    return {kind.en: kind for kind in table}


def _numbers(spans: Iterable[int | str]) -> tuple[int, ...]:
    """3 and "5-7" → 3, 5, 6, 7."""
    ends = [str(span).split("-") for span in spans]
    return tuple(number for end in ends for number in range(int(end[0]), int(end[-1]) + 1))


def load(root: Path) -> Catalog:
    """Read the catalogue of a fetched art folder. Raises ArtMissing with the command that fetches it."""
    index = root / "catalog.json"
    if not index.is_file():
        raise ArtMissing(f"{index} is missing: run `python -m tiny art --art {root}` (Debian and npm needed)")
    data = json.loads(index.read_text(encoding="utf-8"))
    return Catalog(
        root,
        tuple(Drawing(**row) for row in data["drawings"]),
        {split: tuple(names) for split, names in data["backgrounds"].items()},
    )


def fetch(root: Path, workers: int = 2) -> Catalog:
    """Download the packages, unpack and draw them under `root`, and write catalog.json. Already fetched parts are kept.

    Raises RuntimeError when apt-get, dpkg or npm is missing or fails.
    """
    packages = root / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    for style, package in (STYLES | COLOUR_ICONS | ICONS).items():
        if not (packages / style / "icons.json").is_file():
            unpack_npm(package, packages / style)
    for package in (*CLIPPINGS, *BACKGROUNDS):
        if not (packages / package / "usr").is_dir():
            unpack_deb(package, packages / package)
    catalog = draw(root, workers)
    data = {"drawings": [asdict(d) for d in catalog.drawings], "backgrounds": catalog.backgrounds}
    (root / "catalog.json").write_text(json.dumps(data, indent=0), encoding="utf-8")
    return catalog


def draw(root: Path, workers: int) -> Catalog:
    """Draw every object and shrink every background of the unpacked packages under `root`."""
    jobs = [*_emoji(root / "packages"), *_clippings(root / "packages")]
    seen: set[str] = set()
    rows: list[tuple[str, str, str, str | None]] = []
    with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        for (style, name, label, _), png in zip(
            jobs, pool.map(_cut_out, [job[3] for job in jobs], chunksize=16), strict=True
        ):
            if png is None:
                continue
            digest = sha256(png).hexdigest()[:16]
            if digest in seen:  # aliases and copies draw the same picture
                continue
            seen.add(digest)
            file = f"drawn/{style}/{name}-{digest[:6]}.png"
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(png)
            rows.append((file, name, style, label))
    drawings = tuple(assign(rows))
    return Catalog(root, (*drawings, *_draw_icons(root, drawings, workers, seen)), _shrink_backgrounds(root))


def _draw_icons(root: Path, drawings: tuple[Drawing, ...], workers: int, seen: set[str]) -> list[Drawing]:
    """Draw the icons, each class split by itself: the split of `drawings` does not move."""
    words = {word for name in (*kinds(), *icons.names()) for word in re.split(r"[^a-z]+", name)}
    jobs = list(icons.chosen(root / "packages", words))
    rows: list[tuple[str, str, str | None, str, bool]] = []
    with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        for (style, name, label, _), (png, ink) in zip(jobs, pool.map(_icon, jobs, chunksize=32), strict=True):
            digest = sha256(png or b"").hexdigest()[:16]
            if png is None or digest in seen:
                continue
            seen.add(digest)
            file = f"drawn/{style}/{name}-{digest[:6]}.png"
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(png)
            rows.append((style, name, label, file, ink))
    held = {(d.style, d.name) for d in drawings if d.split == "test"}
    away = icons.held_out([row[:3] for row in rows], held, HELD_OUT_SHARE)
    return [
        Drawing(file, name, style, label, "icons" if hidden else "train", ink)
        for (style, name, label, file, ink), hidden in zip(rows, away, strict=True)
    ]


def _icon(job: tuple[str, str, str | None, str]) -> tuple[bytes | None, bool]:
    """PNG of an icon, and whether it has no colours of its own."""
    style, _, _, svg = job
    ink = style in ICONS
    source = icons.filled(svg) if ink else svg
    return (None if source is None else _cut_out(source)), ink


def assign(rows: Iterable[tuple[str, str, str, str | None]]) -> Iterator[Drawing]:
    """Give each (file, name, style, label) its split: a whole style for transfer, then a fixed share of each class.

    Which files are held out follows from their names alone, so that it never changes with the order of the packages.
    """
    groups: dict[str | None, list[tuple[str, str, str, str | None]]] = {}
    for row in rows:
        if row[2] == TRANSFER_STYLE:
            yield Drawing(*row, "transfer")
        else:
            groups.setdefault(row[3], []).append(row)
    for group in groups.values():
        group.sort(key=lambda row: sha256(f"{row[2]}/{row[1]}".encode()).digest())
        held = max(1, round(HELD_OUT_SHARE * len(group)))
        for number, row in enumerate(group):
            yield Drawing(*row, "test" if number < held else "train")


Job = tuple[str, str, str | None, str | Path]


def _emoji(packages: Path) -> Iterator[Job]:
    """(style, name, label, SVG text) of every wanted emoji."""
    wanted = {
        alias: kind.en for kind in kinds().values() for name in kind.art for alias in (name, name.replace("-", ""))
    }
    words = {word for name in wanted for word in name.split("-")} | {word for kind in kinds() for word in kind.split()}
    other: set[str] = set()  # fxemoji has no categories: it borrows the other sets' names
    for style in STYLES:
        data = json.loads((packages / style / "icons.json").read_text(encoding="utf-8"))
        about = packages / style / "metadata.json"
        groups = json.loads(about.read_text(encoding="utf-8")).get("categories", {}) if about.is_file() else {}
        outside = {
            n
            for g in _CATEGORIES
            for n in groups.get(g, ())
            if not _VARIANT.search(n) and not words & set(n.split("-"))
        }
        other |= outside
        aliases = {name: row["parent"] for name, row in data.get("aliases", {}).items() if set(row) == {"parent"}}
        for name in sorted({*data["icons"], *aliases}):
            label = wanted.get(name)
            if label is None and name not in (outside or other):
                continue
            icon = data["icons"].get(aliases.get(name, name))
            if icon is None:
                continue
            wide = icon.get("width", data.get("width", 16))
            high = icon.get("height", data.get("height", 16))
            box = f"{icon.get('left', 0)} {icon.get('top', 0)} {wide} {high}"
            yield style, name, label, f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'


def _clippings(packages: Path) -> Iterator[Job]:
    """(style, name, label, file) of every cut-out whose file name begins with a class name, and of others."""
    names = {kind.en.replace(" ", "_"): kind.en for kind in kinds().values()}
    names |= {
        "pumps": "shoe",
        "ladybug": "ladybird",
        "bunny": "rabbit",
        "hen": "chicken",
        "rooster": "chicken",
        "sailboat": "boat",
        "ship": "boat",
        "plane": "airplane",
        "phone": "telephone",
        "laptop": "computer",
        "motorbike": "motorcycle",
        "lightbulb": "light bulb",
        "tshirt": "shirt",
        "polar_bear": "bear",
        "sheep_lamb": "sheep",
    }
    names_by_length = sorted(names, key=len, reverse=True)
    words = {word for name in names for word in name.split("_")}
    for package, folder in CLIPPINGS.items():
        base = packages / package / folder
        for file in sorted(base.rglob("*.png")):
            where = file.relative_to(base).as_posix()
            if not where.startswith(_CLIPPING_FOLDERS[package]) or "_mirror" in where or "duplicates" in where:
                continue
            stem = re.sub(r"[^a-z]+", "_", re.sub(r"^t_", "", file.stem.lower())).strip("_")
            label = next((names[n] for n in names_by_length if stem == n or stem.startswith(n + "_")), None)
            if label is None and (
                package != "tuxpaint-stamps-default" or words & set(re.split(r"[^a-z]+", where.lower()))
            ):
                continue  # drawings of unsure content are no honest examples of things outside the table
            yield package, stem, label, file


def _cut_out(source: str | bytes | Path) -> bytes | None:
    """PNG bytes of the trimmed object of an SVG text, PNG bytes or a file; None when it is no cut-out (nearly empty, or
    without transparent rim)."""
    import resvg_py  # only fetching needs it

    try:
        if isinstance(source, Path):
            picture = Image.open(source).convert("RGBA")
        elif isinstance(source, bytes):
            picture = Image.open(BytesIO(source))
        else:
            png = bytes(resvg_py.svg_to_bytes(svg_string=source, width=256, height=256))
            picture = Image.open(BytesIO(png)).convert("RGBA")
    except (OSError, ValueError):
        return None
    alpha = picture.getchannel("A").point(lambda value: 255 if value > 100 else 0)
    box = alpha.getbbox()
    if box is None:
        return None
    picture, alpha = picture.crop(box), alpha.crop(box)
    scale = DRAWN_SIDE / max(picture.size)
    if scale > 6 or min(picture.size) * scale < 12:
        return None
    fill = alpha.histogram()[255] / (alpha.width * alpha.height)
    if fill < 0.08 or (isinstance(source, Path) and fill > 0.97):
        return None
    picture = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
    )
    out = BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _shrink_backgrounds(root: Path) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {"train": [], "test": []}
    for package in BACKGROUNDS:
        base = root / "packages" / package / "usr"
        for file in sorted(base.rglob("*")):
            if file.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp") or _BACKGROUND_DENY.search(
                str(file.relative_to(base))
            ):
                continue
            if file.is_symlink() or file.stat().st_size < 60_000:
                continue
            name = re.sub(r"[^a-zA-Z0-9]+", "-", "-".join(file.relative_to(base).parts[-4:]))
            target = f"backgrounds/{package}/{name}.jpg"
            if not (root / target).is_file():
                with Image.open(file) as opened:
                    picture = opened.convert("RGB")
                picture.thumbnail((BACKGROUND_SIDE, BACKGROUND_SIDE), Image.Resampling.BOX)
                (root / target).parent.mkdir(parents=True, exist_ok=True)
                picture.save(root / target, quality=90)
            found["test" if package == TEST_BACKGROUNDS else "train"].append(target)
    return {split: tuple(names) for split, names in found.items()}
