"""The convolutional trunk under SAM 2's own neck, decoder and memory, built from a config as it is published."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from model import CheckpointError, PerceiveAnything, Prompt, Sampling
from model.loading.sam import empty_sam2
from model.sam.trunk import EfficientNetLite, fold
from tests.checkpoints import COMPACT
from tests.device import DEVICE

CONFIG = Path(__file__).parents[2] / "tiny" / "checkpoint" / "sam2.yaml"
STAGES = [[3, 1, 1, 8, 1], [3, 2, 4, 12, 2], [5, 2, 4, 16, 1], [3, 2, 4, 20, 1], [5, 1, 4, 24, 1], [3, 2, 4, 28, 1]]


@pytest.fixture(scope="module")
def folder(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose image encoder has this trunk, with random weights in float16."""
    copy = Path(shutil.copytree(small_checkpoint, tmp_path_factory.mktemp("trunk") / "checkpoint"))
    shutil.copy(CONFIG, copy / "sam2.yaml")
    torch.manual_seed(0)
    sam = empty_sam2(CONFIG)
    for layer in sam.image_encoder.trunk.modules():
        if isinstance(layer, nn.Conv2d):  # torch's own beginning lets twenty layers without normalisation die out
            nn.init.kaiming_normal_(layer.weight)
    save_file({name: value.half() for name, value in sam.state_dict().items()}, copy / "sam2.safetensors")
    return copy


@pytest.fixture(scope="module")
def seeing(folder: Path) -> PerceiveAnything:
    return PerceiveAnything.from_pretrained(folder, device=DEVICE)


def test_its_maps_have_falling_sides_and_the_widths_it_names() -> None:
    trunk = EfficientNetLite(STAGES, stem=8)
    maps = trunk(torch.randn(2, 3, 128, 64))
    assert [tuple(found.shape) for found in maps] == [(2, 12, 32, 16), (2, 16, 16, 8), (2, 24, 8, 4), (2, 28, 4, 2)]
    assert trunk.channel_list == [28, 24, 16, 12]


def test_a_stage_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel, stride"):
        EfficientNetLite([[3, 2, 1]])


def test_it_sees_the_same_thing_wherever_it_lies() -> None:
    """Only padding could tell places apart: far from the edge a shift by the stride shifts the map."""
    torch.manual_seed(0)
    trunk = EfficientNetLite(STAGES[:3], stem=8).eval()
    picture = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        here, there = trunk(picture)[-1], trunk(picture.roll(8, dims=3))[-1]
    torch.testing.assert_close(here[..., 4:-5], there[..., 5:-4])


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_a_folded_convolution_is_the_two_it_was(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, kernel, stride, bias=False)
    norm = nn.BatchNorm2d(4, eps=1e-3).eval()
    for part in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert part is not None
        nn.init.uniform_(part, 0.5, 2.0)
    picture = torch.randn(2, 3, 16, 16)
    values = norm.weight, norm.bias, norm.running_mean, norm.running_var
    weight, bias = fold(plain.weight, values, norm.eps)  # type: ignore[arg-type]  # buffers are there
    torch.testing.assert_close(functional.conv2d(picture, weight, bias, stride), norm(plain(picture)))


def test_it_serves_pictures(seeing: PerceiveAnything, coffee: Image.Image) -> None:
    embedding = seeing.encode(coffee)
    assert tuple(embedding.features.shape) == (1, 256, 16, 16)
    region = seeing.segment(embedding, [Prompt(box=(100, 50, 400, 300))])[0]
    assert region.mask.shape == (coffee.height, coffee.width)
    texts = seeing.describe([region], sampling=Sampling(max_new_tokens=3))
    assert len(texts) == 1


def test_its_features_depend_on_the_picture(seeing: PerceiveAnything, coffee: Image.Image) -> None:
    mirrored = coffee.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    first, second = (seeing.encode(picture).features for picture in (coffee, mirrored))
    assert not torch.allclose(first, second, atol=1e-3)


def test_it_serves_clips(seeing: PerceiveAnything) -> None:
    """Memory attention, memory encoder and object pointers work on its features as on Hiera's."""
    video = COMPACT / "inputs" / "video"
    found = list(seeing.track(video, [Prompt(box=(60.0, 80.0, 130.0, 150.0))]))
    assert len(found) > 1
    for frame in found:
        (region,) = frame.regions.values()
        assert np.isfinite(region.mask_logits).all()


def _targets(text: str) -> Iterator[str]:
    return (line.split("_target_:")[1].split()[0].strip(",}") for line in text.splitlines() if "_target_:" in line)


def test_only_this_class_of_ours_may_be_named(tmp_path: Path) -> None:
    text = CONFIG.read_text()
    assert "model.sam.trunk.EfficientNetLite" in set(_targets(text))
    other = tmp_path / "sam2.yaml"
    other.write_text(text.replace("model.sam.trunk.EfficientNetLite", "model.sam.trunk.fold"))
    with pytest.raises(CheckpointError, match=r"would build model\.sam\.trunk\.fold"):
        empty_sam2(other)
