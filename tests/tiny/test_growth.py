"""A deeper encoder that goes on from a shallower one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from model.errors import CheckpointError
from model.loading.sam import empty_sam2
from tiny import segmentation
from tiny.place import Place, sam2

CONFIG = Path(__file__).parent / "hiera.yaml"
SIDE = 64


def _config(file: Path, depth: int) -> Path:
    tree = OmegaConf.load(CONFIG)
    tree.model.image_encoder.trunk.stages = [1, 2, depth]
    tree.model.image_encoder.trunk.global_att_blocks = list(range(4, 3 + depth))
    file.parent.mkdir(exist_ok=True)
    OmegaConf.save(tree, file)
    return file


@pytest.fixture
def start(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    shallow = empty_sam2(_config(tmp_path / "start" / "sam2.yaml", 3))
    save_file(shallow.state_dict(), tmp_path / "start" / "sam2.safetensors")
    return tmp_path / "start"


def _encoded(place: Place, start: Path) -> list[torch.Tensor]:
    sam = sam2(place, start).eval()
    segmentation.at_size(sam, SIDE)
    with torch.no_grad():
        return segmentation.encode(sam, torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)))


def test_more_blocks_begin_as_the_identity(tmp_path: Path, start: Path) -> None:
    _config(tmp_path / "deep" / "sam2.yaml", 5)
    before = _encoded(Place(tmp_path, tmp_path, start), start)
    deep = Place(tmp_path, tmp_path, tmp_path / "deep")
    for old, new in zip(before, _encoded(deep, start), strict=True):
        torch.testing.assert_close(new, old)


def test_the_new_blocks_learn(tmp_path: Path, start: Path) -> None:
    _config(tmp_path / "deep" / "sam2.yaml", 5)
    sam = sam2(Place(tmp_path, tmp_path, tmp_path / "deep"), start)
    segmentation.at_size(sam, SIDE)
    segmentation.encode(sam, torch.rand(1, 3, SIDE, SIDE))[-1].square().sum().backward()
    last = sam.image_encoder.trunk.blocks[-1]
    assert last.attn.proj.weight.grad.abs().sum() > 0
    assert last.mlp.layers[1].weight.grad.abs().sum() > 0


def test_fewer_blocks_are_refused(tmp_path: Path, start: Path) -> None:
    _config(tmp_path / "small" / "sam2.yaml", 2)
    with pytest.raises(CheckpointError, match=r"has unknown image_encoder\.trunk\.blocks\.5"):
        sam2(Place(tmp_path, tmp_path, tmp_path / "small"), start)
