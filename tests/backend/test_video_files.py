"""Videos that an annotator is at work on stay on the worker's disk, a few of them, for a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from backend.settings import Settings
from backend.worker.embedding_cache import EmbeddingCache
from backend.worker.video_files import VideoFiles


class Store:
    """Gives each address its own bytes, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def copy(self, reference: str, sink: BinaryIO, limits: Any) -> None:
        self.asked.append(reference)
        sink.write(reference.encode())


def test_a_video_is_fetched_once_and_few_are_kept() -> None:
    store = Store()
    files = VideoFiles(Settings(_env_file=None), store, EmbeddingCache(0))  # type: ignore[arg-type]
    first = files.get("a")
    assert files.get("a") is first and Path(first.file.name).read_bytes() == b"a"
    files.get("b")
    files.get("c")
    assert store.asked == ["a", "b", "c"]
    name = first.file.name
    assert Path(name).exists()  # who has it in hand keeps it
    del first
    assert not Path(name).exists()
    files.get("b")
    files.get("a")
    assert store.asked == ["a", "b", "c", "a"]


def test_an_address_is_believed_for_a_while_only() -> None:
    store = Store()
    files = VideoFiles(Settings(_env_file=None, picture_memory_s=0), store, EmbeddingCache(0))  # type: ignore[arg-type]
    files.get("a")
    files.get("a")
    assert store.asked == ["a", "a"]
