"""The code keeps to the house that docs/development.md describes, and the picture there is of that house."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from tests.house import (
    LIST,
    LONG,
    PICTURE,
    ROOT,
    TOPS,
    Room,
    circles,
    draw,
    imports,
    modules,
    read_long,
    read_rooms,
    read_way,
    room_of,
)

TEXT = LIST.read_text("utf-8")
ROOMS = read_rooms(TEXT)
MODULES = modules()
DOOR = {"model", "model.values.task", "model.values.mask", "model.errors", "model.compute.device"}


@cache
def graph_of_all() -> dict[str, set[str]]:
    """Not when tests are collected, which each of several processes does."""
    return imports(MODULES)


def faults(
    rooms: dict[str, list[Room]], known: dict[str, Path], graph: dict[str, set[str]], root: Path = ROOT
) -> list[str]:
    """Imports that do not lead to a lower floor, of packages and of the rooms inside one."""
    found = []
    for name, path in known.items():
        for used in sorted(graph[name]):
            package, other = name.split(".")[0], used.split(".")[0]
            if package != other:
                upper, lower = (
                    next(room for room in rooms[""] if f"{part}/" in room.names) for part in (package, other)
                )
            else:
                here, there = room_of(path, rooms, root), room_of(known[used], rooms, root)
                if here is None or there is None or here == there:
                    continue
                upper, lower = here, there
            if upper.floor <= lower.floor:
                found.append(f"{name} (floor {upper.floor}) imports {used} (floor {lower.floor})")
    return found


def test_every_module_has_a_room_and_every_room_a_module() -> None:
    homeless = [
        name
        for name, path in MODULES.items()
        if name.split(".")[0] in ROOMS and path.read_text().count("\n") > 1 and room_of(path, ROOMS) is None
    ]
    assert homeless == []
    for package, rooms in ROOMS.items():
        for room in rooms:
            assert all((ROOT / package / name).exists() for name in room.names), room
    assert {room.names[0].rstrip("/") for room in ROOMS[""]} == {*TOPS, "tests"}


def test_imports_lead_to_lower_floors() -> None:
    assert faults(ROOMS, MODULES, graph_of_all()) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(graph_of_all()) == []


def test_what_is_forbidden_is_found(tmp_path: Path) -> None:
    """The tests above can fail: upwards, sideways, in a circle inside one room, and from the product into its tests."""
    files = {
        "backend/front/app.py": "def f():\n    from backend.worker import engine\n",
        "backend/worker/engine.py": "if TYPE_CHECKING:\n    import backend.tasks.plan\n",
        "backend/tasks/plan.py": "from backend.tasks.wanted import a\nfrom backend.front import app\n",
        "backend/tasks/wanted.py": "from backend.tasks import plan\n",
        "model/errors.py": "from demo import report\n",
        "demo/report.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    known = modules(tmp_path)
    graph = imports(known)
    assert faults(ROOMS, known, graph, tmp_path) == [
        "backend.tasks.plan (floor 6) imports backend.front.app (floor 8)",
        "backend.worker.engine (floor 6) imports backend.tasks.plan (floor 6)",
        "model.errors (floor 1) imports demo.report (floor 3)",
    ]
    del graph["backend.front.app"]
    assert circles(graph) == [["backend.tasks.plan", "backend.tasks.wanted"]]


def test_the_two_parts_have_one_door() -> None:
    """model/ knows nothing of the backend, HTTP or Redis; the backend knows model/ by its façade and its values."""
    for name, path in MODULES.items():
        if name.startswith("model"):
            assert not re.search(
                r"^\s*(from|import) (backend|flask|redis|rq|label_studio_sdk)\b", path.read_text(), re.MULTILINE
            ), name
        if name.startswith("backend"):
            used = {other for other in graph_of_all()[name] if other.split(".")[0] == "model"}
            assert used <= DOOR, (name, used - DOOR)


def test_the_worker_and_the_front_agree_on_the_job_alone() -> None:
    for name, used in graph_of_all().items():
        if name.startswith("backend.worker"):
            forbidden = [other for other in used if other.startswith(("backend.labeling", "backend.tasks"))]
            assert not forbidden, (name, forbidden)


def test_long_modules_have_a_reason() -> None:
    given = read_long(TEXT)
    long = {
        str(path.relative_to(ROOT)): lines
        for path in MODULES.values()
        if (lines := path.read_text("utf-8").count("\n")) > LONG
    }
    assert sorted(long) == sorted(given), "split it, or give the reason in docs/development.md"


def test_the_picture_is_of_this_house() -> None:
    assert PICTURE.read_text("utf-8") == draw(TEXT), "python -m tests.house draws it anew"
    for name in read_way(TEXT):
        assert any(name in room.names for package in ("backend", "model") for room in ROOMS[package]), name
