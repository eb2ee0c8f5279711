"""What an annotator meets beyond one click: corrections, reasons that can be read, reviews."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.stack import CONFIG, PictureHost, Stack, point, run_stack
from tests.http.test_protocol import mask_of


@pytest.fixture(scope="module")
def shown(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that shows errors to the annotator, as it does by default."""
    folder = tmp_path_factory.mktemp("shown")
    with run_stack(folder, small_checkpoint, PALLAS_MAX_NEW_TOKENS="4", PALLAS_SHOW_ERRORS="true") as stack:
        yield stack


def items(stack: Stack, picture: str, *context: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    answer = stack.predict(picture, list(context), **options)
    assert answer.status_code == 200, answer.text
    result: list[dict[str, Any]] = answer.json()["results"][0]["result"]
    return result


def test_a_lone_negative_click_cuts_the_region_it_falls_on(shown: Stack, host: PictureHost) -> None:
    picture = f"{host.url}/coffee.jpg"
    before, *_ = items(shown, picture, point(50, 50))
    mask = mask_of(before)
    rows, columns = mask.nonzero()
    x, y = (columns[len(columns) // 3] + 0.5) / 6, (rows[len(rows) // 3] + 0.5) / 4
    after, *words = items(shown, picture, point(x, y, positive=False))
    assert after["id"] == before["id"] and {word["id"] for word in words} <= {before["id"]}
    cut = mask_of(after)
    assert cut.any() and not cut[int(y * 4), int(x * 6)] and (cut != mask).any()


def test_a_reason_that_the_annotator_can_read_and_that_goes_away(shown: Stack, host: PictureHost) -> None:
    (text,) = items(shown, f"{host.url}/gone.jpg", point(50, 50))
    assert text["from_name"] == "message" and "404" in text["value"]["text"][0]
    good = items(shown, f"{host.url}/coffee.jpg", point(50, 50))
    assert good[0]["type"] == "brushlabels" and good[-1]["value"] == {"text": []}
    assert items(shown, f"{host.url}/coffee.jpg", point(50, 50))[-1]["from_name"] == "caption"


def test_without_a_control_for_notices_the_prompt_carries_the_reason(shown: Stack, host: PictureHost) -> None:
    config = "\n".join(line for line in CONFIG.split("\n") if "notice" not in line)
    region, text = items(shown, f"{host.url}/gone.jpg", point(50, 50), config=config)
    assert region["type"] == "keypointlabels" and text["from_name"] == "caption" and region["id"] == text["id"]


def test_faults_of_the_request_stay_http_errors(shown: Stack, host: PictureHost) -> None:
    assert shown.predict(f"{host.url}/coffee.jpg", [point(50, 50, from_name="gone")]).status_code == 400


def test_reviews_are_counted_from_webhooks(shown: Stack, host: PictureHost) -> None:
    result = items(shown, f"{host.url}/coffee.jpg", point(40, 60))
    event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": result}, "project": {"id": 1}}
    assert shown.post("/webhook", json=event).json() == {"status": "ok"}
    text = shown.get("/metrics").text
    assert 'pallas_reviewed{what="masks_kept"} 1.0' in text
    # what somebody else put there does not disturb
    strange = {"action": "ANNOTATION_UPDATED", "annotation": {"result": [{"type": "relation"}, {}, {"id": 5}]}}
    assert shown.post("/webhook", json=strange).status_code == 200
