"""A version of a model: on, off, to the last bit; and what is damaged or of another model is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from model import Adapter, PerceiveAnything, Prompt, Sampling, Task
from model.adapter import MASKS, WORDS
from model.errors import AdapterError

LAYER = f"{WORDS}language.model.layers.0.self_attn.q_proj"
HEAD = f"{MASKS}output_upscaling.3.bias"


@pytest.fixture
def adapter(pam: PerceiveAnything) -> Adapter:
    torch.manual_seed(0)
    weight = pam.language.model.model.layers[0].self_attn.q_proj.weight
    head = pam.tower.sam.sam_mask_decoder.output_upscaling[3].bias
    tensors = {
        f"{LAYER}.lora_A.weight": torch.randn(4, weight.shape[1]).half(),
        f"{LAYER}.lora_B.weight": torch.randn(weight.shape[0], 4).half(),
        HEAD: torch.randn(head.shape),
    }
    return Adapter("project-7.3", pam.base_version, tensors, 2.0, {"figures": {"kinds": {}}})


def answers(pam: PerceiveAnything) -> tuple[np.ndarray, str]:
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    regions = pam.segment(pam.encode(picture), [Prompt(points=[(20, 20, 1)])])
    (texts,) = pam.describe(regions, [Task.BRIEF], sampling=Sampling(max_new_tokens=4))
    scores = pam.score(regions, ["a", "b", "c"])
    return np.concatenate([regions[0].mask_logits.ravel(), scores.ravel()]), texts[Task.BRIEF].string


def test_on_and_off_again(pam: PerceiveAnything, adapter: Adapter) -> None:
    before, said = answers(pam)
    pam.use(adapter)
    assert pam.version == f"{pam.base_version}+project-7.3" == adapter.version
    changed, _ = answers(pam)
    assert not np.allclose(before[:100], changed[:100]) and not np.allclose(before[-3:], changed[-3:])
    layer = pam.language.model.model.layers[0].self_attn.q_proj.weight.clone()
    pam.use(dataclasses.replace(adapter, name="project-8.1", tensors={HEAD: adapter.tensors[HEAD]}))
    only_masks, _ = answers(pam)
    assert (only_masks[:100] == changed[:100]).all()
    assert not torch.equal(layer, pam.language.model.model.layers[0].self_attn.q_proj.weight)
    pam.use(None)
    after, says = answers(pam)
    # nothing is left of it, to the last bit
    assert (after == before).all() and says == said and pam.version == pam.base_version


def test_through_bytes(pam: PerceiveAnything, adapter: Adapter) -> None:
    read = Adapter.from_bytes(adapter.to_bytes())
    assert (read.name, read.base, read.scale, read.card) == (adapter.name, adapter.base, 2.0, adapter.card)
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in adapter.tensors.items())


@pytest.mark.parametrize("damage", ["cut", "zeros", "nan", "other"])
def test_what_is_damaged_is_refused(adapter: Adapter, damage: str) -> None:
    data = adapter.to_bytes()
    if damage == "nan":
        data = dataclasses.replace(adapter, tensors={HEAD: torch.full((4,), torch.nan)}).to_bytes()
    data = {"cut": data[:-8], "zeros": bytes(200), "other": data.replace(b"pallas-adapter-1", b"pallas-adapter-9")}.get(
        damage, data
    )
    with pytest.raises(AdapterError, match="the version's file cannot be used"):
        Adapter.from_bytes(data, "the version's file")


@pytest.mark.parametrize("fault", ["base", "shape", "missing", "name", "encoder"])
def test_what_does_not_fit_is_refused_and_the_base_goes_on(pam: PerceiveAnything, adapter: Adapter, fault: str) -> None:
    before, _ = answers(pam)
    tensors = dict(adapter.tensors)
    base = adapter.base
    if fault == "base":
        base = "another@01234567"
    elif fault == "shape":
        tensors[HEAD] = torch.zeros(3)
    elif fault == "missing":
        del tensors[f"{LAYER}.lora_A.weight"]
    elif fault == "name":
        tensors["words.language.model.layers.99.self_attn.q_proj.lora_B.weight"] = torch.zeros(2, 2)
    else:
        # a stranger's file may not write where it likes
        tensors["masks.transformer.layers.0.norm1.bias"] = torch.zeros(256)
    pam.use(adapter)
    with pytest.raises(AdapterError, match="fit again" if fault == "base" else "does not fit"):
        pam.use(Adapter("project-7.4", base, tensors))
    assert pam.version == pam.base_version
    assert (answers(pam)[0] == before).all()
