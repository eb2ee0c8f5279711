"""The benchmarks run to their end, on something small; their figures are nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import bounds, draft, finding, image, large, learning, paired, parts, quantized
from benchmarks.bounds import Machine, Work, operations
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.parts import Part
from benchmarks.gpu.rows import Row, Timer, markdown, read_row
from benchmarks.image import Patience
from benchmarks.soak import slope
from benchmarks.weights import write
from model import PerceiveAnything, Prompt, Sampling, Task


def test_pictures(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bounds, "_SIDE", 256)
    monkeypatch.setattr(bounds, "_MEMORY", 1 << 22)
    command = ["--checkpoint", str(small_checkpoint)]
    parts = ["--sam2", str(small_checkpoint / "sam2.safetensors"), "--config", str(small_checkpoint / "sam2.yaml")]
    size = ["--regions", "1,2", "--texts", "1,2", "--new-tokens", "3", "--repeats", "1"]
    # processes of their own begin in it, for peak memory
    image.main([*command, *parts, *size, "--device", "cpu", "--json", "--out", str(tmp_path)])
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert json.loads((tmp_path / "image.json").read_text()) == report and (tmp_path / "image.png").stat().st_size > 0
    assert [(row["kind"], row["regions"], row["texts"]) for row in report["rows"]] == [
        *(("warm", 1, 1), ("cold", 1, 1), ("cold", 1, 2), ("cold", 2, 1), ("cold", 2, 2), ("labels", 1, 100)),
    ]
    for row in report["rows"]:
        assert row["ours_s"] > 0 and row["plain_s"] > 0 and row["ratio"] > 0 and row["pairs"] == 1
        assert row["ours_floor_s"] > 0 and row["ours_operations"] > 0
    assert set(report["peak_gb"]) == {"ours", "plain"} and min(report["peak_gb"].values()) > 0.1
    assert "2 regions × 2 texts" in said.err


def test_a_wrong_checkpoint_is_said_in_a_line() -> None:
    with pytest.raises(SystemExit, match=r"^error: [^\n]*$"):
        image.main(["--checkpoint", "/nowhere/at/all"])


def test_operations_are_counted_and_make_a_floor() -> None:
    layer = torch.nn.Linear(300, 500)
    with torch.no_grad():
        assert operations(lambda: layer(torch.ones(7, 300))) == 2 * 7 * 300 * 500
    machine = Machine(operations_per_s=1000.0, bytes_per_s=10.0)
    # 5 steps that read 40 bytes each, and what is not of the loop: 4200 - 2 * 10 weights * 2 rows * 5 steps
    assert Work(4200, 5, 2, 1, 10, 40).floor_s(machine) == pytest.approx(4.0 + 5 * 4.0)
    # many rows: arithmetic is the bound of the loop too
    assert Work(1e6, 1, 1e4, 1, 10, 40).floor_s(machine) == pytest.approx(1000.0)


def test_a_row_is_repeated_as_often_as_patience_has_it() -> None:
    patience = Patience(3, 10)
    assert patience.more(0, 99) and patience.more(2, 9) and not patience.more(3, 0) and not patience.more(1, 11)


def test_two_checkouts_take_turns() -> None:
    begun: list[str] = []

    def side(name: str, seconds: list[float], said: str) -> Callable[[str], dict[str, Any]]:
        left = iter([9.0, *seconds])  # the first is to warm up

        def run(_: str) -> dict[str, Any]:
            begun.append(name)
            taken = next(left)
            return {"processor_s": taken, "clock_s": 2 * taken, "said": said}

        return run

    found = paired.compare([side("a", [1, 2, 4], "x"), side("b", [1.1, 1.8, 5.0], "x")], "cold 1 1", 3)
    assert begun == list("ababbaab")
    assert found["processor_s"]["ratio"] == pytest.approx(1.1) and found["clock_s"]["before"] == 4
    assert found["processor_s"]["after_least"] == 1.1
    with pytest.raises(SystemExit, match="answer differently"):
        paired.compare([side("a", [], "x"), side("b", [], "y")], "cold 1 1", 0)


def test_random_weights_of_a_released_shape_load(tmp_path: Path) -> None:
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    write(tmp_path, shape, 2700, "sam2.1_hiera_t.yaml")
    pam = PerceiveAnything.from_pretrained(tmp_path, device="cpu", dtype="bfloat16")
    assert pam.language.model.lm_head.weight.shape == (2700, 64)
    assert pam.language.end_ids() == [2680, 2678] and pam.language.prompt_ids("")[0][0] == 2679
    picture = torch.zeros(40, 60, 3, dtype=torch.uint8).numpy()
    found = pam.perceive(picture, [Prompt(points=[(30, 20, 1)])], [Task.BRIEF], sampling=Sampling(max_new_tokens=2))
    assert len(found.texts[0][Task.BRIEF].token_ids) <= 2


def test_loading_keeps_one_tensor_at_a_time_in_host_memory(tmp_path: Path) -> None:
    """In the layout of the hub; its copies of SAM 2 and of the head are not read."""
    shape = {"hidden_size": 512, "num_hidden_layers": 16, "num_attention_heads": 8, "intermediate_size": 2048}
    write(tmp_path / "PAM", shape, 20_000, "sam2.1_hiera_t.yaml", released=True, shard_bytes=100_000_000)
    weights = sorted((tmp_path / "PAM").glob("*.safetensors"))
    assert len(weights) > 2 and sum(file.stat().st_size for file in weights) > 250e6
    command = [sys.executable, "-m", "benchmarks.weights", str(tmp_path), "--measure"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["weights_gb"] > 0.3
    # of Meta's file 0.16 GB are mapped; of the rest, the largest tensor has 0.02
    assert 0.01 < found["peak_gb"] < 0.3


def test_one_click() -> None:
    command = [sys.executable, "-m", "benchmarks.click", "--new-tokens", "2", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["model"].startswith("tiny@") and row["peak_gb"] > 0.1 and row["load_s"] > 0
    assert list(row["cold_s"]) == ["encode", "segment", "read", "answer"]
    assert list(row["warm_s"]) == ["segment", "read", "answer"]
    wrong = subprocess.run([*command, "--checkpoint", "/nowhere/at/all"], check=False, capture_output=True, text=True)
    assert wrong.returncode == 1 and "error: " in wrong.stderr and "Traceback" not in wrong.stderr


def test_eight_bits(small_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("eight bits are for x86 processors")
    quantized.main(["--checkpoint", str(small_checkpoint), "--json", "--new-tokens", "2", "--repeats", "1"])
    report = json.loads(capsys.readouterr().out)
    sizes = report.pop("megabytes")
    assert 0 < sizes["int8"] < sizes["float32"]
    assert list(report) == ["prompt", "2 tokens of 2 texts", "100 labels"]
    assert all(row["float32_s"] > 0 and row["int8_s"] > 0 and row["ratio"] > 0 for row in report.values())


def test_the_slope_of_a_soak_is_told_from_its_noise() -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(900.0, 1800.0, 10.0)
    flat, rising = 100 + rng.normal(0, 1, 90), 100 + seconds / 3600 * 30 + rng.normal(0, 1, 90)
    assert abs(slope(seconds, flat)[0]) < slope(seconds, flat)[1] < 10
    rise, error = slope(seconds, rising)
    assert abs(rise - 30) < error < 10
    assert np.isnan(slope(seconds[:6], flat[:6])).all()


def _gpu(out: Path, *more: str) -> int:
    """The command; its parts run in a process of their own."""
    return gpu.main(["--device", "cpu", "--model-size", "tiny", "--out", str(out), *more])


def test_one_command_for_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = _gpu(tmp_path, "--parts", "load,tokens,labels")
    assert code == 0, capsys.readouterr().out
    rows = [read_row(line) for line in (tmp_path / "gpu.jsonl").read_text("utf-8").splitlines()]
    assert all(row is not None and row.value is not None for row in rows)
    assert [row.part for row in rows if row] == ["load"] * 6 + ["token"] * 2 + ["labels"]
    page = (tmp_path / "gpu.md").read_text("utf-8")
    assert "random, shapes of tiny" in page and "### token" in page and "token step, 2 rows" in page


def test_a_run_whose_time_is_over_keeps_what_it_has_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _gpu(tmp_path, "--parts", "load,click", "--minutes", "0") == 1
    assert capsys.readouterr().out.count("the whole run's time is over") == 2
    assert "not finished | not measured" in (tmp_path / "gpu.md").read_text("utf-8")


def test_a_part_that_fails_does_not_end_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _gpu(tmp_path, "--parts", "load,labels", "--dtype", "float99") == 1
    said = capsys.readouterr().out
    assert said.count("failed  not measured") == 2 and "no dtype 'float99'" in said, said


def test_a_part_says_which_packages_it_lacks() -> None:
    assert Part("none", lambda _: iter(()), 0.1, ("json", "no_such_package")).lacks() == ["no_such_package"]


def test_rows_come_back_from_their_lines_and_the_page_has_a_table_for_each_part() -> None:
    row = Row("click", "encode", 1.5, aim="≤ 2", floor=0.25)
    assert read_row(row.line()) == row and read_row("begin click") is None and read_row("[1]") is None
    page = markdown([row, Row("video", "left out", None, note="no PyAV")], {"card": "a card"})
    assert "| encode | 1.5 ms | ≤ 2 | 0.25 |  |" in page and "| left out | not measured |  |  | no PyAV |" in page


def test_a_timer_waits_for_warm_runs_and_takes_the_median() -> None:
    seen: list[int] = []
    assert Timer(torch.device("cpu"), seconds_each=60, most=3).median(lambda: seen.append(1), warm=2) >= 0
    assert len(seen) == 5


def test_exports() -> None:
    command = [sys.executable, "-m", "benchmarks.export", "--regions", "400", "--each", "20"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "400 regions as coco" in done.stdout, done.stderr


def test_large_pictures(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(large, "SIZES", (24, 96))
    command = ["large", "--checkpoint", str(small_checkpoint), "--width", "2100", "--scenes", "1", "--each", "1"]
    monkeypatch.setattr(sys, "argv", command)
    large.main()
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert [int(row[1]) for row in rows] == [24, 96]
    assert all(0 <= float(cell) <= 1 for row in rows for cell in row[3:7])
    monkeypatch.setattr(sys, "argv", [*command, "--proposals", "1"])
    large.main()
    assert "of 1 |" in capsys.readouterr().out


def test_a_boundary_is_compared_near_both_outlines() -> None:
    square = np.zeros((200, 200), bool)
    square[50:150, 50:150] = True
    hollow, moved = square.copy(), np.roll(square, 2, axis=1)
    hollow[90:110, 90:110] = False  # far from the outline: the ring of the hole alone is too much
    assert large.boundary_iou(square, square) == 1.0
    assert 0.5 < large.boundary_iou(hollow, square) < 1 and 0.2 < large.boundary_iou(moved, square) < 0.7
    assert large.boundary_iou(np.zeros_like(square), square) == 0.0


def test_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("model.finding.seen.POINTS_PER_SIDE", 4)
    finding.main(["--repeats", "1", "--candidates", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[3:]] == [
        *("| encode", "| 16 clicks decoded", "| candidates"),
        *(f"| {what} against 3, {which}" for what in ("a word", "a phrase") for which in ("first", "next")),
    ]
    assert all(float(cell) >= 0 for line in lines[3:] for cell in line.strip("|").split("|")[1:])


def test_finding_with_random_weights(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("model.finding.seen.POINTS_PER_SIDE", 2)
    bundled = Path(finding.DEMO).parent / "model" / "checkpoints" / "tiny" / "sam2.yaml"
    monkeypatch.setattr(finding, "packaged_config", lambda name: bundled)
    finding.main(["--tower", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[3:]] == [
        "| encode",
        "| 4 clicks decoded",
        "| proposals",
        "| candidates",
    ]


def test_each_counted_thing_is_right_once() -> None:
    boxes = [(0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)]

    class Boxed:
        def __init__(self, *box: float) -> None:
            self.box = box

    found = [Boxed(1, 0, 10, 10), Boxed(0, 0, 10, 9), Boxed(24, 0, 39, 10), Boxed(50, 0, 60, 10)]
    assert finding.right(found, boxes) == 1  # type: ignore[arg-type]
    assert finding.box_iou(None, boxes[0]) == 0 == finding.box_iou(boxes[1], boxes[0])
    for one in json.loads((finding.DEMO / "counted" / "truth.json").read_text())["counted"]:
        with Image.open(finding.DEMO / "counted" / one["file"]) as picture:
            for x1, y1, x2, y2 in one["boxes"]:
                assert 0 <= x1 < x2 <= picture.width and 0 <= y1 < y2 <= picture.height


def test_jpegs_decoded_at_a_fraction(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.effect_noise((90, 60), 80).convert("RGB").save(tmp_path / "noise.jpg")
    monkeypatch.setattr(draft, "_CLICKS", 2)
    draft.main(["--checkpoint", str(small_checkpoint), "--pictures", str(tmp_path), "--sides", "100,1600"])
    small, larger = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    # of a small one nothing is left out
    assert float(small[4]) == float(small[6]) == 1.0 and 0 <= float(larger[6]) <= float(larger[4]) <= 1


def test_around_the_model() -> None:
    command = [sys.executable, "-m", "benchmarks.around", "--sizes", "320x240", "--clicks", "2"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for stage in ("whole, p50", "queue", "shape", "mask, front"):
        assert stage in done.stdout


def test_learning(small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learning.main(["--quick", "--device", "cpu", "--out", str(tmp_path), "--checkpoint", str(small_checkpoint)])
    said = capsys.readouterr().out
    assert "new classes, top-1" in said and "in random order" in said and "ms a region" in said
    assert (tmp_path / "learning.png").stat().st_size > 0


def test_the_parts_are_drawn_alike_each_time_and_where_their_masks_are() -> None:
    first, again = (parts.scene(5, ["gasket-B", "spring", "dolphin"]) for _ in range(2))
    assert np.array_equal(np.asarray(first.picture), np.asarray(again.picture)) and len(first.things) >= 2
    for thing in first.things:
        assert 100 < thing.mask.sum() < 0.4 * thing.mask.size
    assert not np.array_equal(np.asarray(first.picture), np.asarray(parts.scene(6, ["gasket-B"]).picture))
    assert len(parts.NEW) == 20 and len(parts.known()) >= 10
