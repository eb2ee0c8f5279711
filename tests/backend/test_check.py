from __future__ import annotations

import io
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console

from backend.run.check import check
from backend.settings import Settings


def report(settings: Settings) -> tuple[int, str]:
    out = io.StringIO()
    code = check(settings, Console(file=out, width=200))
    return code, out.getvalue()


def test_all_well(tmp_path: Path) -> None:
    code, text = report(Settings(model="tiny", state_dir=tmp_path / "state", device="cpu"))
    assert code == 0
    assert "ok redis: embedded, Redis" in text and "ok model: tiny@" in text
    assert "answers a click in" in text and "for a cup), memory" in text
    assert "python -m backend serve" in text and "LABEL_STUDIO_URL is not set" in text


def test_what_cannot_be_quantized_is_said(tmp_path: Path) -> None:
    settings = Settings(model="tiny", state_dir=tmp_path / "state", device="cpu", quantize="int8")
    code, text = report(settings)
    assert code == 0
    assert "ok device: cpu, torch.float32, quantize int8" in text
    code, text = report(settings.model_copy(update={"dtype": "bfloat16"}))
    assert code == 1
    assert "failed device: quantize int8 goes with dtype float32" in text
    assert "failed model: quantize int8 goes with dtype float32" in text


def test_a_model_that_says_nothing_of_use_is_a_failure(small_checkpoint: Path, tmp_path: Path) -> None:
    code, text = report(Settings(model=str(small_checkpoint), state_dir=tmp_path / "state", device="cpu"))
    assert code == 1 and "failed model: small@" in text and "goes on without an end" in text


def test_each_failure_says_what_to_do(tmp_path: Path) -> None:
    code, text = report(
        Settings(
            model=str(tmp_path),
            device="cuda:77",
            redis_url=SecretStr("redis://:hunter2@127.0.0.1:9/0"),
            label_studio_url="127.0.0.1:9",
            label_studio_api_key=SecretStr("hunter3"),
        )
    )
    assert code == 1
    for part in (
        "failed redis: REDIS_URL does not answer",
        "failed device: this machine shows",
        "failed model: ",
        "failed label studio: http://127.0.0.1:9 does not answer",
    ):
        assert part in text
    assert "hunter" not in text
