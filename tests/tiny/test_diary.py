"""What a training tells: lines for a file, a display for a terminal, the same log in both cases."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tiny.diary import Diary, numbers


def keep(diary: Diary) -> None:
    with diary:
        for step in range(1, 5):
            diary.note(step, step / 2, 4.0, {"loss": torch.tensor(float(step)), "dice": 1.0})
        diary.tell("val 0.9")


@pytest.mark.parametrize("terminal", [False, True])
def test_every_few_steps_their_means_are_told(tmp_path: Path, terminal: bool) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=120, highlight=False)
    keep(Diary(tmp_path / "run" / "log.jsonl", "speak", every=2, console=console))
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows == [
        {"stage": "speak", "step": 2, "minutes": 1.0, "loss": 1.5, "dice": 1.0},
        {"stage": "speak", "step": 4, "minutes": 2.0, "loss": 3.5, "dice": 1.0},
    ]
    lines = ["speak step 2, 1.0 of 4 min: loss 1.50", "speak step 4, 2.0 of 4 min: loss 3.50", "speak val 0.9"]
    if terminal:
        assert "2.0 of 4 min" in screen.getvalue() and "loss 3.50" in screen.getvalue()
        assert lines[1] not in screen.getvalue() and lines[2] in screen.getvalue()
    else:
        assert screen.getvalue().splitlines() == lines


def test_numbers_are_told_one_by_one() -> None:
    screen = io.StringIO()
    assert list(numbers(3, "pool", Console(file=screen))) == [0, 1, 2]
    assert screen.getvalue().splitlines() == ["pool 1 of 3", "pool 2 of 3", "pool 3 of 3"]
    assert list(numbers(3, "pool", Console(file=io.StringIO(), force_terminal=True))) == [0, 1, 2]
