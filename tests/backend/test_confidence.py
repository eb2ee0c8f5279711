"""How sure answers are: by the defaults at first, by what people kept of them then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import redis
from rich.console import Console

from backend.front.review import Reviews, show
from backend.job import LabelReply, RegionReply
from backend.label_studio.protocol import WebhookRequest, parse
from backend.learning.confidence import PLAIN, SIGNS, Case, Confidences, fit, reliability, signs_of
from backend.learning.logistic import logistic_of
from backend.tasks.answers import Answers
from tests.backend.test_results import answer, region
from tests.backend.test_review import answered, saved


def cases(count: int, seed: int = 1, told: str = "label") -> list[Case]:
    """Reviews of a project in which one sign alone says what people keep."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        signs = signs_of(mask=rng.uniform(0.6, 1), label=rng.uniform(0, 1), text=rng.uniform(0.2, 1))
        kept = rng.random() < 1 / (1 + np.exp(-12 * signs[told]))
        found.append(Case(signs, PLAIN.of(signs), bool(kept)))
    return found


@pytest.mark.parametrize("name", SIGNS[1:])
def test_each_sign_counts(name: str) -> None:
    assert PLAIN.of(signs_of(**{name: 1.0})) > PLAIN.of({}) > PLAIN.of(signs_of(**{name: 0.0}))
    assert PLAIN.of(signs_of(**{name: None})) == PLAIN.of({})


def test_what_is_doubted_in_an_answer() -> None:
    def score(found: RegionReply) -> float:
        return answer(found)[0].score or 0.0

    sure = region(iou=0.95)
    close = sure.model_copy(update={"labels": (LabelReply(label="animal", probability=0.5, margin=0.05),)})
    assert score(close) < score(sure)
    assert score(sure.model_copy(update={"stability": 0.3})) < score(sure)
    assert score(region(iou=0.5)) < score(sure)
    learned = LabelReply(label="animal", probability=0.8, margin=1.0, memory=0.8)
    asked = learned.model_copy(update={"memory": 0.0})
    both = [score(sure.model_copy(update={"labels": (one,)})) for one in (learned, asked)]
    assert both[0] > both[1]
    # what the annotator chose is not doubted
    assert answer(close, label="food")[0].score == answer(sure, label="food")[0].score


def test_reviews_make_it_the_projects_own() -> None:
    assert fit(cases(20)) is PLAIN and fit([Case({}, 0.5, True)] * 100) is PLAIN
    own = fit(cases(400))
    assert own.reviewed == 400
    fresh = cases(400, seed=2)
    said = [[by.of(case.signs) for case in fresh] for by in (own, PLAIN)]
    kept = np.array([case.kept for case in fresh])

    def loss(values: list[float]) -> float:
        p = np.clip(values, 1e-6, 1 - 1e-6)
        return float(-np.mean(np.where(kept, np.log(p), np.log(1 - p))))

    assert loss(said[0]) < loss(said[1]) - 0.05
    # and it is calibrated: what it says is what is kept
    bins = reliability([Case(case.signs, own.of(case.signs), case.kept) for case in fresh])
    assert sum(count for _, _, count, _, _ in bins) == 400
    assert all(abs(said - kept) < 0.15 for _, _, count, said, kept in bins if count >= 40)


def test_it_holds_where_signs_say_everything_or_nothing() -> None:
    rows = np.array([[1.0, value] for value in (-1, -1, 1, 1)])
    right = np.array([False, False, True, True])
    weights = logistic_of(rows, right, np.full(4, 1000.0), np.zeros(2))
    assert np.isfinite(weights).all() and weights[1] > 1
    assert np.allclose(logistic_of(rows, right, np.zeros(4), np.array([1.0, 2.0])), [1.0, 2.0])


def test_reviews_are_noted_and_shown(client: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    client.flushall()
    answers = Answers(client, 60)
    sure = answered().model_copy(update={"signs": signs_of(mask=0.9, label=0.9), "sure": 0.91})
    answers.keep("1.1", 7, [sure])
    confidences = Confidences(client)
    reviews = Reviews(client, answers, confidences)

    def review(**changes: Any) -> None:
        annotation = {"id": 3, "result": saved(**changes)}
        reviews.take(
            parse(WebhookRequest, {"action": "ANNOTATION_UPDATED", "annotation": annotation, "project": {"id": 1}})
        )

    review()
    assert [case.kept for case in confidences.cases("1")] == [True]
    # a text that was edited is no fault of mask and label; of a region that is saved again the newest counts
    review(text="something else")
    assert [case.kept for case in confidences.cases("1")] == [True]
    review(label="animal")
    (case,) = confidences.cases("1")
    assert (case.kept, case.said, case.signs) == (False, 0.91, sure.signs)
    show(client, Console(width=120))
    shown = capsys.readouterr().out
    assert (
        "project 1: confidence is by the defaults, until 30 reviews" in shown and "91%" in shown and "0.8–1.0" in shown
    )


def test_a_projects_own_are_taken_and_bounded(client: redis.Redis) -> None:
    client.flushall()
    confidences = Confidences(client)
    for number, case in enumerate(cases(60)):
        confidences.note("7.123", f"r{number}", case)
    client.hset("pallas:confidence:7", "odd", b"[]")
    assert confidences.of("7.123").reviewed == 60 and confidences.of("8") is PLAIN
    assert Confidences(client, learns=False).of("7") is PLAIN
    assert confidences.projects() == ["7"]
    client.delete("pallas:confidence:7")
    for number in range(2300):
        confidences.note("7", f"r{number}", Case({}, 0.5, True))
    assert 2000 <= client.hlen("pallas:confidence:7") <= 2200
