"""What people call a task of a bulk job: by its file's name, and in a project by its number too."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from backend.bulk.sources import Item
from backend.errors import BackendError
from backend.labeling.roles import Roles

_LONGEST = 200


def file_of(address: str) -> str:
    """The name of the file at a picture's or video's address; empty where it has none."""
    try:
        parts = urlsplit(address if not address.startswith("data:") else "")
    except ValueError:
        return ""
    # as Label Studio calls local files: /data/local-files/?d=folder/name
    return Path(parse_qs(parts.query).get("d", [unquote(parts.path)])[0]).name[:_LONGEST]


def file_of_item(item: Item, roles: Roles) -> str:
    """Of a task's first picture, or its first video; empty where it has none, or cannot be read."""
    if item.task is None:
        return ""
    data = item.task.data
    try:
        roles = roles.of(data)
    except BackendError:
        return ""
    pictures = (image.picture(data) for image in roles.images.values())
    videos = (video.address(data) for video in roles.videos.values())
    return next((file_of(address) for address in (*pictures, *videos) if address is not None), "")


def name_of(key: str, file: str, in_project: bool) -> str:
    """Of a task by its number or place, and its file."""
    return f"task {key}: {file}" if in_project and file else file or f"task {key}"
