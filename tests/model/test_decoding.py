"""One prefix, many texts: what is shared, padded, dropped or batched must not change an answer."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.plain import blocks, embed, endless, generate
from model import PerceiveAnything, Prompt, Region, Sampling, Task, TokenLimits
from model.compute import device
from model.compute.batches import fitting, in_batches
from model.language.prefix import Prefix
from model.language.qwen import Answer
from model.values.task import LANGUAGES, instruction
from tests.waiting import HANG_S

ASKED = [instruction(task, language) for task, language in product(Task, LANGUAGES)]


@pytest.fixture(scope="module")
def regions(pam: PerceiveAnything, coffee: Image.Image) -> list[Region]:
    prompts = [Prompt(points=[(300, 200, 1)]), Prompt(box=(50, 40, 280, 300)), Prompt(points=[(500, 100, 1)])]
    return pam.segment(pam.encode(coffee), prompts)


def one_by_one(pam: PerceiveAnything, regions: list[Region], sampling: Sampling) -> list[list[Answer]]:
    """transformers' own generate(), one prompt at a time, nothing shared."""
    return [
        [generate(pam.language, [embed(pam.language, block, asked)], sampling)[0] for asked in ASKED]
        for block in blocks(pam, regions)
    ]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=12),
        Sampling(max_new_tokens=12, repetition_penalty=1.3),
        Sampling(max_new_tokens=1),
        Sampling(max_new_tokens=40),
    ],
)
def test_the_grid_says_what_generate_says_one_by_one(
    pam: PerceiveAnything, regions: list[Region], sampling: Sampling
) -> None:
    prefix = pam.language.read(blocks(pam, regions))
    found = pam.language.answer(prefix, ASKED, sampling)
    for row, expected in zip(found, one_by_one(pam, regions, sampling), strict=True):
        for answer, other in zip(row, expected, strict=True):
            assert answer.token_ids == other.token_ids and answer.finished == other.finished
            assert answer.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-4)


@pytest.mark.parametrize("resident", [False, True])
def test_each_question_has_its_own_limit(pam: PerceiveAnything, regions: list[Region], resident: bool) -> None:
    """A short one is cut as if it were asked alone, and does not wait for the long ones."""
    limits = TokenLimits(recognize=2, brief=7, detailed=11, explain=1, other=5)
    tasks = [*Task, "What is it made of?"]
    if resident:
        pam.stay(compiled=False)
    try:
        found = pam.describe(regions, tasks, sampling=Sampling(max_new_tokens=limits))
    finally:
        pam.language.decoder = None
    lengths = [len(text.token_ids) for text in found[0].values() if not text.finished]
    assert lengths == [2, 7, 11, 1, 5]
    for task, most in zip(tasks, lengths, strict=True):
        alone = pam.describe(regions, [task], sampling=Sampling(max_new_tokens=most))
        for mine, other in zip(found, alone, strict=True):
            assert mine[task].token_ids == other[task].token_ids
            assert mine[task].mean_logprob == pytest.approx(other[task].mean_logprob, abs=1e-4)


def test_rows_that_end_at_different_times_leave_and_change_nothing(
    pam: PerceiveAnything, regions: list[Region], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(max_new_tokens=16)
    with endless(pam.language):
        free = pam.language.answer(pam.language.read(blocks(pam, regions)), ASKED, sampling)
    # tokens that the random model does say, some early and some late, become end tokens
    said = [answer.token_ids for row in free for answer in row]
    ends = sorted({said[0][0], said[1][2], said[5][4], said[7][7], said[-1][10]})
    monkeypatch.setattr(pam.language, "end_ids", lambda: ends)
    found = pam.language.answer(pam.language.read(blocks(pam, regions)), ASKED, sampling)
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
        again = pam.describe(reading, tasks, sampling=Sampling(max_new_tokens=6))
        for texts, expected in zip(
            again, pam.describe(regions, tasks, sampling=Sampling(max_new_tokens=6)), strict=True
        ):
            assert list(texts) == tasks
            assert [text.token_ids for text in texts.values()] == [text.token_ids for text in expected.values()]
    np.testing.assert_allclose(pam.score(reading, ["a cat", "dog"]), pam.score(regions, ["a cat", "dog"]), atol=1e-5)
    assert pam.describe(pam.read([]), [Task.BRIEF]) == [] and pam.describe(regions, []) == [{}, {}, {}]


def test_regions_of_several_pictures_go_together(pam: PerceiveAnything, coffee: Image.Image) -> None:
    pictures = [coffee, coffee.crop((0, 0, 300, 380)).rotate(90, expand=True), coffee.resize((90, 60))]
    mask = np.zeros((300, 380), bool)
    mask[50:200, 100:250] = True
    asked = [
        (0, Prompt(points=[(300, 200, 1)])),
        (1, Prompt(box=(50, 40, 280, 250))),
        (2, Prompt(points=[(45, 20, 1)])),
        (1, Prompt(mask=mask)),
        (0, Prompt(mask=np.asarray(coffee)[:, :, 0] > 128)),
        (2, Prompt(box=(5, 4, 80, 50))),
    ]
    together = pam.encode_all(pictures)
    regions = pam.segment([together[i] for i, _ in asked], [prompt for _, prompt in asked])
    texts = pam.describe(regions, [Task.BRIEF, Task.RECOGNIZE], sampling=Sampling(max_new_tokens=6))
    scores = pam.score(regions, ["cat", "a dog"])
    for i, (number, prompt) in enumerate(asked):
        (alone,) = pam.segment(pam.encode(pictures[number]), [prompt])
        np.testing.assert_allclose(regions[i].mask_logits, alone.mask_logits, atol=1e-3)
        assert regions[i].mask.shape == pictures[number].size[::-1] and (regions[i].mask == alone.mask).mean() > 0.9999
        expected = pam.describe([alone], [Task.BRIEF, Task.RECOGNIZE], sampling=Sampling(max_new_tokens=6))[0]
        assert [text.token_ids for text in texts[i].values()] == [text.token_ids for text in expected.values()]
        np.testing.assert_allclose(scores[i], pam.score([alone], ["cat", "a dog"])[0], atol=1e-3)
    with pytest.raises(ValueError, match="zip"):
        pam.segment(together, [asked[0][1]])


def test_more_regions_than_go_together_are_read_in_turn(
    pam: PerceiveAnything, regions: list[Region], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REGIONS_ON_CPU", "REGIONS_ON_GPU"):
        monkeypatch.setattr(f"model.reading.{name}", 2)
    monkeypatch.setattr("model.reading.ANSWERED_ON_CPU", 0)
    many = [*regions, *regions]
    assert [len(reading) for reading in pam.readings(many)] == [2, 2, 2]
    texts = pam.describe(many, [Task.BRIEF], sampling=Sampling(max_new_tokens=6))
    said = [row[Task.BRIEF].token_ids for row in texts]
    assert said[:3] == said[3:]
    assert said == [
        row[Task.BRIEF].token_ids
        for row in pam.describe(pam.read(many), [Task.BRIEF], sampling=Sampling(max_new_tokens=6))
    ]


def test_sampling_is_repeatable_under_a_seed(pam: PerceiveAnything, regions: list[Region]) -> None:
    def said(seed: int) -> list[tuple[int, ...]]:
        texts = pam.describe(regions, [Task.BRIEF], sampling=Sampling(temperature=1.0, max_new_tokens=10, seed=seed))
        return [row[Task.BRIEF].token_ids for row in texts]

    assert said(1) == said(1) != said(2)


def test_prefixes_are_split_joined_and_taken(pam: PerceiveAnything, regions: list[Region]) -> None:
    whole = pam.language.read(blocks(pam, regions))
    again = Prefix.join((whole.part(i, i + 1) for i in range(3)), 3)
    for one, other in zip((*whole.keys, *whole.values), (*again.keys, *again.values), strict=True):
        assert torch.equal(one, other)
    last = whole.take(torch.tensor([2], device=whole.device))
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

    def broken(_: object) -> list[int]:
        raise RuntimeError("another fault")

    def never(_: object) -> list[int]:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        in_batches([1, 2], never, 2)
    assert in_batches([], never, 2) == []
    with pytest.raises(RuntimeError, match="another fault"):
        in_batches([1, 2], broken, 2)


def test_a_batch_is_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.compute.batches.free_bytes", lambda _: 1000)
    cpu = torch.device("cpu")
    assert [fitting(cpu, each, 7) for each in (0, 1, 100, 300, 10_000)] == [7, 7, 6, 2, 1]
    monkeypatch.setattr("model.compute.batches.free_bytes", lambda _: None)
    assert fitting(cpu, 10**12, 7) == 7


def test_free_memory_and_cores_heed_a_containers_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr("model.compute.device._cgroup", lambda name: None)
    free, cores = device.free_bytes(cpu), device.usable_cores()
    assert free is not None and 0 < free < 1 << 50
    limits = {"memory.max": ["1000000"], "memory.current": ["400000"], "cpu.max": ["150000", "100000"]}
    monkeypatch.setattr("model.compute.device._cgroup", limits.get)
    assert device.free_bytes(cpu) == 600_000
    assert device.usable_cores() == min(cores, 2)
    monkeypatch.setattr("model.compute.device.usable_cores", lambda: 6)
    monkeypatch.setattr("model.compute.device.torch.get_num_threads", lambda: 6)
    given: list[int] = []
    monkeypatch.setattr("model.compute.device.torch.set_num_threads", given.append)
    assert [device.share_cores(n) for n in (1, 2, 4, 9)] == given == [6, 3, 1, 1]


def test_memory_that_is_really_short_is_met_with_smaller_batches() -> None:
    """In a process of its own, whose address space the kernel limits."""
    done = subprocess.run([sys.executable, "-c", _SHORT], check=False, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    tried, results = json.loads(done.stdout)
    assert results == list(range(8))
    assert tried[0] == 8 and 1 <= tried[-1] < 8


_SHORT = """
import json, resource, torch
from model.compute.batches import in_batches
torch.zeros(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20),) * 2)
tried = []
def work(part):
    tried.append(len(part))
    rows = torch.ones(len(part), 100 << 20)  # 400 MB each, which only one at a time has room for
    return [int(n * row[0]) for n, row in zip(part, rows)]
print(json.dumps([tried, in_batches(range(8), work, 8)]))
"""
