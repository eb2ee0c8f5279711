"""The emulated GPU's own rules, and ours on it; run by `test_on_it` in a process of its own."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from model import PerceiveAnything, Prompt, Sampling, Task
from model.compute.stream import OwnStream
from model.values.region import Texts
from tests.device import DEVICE
from tests.gpu.graph import Graph
from tests.gpu.streams import RaceError


def test_devices_do_not_mix() -> None:
    here, there = torch.ones(3, device="cuda:1"), torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        here + there
    with pytest.raises(RuntimeError, match="same device"):
        here + torch.ones(3, device="cuda")
    with pytest.raises(TypeError, match="numpy"):
        here.numpy()
    with torch.cuda.device(1):
        assert torch.zeros(2, device="cuda").device == here.device
    # a copy between them waits for both
    assert torch.equal((here + torch.ones(3, device="cuda:0").to(here)).cpu(), torch.full((3,), 2.0))
    assert torch.equal((here + there.to(here) + there.sum()).cpu(), torch.full((3,), 5.0))
    assert here[[0, 2]].tolist() == [1, 1] and float(here.sum()) == 3


def test_a_graph_does_the_same_to_the_same_memory() -> None:
    given, counted, graph = torch.ones(3, device="cuda"), torch.zeros(3, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        twice = given * 2
        counted.add_(twice)
    assert counted.tolist() == [0, 0, 0] and twice.tolist() != [2, 2, 2]
    graph.replay()
    given.fill_(5)
    graph.replay()
    assert twice.tolist() == [10, 10, 10] and counted.tolist() == [12, 12, 12]


@pytest.mark.parametrize(
    "work",
    [
        lambda one: float(one.sum()),
        lambda one: one.cpu(),
        lambda one: one[one > 0],
        lambda one: one.nonzero(),
        lambda one: one + torch.tensor([1.0, 2.0, 3.0], device=one.device),
        lambda one: torch.zeros(3).copy_(one),
        lambda _: torch.ones(3, device="cuda:1") * 2,
    ],
)
def test_what_cannot_be_captured_fails(work: object) -> None:
    one = torch.ones(3, device="cuda:0")
    with pytest.raises(RuntimeError, match=r"captur"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        work(one)  # type: ignore[operator]
    assert float(one.sum()) == 3


def test_who_does_not_wait_is_told_so() -> None:
    aside, one = torch.cuda.Stream(), torch.ones(3, device="cuda")
    with pytest.raises(RaceError), torch.cuda.stream(aside):
        one + 1
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        two = one + 1
    with pytest.raises(RaceError):
        two + 1
    with pytest.raises(RaceError):
        one.zero_()
    torch.cuda.current_stream().wait_stream(aside)
    assert (two + one.zero_()).tolist() == [2, 2, 2]


def test_what_is_made_beside_is_joined(pam: PerceiveAnything, coffee: Image.Image) -> None:
    asked = [Prompt(points=[(300, 200, 1)])]
    with pam.beside():
        embedding = pam.encode(coffee)
    with pytest.raises(RaceError):
        pam.segment(embedding, asked)
    (region,) = pam.segment(pam.joined(embedding), asked)
    assert (region.mask == pam.segment(pam.encode(coffee), asked)[0].mask).all()


def test_clicks_are_answered_by_graphs(pam: PerceiveAnything, small_checkpoint: Path, coffee: Image.Image) -> None:
    """Encoder, prompt and token step, one by one and together, with what the CPU answers."""
    assert DEVICE == "cuda:1" and pam.language.decoder is not None
    graphs: dict[str, Sequence[object]] = {
        "encoder": [captured.graph for captured in pam.tower.encoder._graphs.values()],
        "opening": [pam.language.opening._captured.graph] if pam.language.opening._captured else [],
        "decoder": [*pam.language.decoder.resident._graphs.values()],
    }
    before = {name: _replays(found) for name, found in graphs.items()}
    prompts = [Prompt(points=[(60 + 70 * number, 60 + 30 * number, 1)]) for number in range(5)]
    host = PerceiveAnything.from_pretrained(small_checkpoint, device="cpu", dtype="float32")
    for asked in (prompts[:1], prompts):
        both = [one.perceive(coffee, asked, [Task.RECOGNIZE, Task.BRIEF]) for one in (pam, host)]
        for mine, its in zip(*both, strict=True):
            assert (mine[0].mask == its[0].mask).mean() > 0.9999
            assert [text.token_ids for text in mine[1].values()] == [text.token_ids for text in its[1].values()]
    assert {name for name, found in graphs.items() if _replays(found) > before[name]} == set(graphs)


def test_where_nothing_can_be_captured_it_answers_all_the_same(
    pam: PerceiveAnything,
    small_checkpoint: Path,
    coffee: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no room\nfor a graph")

    monkeypatch.setattr(OwnStream, "capture", fails)
    without = PerceiveAnything.from_pretrained(small_checkpoint, device=DEVICE, dtype="float32")
    asked = [Prompt(points=[(60 + 70 * number, 60 + 30 * number, 1)]) for number in range(3)]
    mine, its = (one.perceive(coffee, asked, [Task.RECOGNIZE, Task.BRIEF]) for one in (without, pam))
    assert [[text.token_ids for text in texts.values()] for _, texts in mine] == [
        [text.token_ids for text in texts.values()] for _, texts in its
    ]
    said = [record.getMessage() for record in caplog.records if "not captured (no room)" in record.getMessage()]
    assert len(said) == 3  # the encoder, the opening, the token step: each once


def test_rows_of_several_requests_go_through_one_graph(pam: PerceiveAnything, coffee: Image.Image) -> None:
    prompts = [Prompt(points=[(60 + 70 * number, 60 + 30 * number, 1)]) for number in range(3)]
    asked, few = [Task.RECOGNIZE, Task.BRIEF], Sampling(max_new_tokens=20)
    readings = [pam.read([region]) for region in pam.segment(pam.encode(coffee), prompts)]
    expected = [_ids(pam.describe(reading, asked, sampling=few)) for reading in readings]
    told: dict[int, list[Texts]] = {}

    def under_way(number: int) -> Generator[None, None, None]:
        told[number] = yield from pam.describing(readings[number], asked, sampling=few)

    # each begins a turn after the one before
    waiting, going = [under_way(number) for number in range(3)], list[Generator[None, None, None]]()
    while waiting or going:
        going += waiting[:1]
        waiting = waiting[1:]
        going = [one for one in going if next(one, "over") != "over"]
        pam.advance()
    assert [_ids(told[number]) for number in range(3)] == expected


def _ids(texts: Sequence[Texts]) -> list[list[tuple[int, ...]]]:
    return [[tuple(text.token_ids) for text in row.values()] for row in texts]


def _replays(graphs: Sequence[object]) -> int:
    assert all(isinstance(graph, Graph) for graph in graphs)
    return sum(graph.replays for graph in graphs if isinstance(graph, Graph))
