"""SAM 2's encoder in few shapes: nothing is compiled inside a job, and embeddings are as narrow as their encoder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sam2.modeling.position_encoding import PositionEmbeddingSine
from torch._dynamo.utils import counters

from model import PerceiveAnything, Prompt
from model.compute.resize import agrees, resized
from model.loading.sam import build_sam2
from model.sam.encoder import Encoder
from model.values.image import normalised, to_input, to_square
from tests.device import DEVICE, not_emulated

PROMPTS = [Prompt(points=[(300, 200, 1)]), Prompt(box=(170, 10, 410, 310))]


def pictures(coffee: Image.Image, count: int) -> list[Image.Image]:
    pixels = np.asarray(coffee)
    return [Image.fromarray(np.roll(pixels, 30 * number, axis=1)) for number in range(count)]


def compilations() -> int:
    return int(counters["stats"]["unique_graphs"]) + sum(counters["graph_break"].values())


@pytest.fixture
def settled(pam: PerceiveAnything) -> Iterator[PerceiveAnything]:
    """With an encoder that is compiled for one and for eight pictures; the backend runs what was traced."""
    before, pam.tower.encoder = pam.tower.encoder, Encoder(pam.tower.sam, torch.float32)
    torch._dynamo.reset()
    pam.tower.sam.image_encoder.neck.position_encoding.whole.cache.clear()
    assert pam.tower.encoder.settle((1, 8), True, backend="eager")
    yield pam
    pam.tower.encoder = before


@not_emulated
def test_nothing_is_compiled_after_loading(settled: PerceiveAnything, coffee: Image.Image) -> None:
    ready = compilations()
    assert ready == 2
    tower, found = settled.tower, {}
    for count in (1, 2, 3, 6, 7, 8, 9, 15, 17):
        found[count] = tower.encode(pictures(coffee, count))
        assert len(found[count]) == count
    settled.segment(found[2], PROMPTS)
    settled.track(pictures(coffee, 3), PROMPTS[:1]).finish()
    assert compilations() == ready
    tower.encoder = Encoder(tower.sam, torch.float32)
    alone = [tower.encode([picture])[0] for picture in pictures(coffee, 17)]
    for several in found.values():
        for one, other in zip(several, alone, strict=False):
            torch.testing.assert_close(one.features, other.features, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(one.high_resolution, other.high_resolution, atol=1e-4, rtol=1e-4)
    # a kept embedding keeps nothing of the others alive
    assert found[8][3].features.untyped_storage().nbytes() == found[8][3].features.nbytes


def test_the_batches_are_of_few_sizes(settled: PerceiveAnything, coffee: Image.Image) -> None:
    sizes: list[int] = []
    encoder: Any = settled.tower.encoder
    run = encoder._at

    def noted(size: int, part: torch.Tensor) -> object:
        sizes.append(size)
        return run(size, part)

    encoder._at = noted
    for count, expected in ((1, [1]), (3, [1, 1, 1]), (7, [8]), (8, [8]), (10, [8, 1, 1]), (16, [8, 8])):
        sizes.clear()
        assert len(settled.tower.encode(pictures(coffee, count))) == count
        assert sizes == expected


@not_emulated
def test_where_compiling_fails_the_encoder_runs_as_it_is(
    pam: PerceiveAnything, coffee: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("no compiler here")

    encoder = Encoder(pam.tower.sam, torch.float32)
    with caplog.at_level(logging.WARNING):
        assert not encoder.settle((1,), True, backend=broken)  # type: ignore[arg-type]
    assert "SAM 2's encoder is not compiled" in caplog.text
    pixels = torch.from_numpy(to_square(coffee, pam.tower.image_size).copy())[None].to(pam.device)
    assert torch.equal(encoder(pixels)[2], pam.encode(coffee).features)


@not_emulated
def test_only_what_inductor_knows_is_compiled(pam: PerceiveAnything, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own ways of the CPU are for running as it is; pieces would be unrolled, too."""
    monkeypatch.setattr("model.compute.linear._LEAST_WEIGHTS", 1)
    monkeypatch.setattr("model.compute.linear._NUMBERS_IN_CACHE", 1)
    seen: list[str] = []

    def noting(graph: torch.fx.GraphModule, _: object) -> object:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    encoder = Encoder(pam.tower.sam, torch.float32)
    assert encoder.settle((1,), True, backend=noting)  # type: ignore[arg-type]
    assert len(seen) > 50 and not [name for name in seen if "mkldnn" in name]
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_embeddings_in_a_lower_dtype_take_half(
    small_checkpoint: Path, pam: PerceiveAnything, coffee: Image.Image, dtype: torch.dtype
) -> None:
    low = PerceiveAnything.from_pretrained(small_checkpoint, device=DEVICE, dtype=dtype)
    whole, half = pam.encode(coffee), low.encode(coffee)
    assert 2 * half.nbytes == whole.nbytes
    assert {tensor.dtype for tensor in (half.features, *half.high_resolution)} == {dtype}
    # what follows is in float32, whichever picture's features it has
    for one, other in zip(pam.segment(whole, PROMPTS), low.segment([half, half], PROMPTS), strict=True):
        assert other.low_res.dtype == other.features.image.dtype == torch.float32
        assert (one.mask == other.mask).mean() > 0.97
    vectors = low.features(low.segment(half, PROMPTS))
    assert vectors.dtype == np.float32 and np.isfinite(vectors).all()
    back = type(half).from_bytes(half.to_bytes())
    assert torch.equal(back.features, half.features.cpu()) and back.nbytes == half.nbytes


def test_the_input_is_that_of_the_reference_to_the_last_bit(coffee: Image.Image) -> None:
    size = 256
    resized = np.asarray(coffee.resize((size, size), Image.Resampling.BICUBIC)) / 255.0
    exact = torch.from_numpy(resized).permute(2, 0, 1).to(torch.float32)
    mean, deviation = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    exact = (exact - mean[:, None, None]) / deviation[:, None, None]
    assert torch.equal(to_input(coffee, size), exact)
    on_device = normalised(torch.from_numpy(to_square(coffee, size).copy())[None].to(DEVICE))
    assert torch.equal(on_device[0].cpu(), exact)


def test_sam2_makes_nothing_on_another_gpu(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.device("cuda")`, which sam2 names when it is built, is the current device: that must be ours."""
    current: list[torch.device] = []
    asked: list[torch.device | None] = []

    class Current(AbstractContextManager[None]):
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            current.append(self.device)

        def __exit__(self, *_: object) -> None:
            current.pop()

    def positions(self: object, count: int, device: torch.device, *size: int) -> None:
        asked.append(current[-1] if current else None)

    to = torch.Tensor.to

    def moved(tensor: torch.Tensor, *where: Any, **named: Any) -> torch.Tensor:
        if where and str(where[0]).startswith("cuda"):
            asked.append(torch.device(where[0]) if ":" in str(where[0]) else current[-1] if current else None)
            return tensor
        return to(tensor, *where, **named)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", Current)
    monkeypatch.setattr(PositionEmbeddingSine, "_pe", positions)
    monkeypatch.setattr(torch.Tensor, "to", moved)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_: module)
    place = torch.device("cuda:1")
    build_sam2(small_checkpoint / "sam2.yaml", small_checkpoint / "sam2.safetensors", place)
    assert len(asked) > 4 and set(asked) == {place}
    assert not current


@pytest.mark.parametrize("size", [(600, 400), (1080, 1920), (1920, 1080), (90, 700), (256, 300), (31, 7), (1, 1)])
def test_pictures_are_resized_as_pillow_does_to_the_last_bit(size: tuple[int, int]) -> None:
    assert agrees()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[::2] = (pixels[::2] > 127) * np.uint8(255)  # edges, where sums overshoot
    found = resized(torch.from_numpy(pixels).to(DEVICE), 256)
    assert np.array_equal(found.cpu().numpy(), to_square(Image.fromarray(pixels), 256))


def test_a_picture_that_is_resized_on_the_device_has_the_same_embedding(
    pam: PerceiveAnything, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = [coffee, coffee.resize((350, 900))]
    monkeypatch.setattr(pam.tower, "resizes", False)
    theirs = pam.tower.encode(shown)
    monkeypatch.setattr(pam.tower, "resizes", True)
    for one, other in zip(pam.tower.encode(shown), theirs, strict=True):
        assert torch.equal(one.features, other.features)
