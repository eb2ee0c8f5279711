"""The language model in eight bits: what a layer computes, what the bundled model then says, and what is refused."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from model import PerceiveAnything, Prompt, Task
from model.compute import quantized
from model.compute.device import quantizes
from model.compute.quantized import EightBitLinear, most_levels
from model.errors import DeviceError
from tests.conftest import PICTURES
from tests.device import DEVICE

pytestmark = pytest.mark.skipif(
    DEVICE != "cpu" or "fbgemm" not in torch.backends.quantized.supported_engines,
    reason="eight bits are for x86 processors",
)

COLOURS = {"red": (220, 30, 30), "green": (40, 160, 60), "blue": (60, 80, 220), "yellow": (250, 220, 30)}
TASKS = (Task.RECOGNIZE, Task.BRIEF)


@pytest.fixture(scope="module")
def tiny() -> PerceiveAnything:
    return PerceiveAnything.from_pretrained("tiny", device=DEVICE)


@pytest.fixture(scope="module")
def small_words() -> PerceiveAnything:
    """The same in eight bits."""
    return PerceiveAnything.from_pretrained("tiny", device=DEVICE, quantize="int8")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("levels", [127, 63])
def test_a_layer_computes_nearly_the_same(bias: bool, levels: int) -> None:
    layer = nn.Linear(400, 300, bias)
    rows = torch.randn(2, 70, 400) * torch.logspace(-3, 3, 70)[:, None]
    with torch.no_grad():
        exact, found = layer(rows), EightBitLinear(layer, levels)(rows)
    error = (found - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert error.max() < (0.02 if levels == 127 else 0.04)
    assert found.dtype == torch.float32 and error.max() > 0


def test_each_layer_goes_before_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or all of them lie in memory in float32 until the last is done."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16)) for _ in range(4))).bfloat16()
    layers = [weakref.ref(part[0]) for part in model]  # type: ignore[index]
    alive: list[int] = []
    make = quantized.EightBitLinear
    most_levels()  # makes a layer of its own, once

    def counted(layer: nn.Linear) -> EightBitLinear:
        assert layer.weight.dtype == torch.float32
        alive.append(sum(ref() is not None for ref in layers))
        return make(layer)

    monkeypatch.setattr(quantized, "EightBitLinear", counted)
    quantized.quantize(model)
    assert alive == [4, 3, 2, 1] and all(ref() is None for ref in layers)


def test_what_eight_bits_can_hold_is_exact() -> None:
    layer = nn.Linear(64, 8)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-127, 128, (8, 64)).float())
        layer.weight[:, 0] = 127
        rows = torch.randint(-most_levels(), most_levels() + 1, (5, 64)).float()
        rows[:, 0] = most_levels()
        assert torch.allclose(EightBitLinear(layer)(rows), layer(rows), atol=0.01, rtol=1e-5)
        assert (EightBitLinear(layer)(torch.zeros(3, 64)) == 0).all()


def test_a_row_is_the_same_alone_and_among_others() -> None:
    layer = EightBitLinear(nn.Linear(400, 300))
    rows = torch.randn(33, 400) * torch.logspace(-2, 2, 33)[:, None]
    together = layer(rows)
    assert all(torch.equal(layer(row[None])[0], kept) for row, kept in zip(rows, together, strict=True))


def test_the_engine_of_others_stays() -> None:
    before = torch.backends.quantized.engine
    EightBitLinear(nn.Linear(16, 16))
    assert torch.backends.quantized.engine == before


def test_the_bundled_model_says_nearly_the_same(tiny: PerceiveAnything, small_words: PerceiveAnything) -> None:
    """At least nine of ten greedy texts are the same, masks all; likelihoods lead to the same label."""
    same: list[bool] = []
    chosen: list[bool] = []
    labels = ["circle", "ball", "cup", "red circle", "car"]
    for photograph in sorted(PICTURES.glob("*.jpg")):
        for colour in COLOURS.values():
            picture = Image.open(photograph).convert("RGB").resize((480, 480))
            ImageDraw.Draw(picture).ellipse((40, 180, 200, 340), fill=colour)
            prompts = [Prompt(points=[(120, 260, 1)]), Prompt(box=(240, 60, 470, 300))]
            exact, found = (model.perceive(picture, prompts, TASKS) for model in (tiny, small_words))
            for one, other in zip(exact.regions, found.regions, strict=True):
                assert (one.mask == other.mask).all()
            for said, heard in zip(exact.texts, found.texts, strict=True):
                same += [said[task].token_ids == heard[task].token_ids for task in TASKS]
            scores, others = tiny.score(exact.regions, labels), small_words.score(found.regions, labels)
            np.testing.assert_allclose(others, scores, rtol=0.04, atol=1)
            chosen += list(scores.argmax(1) == others.argmax(1))
    assert np.mean(same) >= 0.9
    assert np.mean(chosen) >= 0.9


def test_together_is_as_one_by_one(small_words: PerceiveAnything) -> None:
    picture = Image.open(PICTURES / "coffee.jpg").convert("RGB")
    prompts = [Prompt(box=(170, 10, 410, 310)), Prompt(points=[(60, 60, 1)]), Prompt(points=[(300, 300, 1)])]
    regions = small_words.segment(small_words.encode(picture), prompts)
    together = small_words.describe(regions, TASKS)
    for region, texts in zip(regions, together, strict=True):
        for task in TASKS:
            assert small_words.describe([region], [task])[0][task].token_ids == texts[task].token_ids


def test_all_linear_layers_take_a_quarter(tiny: PerceiveAnything, small_words: PerceiveAnything) -> None:
    full = [layer.weight for layer in tiny.language.model.modules() if isinstance(layer, nn.Linear)]
    less = [layer for layer in small_words.language.model.modules() if isinstance(layer, EightBitLinear)]
    assert len(full) == len(less) > 0
    assert not any(isinstance(layer, nn.Linear) for layer in small_words.language.model.modules())
    assert 4 * sum(layer.weight_bytes for layer in less) == sum(w.numel() * w.element_size() for w in full)
    held = {name for name, _ in small_words.language.model.named_parameters()}
    assert "model.embed_tokens.weight" in held
    assert not any(name.endswith(("proj.weight", "lm_head.weight")) for name in held)
    # the picture's side is what it was
    assert any(isinstance(layer, nn.Linear) for layer in small_words.vision.modules())


def test_where_it_is_not_for(small_checkpoint: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r"for CPUs, not cuda:1.*--device cpu"):
        quantizes("int8", torch.device("cuda:1"), torch.bfloat16)
    with pytest.raises(DeviceError, match="for CPUs, not mps"):
        quantizes("int8", torch.device("mps"), torch.float32)
    with pytest.raises(DeviceError, match="goes with dtype float32, not bfloat16"):
        PerceiveAnything.from_pretrained(small_checkpoint, device=DEVICE, dtype="bfloat16", quantize="int8")  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="'int4': give none or int8"):
        PerceiveAnything.from_pretrained(small_checkpoint, device=DEVICE, quantize="int4")  # type: ignore[arg-type]
    assert not quantizes("none", torch.device("cuda"), torch.bfloat16)
    monkeypatch.setattr("model.compute.device.EIGHT_BITS", "is_not_there")
    with pytest.raises(DeviceError, match="needs an x86 processor"):
        quantizes("int8", torch.device("cpu"), torch.float32)
