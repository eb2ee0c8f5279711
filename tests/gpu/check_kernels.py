"""The layer of the token step as Triton's kernels; run by `test_compiled` in processes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model.language.layer import layer_step
from tests.gpu.kernels import INTERPRETED, Compiled, card, install

install()

SHAPES = ((2, 2, 40, 16), (4, 2, 40, 16), (2, 4, 72, 32), (1, 1, 40, 16))
"""Regions, texts, length of the prefix, room."""


def arguments(regions: int, texts: int, length: int, room: int, dtype: torch.dtype, small: bool = True) -> list[Any]:
    """Of one layer, random; of PAM-3B's shapes unless small."""
    hidden, heads, kv_heads, size, inner = (128, 4, 2, 32, 192) if small else (2048, 16, 2, 128, 11008)
    rows = regions * texts
    random = torch.Generator().manual_seed(rows)

    def some(*shape: int, scale: float = 1.0) -> torch.Tensor:
        drawn = torch.randn(shape, generator=random) if small else torch.zeros(shape)
        return (scale * drawn).to(dtype)

    slot = torch.randint(3, room, (rows,), generator=random)
    turn = 6 * torch.rand(rows, 1, size, generator=random)
    return [
        some(rows, hidden),
        some((heads + 2 * kv_heads) * size, hidden, scale=0.1),
        some((heads + 2 * kv_heads) * size),
        some(hidden, heads * size, scale=0.1),
        some(2 * inner, hidden, scale=0.1),
        some(hidden, inner, scale=0.1),
        *(some(hidden), some(hidden)),
        *(some(rows, kv_heads, room, size) for _ in range(2)),
        *(some(regions, kv_heads, length, size) for _ in range(2)),
        torch.where(torch.arange(room) <= slot[:, None], 0.0, -torch.inf)[:, None, None],
        torch.where(torch.arange(length) < length - 5, 0.0, -torch.inf),
        *(turn.cos().to(dtype), turn.sin().to(dtype)),
        slot,
    ]


@pytest.mark.skipif(not INTERPRETED, reason="the kernels are built, not run")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_compute_what_the_layer_does(tmp_path: Path, dtype: torch.dtype) -> None:
    lower = dtype != torch.float32
    # compiled, what a lower dtype's layer rounds between is not rounded
    relative, absolute = (0.02, 0.05) if lower else (1e-5, 1e-5)
    with card(9, 0, tmp_path):
        compiled = Compiled(layer_step)
        for shape in SHAPES[:1] if lower else SHAPES:
            mine = arguments(*shape, dtype)
            before = [one.clone() for one in mine[8:10]]
            its = [*(one.clone() for one in mine), 1e-6, False]
            found, should_be = compiled(*mine, 1e-6, lower), layer_step(*its)
            torch.testing.assert_close(found, should_be, rtol=relative, atol=absolute)
            written = torch.zeros(mine[8].shape[0], 1, mine[8].shape[2], 1, dtype=torch.bool)
            written[torch.arange(len(written)), :, mine[16]] = True
            for was, is_, should in zip(before, mine[8:10], its[8:10], strict=True):
                torch.testing.assert_close(is_, should, rtol=relative, atol=absolute)
                assert torch.equal(was.masked_fill(written, 0), is_.masked_fill(written, 0))
            # two more for keys and two for values, where these are copied to be written to
            assert compiled.ran <= 10
        # sizes that come again are left open
        assert compiled.variants <= 4


@pytest.mark.skipif(INTERPRETED, reason="the kernels are run, not built")
@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float16), ((9, 0), torch.bfloat16)],
)
def test_they_are_built_for_cards_of_several_kinds(
    tmp_path: Path, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    with card(*capability, tmp_path):
        compiled = Compiled(layer_step)
        compiled(*arguments(2, 2, 1088, 256, dtype, small=False), 1e-6, True)
        assert compiled.variants == 1 and compiled.built >= 10
