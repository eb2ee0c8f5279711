"""What the books keep of a finished task."""

from __future__ import annotations

from collections import Counter, defaultdict

from backend.bulk.ledger import Done
from backend.label_studio.geometry import kind_of
from backend.label_studio.protocol import Prediction
from backend.tasks.planner import TaskResult
from backend.tasks.video_drawn import RECTANGLE

NO_LABEL = "(no label)"
STAGES = ("queue", "fetch", "encode", "decode", "prefill", "generate", "shape", "store")


def tally(result: TaskResult, prediction: Prediction, shape_s: float, store_s: float) -> Done:
    """Regions, labels, score and seconds of a prediction."""
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for item in prediction.result:
        mine = labels[item["id"]]
        key = "labels" if item["type"] == RECTANGLE else item["type"]
        value = item.get("value", {}).get(key) if item["type"] != "textarea" else None
        for label in value if isinstance(value, list) else []:
            mine.add(" / ".join(map(str, label)) if isinstance(label, list) else str(label))
    shapes = {item["id"] for item in prediction.result if kind_of(item["type"]) or item["type"] == RECTANGLE}
    seconds: Counter[str] = Counter()
    for _, reply in result.replies:
        seconds.update(reply.seconds)
    seconds.update({"shape": shape_s, "store": store_s})
    return Done(
        regions=len(shapes),
        score=prediction.score,
        labels=tuple(label for mine in labels.values() for label in sorted(mine) or [NO_LABEL]),
        seconds=seconds,
    )
