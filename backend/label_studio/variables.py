"""`$variables` of a labelling config, looked up in a task's data as Label Studio's editor looks them up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_VARIABLE = re.compile(r"\$[\w\[\].{}]+")
_PART = re.compile(r"[^.\[\]]+")


def has_variable(template: str) -> bool:
    return bool(_VARIABLE.search(template))


def is_variable(template: str) -> bool:
    """Whether it is one variable and nothing else: its value may then be a list or an object."""
    return bool(_VARIABLE.fullmatch(template))


def value_of(template: str, data: Mapping[str, Any]) -> Any:
    """What an attribute stands for: `$photo.url`, `$pages[0].src`, `$image`, or a text with such variables in it.

    A key of the data that is written just like the path comes before the path, as in the editor. None where the data
    has nothing there.
    """
    if is_variable(template):
        return _get(template[1:], data)
    found = _VARIABLE.sub(lambda match: _text(_get(match[0][1:], data)), template)
    return found or None


def placed(template: str, value: Any) -> dict[str, Any]:
    """The data of a task in which an attribute's variable has this value."""
    match = _VARIABLE.search(template)
    parts = _PART.findall(match[0][1:]) if match else [template]
    for part in reversed(parts[1:]):
        value = [*[None] * int(part), value] if part.isdecimal() else {part: value}
    return {parts[0]: value}


def _get(path: str, data: Mapping[str, Any]) -> Any:
    if path in data:
        return data[path]
    found: Any = data
    for part in _PART.findall(path):
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value)
