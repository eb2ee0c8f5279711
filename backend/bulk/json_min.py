"""Tasks of Label Studio's JSON-MIN exports: data and the values of each control, without what belongs where."""

from __future__ import annotations

from typing import Any

from backend.labeling.roles import Roles
from backend.labeling.tags import Tag

_BOOKS = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
_WORDS = {"Choices": "choices", "TextArea": "text", "Taxonomy": "taxonomy"}


def is_task(raw: dict[str, Any]) -> bool:
    """Whether an entry of a list is one of such an export."""
    return "data" not in raw and "annotation_id" in raw and "annotator" in raw


def task(raw: dict[str, Any], roles: Roles) -> dict[str, Any]:
    """The task: its regions, and words about the whole picture.

    Words about a region are left out: this export does not say which region they are about.
    """
    tags = {name: tag for name, tag in roles.tags.items() if name in raw}
    data = {name: value for name, value in raw.items() if name not in (*tags, *_BOOKS, "id")}
    result = [item for name, tag in tags.items() for item in _items(tag, raw[name])]
    found: dict[str, Any] = {"data": data}
    if isinstance(raw.get("id"), int):
        found["id"] = raw["id"]
    if result:
        times = {name: raw[name] for name in ("created_at", "updated_at") if isinstance(raw.get(name), str)}
        found["annotations"] = [times | {"result": result}]
    return found


def _items(tag: Tag, value: Any) -> list[dict[str, Any]]:
    shell = {"from_name": tag.name, "to_name": tag.to_name, "type": tag.kind.lower()}
    if tag.kind in _WORDS:
        if tag.per_region:
            return []
        key = _WORDS[tag.kind]
        said = value.get(key) if isinstance(value, dict) else value
        return [shell | {"id": tag.name, "value": {key: said if isinstance(said, list) else [said]}}]
    if tag.kind == "Labels" or not isinstance(value, list):
        return []
    regions = [one for one in value if isinstance(one, dict)]
    return [
        shell
        | {name: one[name] for name in ("original_width", "original_height") if name in one}
        | {"id": f"{tag.name}-{number}", "value": {k: v for k, v in one.items() if not k.startswith("original_")}}
        for number, one in enumerate(regions)
    ]
