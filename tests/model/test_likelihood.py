"""Packed scoring gives what scoring one answer at a time gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.plain import blocks, embed
from model import PerceiveAnything, Prompt, Region, Sampling, Task
from model.language.likelihood import answer_ids, log_likelihoods
from model.values.task import instruction

LABELS = ["dog", "a cup of coffee on a saucer", "rocket", "狗", "spoon", "cup", "Cup ", "dog"]


@pytest.fixture(scope="module")
def regions(pam: PerceiveAnything, coffee: Image.Image) -> list[Region]:
    return pam.segment(pam.encode(coffee), [Prompt(box=(170, 10, 410, 310)), Prompt(points=[(60, 300, 1)])])


def one_by_one(pam: PerceiveAnything, region: Region, label: str, task: Task, language: str) -> float:
    """The plain way: the whole prompt with one answer and the end token behind it, no cache."""
    model, words = pam.language.model, pam.language.tokenizer
    prompt = embed(pam.language, blocks(pam, [region])[0], instruction(task, language))
    ids = torch.tensor(
        [*words(label, add_special_tokens=False)["input_ids"], pam.language.end_ids()[0]], device=prompt.device
    )
    vectors = torch.cat([prompt, model.get_input_embeddings()(ids)])
    with torch.no_grad():
        chances = model(inputs_embeds=vectors[None]).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(chances.gather(1, ids[:, None]).sum())


@pytest.mark.parametrize(("task", "language"), [(Task.RECOGNIZE, "en"), (Task.BRIEF, "zh")])
def test_packed_equals_one_by_one(pam: PerceiveAnything, regions: list[Region], task: Task, language: str) -> None:
    found = pam.score(regions, LABELS, task, language)
    plain = [[one_by_one(pam, region, label, task, language) for label in LABELS] for region in regions]
    assert found.shape == (2, len(LABELS)) and found.dtype == np.float32
    np.testing.assert_allclose(found, plain, atol=2e-4, rtol=0)
    # the regions and the labels do differ, so that a mix-up would show
    assert np.ptp(found, axis=0).min() > 0.01
    assert np.abs(np.diff(found[:, :-1], axis=1)).min() > 0.01


def test_a_finished_greedy_answer_has_the_score_of_its_text(pam: PerceiveAnything, coffee: Image.Image) -> None:
    """Whatever the model says by itself, scored from its own tokens."""
    points = [Prompt(points=[(x, y, 1)]) for x in range(40, 600, 80) for y in (60, 180, 300)]
    regions = pam.segment(pam.encode(coffee), points)
    ends = pam.language.end_ids()
    head = pam.language.model.lm_head.weight
    before = head.clone()
    try:
        # random weights hardly ever end an answer: let the end be likelier
        head[ends[0]] = before.mean(0) + 1.2 * (before[ends[0]] - before.mean(0))
        texts = [
            t[Task.RECOGNIZE]
            for t in pam.describe(
                regions, [Task.RECOGNIZE], sampling=Sampling(max_new_tokens=40, repetition_penalty=1.0)
            )
        ]
        pairs = [
            (region, text) for region, text in zip(regions, texts, strict=True) if text.finished and text.token_ids
        ]
        assert pairs
        for region, text in pairs[:3]:
            prefix = pam.language.read(blocks(pam, [region]))
            question = pam.language.question_ids(prefix, instruction(Task.RECOGNIZE))
            score = log_likelihoods(pam.language, prefix, question, [text.token_ids])
            assert float(score) == pytest.approx(text.mean_logprob * (len(text.token_ids) + 1), abs=1e-3)
    finally:
        head.copy_(before)


@pytest.mark.parametrize("per_chunk", [1, 3, 7])
def test_chunks_do_not_change_the_scores(pam: PerceiveAnything, regions: list[Region], per_chunk: int) -> None:
    prefix = pam.language.read(blocks(pam, regions))
    question = pam.language.question_ids(prefix, "Which?")
    answers = answer_ids(pam.language, LABELS)
    assert sum(map(len, answers)) > 2 * per_chunk
    whole = log_likelihoods(pam.language, prefix, question, answers)
    torch.testing.assert_close(
        log_likelihoods(pam.language, prefix, question, answers, per_chunk), whole, atol=2e-4, rtol=0
    )


def test_the_order_of_candidates_does_not_matter(pam: PerceiveAnything, regions: list[Region]) -> None:
    straight = pam.score(regions, LABELS)
    np.testing.assert_allclose(pam.score(regions, LABELS[::-1])[:, ::-1], straight, atol=2e-4, rtol=0)
    np.testing.assert_allclose(pam.score(regions[::-1], LABELS)[::-1], straight, atol=2e-4, rtol=0)
    assert straight[0, 0] == pytest.approx(straight[0, -1], abs=1e-3)  # the same label twice


def test_no_regions_and_no_candidates(pam: PerceiveAnything, regions: list[Region]) -> None:
    assert pam.score([], LABELS).shape == (0, len(LABELS))
    with pytest.raises(ValueError, match="no candidates"):
        pam.score(regions, [])
    with pytest.raises(ValueError, match="no tokens"):
        pam.score(regions, ["dog", ""])
    with pytest.raises(ValueError, match="language"):
        pam.score(regions, ["dog"], language="fr")
