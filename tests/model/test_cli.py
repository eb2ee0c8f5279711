from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.__main__ import main
from model.mask import from_rle
from tests.conftest import PICTURES

PICTURE = str(PICTURES / "coffee.jpg")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_and_overlay(small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "overlay.png"
    code, stdout, stderr = run(
        capsys,
        *("perceive", PICTURE, "--box", "170", "10", "410", "310", "--negative", "290", "140"),
        *("--task", "recognize", "--task", "detailed", "--model", str(small_checkpoint), "--device", "cpu"),
        *("--max-new-tokens", "4", "--json", "--out", str(out)),
    )
    assert (code, stderr) == (0, "")
    answer = json.loads(stdout)
    (region,) = answer["regions"]
    assert set(region) == {"mask", "box", "area", "iou", "object_score", "texts"}
    assert from_rle(region["mask"]).sum() == region["area"]
    assert list(region["texts"]) == ["recognize", "detailed"]
    assert Image.open(out).size[0] == 600


def test_a_mask_file_and_lines(small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.zeros((400, 600), np.uint8)
    mask[100:200, 100:300] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    code, stdout, _ = run(
        capsys,
        *("perceive", PICTURE, "--mask", str(tmp_path / "mask.png"), "--point", "20", "20", "--max-new-tokens", "3"),
        *("--model", str(small_checkpoint), "--device", "cpu"),
    )
    assert code == 0
    assert "region 2: 20000 pixels, box 100, 100, 300, 200" in stdout
    assert stdout.count("recognize:") == stdout.count("brief:") == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no prompt"),
        (("--negative", "1", "1"), "only --negative"),
        (("--box", "9", "9", "1", "1"), "empty or inverted"),
        (("--point", "9999", "1"), "outside the picture"),
        (("--point", "1", "1", "--model", "what"), "no model 'what'"),
        (("--mask", "nothing.png"), "nothing.png"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, stdout, stderr = run(capsys, "perceive", PICTURE, *arguments)
    assert code == 1 and stdout == ""
    assert says in stderr and stderr.count("\n") == 1
