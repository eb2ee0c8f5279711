"""`python -m backend check`: what is set, what works, and what to do about what does not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
import requests
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from backend.errors import BackendError
from backend.front.auth import is_loopback
from backend.label_studio.access import LabelStudio
from backend.queueing import heartbeat
from backend.queueing.connection import connect
from backend.run import embedded_redis, health
from backend.settings import Settings
from backend.system import compiled

_NO_UPLOAD = "/data/upload/0/pallas-check"


@dataclass(frozen=True)
class Finding:
    """One line of the report; ok None means that there was nothing to test."""

    ok: bool | None
    text: str


def check(settings: Settings, console: Console, show_settings: bool = False) -> int:
    """Print findings, and all settings if they are wanted; 0 if nothing failed, else 1."""
    tests: dict[str, Callable[[Settings], Finding]] = {
        "settings": check_settings,
        "redis": check_redis,
        "workers": check_workers,
        "device": check_device,
        "model": check_model,
        "front": check_front,
        "label studio": check_label_studio,
        "labelling configs": check_configs,
    }
    failed = False
    for name, test in tests.items():
        with console.status(f"testing {name}"):
            finding = test(settings)
        mark = {True: "[green]ok[/]", False: "[red]failed[/]", None: "[yellow]–[/]"}[finding.ok]
        console.print(f"{mark:>22} [bold]{name}[/]: ", end="")
        console.print(finding.text, markup=False, highlight=False)
        failed |= finding.ok is False
    if show_settings:
        _print_settings(settings, console)
    return int(failed)


def _print_settings(settings: Settings, console: Console) -> None:
    table = Table("setting", "value", "meaning", title="Settings (environment: PALLAS_…)", title_justify="left")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        changed = name in settings.model_fields_set
        shown = "set, hidden" if isinstance(value, SecretStr) else "" if value is None else str(value)
        if isinstance(value, tuple):
            shown = ", ".join(str(part) for part in value)
        table.add_row(name, f"[bold]{shown}[/]" if changed else shown, field.description or "")
    console.print(table)


def check_settings(settings: Settings) -> Finding:
    """Whether all variables that begin like ours set something."""
    if unknown := Settings.unknown(os.environ):
        return Finding(False, "; ".join(unknown))
    return Finding(True, f"{len(settings.model_fields_set)} set, all known; `check --settings` lists them")


def check_configs(settings: Settings) -> Finding:
    """What is wrong with the labelling configs of the projects that are connected."""
    from backend.predict.config_notes import ConfigNotes

    try:
        notes = ConfigNotes(connect(settings)).all()
    except redis.RedisError:
        return Finding(None, "not known while Redis is away")
    if notes:
        return Finding(False, "; ".join(f"project {note.project}: {note.text}" for note in notes))
    return Finding(True, "nothing is wrong with those of the projects that are connected")


def check_redis(settings: Settings) -> Finding:
    """Whether Redis answers, or an embedded one can be started."""
    try:
        with embedded_redis.running(settings):
            client = connect(settings)
            begin = time.perf_counter()
            client.ping()
            version = client.info("server").get("redis_version")
            kind = "embedded" if settings.embedded_redis else "REDIS_URL"
            return Finding(True, f"{kind}, Redis {version}, answers in {1000 * (time.perf_counter() - begin):.1f} ms")
    except BackendError as error:
        return Finding(False, str(error))


def check_workers(settings: Settings) -> Finding:
    """Which workers are alive."""
    try:
        workers = heartbeat.everybody(connect(settings))
    except Exception:
        return Finding(None, "none yet: `python -m backend serve` or `worker` starts them")
    if not workers:
        return Finding(None, "none is running: `python -m backend serve` or `worker` starts them")
    return Finding(
        True, "; ".join(f"{one.name} {one.state} {one.model_version} {one.device}".strip() for one in workers)
    )


def check_device(settings: Settings) -> Finding:
    """Whether this machine has the device, and it does the dtype and the quantization."""
    from model.compute.device import held_back, pick_device, pick_dtype, quantizes
    from model.errors import DeviceError

    try:
        device = pick_device(settings.device)
        dtype = pick_dtype(settings.dtype, device)
        how = f", quantize {settings.quantize}" if quantizes(settings.quantize, device, dtype) else ""
        reason = held_back(device) if settings.resident else ""
        slower = f"; slower than it could be: {reason}" if reason else ""
        return Finding(True, f"{device}, {dtype}{how}{slower}")
    except DeviceError as error:
        return Finding(False, str(error))


def check_model(settings: Settings) -> Finding:
    """Whether the model is on this machine, loads, and answers a click on a photograph."""
    from model import PerceiveAnything, Sampling, try_model
    from model.errors import ModelError

    compiled.keep_in(settings.state_dir / "compiled")

    def load() -> PerceiveAnything:
        return PerceiveAnything.from_pretrained(
            *settings.checkpoint,
            quantize=settings.quantize,
        )

    try:
        trial = try_model(load, sampling=Sampling(max_new_tokens=settings.token_limits))
    except ModelError as error:
        return Finding(False, str(error))
    except RuntimeError as error:
        # a driver or a GPU that this torch does not know, memory that another program has
        return Finding(False, f"{settings.device} cannot compute it: {str(error).splitlines()[0]}")
    if trial.faults:
        return Finding(False, f"{trial.version}: {'; '.join(trial.faults)}")
    memory = f"{trial.host_gb:.1f} GB" if trial.device_gb is None else f"{trial.device_gb:.1f} GB of its own"
    said = ", ".join(repr(text.string) for text in trial.texts.values())
    return Finding(
        True,
        f"{trial.version} loads in {trial.load_s:.1f} s, answers a click in {sum(trial.warm.values()):.2f} s "
        f"({said} for a cup), memory {memory}",
    )


def check_front(settings: Settings) -> Finding:
    """Whether the front of these settings may listen, and answers."""
    if settings.password is None and not settings.allow_open and not is_loopback(settings.host):
        return Finding(False, f"{settings.host} is reached from other machines: set PALLAS_PASSWORD, or --allow-open")
    fault = health.front(settings)
    if not fault:
        return Finding(
            True, f"answers on port {settings.port}, {'with' if settings.password else 'without'} a password"
        )
    if "does not answer" in fault:
        return Finding(None, f"none answers on port {settings.port}: `python -m backend serve` or `front` starts one")
    return Finding(False, fault)


def check_label_studio(settings: Settings) -> Finding:
    """Whether Label Studio answers and takes the token."""
    if settings.label_studio_url is None:
        return Finding(None, "LABEL_STUDIO_URL is not set: needed for pictures that are uploaded to Label Studio")
    if settings.label_studio_api_key is None:
        return Finding(False, "LABEL_STUDIO_API_KEY is not set: make a token under Account & Settings")
    url = f"{settings.label_studio_url}/api/current-user/whoami"
    try:
        label_studio = LabelStudio(settings)
        headers = {"Authorization": label_studio.authorization()}
        with label_studio.session() as session:
            options: dict[str, Any] = {"headers": headers, "timeout": settings.fetch_timeout_s}
            answer = session.get(url, allow_redirects=False, **options)
            upload = session.get(f"{settings.label_studio_url}{_NO_UPLOAD}", allow_redirects=False, **options)
    except BackendError as error:
        return Finding(False, str(error))
    except (requests.RequestException, ValueError) as error:
        return Finding(
            False,
            f"LABEL_STUDIO_URL {settings.label_studio_url} does not answer ({type(error).__name__}): is it the address "
            "as seen from here? In Docker, localhost is the container itself",
        )
    if answer.status_code == 401:
        return Finding(
            False,
            f"{settings.label_studio_url} refuses LABEL_STUDIO_API_KEY (401): take a personal access token (Account & "
            "Settings), or have legacy tokens enabled in the organization's settings",
        )
    if not answer.ok:
        return Finding(False, f"Label Studio answers {answer.status_code} at {url}")
    # of no file: who may read uploads is told that it is not there
    if upload.status_code in (401, 403):
        return Finding(False, f"{settings.label_studio_url} does not let this key read uploads ({upload.status_code})")
    email = answer.json().get("email", "?")
    return Finding(True, f"{settings.label_studio_url}, signed in as {email}, uploads can be read")
