"""The label memory in Redis and in the state folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import redis

from backend.learning.memory import Entry, LabelMemory
from backend.learning.mirror import load, save
from backend.learning.published import learned, read_judge
from backend.settings import Settings
from backend.worker.judges import Judges
from tests.disks import small_disk

RNG = np.random.default_rng(3)


def row(number: int) -> np.ndarray:
    """Alike for the same number."""
    found = np.random.default_rng(number).normal(0, 1, 16) + RNG.normal(0, 0.2, 16)
    return (found / np.linalg.norm(found)).astype(np.float32)


def example(label: str, task: int = 1, **more: object) -> tuple[Entry, np.ndarray]:
    number = sum(label.encode())
    return Entry.model_validate({"task": task, "labels": {"mask": (label,)}, "at": float(task)} | more), row(number)


@pytest.fixture
def memory(client: redis.Redis, tmp_path: Path) -> LabelMemory:
    client.flushall()
    return LabelMemory(client, Settings(state_dir=tmp_path))


def some(label: str, count: int, first: int = 1) -> dict[str, tuple[Entry, np.ndarray]]:
    return {f"{label}-{task}": example(label, task) for task in range(first, first + count)}


def test_a_full_disk_costs_the_memorys_new_copy_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        rows = np.ones((100, 100), np.float16)  # 20 kB
        save(disk / "7.safetensors", "m", {str(n): {} for n in range(100)}, rows)
        (disk / "others").write_bytes(b"x" * 36_000)
        save(disk / "7.safetensors", "m", {str(n): {} for n in range(100)}, 2 * rows)
        assert "the label memory 7 is in Redis alone" in caplog.text
        assert [path.name for path in sorted(disk.iterdir())] == ["7.safetensors", "others"]
        kept = load(disk / "7.safetensors")
        assert kept is not None and (kept[2] == 1).all()


def test_what_is_kept_is_published_to_workers(memory: LabelMemory, client: redis.Redis) -> None:
    assert learned(client, "7.1795338314") == "" and memory.publish(7) is None
    memory.keep(7, "m", some("bolt", 8) | some("nut", 8))
    state = memory.publish(7)
    assert state is not None and state.examples == {"bolt": 8, "nut": 8}
    judges = Judges(client, "m+project-7.3")
    judge = judges.get(learned(client, "7.1795338314"))
    assert judge is not None and judge.say(row(sum(b"bolt"))[None], ["bolt", "nut"])[0].get("bolt", 0) > 0.4
    # it is read anew when there is a newer one, and only then
    assert judges.get("7@1") is judge
    memory.publish(7)
    newer = judges.get(learned(client, "7"))
    assert newer is not None and newer is not judge and newer.version > judge.version
    assert Judges(client, "another model").get(learned(client, "7")) is None
    assert judges.get("") is None and judges.get("../x@1") is None and judges.get("9@1") is None
    # what was forgotten and learned again is newer still
    memory.forget(7)
    memory.keep(7, "m", some("bolt", 3))
    memory.publish(7)
    again = judges.get(learned(client, "7"))
    assert again is not None and again.version > newer.version


def test_a_corrected_example_replaces_the_older_one(memory: LabelMemory) -> None:
    memory.keep(7, "m", some("bolt", 3))
    memory.keep(7, "m", {"bolt-1": example("nut")})
    memory.relabel(7, {"bolt-2": example("washer")[0]})
    memory.drop(7, ["bolt-3"])
    state = memory.publish(7)
    assert state is not None and state.examples == {"nut": 1, "washer": 1}


def test_it_is_bounded_by_examples_and_the_largest_label_gives_way(client: redis.Redis, tmp_path: Path) -> None:
    client.flushall()
    memory = LabelMemory(client, Settings(state_dir=tmp_path, learn_examples=10))
    memory.keep(7, "m", some("bolt", 30) | some("nut", 3) | {"true": example("bolt", 0, weight=2.0)})
    memory.keep(7, "m", {f"e{n}": (Entry(task=n, at=float(n)), row(n)) for n in range(600)})
    state = memory.publish(7)
    assert state is not None and state.examples == {"bolt": 7, "nut": 3} and state.background == 512
    left = memory.entries(7)
    # of the largest label the oldest go, and what is marked as true stays
    assert {"true", "bolt-30", "bolt-25"} <= set(left) and "bolt-24" not in left and "e0" not in left


def test_it_is_bounded_by_bytes(client: redis.Redis, tmp_path: Path) -> None:
    client.flushall()
    memory = LabelMemory(client, Settings(state_dir=tmp_path, learn_bytes=1 << 16))
    wide = {name: (entry, np.ones(2000, np.float32)) for name, (entry, _) in some("bolt", 40).items()}
    memory.keep(7, "m", wide)
    state = memory.publish(7)
    assert state is not None and state.bytes <= 1 << 16 and state.examples["bolt"] == (1 << 16) // 4300


def test_another_model_begins_anew(memory: LabelMemory) -> None:
    memory.keep(7, "m", some("bolt", 3))
    memory.keep(7, "other", some("nut", 2))
    state = memory.publish(7)
    assert state is not None and (state.model, state.examples) == ("other", {"nut": 2})


def test_it_comes_back_from_the_state_folder(memory: LabelMemory, client: redis.Redis, tmp_path: Path) -> None:
    memory.keep(7, "m", some("bolt", 4) | some("nut", 4))
    before = memory.publish(7)
    client.flushall()
    (tmp_path / "learning" / "8.safetensors").write_bytes(b"no such file")
    assert memory.restore() == [7] and memory.restore() == []
    after = memory.state(7)
    assert before is not None and after is not None and after.examples == before.examples
    assert read_judge(client, 7) is not None
    client.set("pallas:memory:7:judge", b"damaged")
    assert read_judge(client, 7) is None


def test_without_room_on_the_disk_it_lives_in_redis(memory: LabelMemory, tmp_path: Path) -> None:
    (tmp_path / "learning").write_text("a file where the folder should be")
    memory.keep(7, "m", some("bolt", 3))
    assert memory.publish(7) is not None and memory.state(7) is not None


def test_a_forgotten_project_leaves_nothing(memory: LabelMemory, client: redis.Redis, tmp_path: Path) -> None:
    memory.keep(7, "m", some("bolt", 3))
    memory.dispute(7, 1, [{"region": "r", "labels": {"user 1": "a", "user 2": "b"}}])
    memory.publish(7)
    memory.keep(8, "m", some("bolt", 3))
    memory.publish(8)
    assert memory.disagreements(7)[1][0]["region"] == "r"
    assert memory.forget(7) and not memory.forget(7)
    assert [state.project for state in memory.states()] == [8]
    assert client.keys("pallas:memory:7:*") == [] and not (tmp_path / "learning" / "7.safetensors").exists()
    assert memory.restore() == []
