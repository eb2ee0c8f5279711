from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr
from rich.console import Console

from backend.errors import ConfigError
from backend.predict.config_notes import ConfigNotes
from backend.queueing.connection import connect
from backend.run.check import check, check_device, check_label_studio
from backend.run.embedded_redis import running
from backend.settings import Settings
from benchmarks.stand_in import TOKEN, StandIn, run_stand_in
from model.compute import compiler, device


def report(settings: Settings, show_settings: bool = False) -> tuple[int, str]:
    out = io.StringIO()
    code = check(settings, Console(file=out, width=200), show_settings)
    return code, out.getvalue()


def test_all_well(tmp_path: Path) -> None:
    code, text = report(Settings(model="tiny", state_dir=tmp_path / "state", device="cpu"))
    assert code == 0
    assert "ok redis: embedded, Redis" in text and "ok model: tiny@" in text
    assert "answers a click in" in text and "for a cup), memory" in text
    assert "python -m backend serve" in text and "LABEL_STUDIO_URL is not set" in text
    assert text.strip().startswith("ok settings: ") and "max_prompts" not in text


def test_settings_come_after_the_results_and_on_demand(small_checkpoint: Path, tmp_path: Path) -> None:
    settings = Settings(model=str(small_checkpoint), state_dir=tmp_path / "state", device="cpu")
    _, text = report(settings, show_settings=True)
    assert text.index("label studio") < text.index("max_prompts")


def test_a_variable_that_sets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALLAS_MODLE", "PAM-3B")
    code, text = report(Settings(model="PAM3B", state_dir=tmp_path / "state", device="cpu"))
    assert code == 1
    assert "failed settings: PALLAS_MODLE is no setting: did you mean PALLAS_MODEL?" in text
    assert "did you mean PAM-3B?" in text


def test_what_is_wrong_with_a_projects_config(small_checkpoint: Path, tmp_path: Path) -> None:
    settings = Settings(model=str(small_checkpoint), state_dir=tmp_path / "state", device="cpu")
    with running(settings):
        ConfigNotes(connect(settings)).see("7.1", "", ConfigError("add <BrushLabels>"))
        code, text = report(settings)
    assert code == 1 and "failed labelling configs: project 7: add <BrushLabels>" in text


@pytest.fixture
def label_studio(tmp_path: Path) -> Iterator[StandIn]:
    with run_stand_in("<View/>", tmp_path) as running_one:
        yield running_one


def test_label_studio_and_its_uploads(label_studio: StandIn) -> None:
    settings = Settings(label_studio_url=label_studio.url, label_studio_api_key=SecretStr(TOKEN))
    found = check_label_studio(settings)
    assert found.ok, found.text
    refused = check_label_studio(settings.model_copy(update={"label_studio_api_key": SecretStr("another")}))
    assert refused.ok is False and "refuses LABEL_STUDIO_API_KEY" in refused.text


def test_what_cannot_be_quantized_is_said(tmp_path: Path) -> None:
    settings = Settings(model="tiny", state_dir=tmp_path / "state", device="cpu", quantize="int8")
    code, text = report(settings)
    assert code == 0
    assert "ok device: cpu, torch.float32, quantize int8" in text
    code, text = report(settings.model_copy(update={"dtype": "bfloat16"}))
    assert code == 1
    assert "failed device: quantize int8 goes with dtype float32" in text
    assert "failed model: quantize int8 goes with dtype float32" in text


def test_what_a_gpu_needs_beside_torch_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(device, "pick_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setattr(compiler, "lacks", lambda: "")
    assert check_device(Settings()).text == "cuda, torch.bfloat16"
    monkeypatch.setattr(compiler, "lacks", lambda: "there is no C compiler: get one")
    assert check_device(Settings()).text == (
        "cuda, torch.bfloat16; slower than it could be: there is no C compiler: get one"
    )
    assert check_device(Settings(resident=False)).text == "cuda, torch.bfloat16"


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
        "failed redis: REDIS_URL (redis://127.0.0.1:9/0) does not answer",
        "failed device: this machine shows",
        "failed model: ",
        "failed label studio: LABEL_STUDIO_URL http://127.0.0.1:9 does not answer",
    ):
        assert part in text
    assert "hunter" not in text
