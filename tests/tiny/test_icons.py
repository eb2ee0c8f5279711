"""Plain icons: which class they show, how their outline is filled, what stays held out."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tiny import art, icons, paint

pytest.importorskip("resvg_py")

RING = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24">{}</svg>'
CIRCLE = RING.format('<circle cx="12" cy="12" r="9" fill="none" stroke="#000" stroke-width="2"/>')
ARC = RING.format('<path d="M3 12 A9 9 0 0 1 21 12" fill="none" stroke="#000" stroke-width="1"/>')


def test_every_name_is_of_a_class_and_of_one_only() -> None:
    rows = icons._table()["names"]
    assert set(rows) < set(art.kinds())  # what photographs show has no icons
    names = [name for row in rows.values() for name in row.split()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dog-side", "dog-side"), ("dog-filled", "dog"), ("light-house-bold", "house"), ("cake-01", "cake")],
)
def test_words_of_style_are_no_part_of_a_name(name: str, expected: str) -> None:
    assert icons.plain(name) == expected


def test_a_line_drawing_is_filled() -> None:
    png = icons.filled(CIRCLE)
    assert png is not None
    picture = np.asarray(Image.open(BytesIO(png)))
    middle = picture[picture.shape[0] // 2, picture.shape[1] // 2]
    assert middle[3] == 255 and middle[0] == 0, "inside the ring: of the thing, but not drawn"
    assert picture[0, 0, 3] == 0
    assert picture[..., 0].max() == 255


def test_open_lines_have_no_outline() -> None:
    assert icons.filled(ARC) is None


def test_an_icon_gets_colours_and_keeps_its_outline() -> None:
    png = icons.filled(CIRCLE)
    assert png is not None
    plain = np.asarray(Image.open(BytesIO(png)))
    looks = [paint.inked(np.random.default_rng(seed), plain) for seed in range(4)]
    assert all(np.array_equal(look[..., 3], plain[..., 3]) for look in looks)
    shown = plain[..., 3] > 200
    assert len({tuple(look[shown].mean(0).astype(int)) for look in looks}) == 4


def test_styles_of_one_icon_are_held_out_together_and_so_are_redrawings() -> None:
    rows: list[tuple[str, str, str | None]] = [
        (style, f"{base}{suffix}", "dog")
        for style in ("mdi", "ph", "tabler")
        for base in ("dog", "dog-side", "dog-face", "poodle")
        for suffix in ("", "-fill")
    ]
    rows.append(("emojione-monotone", "dog-face", "dog"))
    away = icons.held_out(rows, {("emojione", "dog-face")}, 0.15)
    assert away[-1], "its coloured twin is held out"
    by_icon: dict[tuple[str, str], set[bool]] = {}
    for (style, name, _), hidden in zip(rows, away, strict=True):
        by_icon.setdefault((style, icons.plain(name)), set()).add(hidden)
    assert all(len(found) == 1 for found in by_icon.values())
    assert 1 <= sum(found == {True} for found in by_icon.values()) <= 4
    assert away == icons.held_out(rows, {("emojione", "dog-face")}, 0.15)


def test_a_set_repeats_itself_at_most_a_few_times() -> None:
    rows = ["dog", "dog-fill", "dog-duotone", "dog-side", "dog-side-fill", "poodle", "poodle-bold"]
    chosen = icons._spread(rows)
    assert len(chosen) == icons.PER_SET
    assert {icons.plain(name) for name in chosen} == {"dog", "dog-side", "poodle"}
