"""What the model says that it takes is what it takes; what a call held is free when it is over."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from benchmarks.plain import blocks
from model import PerceiveAnything, Prompt, Region, Sampling, Task
from model.compute.batches import batch_by_batch, fitting
from model.language import grid as grids
from model.language.likelihood import TOKENS_PER_CHUNK, answer_ids, log_likelihoods
from model.language.prefix import SCORES_BYTES, KeyValues, Prefix
from model.values.task import instruction
from tests.device import DEVICE, not_emulated

PROMPTS = [Prompt(points=[(40 + 60 * i, 60 + 20 * i, 1)]) for i in range(8)]
ASKED = [instruction(task) for task in (Task.RECOGNIZE, Task.DETAILED)]


@pytest.fixture(scope="module")
def regions(pam: PerceiveAnything, coffee: Image.Image) -> list[Region]:
    return pam.segment(pam.encode(coffee), PROMPTS)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that tensors take at once while something is done, beyond what there was."""
    work()  # what is made once does not count
    if DEVICE.startswith("cuda"):
        before = torch.cuda.memory_allocated(DEVICE)
        torch.cuda.reset_peak_memory_stats(DEVICE)
        work()
        return torch.cuda.max_memory_allocated(DEVICE) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = found.profiler.kineto_results.events()
    moves = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = most = 0
    for _, moved in moves:
        now += moved
        most = max(most, now)
    return most


@not_emulated
def test_reading_takes_what_is_counted(pam: PerceiveAnything, regions: list[Region]) -> None:
    tokens = pam.vision.length(pam.tower.image_size // 16)
    each = pam.language.bytes_to_read(tokens)
    each += pam.vision.bytes_each(pam.tower.image_size // 16)
    taken = [peak_bytes(lambda n=n: pam.language.read(blocks(pam, regions[:n]))) for n in (2, 8)]  # type: ignore[misc]
    assert 0.3 * each < (taken[1] - taken[0]) / 6 <= each


@not_emulated
@pytest.mark.parametrize("tokens", [4, 60])
def test_answering_takes_what_is_counted(pam: PerceiveAnything, regions: list[Region], tokens: int) -> None:
    prefix = pam.language.read(blocks(pam, regions))
    sampling = Sampling(max_new_tokens=tokens, repetition_penalty=1.2)
    each = pam.language.bytes_to_answer(ASKED, tokens)
    taken = [
        peak_bytes(lambda n=n: pam.language.answer(prefix.part(0, n), ASKED, sampling))  # type: ignore[misc]
        for n in (2, 8)
    ]
    assert taken[1] <= 8 * each + SCORES_BYTES
    # and not by far too much, or a large card would stand idle; a token step that stays takes nothing
    assert pam.language.decoder is not None or 0.2 * each < (taken[1] - taken[0]) / 6


@not_emulated
def test_scoring_takes_what_is_counted(pam: PerceiveAnything, regions: list[Region]) -> None:
    prefix = pam.language.read(blocks(pam, regions))
    question = pam.language.question_ids(prefix, ASKED[0])
    answers = answer_ids(pam.language, [f"a {word} thing" for word in ("red", "blue", "green", "small", "large")] * 40)
    assert sum(map(len, answers)) > TOKENS_PER_CHUNK
    each = pam.language.bytes_to_score(ASKED[0], TOKENS_PER_CHUNK)
    besides = pam.language.bytes_of_scores(TOKENS_PER_CHUNK)
    taken = peak_bytes(lambda: log_likelihoods(pam.language, prefix, question, answers))
    assert taken <= 8 * each + besides


@not_emulated
def test_attentions_scores_are_bounded(
    pam: PerceiveAnything, regions: list[Region], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = pam.language.read(blocks(pam, regions))
    question = pam.language.question_ids(prefix, ASKED[0])
    answers = answer_ids(pam.language, ["a red thing"] * 150)

    def taken() -> int:
        return peak_bytes(lambda: log_likelihoods(pam.language, prefix, question, answers))

    whole = taken()
    monkeypatch.setattr("model.language.prefix.SCORES_BYTES", 1 << 16)
    assert taken() < 0.7 * whole


def test_labels_are_scored_in_slices_that_fit(
    pam: PerceiveAnything, regions: list[Region], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"a {word} thing" for word in ("red", "blue", "green", "small", "large", "round")]
    slices: list[int] = []
    read = grids.Grid.read

    def counted(grid: grids.Grid, ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        slices.append(len(ids))
        return read(grid, ids, *rest)

    monkeypatch.setattr(grids.Grid, "read", counted)
    whole = pam.score(regions[:1], names)
    assert len(slices) == 1
    room = pam.language.bytes_of_scores(slices.pop() // 2)
    monkeypatch.setattr("model.compute.batches.free_bytes", lambda _: room / 0.6)
    assert pam.score(regions[:1], names) == pytest.approx(whole, abs=1e-4)
    assert len(slices) >= 2


def test_what_a_batch_takes_besides_is_left_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.compute.batches.free_bytes", lambda _: 1000)
    assert [fitting(torch.device("cpu"), 100, 9, besides) for besides in (0, 250, 590, 9999)] == [6, 3, 1, 1]


def test_a_batch_that_does_not_fit_is_free_before_its_half_is_tried() -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def work(part: Sequence[int]) -> int:
        alive.append(sum(ref() is not None for ref in held))
        tensor = torch.zeros(len(part))
        held.append(weakref.ref(tensor))
        if len(part) > 1:
            raise torch.OutOfMemoryError
        return len(part)

    assert list(batch_by_batch(range(4), work, 4)) == [1, 1, 1, 1]
    assert alive == [0, 0, 0, 0, 0, 0]


def test_no_result_is_held_while_the_next_one_is_computed() -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def work(part: Sequence[int]) -> torch.Tensor:
        assert not any(ref() is not None for ref in made)
        tensor = torch.zeros(len(part))
        made.append(weakref.ref(tensor))
        return tensor

    for found in batch_by_batch(range(4), work, 1):
        assert len(found) == 1
        del found
    assert len(made) == 4


@pytest.mark.parametrize("resident", [False, True])
def test_nothing_of_a_finished_call_stays_alive(
    pam: PerceiveAnything, regions: list[Region], resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[object]] = []
    kinds: list[Any] = [grids.Grid, KeyValues]
    for kind in kinds:
        original: Any = kind.__init__

        def noted(self: object, *args: object, original: Any = original, **named: object) -> None:
            made.append(weakref.ref(self))
            original(self, *args, **named)

        monkeypatch.setattr(kind, "__init__", noted)
    if resident:
        pam.stay(compiled=False)
    prefixes: list[weakref.ref[Prefix]] = []
    gc.collect()
    gc.disable()  # what only the collector would find is alive when the next call needs the room
    try:
        for _ in range(50):
            reading = pam.read(regions[:2])
            prefixes.append(weakref.ref(reading.prefix))
            pam.describe(reading, [Task.BRIEF], sampling=Sampling(max_new_tokens=2))
            pam.score(reading, ["cup"])
            del reading
        assert len(made) >= 150
        everything: list[Any] = [*made, *prefixes]
        assert not any(ref() is not None for ref in everything)
    finally:
        pam.language.decoder = None
        gc.enable()
