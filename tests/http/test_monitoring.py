"""The dashboard and the alert rules in deploy/ ask for what /metrics has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from backend import errors
from tests.http.stack import PictureHost, Stack, point

DEPLOY = Path(__file__).parent.parent.parent / "deploy"


@pytest.fixture(scope="module")
def shown(stack: Stack, host: PictureHost) -> str:
    """/metrics after a click that worked and one that did not."""
    stack.predict(f"{host.url}/coffee.jpg", [point(50, 50)])
    stack.predict(f"{host.url}/none.jpg", [point(50, 50)])
    return stack.get("/metrics").text


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [rule["expr"] for rule in rules if not rule["expr"].startswith("up{")]


@pytest.mark.parametrize("expression", expressions())
def test_it_asks_for_metrics_and_labels_that_exist(expression: str, shown: str) -> None:
    assert expression.count("(") == expression.count(")")
    names = re.findall(r"\bpallas_\w+", expression)
    assert names
    for name in names:
        assert re.search(rf"^{name}[ {{]|^# HELP {name} ", shown, re.MULTILINE), name
    for name, label in re.findall(r"(pallas_\w+)\{(\w+)=", expression):
        lines = [line for line in shown.splitlines() if line.startswith(f"{name}{{")]
        # reviews and webhooks begin with the first one
        assert any(f'{label}="' in line for line in lines) or name in ("pallas_reviewed", "pallas_webhooks_total"), (
            lines
        )
    for stage in re.findall(r'stage="(\w+)"', expression):
        assert f'stage="{stage}"' in shown
    for kind in re.findall(r'type=~?"([^"]+)"', expression):
        assert set(kind.split("|")) <= errors.names()


def test_alerts_say_what_to_do() -> None:
    for rule in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]:
        assert rule["annotations"]["summary"] and rule["annotations"]["action"] and rule["for"]
        assert rule["labels"]["severity"] in ("page", "warn")


def test_prometheus_asks_with_the_password() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["basic_auth"]["username"] == "pallas" and job["static_configs"][0]["targets"] == ["localhost:9090"]
