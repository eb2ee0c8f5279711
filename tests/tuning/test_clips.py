"""Tracked boxes of videos teach the label memory, and new ones are judged by it: with the bundled model, which sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backend.learning.memory import LabelMemory
from backend.queueing.connection import connect
from benchmarks.stand_in import StandIn
from tests.bulk.conftest import environment
from tests.http.stack import Stack
from tests.http.test_video import CONFIG, drawn
from tests.videos import picture, write

CLIP = "/data/upload/1/clip.mp4"


@pytest.fixture
def clips(project: StandIn, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in as a video project."""
    write(pictures / "clip.mp4", [picture(number) for number in range(30)])
    monkeypatch.setattr(project, "label_config", CONFIG)
    project.clear()
    return project


def on(frame: int, label: str = "", square: bool = True) -> dict[str, Any]:
    """The square, or a piece of the ground below it, as somebody drew it on a frame."""
    box = (100 * (4 + 2 * (frame - 1)) / 160, 33.0, 25.0, 33.5) if square else (55.0, 72.0, 40.0, 25.0)
    found = drawn({frame: box}, f"{label}{frame}{square}")
    return found | {"value": found["value"] | {"labels": [label] if label else []}}


def test_tracked_boxes_teach_labels_and_are_judged_by_them(stack: Stack, clips: StandIn) -> None:
    def run(*arguments: str) -> str:
        command, env = [sys.executable, "-m", "backend", *arguments, "--project", "1"], environment(stack, clips)
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    memory = LabelMemory(connect(stack.settings), stack.settings)
    memory.forget(1)
    boxes = [box for frame in range(3, 29, 2) for box in (on(frame, "dog"), on(frame, "cat", square=False))]
    task = clips.add({"video": CLIP}, *boxes)
    clips.tasks[task]["annotations"][0]["completed_by"] = 1
    said = run("learn")
    state = memory.state(1)
    assert state is not None and state.examples == {"dog": 13, "cat": 13}, said
    # each on its own frame, from one copy of the clip
    assert clips.asked[f"GET {CLIP}"] == 1
    clips.clear()
    task = clips.add({"video": CLIP}, on(5), on(5, square=False))
    run("bulk")
    (prediction,) = clips.predictions[task]
    tracked = [item["value"]["labels"] for item in prediction["result"] if item["type"] == "videorectangle"]
    assert tracked == [["dog"], ["cat"]]
    memory.forget(1)
