"""The files that start the product elsewhere agree with the product."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.__main__ import parser
from backend.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"].startswith("pallas:")}
HARDENED = {**OURS, **{name: COMPOSE["services"][name] for name in ("redis", "dashboard")}}


def test_compose_has_the_parts() -> None:
    assert {"redis", "front", "worker", "label-studio"} <= set(COMPOSE["services"])
    assert COMPOSE["services"]["label-studio"]["profiles"] == ["label-studio"]
    worker = COMPOSE["services"]["worker"]
    assert worker["environment"]["PALLAS_MODEL"] == "PAM-3B"
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    # what was learned and compiled outlives a container
    assert "state:/state" in worker["volumes"]
    volumes = {v.split(":")[0] for s in COMPOSE["services"].values() for v in s.get("volumes", ())}
    assert volumes == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", OURS)
def test_compose_runs_commands_and_settings_that_exist(name: str) -> None:
    service = OURS[name]
    parser().parse_args(service["command"])
    known = {"REDIS_URL", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"}
    known |= {f"PALLAS_{field.upper()}" for field in Settings.model_fields}
    assert set(service["environment"]) <= known
    parser().parse_args(service["healthcheck"]["test"][4:])


def interpolated(value: str, environment: dict[str, str]) -> str:
    """As Docker Compose does it, with `:-` and `:?`; KeyError with the message where a needed one is missing."""

    def put(found: re.Match[str]) -> str:
        name, sign, text = found.groups()
        if given := environment.get(name):
            return given
        if sign == ":?":
            raise KeyError(text)
        return str(text)

    return re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", put, value)


def test_compose_settings_are_taken_and_the_password_is_asked_for() -> None:
    with pytest.raises(KeyError, match=r"PALLAS_PASSWORD=\.\.\. into the file \.env"):
        for value in OURS["front"]["environment"].values():
            interpolated(value, {})
    for service in OURS.values():
        found = {name: interpolated(value, {"PALLAS_PASSWORD": "x"}) for name, value in service["environment"].items()}
        fields = {name.removeprefix("PALLAS_").lower(): value for name, value in found.items()}
        settings = Settings(_env_file=None, **{k: v for k, v in fields.items() if v})  # type: ignore[arg-type]
        assert settings.redis_url is not None and settings.label_studio_url == "http://label-studio:8080"
        # only the front is asked for it
        assert (settings.password is not None) is (service is OURS["front"])


@pytest.mark.parametrize("name", HARDENED)
def test_containers_may_do_little(name: str) -> None:
    service = HARDENED[name]
    assert service["read_only"] is True and service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")


def test_redis_is_reached_by_the_parts_of_pallas_alone() -> None:
    assert COMPOSE["networks"]["queue"] == {"internal": True}
    inside = {name for name, service in COMPOSE["services"].items() if "queue" in service.get("networks", ["default"])}
    assert inside == {"redis", "dashboard", *OURS} and COMPOSE["services"]["redis"]["networks"] == ["queue"]
    assert "ports" not in COMPOSE["services"]["redis"]


def test_images_have_exact_tags() -> None:
    images = {service["image"] for service in COMPOSE["services"].values()}
    images |= {
        found
        for file in (ROOT / "Dockerfile", ROOT / "deploy" / "rq-dashboard" / "Dockerfile")
        for found in re.findall(r"^ARG BASE=(\S+)$", file.read_text(), re.MULTILINE)
    }
    assert len(images) >= 5
    for image in images:
        assert re.search(r":\d+\.\d+\.\d+(-|$)", image), image


def test_the_dashboard_s_requirements_are_exact() -> None:
    lines = (ROOT / "deploy" / "rq-dashboard" / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    ours = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    theirs = dict(line.split("==") for line in lines)
    assert (theirs["rq"], theirs["redis"]) == (ours["rq"], ours["redis"])


def test_dockerfile_copies_what_is_there_and_sets_what_is_known() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path
    for name in re.findall(r"PALLAS_(\w+)=", text):
        assert name.lower() in Settings.model_fields
    assert re.search(r"^USER pallas$", text, re.MULTILINE)


def test_what_is_installed_is_what_is_pinned() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] not in "#-"]
    assert lines and all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pins = dict(line.split("==") for line in lines)
    assert "label-studio-ml" not in pins
    if Path(sys.prefix).name == ".venv":
        wrong = {
            name: metadata.version(name) for name, pin in pins.items() if metadata.version(name).split("+")[0] != pin
        }
        assert wrong == {}


def test_nothing_of_a_fork_or_flash_attention_is_imported() -> None:
    for file in [*(ROOT / "model").rglob("*.py"), *(ROOT / "backend").rglob("*.py")]:
        text = file.read_text()
        assert "import flash_attn" not in text and "import llava" not in text
