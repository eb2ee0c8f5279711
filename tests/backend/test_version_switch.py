"""Jobs that ask for several versions of the model: each is answered by its own, and a missing one by the base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import torch

from backend.adapters.store import InUse, Store
from backend.adapters.table import Table
from backend.job import JobRequest
from backend.settings import Settings
from backend.worker.engine import Engine
from backend.worker.joining import together
from backend.worker.version_switch import VersionSwitch
from model import Adapter, PerceiveAnything
from tests.backend.test_inference import clicks, engine, job

__all__ = ["engine"]


@pytest.fixture
def switched(
    engine: Engine, pam: PerceiveAnything, client: redis.Redis, tmp_path: Path
) -> Iterator[tuple[Engine, str, Table]]:
    """An engine that knows the version project-7.1, and how jobs ask for it."""
    client.flushall()
    torch.manual_seed(0)
    head = pam.tower.sam.sam_mask_decoder.output_upscaling[3].bias
    adapter = Adapter("project-7.1", pam.base_version, {"masks.output_upscaling.3.bias": torch.randn(head.shape) * 20})
    settings = Settings(state_dir=tmp_path / "state")
    store, table = Store(settings), Table(client)
    store.write(adapter)
    store.use("project-7", InUse(key="7.1", active="project-7.1"))
    table.publish(store, "project-7")
    engine._versions = engine._inference._versions = VersionSwitch(settings, client, pam)
    used = table.entry("7.1")
    assert used is not None
    yield engine, used.name_for(pam.base_version), table
    pam.use(None)


def test_each_job_of_a_step_is_answered_by_its_own_version(
    switched: tuple[Engine, str, Table], pam: PerceiveAnything, tmp_path: Path
) -> None:
    engine, version, _ = switched
    asked = [
        job(tmp_path / "0.png", clicks((50, 50)), adapter=name, request_id=f"r{i}")
        for i, name in enumerate(("", version, "", version))
    ]
    engine.expect(asked)
    found = [engine.perform(one) for one in asked]
    new = f"{pam.base_version}+project-7.1"
    assert [one["model_version"] for one in found] == [pam.base_version, new, pam.base_version, new]
    alone = [engine.perform(one) for one in asked[:2]]
    masks = [one["groups"][0][0]["mask"]["rows"] for one in (*found, *alone)]
    assert masks[0] == masks[2] == masks[4] != masks[1] and masks[1] == masks[3] == masks[5]
    assert engine.stats()["embeddings_encoded"] == 1  # the same for all versions


def test_what_cannot_be_used_is_told_and_the_base_answers(
    switched: tuple[Engine, str, Table], pam: PerceiveAnything, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine, version, table = switched
    for name, why in (("project-9.9#00", "no version project-9.9"), (version[:-1] + "-", "is another one now")):
        found = engine.perform(job(tmp_path / "0.png", clicks((50, 50)), adapter=name))
        assert found["model_version"] == pam.base_version and why in caplog.text
    assert set(table.faults()) == {"project-9.9", "project-7.1"}
    assert engine.perform(job(tmp_path / "0.png", clicks((50, 50)), adapter=version))["model_version"].endswith("-7.1")


def test_nothing_joins_while_another_version_waits() -> None:
    def request(name: str, adapter: str) -> JobRequest:
        return JobRequest(request_id=name, picture="p", adapter=adapter, sent_at=0)

    a, b, c = request("a", ""), request("b", "x"), request("c", "")
    assert together([a, b, c], []) == ([a, c], [b])
    assert together([c], [[a]]) == ([c], [])
    assert together([b, c], [[a]]) == ([], [b, c])
    assert together([], [[a]]) == ([], [])
    assert together([b], []) == ([b], [])


def test_a_version_of_another_model_does_not_count(switched: tuple[Engine, str, Table]) -> None:
    _, version, table = switched
    assert version.startswith("project-7.1#")
    used = table.entry("7.1")
    assert used is not None and used.name_for("another@00000000") == "" and table.entry("8.1") is None
    table.forget(7)
    assert table.entry("7.1") is None and table.weights(version) is None
