"""The token step that stays says what the grid says, whatever the bucket, and grows by nothing."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from PIL import Image

from benchmarks.plain import blocks, endless
from model import PerceiveAnything, Prompt, Region, Sampling, Task
from model.language.buffers import Shape, bucket
from model.language.prefix import Prefix
from model.language.qwen import Answer
from model.language.unsure import Unsure
from model.values.task import LANGUAGES, instruction

ASKED = [instruction(task, language) for task, language in product(Task, LANGUAGES)]
POINTS = [(60 + 65 * (i % 8), 60 + 120 * (i // 8), 1) for i in range(20)]


@pytest.fixture(scope="module")
def prefix(pam: PerceiveAnything, coffee: Image.Image) -> Prefix:
    regions: list[Region] = pam.segment(pam.encode(coffee), [Prompt(points=[point]) for point in POINTS])
    return pam.language.read(blocks(pam, regions))


@pytest.fixture
def resident(pam: PerceiveAnything) -> Iterator[PerceiveAnything]:
    pam.stay(compiled=False)
    yield pam
    pam.language.decoder = None


def both(
    pam: PerceiveAnything, prefix: Prefix, asked: list[str], sampling: Sampling
) -> tuple[list[Answer], list[Answer]]:
    """The resident step's answers, and the grid's."""
    ours = [answer for row in pam.language.answer(prefix, asked, sampling) for answer in row]
    stays, pam.language.decoder = pam.language.decoder, None
    theirs = [answer for row in pam.language.answer(prefix, asked, sampling) for answer in row]
    pam.language.decoder = stays
    return ours, theirs


def same(pair: tuple[list[Answer], list[Answer]]) -> None:
    for ours, theirs in zip(*pair, strict=True):
        assert ours.token_ids == theirs.token_ids and ours.finished == theirs.finished
        assert ours.mean_logprob == pytest.approx(theirs.mean_logprob, abs=1e-4)


@pytest.mark.parametrize("texts", [1, 2, 3, 8])
@pytest.mark.parametrize("regions", [1, 2, 3, 5, 16, 20])
def test_every_bucket_says_what_the_grid_says(
    resident: PerceiveAnything, prefix: Prefix, regions: int, texts: int
) -> None:
    with endless(resident.language):
        same(both(resident, prefix.part(0, regions), ASKED[:texts], Sampling(max_new_tokens=6)))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=1),
        Sampling(max_new_tokens=24, repetition_penalty=1.3),
        Sampling(max_new_tokens=12, temperature=1.0, seed=3),
        Sampling(max_new_tokens=200),
    ],
)
def test_however_they_are_drawn(resident: PerceiveAnything, prefix: Prefix, sampling: Sampling) -> None:
    same(both(resident, prefix.part(0, 3), ASKED[:3], sampling))


def test_words_for_a_guess(resident: PerceiveAnything, prefix: Prefix, monkeypatch: pytest.MonkeyPatch) -> None:
    part, sampling = prefix.part(0, 3), Sampling(max_new_tokens=8, repetition_penalty=1.2)
    (sure, _) = both(resident, part, ASKED[:2], sampling)
    monkeypatch.setattr(resident.language, "unsure", Unsure(0.9, tuple({sure[1].token_ids[2], sure[3].token_ids[4]})))
    pair = both(resident, part, ASKED[:2], sampling)
    same(pair)
    assert [answer.token_ids for answer in pair[0]] != [answer.token_ids for answer in sure]


def test_rows_that_end_leave_to_smaller_buckets(
    resident: PerceiveAnything, prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(max_new_tokens=24)
    with endless(resident.language):
        said = [answer.token_ids for row in resident.language.answer(prefix, ASKED[:4], sampling) for answer in row]
    # as many of the tokens that are said most as there may be, so that rows end all over the bucket
    often = Counter(token for row in said for token in row)
    ends = [token for token, _ in often.most_common(8)]
    monkeypatch.setattr(resident.language, "end_ids", lambda: ends)
    assert resident.language.decoder is not None
    step = resident.language.decoder.resident
    shapes: list[Shape] = []
    run = step.run

    def noted(shape: Shape, greedy: bool) -> None:
        shapes.append(shape)
        run(shape, greedy)

    monkeypatch.setattr(step, "run", noted)
    pair = both(resident, prefix, ASKED[:4], sampling)
    same(pair)
    assert len({len(answer.token_ids) for answer in pair[0]}) > 3
    rows = [shape.rows for shape in shapes]
    assert rows[0] == 128 and rows == sorted(rows, reverse=True) and len(set(rows)) >= 3
    # and by chance, with the same numbers drawn
    same(both(resident, prefix.part(0, 6), ASKED[:4], Sampling(temperature=0.8, seed=1, max_new_tokens=16)))


def test_calls_take_turns_and_leave_nothing(resident: PerceiveAnything, prefix: Prefix) -> None:
    """Five hundred calls: the same answers, the same buffers, no more tensors than before."""
    import gc
    from concurrent.futures import ThreadPoolExecutor

    assert resident.language.decoder is not None
    step = resident.language.decoder.resident
    parts = [(prefix.part(i, i + n), ASKED[:t]) for i, n, t in ((0, 1, 1), (2, 3, 2), (7, 1, 3), (9, 2, 1))]
    sampling = Sampling(max_new_tokens=3)
    expected = [both(resident, part, asked, sampling)[1] for part, asked in parts]

    def ask(number: int) -> bool:
        part, asked = parts[number % len(parts)]
        found = [answer for row in resident.language.answer(part, asked, sampling) for answer in row]
        return [a.token_ids for a in found] == [a.token_ids for a in expected[number % len(parts)]]

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    ask(0)
    addresses, before = [kept.data_ptr() for kept in (*step.kept, *step.prefix)], tensors()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(500)))
    assert tensors() <= before + 2
    assert [kept.data_ptr() for kept in (*step.kept, *step.prefix)] == addresses


def test_what_does_not_fit_goes_the_other_way(resident: PerceiveAnything, prefix: Prefix) -> None:
    assert resident.language.decoder is not None
    step = resident.language.decoder.resident
    assert [bucket(n) for n in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]
    assert step.shape(1, 1, 10**6, 10) is None and step.shape(1, 1, 10, 10**6) is None
    assert step.regions_at_once(100, 4, prefix.length, 100) == 25
    assert not step.takes(list(range(9)), 5) and not step.takes([1], 5000)
    same(both(resident, prefix.part(0, 1), ASKED[:1], Sampling(max_new_tokens=1100)))


def test_the_joined_weights_are_the_models_own(resident: PerceiveAnything) -> None:
    assert resident.language.decoder is not None
    step, layer = resident.language.decoder.resident, resident.language.model.model.layers[0]
    weights = step.layers[0]
    assert layer.self_attn.q_proj.weight.data_ptr() == weights.qkv.data_ptr()
    assert layer.mlp.gate_proj.weight.data_ptr() == weights.gate_up.data_ptr()


def test_where_compiling_fails_it_runs_as_it_is(
    pam: PerceiveAnything, prefix: Prefix, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> object:
        def fails(*_: object) -> None:
            raise RuntimeError("no compiler here")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    with caplog.at_level(logging.WARNING):
        pam.stay()
        try:
            same(both(pam, prefix.part(0, 2), ASKED[:2], Sampling(max_new_tokens=4)))
        finally:
            pam.language.decoder = None
    assert [record.getMessage() for record in caplog.records].count(
        "the token step is not compiled (no compiler here): it runs as it is"
    ) == 1


@pytest.mark.parametrize("seed", range(6))
def test_whichever_rows_end(
    resident: PerceiveAnything, prefix: Prefix, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """End tokens by chance, among those that are said early: rows leave by regions, by texts and all over."""
    part, sampling = prefix.part(0, 5 + seed), Sampling(max_new_tokens=14)
    with endless(resident.language):
        free = [answer.token_ids for row in resident.language.answer(part, ASKED[:4], sampling) for answer in row]
    chance = random.Random(seed)
    ends = [chance.choice(chance.choice(free)[:9]) for _ in range(8)]
    monkeypatch.setattr(resident.language, "end_ids", lambda: ends)
    same(both(resident, part, ASKED[:4], sampling))
