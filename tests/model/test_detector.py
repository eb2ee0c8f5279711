"""A detector of `transformers` finds the boxes, PAM masks them: with random weights of either architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import (
    BertTokenizer,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    SwinConfig,
)

from model import CheckpointError, Embedding, PerceiveAnything, Prompt, PromptError, Region
from model.finding.detector import Detector, masked
from model.values.mask import Box, mask_iou

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("owl")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = Owlv2ForObjectDetection(
        Owlv2Config(
            text_config=small | {"vocab_size": 60, "max_position_embeddings": 16},
            vision_config=small | {"image_size": 64, "patch_size": 16},
            projection_dim=32,
        )
    )
    # sides of about a quarter of the picture
    model.box_head.dense2.bias.data[2:] = -1.0
    model.box_head.dense2.weight.data[2:] = 0
    model.box_bias[:, 2:] = 0
    model.save_pretrained(folder)
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>", "!"]
    tokenizer = CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=16, pad_token="!"
    )
    pixels = Owlv2ImageProcessor(size={"height": 64, "width": 64})
    Owlv2Processor(image_processor=pixels, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen: dict[str, Any] = {"image_size": 64, "embed_dim": 8, "window_size": 2, "out_indices": [2, 3, 4]}
    seen |= {"depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    sizes: dict[str, Any] = {"d_model": 32, "num_queries": 12, "max_text_len": 32}
    sizes |= {"encoder_layers": 1, "decoder_layers": 2}  # with a single one, transformers finds no weights to tie
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_n_points": 2, f"{part}_attention_heads": 2, f"{part}_ffn_dim": 32}
    said = small | {"model_type": "bert", "vocab_size": 1030, "max_position_embeddings": 64}
    config = GroundingDinoConfig(backbone_config=SwinConfig(**seen).to_dict(), text_config=said, **sizes)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    # the model knows the special tokens by BERT's own numbers
    words = {f"[unused{i}]": i for i in range(1030)}
    named = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    named |= {word: 200 + i for i, word in enumerate([*LETTERS, *(f"##{letter}" for letter in LETTERS)])}
    taken = set(named.values())
    tokenizer = BertTokenizer(vocab={word: i for word, i in words.items() if i not in taken} | named)
    pixels = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(pixels, tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", ["owl", "dino"])
def test_its_boxes_are_masked(
    architecture: str, request: pytest.FixtureRequest, pam: PerceiveAnything, coffee: Image.Image
) -> None:
    detector = Detector.from_pretrained(request.getfixturevalue(architecture))
    boxes = detector.boxes(coffee, ["red mug", "dog"], 0.0)
    assert boxes and [score for _, score in boxes] == sorted((score for _, score in boxes), reverse=True)
    for (x1, y1, x2, y2), score in boxes:
        assert 0 <= x1 < x2 <= coffee.width and 0 <= y1 < y2 <= coffee.height and 0 <= score <= 1
    assert detector.boxes(coffee, ["red mug"], 1.0) == []
    found = masked(pam, detector, coffee, pam.encode(coffee), "red mug", limit=3, threshold=0.0)
    assert 1 <= len(found) <= 3 and all(one.area and 0 <= one.score <= 1 for one in found)
    with pytest.raises(PromptError, match="give a word"):
        masked(pam, detector, coffee, pam.encode(coffee), " ")


class _Sure:
    def boxes(self, image: Image.Image, names: Sequence[str], threshold: float) -> list[tuple[Box, float]]:
        return [((170, 10, 410, 310), 0.9), ((171, 11, 410, 310), 0.8), ((5, 300, 90, 395), 0.4)]


def test_what_is_known_or_found_already_is_left_out(
    pam: PerceiveAnything, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding, segment = pam.encode(coffee), pam.segment

    def boxes(embedding: Embedding, prompts: Sequence[Prompt]) -> list[Region]:
        """What a good model would see: nearly the boxes."""
        regions = []
        for region in segment(embedding, prompts):
            x1, y1, x2, y2 = map(int, region.prompt.box or ())
            mask = np.zeros_like(region.mask)
            mask[y1 : y2 - 2, x1 : x2 - 2] = True
            regions.append(replace(region, mask=mask))
        return regions

    monkeypatch.setattr(pam, "segment", boxes)
    found = masked(pam, _Sure(), coffee, embedding, "cup")
    assert [one.score for one in found] == [0.9, 0.4]
    rest = masked(pam, _Sure(), coffee, embedding, "cup", known=[found[0].mask])
    assert 0.9 not in [one.score for one in rest] and not any(mask_iou(one.mask, found[0].mask) > 0.5 for one in rest)


class _Reads:
    """Finds red things, as a detector does: what a window cuts as far as it is seen. Remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, int]] = []

    def boxes(self, image: Image.Image, names: Sequence[str], threshold: float) -> list[tuple[Box, float]]:
        self.shown.append(image.size)
        red, green, _ = np.moveaxis(np.asarray(image).astype(int), -1, 0)
        count, _, sizes, _ = cv2.connectedComponentsWithStats((red - green > 90).astype(np.uint8))
        # the larger it is seen, the surer
        share = 100 / (image.width * image.height)
        rows = [(x, y, x + across, y + down, area * share) for x, y, across, down, area in sizes[1:count].tolist()]
        return [((x1, y1, x2, y2), min(0.9, score)) for x1, y1, x2, y2, score in rows]


def test_a_large_picture_is_shown_in_tiles(pam: PerceiveAnything, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing once, whatever shows it: one in the middle of a tile, one that two tiles share, one that a tile's edge
    cuts, one that no tile shows whole."""
    boxes: list[Box] = [(300, 240, 360, 300), (840, 100, 900, 160), (1770, 400, 1830, 460), (400, 700, 2000, 860)]
    picture = Image.new("RGB", (2400, 960), (220, 220, 215))
    for box in boxes:
        ImageDraw.Draw(picture).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=(210, 30, 30))
    embedding = pam.encode(picture)

    def segment(embedding: Embedding, prompts: Sequence[Prompt]) -> list[Region]:
        """What a good model would see."""
        (some,) = plain(embedding, [Prompt(box=boxes[0])])
        rows, columns = np.ogrid[: picture.height, : picture.width]
        regions = []
        for prompt in prompts:
            x1, y1, x2, y2 = prompt.box or (0, 0, 0, 0)
            mask = np.asarray((columns >= x1) & (columns < x2) & (rows >= y1) & (rows < y2))
            regions.append(replace(some, prompt=prompt, mask=mask))
        return regions

    plain = pam.segment
    monkeypatch.setattr(pam, "segment", segment)
    finder = _Reads()
    found = masked(pam, finder, picture, embedding, "red thing", max_tiles=8)
    assert sorted(one.prompt.box or () for one in found) == sorted(boxes)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert finder.shown[0] == picture.size and len(finder.shown) == len(pam.windows(embedding, 8)) > 3
    # a thing that is small in the picture has the score of the closer look
    assert all(one.score > 1.5 * 100 * 3600 / (2400 * 960) for one in found if one.area == 3600)
    finder.shown.clear()
    masked(pam, finder, picture, embedding, "red thing", max_tiles=1)
    assert finder.shown == [picture.size]
    # a small picture is shown as it is
    finder.shown.clear()
    masked(pam, finder, picture, pam.encode(picture, large=0), "red thing")
    assert finder.shown == [picture.size]


def test_what_is_no_detector_is_named(small_checkpoint: Path, tmp_path: Path) -> None:
    for wrong in (small_checkpoint, tmp_path):
        with pytest.raises(CheckpointError, match="Grounding DINO or an OWLv2"):
            Detector.from_pretrained(wrong)


def test_masks_are_as_large_as_the_picture(pam: PerceiveAnything, coffee: Image.Image) -> None:
    (first, *_) = masked(pam, _Sure(), coffee, pam.encode(coffee), ["cup", "mug"], limit=1)
    assert first.mask.shape == (coffee.height, coffee.width) and first.mask.dtype == np.bool_
