"""`python -m model try`: what a new user runs first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model import DeviceError, PerceiveAnything, Prompt, Task
from model.__main__ import main
from model.loading.checkpoint import Checkpoint
from model.trial import BOX, faults
from tests.conftest import PICTURES
from tests.device import DEVICE


def test_the_bundled_model_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "overlay.png"
    code = main(["try", "tiny", "--device", DEVICE, "--dtype", "float32", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0 and lines[-1].startswith("It answers")
    name = torch.cuda.get_device_name(DEVICE) if DEVICE.startswith("cuda") else DEVICE
    assert f"on {name}, float32: loaded in" in lines[0] and "GB of host memory" in lines[0]
    names = ["mask", "recognize", "brief", "detailed", "first click", "next one", "overlay"]
    assert [line.partition(":")[0] for line in lines[1:-1]] == names
    assert "(encode " in lines[5] and "(segment " in lines[6]
    assert Image.open(out).width == 600


def test_words_without_an_end_are_no_answer(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of weights that were never trained."""
    picture, box = str(PICTURES / "chelsea.jpg"), ("100", "40", "320", "280")
    options = ("--picture", picture, "--box", *box, "--out", str(tmp_path / "o.png"), "--device", DEVICE)
    assert main(["try", str(small_checkpoint), *options]) == 1
    said = capsys.readouterr().out
    assert "fault: recognize: goes on without an end after 64 tokens" in said and "It answers" not in said
    assert main(["try", "tiny", "--picture", picture]) == 1
    assert "--picture and --box go together" in capsys.readouterr().err


def test_what_a_wrong_dtype_or_weight_file_gives_is_told(pam: PerceiveAnything, coffee: Image.Image) -> None:
    found = pam.perceive(coffee, [Prompt(box=BOX)], [Task.RECOGNIZE])
    (region,), (texts,) = found.regions, found.texts
    cup = replace(texts[Task.RECOGNIZE], finished=True, string="cup")
    assert faults(region, {Task.RECOGNIZE: cup}) == []
    overflown = replace(region.features, image=torch.full_like(region.features.image, torch.inf))
    (said,) = faults(replace(region, features=overflown), {Task.RECOGNIZE: cup})
    assert "try --dtype float32" in said
    for mask, what in ((np.zeros_like(region.mask), "nothing"), (np.ones_like(region.mask), "everything")):
        (said,) = faults(replace(region, mask=mask), {Task.RECOGNIZE: cup})
        assert f"the mask shows {what}" in said
    changes: dict[str, dict[str, Any]] = {
        "recognize: says nothing": {"string": ""},
        "recognize: has broken characters": {"string": "a\ufffdb"},
        "numbers that are not finite": {"mean_logprob": float("nan")},
    }
    for what, change in changes.items():
        (said,) = faults(region, {Task.RECOGNIZE: replace(cup, **change)})
        assert said.startswith(what)


def test_a_device_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 594.00 MiB.\nMore words")

    monkeypatch.setattr(Checkpoint, "load_language", full)
    with pytest.raises(DeviceError, match=rf"tiny does not fit into the memory of {DEVICE} \(CUDA out of memory"):
        PerceiveAnything.from_pretrained("tiny", device=DEVICE)
