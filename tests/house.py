"""The house: its rooms and floors as docs/development.md lists them, what the code imports, and the picture of it.

`python -m tests.house` draws docs/house.svg anew.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).parent.parent
LIST = ROOT / "docs" / "development.md"
PICTURE = ROOT / "docs" / "house.svg"

TOPS = ("benchmarks", "demo", "backend", "tiny", "model")
LONG = 300


@dataclass(frozen=True)
class Room:
    """Some folders or modules (`names`) of a package; "" is the package of all packages."""

    package: str
    names: tuple[str, ...]
    floor: int
    holds: str

    @property
    def title(self) -> str:
        more = f" and {len(self.names) - 1} more" if len(self.names) > 2 else ""
        return (", ".join(self.names[:2]) if not more else self.names[0]) + more


def read_rooms(text: str) -> dict[str, list[Room]]:
    """The rooms of each package, from the top floor down."""
    found: dict[str, list[Room]] = {}
    for heading, body in _sections(text):
        package = "" if heading == "All of it" else heading.strip("`/")
        for floor, names, holds in re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", body, re.MULTILINE):
            room = Room(package, tuple(re.findall(r"`([\w./]+)`", names)), int(floor), holds)
            found.setdefault(package, []).append(room)
    return found


def read_way(text: str) -> list[str]:
    """The rooms that a click passes, in order."""
    body = dict(_sections(text))["The way of a click"]
    return re.findall(r"^\d+\. `([\w./]+)`", body, re.MULTILINE)


def read_long(text: str) -> dict[str, str]:
    """Modules that may be long, and why."""
    body = dict(_sections(text))["Modules over 300 lines"]
    return dict(re.findall(r"^\| `([\w./]+)` \| (.+) \|$", body, re.MULTILINE))


def _sections(text: str) -> Iterator[tuple[str, str]]:
    for section in re.split(r"^##+ ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        yield heading, body


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module by its dotted name; a package's own is its `__init__`."""
    return {_name(path.relative_to(root)): path for top in TOPS for path in sorted((root / top).rglob("*.py"))}


def _name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(known: dict[str, Path]) -> dict[str, set[str]]:
    """Which of the modules each imports, wherever in its text: also in functions, and for types alone."""
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        used = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                used |= whole & set(known) or {node.module}
        found[name] = used & set(known) - {name}
    return found


def room_of(path: Path, rooms: dict[str, list[Room]], root: Path = ROOT) -> Room | None:
    """The room of a package in which a module stands; None where the list has none."""
    package, *inside = path.relative_to(root).parts
    first = f"{inside[0]}/" if len(inside) > 1 else inside[0]
    return next((room for room in rooms.get(package, ()) if first in room.names), None)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other in a loop, one loop of each knot."""
    left, found = _knotted(graph), []
    while left:
        path = [min(left)]
        while (following := min(left[path[-1]])) not in path:
            path.append(following)
        found.append(sorted(path[path.index(following) :]))
        left = _knotted({name: used for name, used in left.items() if name not in found[-1]})
    return found


def _knotted(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is left when nothing is that imports nothing of the rest."""
    while True:
        left = {name: inner for name, used in graph.items() if (inner := used & set(graph))}
        if len(left) == len(graph):
            return left
        graph = left


# the picture

_WIDTH, _EDGE, _GAP, _PAD = 1280, 24, 10, 10
_TOP, _LEFT, _RIGHT = 46, 690, 510  # where the rooms begin; widths of the two columns
_TITLE, _TEXT, _LINE = 15, 11.5, 15
_INK, _PALE, _WAY = "#22303c", "#5b6b78", "#c2410c"
_FILLS = {"backend": "#e8eef4", "model": "#e6f2ea", "": "#f4efe4"}


@dataclass(frozen=True)
class _Box:
    room: Room
    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]


def draw(text: str) -> str:
    """The picture of the list, as SVG."""
    rooms = read_rooms(text)
    around = [room for room in rooms[""] if room.names[0].rstrip("/") not in ("backend", "model", "tests")]
    left, left_height = _stack(rooms["backend"], _EDGE, _LEFT)
    x = _WIDTH - _EDGE - _RIGHT
    right, right_height = _stack(rooms["model"], x, _RIGHT)
    beside, beside_height = _stack(around, x, _RIGHT)
    ground = _TOP + max(left_height, right_height + beside_height + 60)
    left = [_down(box, ground - left_height) for box in left]
    right = [_down(box, ground - right_height) for box in right]
    beside = [_down(box, _TOP) for box in beside]
    boxes = [*left, *right, *beside]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {ground + 66:.0f}" width="{_WIDTH}" '
        f'font-family="Helvetica, Arial, sans-serif" fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{ground + 66:.0f}" fill="#ffffff"/>',
        *(_shape(box) + "\n" + _words(box) for box in boxes),
        *_way(read_way(text), boxes, ground + 40),
        _heading(_EDGE, ground - left_height - 14, "backend/", "the plug-in"),
        _heading(x, ground - right_height - 14, "model/", "Perceive Anything"),
        _heading(x, _TOP - 14, "beside them", "not in the image"),
        f'<line x1="{_EDGE}" x2="{_WIDTH - _EDGE}" y1="{ground + 6:.1f}" y2="{ground + 6:.1f}" stroke="{_INK}" '
        'stroke-width="3"/>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _stack(rooms: list[Room], x: float, width: float) -> tuple[list[_Box], float]:
    """The rooms' boxes, the top floor at y = 0, and how high all of them are."""
    boxes: list[_Box] = []
    y = 0.0
    for floor in sorted({room.floor for room in rooms}, reverse=True):
        here = [room for room in rooms if room.floor == floor]
        each = (width - _GAP * (len(here) - 1)) / len(here)
        lines = [tuple(wrap(room.holds.replace("`", ""), int((each - 2 * _PAD) / (0.5 * _TEXT)))) for room in here]
        height = 2 * _PAD + _TITLE + _LINE * max(map(len, lines))
        for number, (room, said) in enumerate(zip(here, lines, strict=True)):
            boxes.append(_Box(room, x + number * (each + _GAP), y, each, height, said))
        y += height + _GAP
    return boxes, y - _GAP


def _down(box: _Box, by: float) -> _Box:
    return _Box(box.room, box.x, box.y + by, box.width, box.height, box.lines)


def _shape(box: _Box) -> str:
    return (
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="4" '
        f'fill="{_FILLS[box.room.package]}" stroke="{_INK}" stroke-width="0.8"/>'
    )


def _words(box: _Box) -> str:
    x, y = box.x + _PAD, box.y + _PAD + _TITLE - 3
    lines = [f'<text x="{x:.1f}" y="{y:.1f}" font-size="{_TITLE}" font-weight="bold">{escape(box.room.title)}</text>']
    lines += [
        f'<text x="{x:.1f}" y="{y + _LINE * number:.1f}" font-size="{_TEXT}" fill="{_PALE}">{escape(line)}</text>'
        for number, line in enumerate(box.lines, start=1)
    ]
    return "\n".join(lines)


def _heading(x: float, y: float, name: str, what: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="19" font-weight="bold">{name} '
        f'<tspan font-size="13" font-weight="normal" fill="{_PALE}">{what}</tspan></text>'
    )


def _way(names: list[str], boxes: list[_Box], y: float) -> list[str]:
    """Numbers in the rooms that are passed, and below the same as one line."""
    each = (_WIDTH - 2 * _EDGE - 130) / len(names)
    drawn = [f'<text x="{_EDGE}" y="{y + 4:.1f}" font-size="13" font-weight="bold">the way of a click</text>']
    for number, name in enumerate(names, start=1):
        box = next(box for box in boxes if name in box.room.names)
        x = _EDGE + 150 + each * (number - 1)
        drawn += [
            _dot(number, box.x + box.width - 18 - 26 * (names[number:].count(name)), box.y + 17),
            _dot(number, x, y),
            f'<text x="{x + 16:.1f}" y="{y + 4:.1f}" font-size="13">{name}</text>',
        ]
        if number < len(names):
            drawn.append(f'<text x="{x + each - 30:.1f}" y="{y + 5:.1f}" font-size="16" fill="{_WAY}">→</text>')
    return drawn


def _dot(number: int, x: float, y: float) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" fill="{_WAY}"/><text x="{x:.1f}" y="{y + 4:.1f}" font-size="12" '
        f'font-weight="bold" fill="#ffffff" text-anchor="middle">{number}</text>'
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(LIST.read_text("utf-8")), "utf-8")
    print(PICTURE.relative_to(ROOT))
