"""A password, in the real Label Studio: connected with Basic authentication, webhooks with their token."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import PICTURES
from tests.e2e.label_studio import LabelStudio
from tests.http.stack import CONFIG, Stack, point, run_stack
from tests.waiting import HANG_S

PASSWORD = "Only-for-tests-2"
AUTH = {"auth_method": "BASIC_AUTH", "basic_auth_user": "pallas", "basic_auth_pass": PASSWORD}


@pytest.fixture(scope="module")
def own(label_studio: LabelStudio) -> dict[str, str]:
    return {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "PALLAS_PASSWORD": PASSWORD,
        "PALLAS_MAX_NEW_TOKENS": "4",
    }


@pytest.fixture(scope="module")
def locked(own: dict[str, str], small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with run_stack(tmp_path_factory.mktemp("locked"), small_checkpoint, **own) as running:
        yield running


def webhooks(stack: Stack, action: str) -> float:
    text = requests.get(f"{stack.url}/metrics", auth=("pallas", PASSWORD), timeout=HANG_S).text
    lines = [line for line in text.splitlines() if line.startswith(f'pallas_webhooks_total{{action="{action}"}}')]
    return float(lines[0].rsplit(" ", 1)[1]) if lines else 0.0


def test_connecting_clicking_and_webhooks_with_a_password(
    label_studio: LabelStudio, locked: Stack, own: dict[str, str]
) -> None:
    project = label_studio.make_project(CONFIG, "with a password")
    body = {"url": locked.url, "project": project, "is_interactive": True, "title": "Pallas"}
    refused = requests.post(f"{label_studio.url}/api/ml", json=body, headers=label_studio.headers(), timeout=HANG_S)
    assert refused.status_code == 400 and "authentication parameters" in refused.text
    backend = label_studio.call("POST", "/api/ml", json=body | AUTH)
    assert backend["state"] == "CO"

    task = label_studio.upload(project, PICTURES / "coffee.jpg")
    click = {"task": task, "context": {"result": [point(50, 50)]}}
    answer = label_studio.call("POST", f"/api/ml/{backend['id']}/interactive-annotating", json=click)
    result = answer["data"]["result"]
    assert result[0]["type"] == "brushlabels"

    label_studio.annotate(task, result)
    assert webhooks(locked, "ANNOTATION_CREATED") == 0
    assert "/webhook 401" in locked.log.read_text()
    command = [sys.executable, "-m", "backend", "webhooks", locked.url]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 webhook(s) to ")
    label_studio.annotate(task, result)
    assert webhooks(locked, "ANNOTATION_CREATED") == 1
