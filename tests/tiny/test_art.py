"""The class table and the splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tiny import art
from tiny.art import Catalog


def test_table_is_complete() -> None:
    table = art.kinds()
    assert len(table) >= 100
    assert len({kind.zh for kind in table.values()}) == len(table), "two classes share a Chinese name"
    for kind in table.values():
        assert kind.art or kind.seen, "nothing would ever show it"
        assert kind.does_en
        assert kind.does_en[0].islower()
        assert any("\u4e00" <= sign <= "\u9fff" for sign in kind.zh + kind.does_zh)


def test_no_drawing_belongs_to_two_classes() -> None:
    names = Counter(name for kind in art.kinds().values() for name in kind.art)
    assert [name for name, count in names.items() if count > 1] == []


def test_splits_are_disjoint_and_whole(catalog: Catalog) -> None:
    files = {split: {d.file for d in catalog.drawings if d.split == split} for split in ("train", "test", "transfer")}
    assert sum(map(len, files.values())) == len(catalog.drawings)
    assert not files["train"] & files["test"] and not (files["train"] | files["test"]) & files["transfer"]
    assert {d.style for d in catalog.drawings if d.split == "transfer"} == {art.TRANSFER_STYLE}
    assert all(d.split == "transfer" for d in catalog.drawings if d.style == art.TRANSFER_STYLE)


@pytest.mark.parametrize("count", [2, 7, 20, 60])
def test_share_held_out(count: int) -> None:
    rows = [(f"{i}.png", f"name-{i}", "noto", "dog") for i in range(count)]
    held = {d.file for d in art.assign(rows) if d.split == "test"}
    assert len(held) == max(1, round(0.15 * count))
    assert held == {d.file for d in art.assign(reversed(rows)) if d.split == "test"}, "depends on the order"


def test_missing_art_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(art.ArtMissing, match=r"python -m tiny art"):
        art.load(tmp_path)
