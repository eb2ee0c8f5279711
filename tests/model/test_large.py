"""Large pictures: crops around small things, tiles, and what is seen in two of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from model import Embedding, PerceiveAnything, Prompt, PromptError, Task, Window
from model.sam import crops, tiles
from model.sam.tiles import merged, piece
from model.values.mask import mask_iou
from tests.device import DEVICE

SIZE = (3000, 2200)
DISCS = ((700, 600, 24), (2300, 500, 30), (1500, 1700, 26), (760, 640, 20))
"""Middles and radii, pixels; the first and the last lie near each other."""


@pytest.fixture(scope="module")
def tiny() -> PerceiveAnything:
    return PerceiveAnything.from_pretrained("tiny", device=DEVICE)


@pytest.fixture(scope="module")
def field() -> Image.Image:
    """A large picture with small discs on it."""
    image = Image.new("RGB", SIZE, (120, 150, 120))
    pen = ImageDraw.Draw(image)
    for number, (x, y, radius) in enumerate(DISCS):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(200, 40 + 40 * number, 30))
    return image


def disc(number: int) -> np.ndarray:
    x, y, radius = DISCS[number]
    rows, columns = np.ogrid[: SIZE[1], : SIZE[0]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def box(number: int) -> tuple[float, float, float, float]:
    x, y, radius = DISCS[number]
    return (x - radius, y - radius, x + radius + 1, y + radius + 1)


@pytest.mark.parametrize("by", ["box", "click", "both"])
def test_a_small_thing_in_a_large_picture_is_found(tiny: PerceiveAnything, field: Image.Image, by: str) -> None:
    points, boxes = ([(*DISCS[2][:2], 1)], box(2)) if by == "both" else (None, None)
    prompt = Prompt(
        points=points or ([(*DISCS[2][:2], 1)] if by == "click" else None),
        box=boxes or (box(2) if by == "box" else None),
    )
    (region,) = tiny.segment(tiny.encode(field), [prompt])
    (whole,) = tiny.segment(tiny.encode(field, large=0), [prompt])
    assert region.mask.shape == whole.mask.shape == (SIZE[1], SIZE[0])
    assert mask_iou(region.mask, disc(2)) > max(0.75, mask_iou(whole.mask, disc(2)))
    assert region.prompt is prompt and whole.window is None
    assert region.window is not None and region.window.width < SIZE[0] / 3
    assert region.features.image.shape == whole.features.image.shape
    assert tiny.describe([region], [Task.RECOGNIZE])[0][Task.RECOGNIZE].token_ids


def test_what_is_large_is_answered_without_another_look(
    tiny: PerceiveAnything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first click waits for no crop where the thing is not small."""
    image = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(image).ellipse((800, 500, 2100, 1700), fill="navy")
    embedding, plain = tiny.encode(image), tiny.encode(image, large=0)
    assert embedding.detail is not None and plain.detail is None
    monkeypatch.setattr(tiny, "_encoded", lambda _: pytest.fail("another picture was encoded"))
    monkeypatch.setattr(crops, "SURE", 0.1)  # how sure these weights are is not what is tested
    for prompt in (Prompt(box=(800, 500, 2100, 1700)), Prompt(points=[(1400, 1100, 1)])):
        (ours,), (alone,) = tiny.segment(embedding, [prompt]), tiny.segment(plain, [prompt])
        assert ours.window is None and (ours.mask == alone.mask).all()


def test_small_pictures_have_no_crops(pam: PerceiveAnything) -> None:
    assert pam.encode(Image.new("RGB", (2048, 900))).detail is None
    assert pam.encode(Image.new("RGB", (2049, 900))).detail is not None
    assert pam.encode(Image.new("RGB", (900, 700)), large=800).detail is not None


class Counted:
    """Counts what is encoded, and how much at once."""

    def __init__(self, pam: PerceiveAnything, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        original = pam._encoded

        def encoded(pictures: Sequence[Image.Image]) -> list[Embedding]:
            self.batches.append(len(pictures))
            return original(pictures)

        monkeypatch.setattr(pam, "_encoded", encoded)


def test_crops_are_encoded_together_and_once(
    tiny: PerceiveAnything, field: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = tiny.encode(field)
    other = tiny.encode(field.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    counted = Counted(tiny, monkeypatch)
    prompts = [Prompt(box=box(number)) for number in range(4)]
    regions = tiny.segment([embedding] * 4 + [other], [*prompts, Prompt(box=(200, 300, 260, 360))])
    first = counted.batches[0]
    # the two that lie beside each other share a crop; those of two pictures go together
    assert first in (4, 5) and all(region.window is not None for region in regions[:4])
    before = list(counted.batches)
    again = tiny.segment(embedding, prompts)
    assert counted.batches == before
    for region, there in zip(again, regions, strict=False):
        assert (region.mask != there.mask).mean() < 1e-6
    # a second click on a thing has the first one's crop
    x, y, _ = DISCS[2]
    tiny.segment(embedding, [Prompt(points=[(x + 3, y - 2, 1)], box=box(2))])
    assert counted.batches == before


def test_what_is_kept_of_crops_is_bounded(
    pam: PerceiveAnything, field: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = pam.encode(field)
    monkeypatch.setattr("model.values.detail.KEPT_BYTES", 2 * embedding.nbytes)
    pam.segment(embedding, [Prompt(box=(x, 900, x + 50, 960)) for x in range(100, 2900, 400)])
    assert embedding.detail is not None
    assert len(embedding.detail._kept) == 2  # type: ignore[attr-defined]


def test_a_drawn_mask_stays_as_it_is_and_is_read_in_a_crop(tiny: PerceiveAnything, field: Image.Image) -> None:
    (region,) = tiny.segment(tiny.encode(field), [Prompt(mask=disc(1))])
    assert (region.mask == disc(1)).all() and region.window is not None
    (refined,) = tiny.segment(tiny.encode(field), [Prompt(mask=disc(1))], refine_masks=True)
    assert refined.window is not None and mask_iou(refined.mask, disc(1)) > 0.75


def test_a_prompt_beside_the_picture_is_still_refused(pam: PerceiveAnything, field: Image.Image) -> None:
    with pytest.raises(PromptError, match="outside"):
        pam.segment(pam.encode(field), [Prompt(box=(3100, 10, 3150, 60))])


def test_prompts_move_into_a_window_and_back() -> None:
    window = Window(100, 200, 50, 40)
    moved = window.moved(Prompt(points=[(110, 210, 1), (10, 10, 0)], box=(90, 190, 130, 300)))
    assert moved is not None and moved.points == ((10, 10, 1),) and moved.box == (0, 0, 30, 40)
    mask = np.zeros((400, 300), bool)
    assert window.moved(Prompt(points=[(10, 10, 1)])) is None
    mask[5, 5] = True
    assert window.moved(Prompt(mask=mask)) is None
    mask[210:220, 110:130] = True
    inside = window.moved(Prompt(mask=mask))
    assert inside is not None and inside.mask is not None and inside.mask.sum() == 200
    assert (window.pasted(inside.mask, 300, 400) == (mask & window.pasted(np.ones((40, 50), bool), 300, 400))).all()
    edge = np.zeros((8, 8), bool)
    edge[0, 3] = True
    assert window.cuts(edge, 300, 400) and not Window(100, 0, 50, 40).cuts(edge, 300, 400)


@pytest.mark.parametrize("size", [256, 1024])
@pytest.mark.parametrize("extent", [(10, 20, 30, 60), (2000, 2100, 2200, 2199), (2980, 2180, 3000, 2200)])
def test_a_crop_holds_its_thing_with_room_around(extent: tuple[float, ...], size: int) -> None:
    window = crops.around(extent, *SIZE, size)  # type: ignore[arg-type]
    assert window is not None and window.left >= 0 and window.right <= SIZE[0]
    assert window.top >= 0 and window.bottom <= SIZE[1]
    x1, y1, x2, y2 = extent
    thing = max(x2 - x1, y2 - y1)
    for before, after, edge in (
        (x1 - window.left, window.right - x2, SIZE[0]),
        (y1 - window.top, window.bottom - y2, SIZE[1]),
    ):
        assert before >= min(0.5 * thing, x1 if edge == SIZE[0] else y1)
        assert after >= min(0.5 * thing, edge - (x2 if edge == SIZE[0] else y2))
    assert window.width >= min(size / 2, 3 * thing)


def test_what_is_not_small_has_no_crop() -> None:
    assert crops.around((0, 0, 376, 10), *SIZE, 256) is None
    assert crops.around((0, 0, 374, 10), *SIZE, 256) is not None
    # nothing is gained where the picture is hardly larger than the model's input
    assert crops.around((0, 0, 20, 20), 900, 700, 1024) is None


@pytest.mark.parametrize(("width", "height"), [(6000, 4500), (900, 8000), (2600, 2600), (8000, 6000)])
def test_tiles_cover_the_picture_and_overlap(width: int, height: int) -> None:
    for size, most in ((1024, 36), (256, 36), (1024, 500)):
        found = tiles.tiles(width, height, size, most)
        assert 2 <= len(found) <= most
        covered = np.zeros((height // 10, width // 10), bool)
        for window in found:
            assert window.right <= width and window.bottom <= height and min(window.left, window.top) >= 0
            covered[window.top // 10 : -(-window.bottom // 10), window.left // 10 : -(-window.right // 10)] = True
        assert covered.all()
        # whatever is smaller than the overlap is whole in one of them
        side = found[0].width
        for left in range(0, width - side // 4, 97):
            assert any(w.left <= left and left + 0.24 * side <= w.right for w in found)
    assert tiles.tiles(1400, 1000, 1024) == []


def test_what_a_tile_cuts_is_taken_from_where_it_is_whole() -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[10:20, 40:64] = True
    assert piece(mask, Window(0, 0, 640, 640), 2000, 640) is None
    whole = piece(mask, Window(1360, 0, 640, 640), 2000, 640)  # at the picture's own edge it is whole
    assert whole is not None and (whole.left, whole.top, whole.mask.shape) == (1760, 100, (100, 240))
    assert whole.mask.mean() > 0.99  # but for its corners
    assert piece(torch.zeros(64, 64, dtype=torch.bool), Window(0, 0, 9, 9), 9, 9) is None


def test_one_thing_in_two_views_is_one() -> None:
    def square(x: int, y: int, side: int, window: Window) -> tiles.Piece:
        mask = torch.zeros(100, 100, dtype=torch.bool)
        across, down = window.width / 100, window.height / 100
        left, top = round((x - window.left) / across), round((y - window.top) / down)
        mask[top : top + round(side / down), left : left + round(side / across)] = True
        found = piece(mask, window, 4000, 3000)
        assert found is not None
        return found

    one, two, all_ = Window(0, 0, 1000, 1000), Window(700, 0, 1000, 1000), Window(0, 0, 4000, 3000)
    same = [square(750, 100, 200, one), square(750, 100, 200, two), square(750, 100, 200, all_)]
    apart, part = square(1200, 100, 200, two), square(750, 100, 60, one)
    assert merged([*same, apart, part], 0.6) == [0, 3, 4]
    assert merged([same[2], apart, same[0], part], 0.6) == [0, 1, 3]
    assert merged([*same, apart], 0.6, limit=1) == [0]


def test_proposals_come_from_tiles_too(tiny: PerceiveAnything) -> None:
    image = Image.new("RGB", (2400, 1600), (120, 150, 120))
    pen = ImageDraw.Draw(image)
    # one lies where tiles overlap, one is cut by a tile's edge
    places = ((400, 300), (1210, 800), (1480, 1250), (2100, 500))
    for number, (x, y) in enumerate(places):
        pen.ellipse((x - 45, y - 45, x + 45, y + 45), fill=(200, 40 + 40 * number, 30))
    rows, columns = np.ogrid[:1600, :2400]
    discs = [(columns - x) ** 2 + (rows - y) ** 2 <= 45**2 for x, y in places]
    embedding = tiny.encode(image)
    found = tiny.propose(embedding, points_per_side=12, max_tiles=6, min_iou=0.5)
    closer = [region for region in found if region.window is not None]
    hits = [sum(mask_iou(region.mask, disc) > 0.6 for region in found) for disc in discs]
    # each once, whatever tiles see it
    assert max(hits) == 1 and sum(hits) >= 2 and len(closer) >= 2
    assert [region.iou for region in found] == sorted((region.iou for region in found), reverse=True)
    for region in closer:
        assert region.prompt.points is not None and region.mask.shape == (1600, 2400)
        across = region.prompt.points[0][0]
        assert region.window is not None and region.window.left <= across <= region.window.right
    whole = tiny.propose(embedding, points_per_side=12, max_tiles=1)
    assert all(region.window is None for region in whole)


def test_views_are_the_whole_and_the_tiles(pam: PerceiveAnything, field: Image.Image) -> None:
    embedding = pam.encode(field)
    seen = list(pam.views(embedding, max_tiles=6))
    assert seen[0].embedding is embedding and 3 <= len(seen) <= 7
    assert [(v.embedding.width, v.embedding.height) for v in seen] == [(v.window.width, v.window.height) for v in seen]
    assert len(list(pam.views(pam.encode(field, large=0)))) == 1
