from __future__ import annotations

from typing import Any

import pytest
import redis

from backend.front.review import Reviews, totals
from backend.label_studio.protocol import WebhookRequest, parse
from backend.label_studio.video_sequences import keyframes_of, sequence_j
from backend.tasks.answers import Answers, Remembered


def key(frame: int, x: float, enabled: bool = True) -> dict[str, Any]:
    return {"frame": frame, "enabled": enabled, "rotation": 0, "x": x, "y": 10, "width": 20, "height": 20, "time": 0}


def region(*sequence: dict[str, Any], label: str = "cat", text: str = "a cat walks") -> list[dict[str, Any]]:
    where = {"id": "r", "to_name": "video"}
    value = {"framesCount": 11, "duration": 1.1, "sequence": list(sequence), "labels": [label]}
    box = where | {"type": "videorectangle", "from_name": "box", "value": value}
    return [where | {"type": "textarea", "from_name": "caption", "value": {"text": [text]}}, box][::-1]


def j(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> float:
    return sequence_j(keyframes_of({"sequence": one}), keyframes_of({"sequence": other}), 11)


def test_j_over_the_frames_that_label_studio_draws() -> None:
    moving = [key(1, 0), key(11, 50)]
    assert j(moving, moving) == 1 and j(moving, []) == 0 and j([], []) == 1
    # one keyframe more on the same straight line changes nothing
    assert j(moving, [key(1, 0), key(6, 25), key(11, 50)]) == pytest.approx(1)
    assert j([key(1, 0)], [key(1, 10)]) == pytest.approx(1 / 3)
    # off from frame 7 on: five of eleven frames have one box only
    assert j([key(1, 0)], [key(1, 0), key(6, 0, False)]) == pytest.approx(6 / 11)
    off = [key(1, 0), key(6, 0, False)]
    assert j(off, off) == 1
    assert keyframes_of({"sequence": [key(1, 0) | {"x": "a"}, "z", {"frame": 1}]}) == ()


def test_a_saved_track_is_compared(client: redis.Redis) -> None:
    client.flushall()
    answers = Answers(client, 60)
    answers.keep("1.1", 7, [Remembered.of(region(key(1, 0)), None)])
    reviews = Reviews(client, answers)

    def save(result: list[dict[str, Any]]) -> dict[str, float]:
        body = {"action": "ANNOTATION_CREATED", "annotation": {"id": 3, "result": result}, "project": {"id": 1}}
        assert reviews.take(parse(WebhookRequest, body)) == 1
        return dict(totals(client))

    kept = save(region(key(1, 0)))
    assert (kept["tracks"], kept["tracks_kept"], kept["j"], kept["labels_kept"], kept["texts_kept"]) == (1, 1, 1, 1, 1)
    # the texts may come first; saved again it counts with what it is now
    moved = save(region(key(1, 10), label="dog", text="a dog")[::-1])
    assert (moved["regions"], moved["tracks"], moved["tracks_kept"]) == (1, 1, 0)
    assert moved["j"] == pytest.approx(1 / 3) and moved["labels_kept"] == moved["texts_kept"] == 0
