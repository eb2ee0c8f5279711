"""`python -m backend check`: what is set, what works, and what to do about what does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Finding:
    """One line of the report; ok None means that there was nothing to test."""

    ok: bool | None
    text: str


def check(settings: Settings, console: Console) -> int:
    """Print settings and findings; 0 if nothing failed, else 1."""
    _print_settings(settings, console)
    tests: dict[str, Callable[[Settings], Finding]] = {
        "redis": check_redis,
        "workers": check_workers,
        "device": check_device,
        "model": check_model,
        "front": check_front,
        "label studio": check_label_studio,
    }
    failed = False
    for name, test in tests.items():
        with console.status(f"testing {name}"):
            finding = test(settings)
        mark = {True: "[green]ok[/]", False: "[red]failed[/]", None: "[yellow]–[/]"}[finding.ok]
        console.print(f"{mark:>22} [bold]{name}[/]: ", end="")
        console.print(finding.text, markup=False, highlight=False)
        failed |= finding.ok is False
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
    from model.compute.device import pick_device, pick_dtype, quantizes
    from model.errors import DeviceError

    try:
        device = pick_device(settings.device)
        dtype = pick_dtype(settings.dtype, device)
        how = f", quantize {settings.quantize}" if quantizes(settings.quantize, device, dtype) else ""
        return Finding(True, f"{device}, {dtype}{how}")
    except DeviceError as error:
        return Finding(False, str(error))


def check_model(settings: Settings) -> Finding:
    """Whether the model is on this machine, loads, and answers a click on a photograph."""
    from model import PerceiveAnything, Sampling, try_model
    from model.errors import ModelError

    def load() -> PerceiveAnything:
        return PerceiveAnything.from_pretrained(
            settings.model,
            settings.sam2_checkpoint,
            settings.sam2_config,
            settings.device,
            settings.dtype,
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
            answer = session.get(url, headers=headers, timeout=settings.fetch_timeout_s, allow_redirects=False)
    except BackendError as error:
        return Finding(False, str(error))
    except (requests.RequestException, ValueError) as error:
        return Finding(
            False,
            f"{settings.label_studio_url} does not answer ({type(error).__name__}): is it the address as seen from "
            "here? In Docker, localhost is the container itself",
        )
    if answer.status_code == 401:
        return Finding(
            False,
            "Label Studio refuses the token (401): legacy tokens must be enabled in the organization's settings, "
            "or take a personal access token",
        )
    if not answer.ok:
        return Finding(False, f"Label Studio answers {answer.status_code} at {url}")
    return Finding(True, f"{settings.label_studio_url}, signed in as {answer.json().get('email', '?')}")
