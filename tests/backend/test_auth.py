from __future__ import annotations

import base64
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from backend.__main__ import main
from backend.errors import Unauthorized
from backend.front.auth import BasicAuth, is_loopback, webhook_token
from backend.settings import Settings

SETTINGS = Settings(user="ann", password=SecretStr("pä:ss"))


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_the_right_ones_get_in() -> None:
    auth = BasicAuth(SETTINGS)
    for page in ("/", "/predict", "/webhook", "/metrics", "/nowhere"):
        auth.admit(page, basic("ann:pä:ss"))
        auth.admit(page, basic("ann:pä:ss").replace("Basic", "basic"))
    auth.admit("/live", None)
    auth.admit("/webhook", f"Bearer {webhook_token(SETTINGS)}")


@pytest.mark.parametrize(
    "sent",
    [
        *(None, "", "Basic", "Basic ", "Basic !!!", "Basic YQ", "Bearer x", "Digest a=b", "ann:pä:ss"),
        *(basic("ann:"), basic("ann:pä:ss "), basic("ann:pä:s"), basic(":pä:ss"), basic("ANN:pä:ss"), basic("ann")),
        *(basic("pallas:pä:ss"), f"Bearer {webhook_token(SETTINGS)}", f"Basic {webhook_token(SETTINGS)}"),
    ],
)
def test_nobody_else(sent: str | None) -> None:
    for page in ("/", "/health", "/predict", "/metrics", "/live/", "/nowhere"):
        with pytest.raises(Unauthorized, match="PALLAS_PASSWORD"):
            BasicAuth(SETTINGS).admit(page, sent)


def test_without_a_password_everybody() -> None:
    BasicAuth(Settings()).admit("/predict", None)


def test_the_webhook_token_differs_by_password_and_does_not_show_it() -> None:
    token = webhook_token(SETTINGS)
    assert "ss" not in token and token != webhook_token(Settings(password=SecretStr("other")))
    with pytest.raises(Unauthorized, match="webhooks"):
        BasicAuth(SETTINGS).admit("/webhook", "Bearer 0")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *(("127.0.0.1", True), ("127.5.5.5", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("", False), ("192.168.1.7", False), ("localhost.evil.example", False)),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("command", ["serve", "front"])
def test_no_front_without_a_password_where_others_reach_it(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PALLAS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("PALLAS_WORKERS", "0")
    assert main([command, "--host", "0.0.0.0", "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert "set PALLAS_PASSWORD" in error and "--allow-open" in error and "Traceback" not in error


@pytest.mark.parametrize("user", ["", "a:b"])
def test_users_that_basic_auth_cannot_say(user: str) -> None:
    with pytest.raises(ValidationError, match="without a colon"):
        Settings(user=user)


def test_webhooks_need_no_token_without_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["webhooks", "http://localhost:9090"]) == 1
    assert "PALLAS_PASSWORD is not set" in capsys.readouterr().err
