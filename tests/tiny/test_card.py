from __future__ import annotations

import json
from pathlib import Path

from model.loading.checkpoint import Checkpoint
from tiny import card
from tiny.art import Catalog
from tiny.recipe import read


def test_the_card_says_what_a_stage_went_on_from(small_checkpoint: Path, tmp_path: Path) -> None:
    log, target = tmp_path / "log.jsonl", tmp_path / "run.json"
    card.note_start(log, "segment", None)
    assert not log.exists()
    card.note_start(log, "segment", small_checkpoint)
    with log.open("a") as file:
        for stage in ("segment", "speak"):
            file.write(json.dumps({"stage": stage, "step": 25, "minutes": 1.5, "loss": 2.0}) + "\n")
    card.write_card(target, read(), Catalog(tmp_path, (), {"train": (), "test": ()}), log, None)
    stages = json.loads(target.read_text())["stages"]
    fingerprint = Checkpoint.find(small_checkpoint).fingerprint()
    assert stages["segment"]["started_from"] == f"{small_checkpoint.name}@{fingerprint}"
    assert stages["segment"]["steps"] == 25 and stages["speak"]["started_from"] is None
    card.curves(log, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
