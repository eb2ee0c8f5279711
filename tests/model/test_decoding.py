"""One prefix, many texts: what is shared, padded, dropped or batched must not change an answer."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from model import PerceiveAnything, Prompt, Region, Task
from model.attention import Prefix
from model.batches import fitting, in_batches
from model.language import Answer, Sampling
from model.task import LANGUAGES, instruction

ASKED = [instruction(task, language) for task, language in product(Task, LANGUAGES)]


@pytest.fixture(scope="module")
def regions(pam: PerceiveAnything, coffee: Image.Image) -> list[Region]:
    prompts = [Prompt(points=[(300, 200, 1)]), Prompt(box=(50, 40, 280, 300)), Prompt(points=[(500, 100, 1)])]
    return pam.segment(pam.encode(coffee), prompts)


def one_by_one(pam: PerceiveAnything, regions: list[Region], sampling: Sampling) -> list[list[Answer]]:
    """transformers' own generate(), one prompt at a time, nothing shared."""
    return [
        [pam.language.generate([pam.language.embed(block, asked)], sampling)[0] for asked in ASKED]
        for block in pam.image_blocks(regions)
    ]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=12, suppress_end=True),
        Sampling(max_new_tokens=12, repetition_penalty=1.3, suppress_end=True),
        Sampling(max_new_tokens=1),
        Sampling(max_new_tokens=40),
    ],
)
def test_the_grid_says_what_generate_says_one_by_one(
    pam: PerceiveAnything, regions: list[Region], sampling: Sampling
) -> None:
    prefix = pam.language.read(pam.image_blocks(regions))
    found = pam.language.answer(prefix, ASKED, sampling)
    for row, expected in zip(found, one_by_one(pam, regions, sampling), strict=True):
        for answer, other in zip(row, expected, strict=True):
            assert answer.token_ids == other.token_ids and answer.finished == other.finished
            assert answer.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-4)


def test_rows_that_end_at_different_times_leave_and_change_nothing(
    pam: PerceiveAnything, regions: list[Region], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(max_new_tokens=16, suppress_end=False)
    free = pam.language.answer(
        pam.language.read(pam.image_blocks(regions)), ASKED, Sampling(max_new_tokens=16, suppress_end=True)
    )
    # tokens that the random model does say, some early and some late, become end tokens
    said = [answer.token_ids for row in free for answer in row]
    ends = sorted({said[0][0], said[1][2], said[5][4], said[7][7], said[-1][10]})
    monkeypatch.setattr(pam.language, "end_ids", lambda: ends)
    found = pam.language.answer(pam.language.read(pam.image_blocks(regions)), ASKED, sampling)
    lengths = set()
    for row, expected in zip(found, one_by_one(pam, regions, sampling), strict=True):
        for answer, other in zip(row, expected, strict=True):
            assert answer.token_ids == other.token_ids and answer.finished == other.finished
            lengths.add(len(answer.token_ids))
    assert len(lengths) > 2


def test_a_reading_serves_any_number_of_questions(pam: PerceiveAnything, regions: list[Region]) -> None:
    reading = pam.read(regions)
    assert len(reading) == 3
    for tasks in ([Task.RECOGNIZE], [Task.DETAILED, Task.BRIEF], list(Task)):
        again = pam.describe(reading, tasks, max_new_tokens=6)
        for texts, expected in zip(again, pam.describe(regions, tasks, max_new_tokens=6), strict=True):
            assert list(texts) == tasks
            assert [text.token_ids for text in texts.values()] == [text.token_ids for text in expected.values()]
    np.testing.assert_allclose(pam.score(reading, ["a cat", "dog"]), pam.score(regions, ["a cat", "dog"]), atol=1e-5)
    assert pam.describe(pam.read([]), [Task.BRIEF]) == [] and pam.describe(regions, []) == [{}, {}, {}]


def test_sampling_is_repeatable_under_a_seed(pam: PerceiveAnything, regions: list[Region]) -> None:
    def said(seed: int) -> list[tuple[int, ...]]:
        texts = pam.describe(regions, [Task.BRIEF], temperature=1.0, max_new_tokens=10, seed=seed)
        return [row[Task.BRIEF].token_ids for row in texts]

    assert said(1) == said(1) != said(2)


def test_prefixes_are_split_joined_and_taken(pam: PerceiveAnything, regions: list[Region]) -> None:
    whole = pam.language.read(pam.image_blocks(regions))
    again = Prefix.join(whole.split())
    for one, other in zip((*whole.keys, *whole.values), (*again.keys, *again.values), strict=True):
        assert torch.equal(one, other)
    last = whole.take(torch.tensor([2]))
    assert last.regions == 1 and torch.equal(last.keys[0][0], whole.keys[0][2]) and last.length == whole.length


def test_a_batch_that_does_not_fit_is_tried_in_halves() -> None:
    tried = []

    def work(part: list[int]) -> list[int]:
        tried.append(len(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError
        return [2 * number for number in part]

    assert in_batches(list(range(10)), work, 8) == [2 * number for number in range(10)]  # type: ignore[arg-type]
    assert tried[:3] == [8, 4, 2]

    def never(_: object) -> list[int]:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        in_batches([1, 2], never, 2)
    assert in_batches([], never, 2) == []
    assert fitting(torch.device("cpu"), 10**12, 7) == 7
