from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from model import open_video
from model.__main__ import main
from model.values.mask import from_rle
from tests.conftest import PICTURES
from tests.device import DEVICE
from tests.videos import picture, write

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
        *("--task", "recognize", "--task", "detailed", "--model", str(small_checkpoint), "--device", DEVICE),
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
        *("--model", str(small_checkpoint), "--device", DEVICE),
    )
    assert code == 0
    assert "region 2: 20000 pixels, box 100, 100, 300, 200" in stdout
    assert stdout.count("recognize:") == stdout.count("brief:") == 2
    assert stdout.count(" … (cut off after 3 tokens)\n") == 4


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


def clip(tmp_path: Path) -> str:
    return str(write(tmp_path / "clip.mp4", [picture(i) for i in range(12)]))


def test_a_video_is_tracked_described_and_drawn(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "overlay.mp4"
    code, stdout, stderr = run(
        capsys,
        *("perceive", clip(tmp_path), "--box", "14", "40", "54", "80", "--frame", "5"),
        *("--task", "caption", "--task", "explain", "--model", str(small_checkpoint), "--device", DEVICE),
        *("--max-new-tokens", "3", "--json", "--out", str(out)),
    )
    assert (code, stderr) == (0, "")
    answer = json.loads(stdout)
    assert (answer["frame_count"], len(answer["objects"])) == (12, 1)
    (thing,) = answer["objects"]
    assert [frame["frame"] for frame in thing["frames"]] == list(range(12))
    assert list(thing["texts"]) == ["caption", "explain"]
    for frame in thing["frames"]:
        mask = from_rle(frame["mask"])
        assert mask.shape == (120, 160) and (frame["box"] is None) == (not mask.any())
    video = open_video(out)
    assert video.frame_count == 12 and video.width == 160 and video.height > 120
    np.testing.assert_allclose(video.timestamps_s, np.arange(12) / 25, atol=2e-3)


def test_a_stream_is_told_line_by_line(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (
        "--fixed",
        "--clip-length",
        "4",
        "--model",
        str(small_checkpoint),
        "--device",
        DEVICE,
        "--max-new-tokens",
        "3",
    )
    arguments = ("stream", clip(tmp_path), "--box", "14", "40", "54", "80", "--frame", "2")
    code, stdout, _ = run(capsys, *arguments, *more, "--json")
    events = [json.loads(line) for line in stdout.splitlines()]
    assert code == 0 and [(e["start_s"], e["end_s"]) for e in events] == [(0.08, 0.2), (0.24, 0.36), (0.4, 0.44)]
    code, stdout, _ = run(capsys, *arguments, *more, "--frame-rate", "12.5")
    assert code == 0 and stdout.count("\n") == 2 and "0.08" in stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("perceive", "--box", "1", "1", "9", "9", "--frame", "12"), "frames 0 to 11"),
        (("perceive", "--box", "900", "1", "999", "9"), "outside the picture"),
        (("stream", "--box", "1", "1", "9", "9", "--box", "1", "1", "9", "9"), "one thing"),
        (("stream", "--box", "1", "1", "9", "9", "--frame-rate", "0"), "positive"),
    ],
)
def test_errors_about_videos_are_one_line(
    tmp_path: Path, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stdout, stderr = run(capsys, arguments[0], clip(tmp_path), *arguments[1:])
    assert code == 1 and stdout == "" and says in stderr and stderr.count("\n") == 1


def test_a_small_thing_in_a_large_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = Image.new("RGB", (2600, 1900), (120, 150, 120))
    ImageDraw.Draw(image).ellipse((1000, 700, 1040, 740), fill=(200, 40, 30))
    image.save(tmp_path / "field.png")
    areas = []
    for more in ((), ("--large", "0")):
        code, stdout, _ = run(
            capsys,
            *("perceive", str(tmp_path / "field.png"), "--point", "1020", "720", "--task", "recognize"),
            *("--model", "tiny", "--device", "cpu", "--max-new-tokens", "1", "--json", *more),
        )
        assert code == 0
        areas.append(json.loads(stdout)["regions"][0]["area"])
    disc = np.pi * 20**2
    assert 0.7 * disc < areas[0] < 1.4 * disc and abs(areas[0] - disc) < abs(areas[1] - disc)
