"""Rows of one request join those of others between two steps, and leave when they end: each says what it says alone."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch
from PIL import Image

from benchmarks.plain import blocks, endless
from model import PerceiveAnything, Prompt, Sampling, Task
from model.compute.turns import run_through
from model.language.decoder import Decoder
from model.language.prefix import Prefix
from model.language.qwen import Answer
from model.values.task import LANGUAGES, instruction
from tests.device import not_emulated

ASKED = [instruction(task, language) for task, language in product(Task, LANGUAGES)]
Answers = list[list[Answer]]


@pytest.fixture(scope="module")
def prefix(pam: PerceiveAnything, coffee: Image.Image) -> Prefix:
    prompts = [Prompt(points=[(60 + 65 * (i % 8), 60 + 120 * (i // 8), 1)]) for i in range(16)]
    return pam.language.read(blocks(pam, pam.segment(pam.encode(coffee), prompts)))


@pytest.fixture
def resident(pam: PerceiveAnything) -> Iterator[PerceiveAnything]:
    pam.stay(compiled=False)
    yield pam
    pam.language.decoder = None


def decoder_of(pam: PerceiveAnything) -> Decoder:
    assert pam.language.decoder is not None
    return pam.language.decoder


def alone(pam: PerceiveAnything, prefix: Prefix, asked: list[str], sampling: Sampling) -> Answers:
    """Without a decoder."""
    decoder, pam.language.decoder = pam.language.decoder, None
    answers = pam.language.answer(prefix, asked, sampling)
    pam.language.decoder = decoder
    return answers


def tokens(answers: Answers) -> list[list[tuple[int, ...]]]:
    return [[answer.token_ids for answer in row] for row in answers]


class Requests:
    """Several requests under way."""

    def __init__(self, pam: PerceiveAnything) -> None:
        self.pam = pam
        self.under_way: dict[int, Generator[None, None, Answers]] = {}
        self.answers: dict[int, Answers] = {}
        self.order: list[int] = []

    def begin(self, name: int, prefix: Prefix, asked: list[str], most: int) -> None:
        self.under_way[name] = self.pam.language.answering(prefix, asked, Sampling(max_new_tokens=most))
        self._next(name)

    def _next(self, name: int) -> None:
        try:
            next(self.under_way[name])
        except StopIteration as done:
            self.answers[name] = done.value
            self.order.append(name)
            del self.under_way[name]

    def step(self) -> None:
        self.pam.advance()
        for name in list(self.under_way):
            self._next(name)

    def finish(self) -> None:
        while self.under_way:
            self.step()


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_join_and_leave_say_what_they_say_alone(
    resident: PerceiveAnything, prefix: Prefix, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Requests of 1 to 3 regions and 1 to 4 texts begin at any step, with any limits; end tokens come anywhere."""
    chance = random.Random(seed)
    with endless(resident.language):
        said = [ids for row in tokens(alone(resident, prefix, ASKED[:2], Sampling(max_new_tokens=12))) for ids in row]
    ends = [chance.choice(chance.choice(said)[2:]) for _ in range(6)]
    monkeypatch.setattr(resident.language, "end_ids", lambda: ends)
    decoder, requests, asked = decoder_of(resident), Requests(resident), {}
    largest = 0
    for name in range(8):
        start, count = chance.randrange(13), chance.randint(1, 3)
        part, questions = prefix.part(start, start + count), chance.sample(ASKED, chance.choice([1, 2, 2, 3, 4]))
        most = chance.choice([1, 5, 13, 20])
        if (seed, name) == (1, 3):  # needs more room than the bucket that is under way has
            part, questions, most = prefix.part(start, start + 1), questions[:1], 250
        asked[name] = part, questions, most
        requests.begin(name, *asked[name])
        largest = max(largest, len(decoder._tickets()))
        for _ in range(chance.choice([0, 0, 1, 2])):
            requests.step()
    requests.finish()
    assert largest > 2
    for name, (part, questions, most) in asked.items():
        expected = alone(resident, part, questions, Sampling(max_new_tokens=most))
        assert tokens(requests.answers[name]) == tokens(expected)
        for mine, theirs in zip(requests.answers[name], expected, strict=True):
            assert [a.finished for a in mine] == [a.finished for a in theirs]
            assert [a.mean_logprob for a in mine] == pytest.approx([a.mean_logprob for a in theirs], abs=1e-4)
    assert decoder.rows == 0 and len(decoder._free) == 128 and decoder._shape is None


def test_a_short_answer_does_not_wait_for_a_long_one(resident: PerceiveAnything, prefix: Prefix) -> None:
    with endless(resident.language):
        requests = Requests(resident)
        requests.begin(0, prefix.part(0, 1), ASKED[:2], 60)
        requests.step()
        requests.begin(1, prefix.part(1, 2), ASKED[:1], 6)
        requests.finish()
    assert requests.order == [1, 0]


def test_sixteen_requests_take_hardly_more_steps_than_one(
    resident: PerceiveAnything, prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = decoder_of(resident).resident, 0
    run = step.run

    def counted(*given: object) -> None:
        nonlocal steps
        steps += 1
        run(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "run", counted)
    with endless(resident.language):
        requests = Requests(resident)
        for name in range(16):
            requests.begin(name, prefix.part(name, name + 1), ASKED[:2], 24)
            if name % 4 == 3:
                requests.step()
        requests.finish()
    assert len(requests.answers) == 16 and 23 <= steps <= 23 + 4 * 4


def test_what_cannot_join_waits_and_comes_next(resident: PerceiveAnything, prefix: Prefix) -> None:
    """Another penalty is another step; those that come behind it do not overtake it for ever."""
    with endless(resident.language):
        requests = Requests(resident)
        requests.begin(0, prefix.part(0, 1), ASKED[:1], 9)
        other = Sampling(max_new_tokens=3, repetition_penalty=1.7)
        requests.under_way[1] = resident.language.answering(prefix.part(1, 2), ASKED[:1], other)
        requests._next(1)
        requests.begin(2, prefix.part(2, 3), ASKED[:1], 3)
        assert len(decoder_of(resident)._tickets()) == 1 and len(decoder_of(resident)._waiting) == 2
        requests.finish()
        assert requests.order == [0, 1, 2] and not decoder_of(resident)._waiting
        assert tokens(requests.answers[1]) == tokens(alone(resident, prefix.part(1, 2), ASKED[:1], other))


def test_a_request_that_is_given_up_leaves_its_places(resident: PerceiveAnything, prefix: Prefix) -> None:
    with endless(resident.language):
        requests, decoder = Requests(resident), decoder_of(resident)
        for name in range(3):
            requests.begin(name, prefix.part(name, name + 1), ASKED[:2], 20)
        requests.step()
        requests.under_way.pop(1).close()
        assert decoder.rows == 4
        requests.begin(3, prefix.part(3, 4), ASKED[:2], 20)
        requests.finish()
        for name in (0, 2, 3):
            expected = alone(resident, prefix.part(name, name + 1), ASKED[:2], Sampling(max_new_tokens=20))
            assert tokens(requests.answers[name]) == tokens(expected)
    assert decoder.rows == 0 and sorted(decoder._free) == list(range(128))


def test_a_step_that_fails_costs_nobody_his_answer(
    resident: PerceiveAnything, prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time limit may interrupt it anywhere: all who wait ask again."""
    requests, decoder = Requests(resident), decoder_of(resident)
    for name in range(2):
        requests.begin(name, prefix.part(name, name + 1), ASKED[:2], 12)
    run = decoder.resident.run

    def interrupted(*_: object) -> None:
        monkeypatch.setattr(decoder.resident, "run", run)
        raise KeyboardInterrupt

    monkeypatch.setattr(decoder.resident, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        requests.step()
    requests.finish()
    for name in range(2):
        expected = alone(resident, prefix.part(name, name + 1), ASKED[:2], Sampling(max_new_tokens=12))
        assert tokens(requests.answers[name]) == tokens(expected)


def test_threads_share_their_steps(resident: PerceiveAnything, prefix: Prefix) -> None:
    """With chance among them, which goes alone."""
    kinds = [Sampling(max_new_tokens=7), Sampling(max_new_tokens=5, repetition_penalty=1.4)]
    kinds += [Sampling(max_new_tokens=4, temperature=0.9, seed=5)]
    asked = [(prefix.part(i, i + 1), ASKED[: 1 + i % 3], kinds[i % 3] if i % 2 else kinds[0]) for i in range(12)]
    expected = [tokens(alone(resident, *one)) for one in asked]

    def ask(number: int) -> bool:
        part, questions, sampling = asked[number % 12]
        found = tokens(resident.language.answer(part, questions, sampling))
        return sampling.temperature > 0 or found == expected[number % 12]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(48)))
    assert decoder_of(resident).rows == 0


@not_emulated
def test_the_usual_requests_compile_nothing_once_it_stays(pam: PerceiveAnything, prefix: Prefix) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    before = int(counters["stats"]["unique_graphs"])
    try:
        near = -(-prefix.length // 8) * 8
        pam.language.stay([near, 2 * near], 4, backend="eager")
        assert decoder_of(pam).resident.compiled
        # one row, regions, texts or both; each for usual lengths and, left open, for longer ones
        ready = int(counters["stats"]["unique_graphs"])
        assert ready == before + 8
        with endless(pam.language):
            # a detailed caption may take 512 tokens
            for regions, texts, most in ((1, 1, 3), (1, 2, 128), (3, 2, 9), (3, 4, 3), (1, 1, 300), (3, 2, 600)):
                pam.language.answer(prefix.part(0, regions), ASKED[:texts], Sampling(max_new_tokens=most))
            # as of a clip
            for regions, texts, most in ((1, 1, 300), (2, 2, 9)):
                part = prefix.part(0, regions)
                twice = [tuple(torch.cat([one, one], 2) for one in side) for side in (part.keys, part.values)]
                pam.language.answer(Prefix(*twice), ASKED[:texts], Sampling(max_new_tokens=most))
        assert int(counters["stats"]["unique_graphs"]) == ready
    finally:
        pam.language.decoder = None


def test_turns_are_taken_to_the_end() -> None:
    said: list[str] = []

    def work() -> Generator[None, None, int]:
        said.append("one")
        yield
        said.append("two")
        return 2

    assert run_through(work(), lambda: said.append("between")) == 2
    assert said == ["one", "between", "two"]
