"""The quick layers compute what torch's own compute."""

from __future__ import annotations

import pytest
import torch
from sam2.modeling.backbones.hieradet import MultiScaleAttention
from sam2.modeling.sam2_utils import MLP
from torch import nn
from torch.nn import functional

from model import PerceiveAnything
from model.compute.linear import FrugalAttention, FrugalMLP, QuickLinear, quicken


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what goes through oneDNN."""
    seen: list[tuple[int, ...]] = []
    operator = torch.ops.mkldnn._linear_pointwise

    def record(rows: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(tuple(rows.shape))
        out: torch.Tensor = operator(rows, *rest)
        return out

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", record)
    return seen


@pytest.mark.parametrize("rows", [(1, 400), (3, 1, 400), (2, 70, 400)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_the_same(calls: list[tuple[int, ...]], rows: tuple[int, ...], bias: bool) -> None:
    layer = nn.Linear(400, 500, bias)
    quicken(layer)
    given = torch.randn(rows).transpose(0, -2) if len(rows) == 3 else torch.randn(rows)
    with torch.no_grad():
        found = layer(given)
        plain = functional.linear(given, layer.weight, layer.bias)
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    assert calls == [tuple(given.shape)]


def test_what_it_cannot_do_is_left_to_torch(calls: list[tuple[int, ...]]) -> None:
    layer = nn.Linear(400, 500)
    quicken(layer)
    layer(torch.randn(4, 400)).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        assert layer(torch.randn(0, 400)).shape == (0, 500)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.randn(4, 400)).dtype == torch.bfloat16
        assert layer.bfloat16()(torch.randn(4, 400).bfloat16()).dtype == torch.bfloat16
    assert calls == []


def test_an_mlp_in_pieces_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = MLP(32, 64, 48, 2, nn.GELU)
    quicken(mlp)
    assert type(mlp) is FrugalMLP
    rows = torch.randn(3, 7, 11, 32)
    with torch.no_grad():
        whole = mlp(rows)
        monkeypatch.setattr("model.compute.linear._NUMBERS_IN_CACHE", 64 * 50)
        pieces = mlp(rows)
    assert pieces.shape == (3, 7, 11, 48)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", [None, nn.MaxPool2d(2, 2)], ids=["plain", "pooled queries"])
def test_attention_within_windows_in_pieces_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, pool: nn.Module | None
) -> None:
    attention = MultiScaleAttention(32, 64, 2, pool)
    quicken(attention)
    assert type(attention) is FrugalAttention
    windows = torch.randn(7, 4, 4, 32)
    with torch.no_grad():
        whole = attention(windows)
        monkeypatch.setattr(
            "model.compute.linear._NUMBERS_IN_CACHE", 3 * 4 * 4 * 192
        )  # three windows, and one is left over
        pieces = attention(windows)
    assert pieces.shape == (7, 2, 2, 64) if pool else (7, 4, 4, 64)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)


def test_a_loaded_model_has_them(pam: PerceiveAnything) -> None:
    for module in (pam.tower.sam, pam.vision, pam.language.model):
        assert not [
            name for name, layer in module.named_modules() if type(layer) in (nn.Linear, MLP, MultiScaleAttention)
        ]
        assert any(isinstance(layer, QuickLinear) for layer in module.modules())
