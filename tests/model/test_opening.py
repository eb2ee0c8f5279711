"""One region's prompt in a graph: what a stand-in for CUDA's graphs can show on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.plain import blocks
from model import PerceiveAnything, Prompt, Region
from model.language.grid import read_prefix
from model.language.opening import Opening

POINTS = [(60, 60, 1), (200, 100, 1), (310, 90, 1)]


@pytest.fixture(scope="module")
def regions(pam: PerceiveAnything, coffee: Image.Image) -> list[Region]:
    return pam.segment(pam.encode(coffee), [Prompt(points=[point]) for point in POINTS])


@pytest.fixture
def replays(pam: PerceiveAnything, regions: list[Region], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How often a graph was replayed: it reads its vectors, and writes its prefix, where they lay when it was made."""
    found: list[int] = []
    length = pam.language.read(blocks(pam, regions[:1])).length

    class Graph:
        def replay(self) -> None:
            captured: Any = pam.language.opening._captured
            found.append(1)
            fresh = read_prefix(pam.language.model, captured.vectors)
            for old, new in zip(
                (*captured.prefix.keys, *captured.prefix.values), (*fresh.keys, *fresh.values), strict=True
            ):
                old.copy_(new)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda *_: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    assert pam.language.opening.capture(length)
    yield found
    pam.language.opening = Opening(pam.language.model)


def test_one_prompt_is_read_by_the_graph_and_several_are_not(
    pam: PerceiveAnything, regions: list[Region], replays: list[int]
) -> None:
    alone = [pam.language.read(blocks(pam, [region])) for region in regions]
    assert len(replays) == 3
    together = pam.language.read(blocks(pam, regions))
    assert len(replays) == 3
    # those read earlier are not overwritten
    for number, one in enumerate(alone):
        part = together.part(number, number + 1)
        for mine, other in zip((*one.keys, *one.values), (*part.keys, *part.values), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    pam.language.read(blocks(pam, regions[:1])[:, :-1])  # of another length
    assert len(replays) == 3


def test_where_capturing_fails_prompts_are_read_as_they_are(
    pam: PerceiveAnything, regions: list[Region], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> object:
        raise RuntimeError("no graphs here")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", broken)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    with caplog.at_level(logging.WARNING):
        assert not pam.language.opening.capture(30)
    assert caplog.text.count("reading a prompt is not captured") == 1
    monkeypatch.undo()
    assert pam.language.read(blocks(pam, regions)).regions == 3
