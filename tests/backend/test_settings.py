from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from backend.__main__ import main
from backend.queueing.connection import socket_path
from backend.settings import Settings
from model import TokenLimits


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(("PALLAS_", "REDIS_", "LABEL_STUDIO_")):
            monkeypatch.delenv(name)


def test_customary_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "label-studio:8080/")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "key")
    monkeypatch.setenv("REDIS_URL", "redis://:pw@host/0")
    monkeypatch.setenv("PALLAS_LOCAL_ROOTS", "/a, /b")
    settings = Settings()
    assert settings.label_studio_url == "http://label-studio:8080"
    assert settings.local_roots == (Path("/a"), Path("/b"))
    assert not settings.embedded_redis
    assert "pw" not in repr(settings) and "key" not in repr(settings.label_studio_api_key)


def test_a_child_process_gets_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(
        model="x",
        port=1,
        local_roots=(Path("/a"), Path("/b")),
        label_studio_api_key=SecretStr("k"),
        fetch_timeout_s=3.5,
    )
    for name, value in given.to_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == given


@pytest.mark.parametrize(
    "limits", [{"job_timeout_s": 90}, {"wait_s": 100}, {"fetch_timeout_s": 60}, {"wait_s": 50}, {"fetch_timeout_s": 0}]
)
def test_the_chain_of_limits(limits: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Settings(**limits)  # type: ignore[arg-type]


def test_empty_variables_are_unset_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.setenv(name, "")
    settings = Settings()
    assert settings.embedded_redis and settings.label_studio_url is None and settings.label_studio_api_key is None


def test_a_redis_url_needs_its_scheme(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("REDIS_URL", "localhost:6379/hunter2")
    assert main(["check"]) == 2
    error = capsys.readouterr().err
    assert "redis://" in error and "hunter2" not in error


def test_a_wrong_setting_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PALLAS_PORT", "many")
    assert main(["check"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("setting PALLAS_PORT: ") and error.count("\n") == 1


@pytest.mark.parametrize("url", ["redis://host:many/0", "http://host", "redis://host:0/0"])
def test_a_malformed_address_of_redis_is_called_as_people_set_it(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    assert main(["check"]) == 2
    assert capsys.readouterr().err.startswith("setting REDIS_URL: ")


def test_redis_that_is_not_there_is_called_by_its_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@127.0.0.1:9/0")
    assert main(["review"]) == 1
    error = capsys.readouterr().err
    assert "127.0.0.1:9" in error and "REDIS_URL" in error and "hunter2" not in error


def test_variables_that_set_nothing_are_named() -> None:
    given = ["PALLAS_MODLE", "PALLAS_MODEL", "pallas_port", "PALLAS_SKIP_E2E", "PALLAS_QQ", "HOME"]
    assert Settings.unknown(given) == [
        "PALLAS_MODLE is no setting: did you mean PALLAS_MODEL?",
        "PALLAS_QQ is no setting",
    ]


def test_a_long_state_folder_still_gets_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    assert len(str(socket_path(Settings(state_dir=deep)))) <= 100
    assert socket_path(Settings(state_dir=Path("/short"))) == Path("/short/redis.sock")


def test_limits_of_texts_by_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALLAS_TOKENS_DETAILED", "300")
    assert Settings().token_limits == TokenLimits(detailed=300)
    monkeypatch.setenv("PALLAS_MAX_NEW_TOKENS", "20")
    assert Settings().token_limits == TokenLimits.same(20)
