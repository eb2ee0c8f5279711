from __future__ import annotations

import numpy as np
import pytest
import redis
from rich.console import Console

from backend.front.review import Reviews, judge, show, totals
from backend.label_studio.protocol import ResultItem, WebhookRequest, parse
from backend.tasks.answers import Answers, Remembered
from model.values.mask import to_rle
from tests.backend.test_drawn import item, mask_item, rectangle

MASK = rectangle(60, 40, 180, 200)
TEXT = "a cup of coffee"


def answered(mask: np.ndarray = MASK) -> Remembered:
    items = [
        mask_item(mask),
        item("choices", "class", {"choices": ["food"]}),
        item("textarea", "caption", {"text": [TEXT]}),
    ]
    return Remembered.of(items, to_rle(mask))


def saved(mask: np.ndarray = MASK, label: str = "food", choice: str = "food", text: str | None = TEXT) -> list[dict]:
    items = [mask_item(mask, label=label), item("choices", "class", {"choices": [choice]})]
    return items + ([item("textarea", "caption", {"text": [text]})] if text is not None else [])


def verdict(**changes):  # type: ignore[no-untyped-def]
    return judge(answered(), [ResultItem.model_validate(raw) for raw in saved(**changes)])


def test_everything_kept() -> None:
    found = verdict()
    assert (found.iou, found.labels, found.labels_kept, found.texts, found.texts_kept) == (1.0, 2, 2, 1, 1)
    assert found.distance == 0


def test_what_was_changed() -> None:
    assert verdict(mask=rectangle(60, 40, 180, 120)).iou == pytest.approx(0.5)
    assert verdict(label="object").labels_kept == 1
    changed = verdict(text="a cup of tea")
    assert changed.texts_kept == 0 and 0.2 < changed.distance < 0.5
    assert verdict(text=None).distance == 1.0


def test_sums_count_each_region_with_its_newest_state(client: redis.Redis) -> None:
    client.flushall()
    answers = Answers(client, 60)
    answers.keep("1.1", 7, [answered()])
    reviews = Reviews(client, answers)

    def event(action: str, result: list[dict]) -> int:
        body = {"action": action, "annotation": {"id": 3, "result": result}, "project": {"id": 1}}
        return reviews.take(parse(WebhookRequest, body))

    stranger = mask_item(MASK, "somebody-elses")
    assert event("ANNOTATION_CREATED", [*saved(text="a cup of tea"), stranger]) == 1
    first = totals(client)
    assert first["regions"] == 1 and first["texts_kept"] == 0 and first["distance"] > 0
    assert event("ANNOTATION_UPDATED", saved()) == 1
    second = totals(client)
    assert second["regions"] == 1 and second["texts_kept"] == 1 and second["distance"] == pytest.approx(0)
    assert event("ANNOTATION_DELETED", saved()) == 0 and event("PROJECT_UPDATED", saved()) == 0


def test_what_nobody_looked_at_does_not_count_until_somebody_edits_it(client: redis.Redis) -> None:
    client.flushall()
    answers = Answers(client, 60)
    answers.keep("1.1", 7, [answered()])
    reviews = Reviews(client, answers)
    # as Label Studio 1.23.2 sends what "Create Annotations From Predictions" made
    made = {"id": 24, "result": saved(), "lead_time": None, "parent_prediction": 6, "updated_by": None}
    created = {"action": "ANNOTATIONS_CREATED", "annotation": [made], "project": {"id": 1}}
    assert reviews.take(parse(WebhookRequest, created)) == 0
    edited = {"action": "ANNOTATION_UPDATED", "annotation": made | {"updated_by": 1, "lead_time": 3.2}}
    assert reviews.take(parse(WebhookRequest, edited)) == 1


def test_the_table(client: redis.Redis) -> None:
    client.flushall()
    console = Console(record=True, width=100)
    assert show(client, console) == 0 and "No reviewed regions yet" in console.export_text()
    answers = Answers(client, 60)
    answers.keep("1.1", 7, [answered()])
    Reviews(client, answers).take(
        parse(WebhookRequest, {"action": "ANNOTATION_CREATED", "annotation": {"result": saved(label="object")}})
    )
    assert show(client, console) == 0
    text = console.export_text()
    assert "1 regions reviewed" in text and "50%" in text and "1.000" in text


def test_versions_are_compared(client: redis.Redis) -> None:
    """A region that is saved again counts for the version that answered it, once."""
    client.flushall()
    answers = Answers(client, 60)
    base, new = answered(), answered().model_copy(update={"id": "r2", "version": "tiny@0+project-1.2"})
    answers.keep("1.1", 7, [base.model_copy(update={"version": "tiny@0"}), new])
    reviews = Reviews(client, answers)

    def save(name: str, text: str) -> None:
        result = [one | {"id": name} for one in saved(text=text)]
        body = {"action": "ANNOTATION_UPDATED", "annotation": {"id": 3, "result": result}, "project": {"id": 1}}
        reviews.take(parse(WebhookRequest, body))

    save(base.id, "a cup of tea")
    console = Console(record=True, width=120)
    show(client, console)
    assert "kept of version" not in console.export_text()
    save("r2", TEXT)
    save("r2", TEXT)
    assert totals(client)["regions"] == 2 and totals(client, "tiny@0")["texts_kept"] == 0
    mine = totals(client, "tiny@0+project-1.2")
    assert (mine["regions"], mine["texts"], mine["texts_kept"]) == (1, 1, 1)
    show(client, console)
    lines = [line for line in console.export_text().splitlines() if "tiny@0" in line]
    assert "0% of 1" in lines[0] and "+project-1.2" in lines[1] and "100% of 1" in lines[1]
