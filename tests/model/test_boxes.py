"""Boxes that a checkpoint takes as rough masks too: exact, for those alone that ask for it, and never remembered."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sam2.modeling.sam2_base import SAM2Base

from model import CheckpointError, PerceiveAnything, Prompt
from model.loading.sam import empty_sam2
from model.sam.boxes import OUTSIDE, rough_masks
from model.video.memory import Remembering
from tests.checkpoints import COMPACT
from tests.conftest import PICTURES

TINY = Path(__file__).parents[2] / "model" / "checkpoints" / "tiny"
INSIDE = 2.0


@pytest.fixture(scope="module")
def tiny() -> PerceiveAnything:
    return PerceiveAnything.from_pretrained("tiny", device="cpu")


def with_prompts(folder: Path, text: str) -> Path:
    config = Path(shutil.copy(TINY / "sam2.yaml", folder / "sam2.yaml"))
    lines = config.read_text().partition("\nprompts:")[0]
    config.write_text(f"{lines}\n{text}\n")
    return config


def test_a_box_covers_its_cells_and_parts_of_those_at_its_edge(tiny: PerceiveAnything) -> None:
    sam: SAM2Base = tiny.tower.sam
    (found,) = rough_masks(sam, torch.tensor([[[8.0, 16.0], [42.0, 256.0]]]))[:, 0]  # type: ignore[index]
    assert found.shape == (64, 64)
    assert (found[4:, 2:10] == INSIDE).all()
    assert found[4:, 10] == pytest.approx((INSIDE + OUTSIDE) / 2)
    assert (found[:4] == OUTSIDE).all() and (found[:, :2] == OUTSIDE).all() and (found[:, 11:] == OUTSIDE).all()


def test_boxes_beyond_the_picture_end_at_its_edge(tiny: PerceiveAnything) -> None:
    (found,) = rough_masks(tiny.tower.sam, torch.tensor([[[-40.0, -8.0], [300.0, 256.0]]]))[:, 0]  # type: ignore[index]
    assert (found == INSIDE).all()


def test_a_config_that_says_nothing_gives_corners_alone(pam: PerceiveAnything) -> None:
    embedding = pam.encode(Image.new("RGB", (64, 64)))
    assert pam.tower.tensors(embedding, [Prompt(box=(8, 8, 40, 40))])[2] is None


@pytest.mark.parametrize("entry", ["2", "{inside: 2}", "{box_inside: -10}", "{box_inside: yes}", "{box_inside: .nan}"])
def test_what_is_no_logit_is_refused(entry: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sam2\.yaml.*give box_inside, a number above -10 and up to 10"):
        empty_sam2(with_prompts(tmp_path, f"prompts: {entry}"))


def beyond(pam: PerceiveAnything) -> float:
    """The mean share of a mask that lies beyond its box, on photographs."""
    shares = []
    for file in sorted(PICTURES.glob("*.jpg")):
        picture = Image.open(file).convert("RGB").resize((256, 256))
        prompts = [Prompt(box=(x, y, x + 80, y + 100)) for x in (16, 96, 160) for y in (24, 120)]
        for prompt, region in zip(prompts, pam.segment(pam.encode(picture), prompts), strict=True):
            x1, y1, x2, y2 = (int(value) for value in prompt.box or ())
            shares.append(1 - region.mask[y1:y2, x1:x2].sum() / max(1, region.mask.sum()))
    return float(np.mean(shares))


def test_masks_keep_to_their_boxes(tiny: PerceiveAnything, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = beyond(tiny)
    monkeypatch.setattr(tiny.tower.sam, "box_inside", None)
    assert kept < 0.5 * beyond(tiny)


def test_boxes_and_pairs_of_points_may_be_asked_together(tiny: PerceiveAnything) -> None:
    """Both are two rows to the decoder, and only one has a rough mask."""
    embedding = tiny.encode(Image.open(PICTURES / "coffee.jpg").convert("RGB"))
    prompts = [Prompt(box=(100, 80, 400, 300)), Prompt(points=[(200, 200, 1), (20, 20, 0)])]
    together = tiny.segment(embedding, prompts)
    for prompt, region in zip(prompts, together, strict=True):
        (alone,) = tiny.segment(embedding, [prompt])
        assert np.array_equal(alone.mask, region.mask)


def test_what_is_remembered_of_a_box_is_its_mask(tiny: PerceiveAnything, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    plain = Remembering.encode

    def noted(self: Remembering, embedding: Any, decoded: Any, prompted: bool, masks: Any = None) -> Any:
        given.append(masks is not None)
        return plain(self, embedding, decoded, prompted, masks)

    monkeypatch.setattr(Remembering, "encode", noted)
    list(tiny.track(COMPACT / "inputs" / "video", [Prompt(box=(60.0, 80.0, 130.0, 150.0))]))
    assert given and not any(given)
