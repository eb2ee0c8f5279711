"""Suggestions that were lost because *Submit* came before the tick."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import redis

from backend.label_studio.protocol import WebhookRequest
from backend.predict.lost import LostSuggestions
from backend.tasks.answers import Answers, Remembered
from model.values.mask import to_rle
from tests.backend.test_drawn import mask_item
from tests.http.stack import point

MASK = np.ones((400, 600), bool)


@pytest.fixture
def lost(client: redis.Redis) -> LostSuggestions:
    """Two clicks of task 7 were answered with one region."""
    client.flushall()
    answers = Answers(client, 60)
    answers.keep("3.1700000000", 7, [Remembered.of([mask_item(MASK, "made")], to_rle(MASK))], ["p1", "p2"])
    return LostSuggestions(client, answers)


def event(*result: dict[str, Any], action: str = "ANNOTATION_CREATED", task: int = 7) -> WebhookRequest:
    annotation = {"id": 1, "task": task, "result": list(result)}
    return WebhookRequest.model_validate({"action": action, "annotation": annotation, "project": {"id": 3}})


def test_clicks_that_were_saved_in_place_of_a_mask(lost: LostSuggestions) -> None:
    lost.take(event(point(1, 1, id="p1"), point(2, 2, id="p2"), point(3, 3, id="drawn")))
    (found,) = lost.all()
    assert (found.project, found.task, found.prompts) == (3, 7, 2)
    assert lost.tell("4.1") == ""
    assert "task 7" in lost.tell("3.1700000000") and "2 clicks" in found.text
    # once is enough; the list keeps it until it is mended
    assert lost.tell("3.1700000000") == "" and [one.told for one in lost.all()] == [True]
    lost.take(event(mask_item(MASK, "another"), action="ANNOTATION_UPDATED"))
    assert not lost.all()


def test_what_is_not_lost(lost: LostSuggestions) -> None:
    lost.take(event(point(3, 3, id="drawn")))
    lost.take(event(point(1, 1, id="p1"), task=8))
    lost.take(event(point(1, 1, id="p1"), action="ANNOTATIONS_DELETED"))
    # the region is there, its clicks only stayed behind
    lost.take(event(point(1, 1, id="p1"), mask_item(MASK, "made")))
    assert not lost.all()


def test_the_list_is_short(lost: LostSuggestions, client: redis.Redis) -> None:
    answers = Answers(client, 60)
    for number in range(120):
        answers.keep("3.1", number, [Remembered.of([mask_item(MASK, "x")], to_rle(MASK))], ["p"])
        lost.take(event(point(1, 1, id="p"), task=number))
    assert len(lost.all()) == 100 and client.hlen("pallas:lost") == 100
    client.hset("pallas:lost", "5", "of another version")
    assert lost.tell("3.1").count("task") >= 100
