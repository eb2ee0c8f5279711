"""The doubtful first: predictions with an honest score and a group, and a project that sorts by them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from backend.learning.clusters import Clusters
from benchmarks.stand_in import StandIn
from tests.bulk.conftest import Bulk, environment
from tests.http.stack import Stack, box


def order(stack: Stack, project: StandIn, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "backend", "order", "--project", "1", *more]
    own = environment(stack, project)
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=180, check=False)


def test_order_stores_what_is_missing_and_switches_the_sampling(stack: Stack, project: StandIn, bulk: Bulk) -> None:
    pictures = ("coffee", "rocket", "coffee", "chelsea", "rocket", "coffee")
    for name in pictures:
        project.add({"image": f"/data/upload/1/{name}.jpg"}, box(20, 20, 40, 40))
    version = stack.wait_for_worker().model_version
    # two were predicted by an earlier release, without a group; one of another model does not count
    for task in (1, 2):
        project.store({"task": task, "model_version": version, "result": [], "score": 0.5})
    project.store({"task": 3, "model_version": "another", "result": [], "score": 0.9})
    done = order(stack, project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 tasks have a prediction" in done.stdout and "2 predictions had no group" in done.stdout
    assert "sampling is Uncertainty sampling, it was not set" in done.stdout
    assert project.settings == {"sampling": "Uncertainty sampling", "model_version": version}
    mine = {
        task: next(one for one in found if one["model_version"] == version)
        for task, found in project.predictions.items()
    }
    assert set(mine) == set(range(1, 7)) and all(0 <= one["score"] <= 1 for one in mine.values())
    assert all(0 <= mine[task]["cluster"] < 8 for task in range(1, 7))
    again = order(stack, project)
    assert again.returncode == 0 and "already" in again.stdout and "had no group" not in again.stdout
    off = order(stack, project, "--off")
    assert off.returncode == 0 and project.settings["sampling"] == "Sequential sampling"


def test_a_project_without_predictions_stays_as_it_is(stack: Stack, project: StandIn) -> None:
    project.add({"image": "/data/upload/1/coffee.jpg"})
    done = order(stack, project)
    assert done.returncode == 1 and "nothing to sort by" in done.stdout and project.settings == {}


def pictures(kinds: int, count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    kind = rng.integers(kinds, size=count)
    return kind, rng.normal(0, 1, (kinds, 20))[kind] + rng.normal(0, 0.05, (count, 20))


def shares(kind: np.ndarray, found: list[int]) -> list[float]:
    """Of the pictures of each kind, those in the group where most of them are."""
    groups = [[group for group, one in zip(found, kind, strict=True) if one == number] for number in set(kind)]
    return [mine.count(max(set(mine), key=mine.count)) / len(mine) for mine in groups]


def test_like_pictures_are_in_one_group_and_no_group_is_left_empty() -> None:
    kind, rows = pictures(40, 800)
    clusters = Clusters()
    found = [clusters.of(row) for row in rows]
    assert np.mean(shares(kind[400:], found[400:])) > 0.9
    sizes = np.bincount(found[400:], minlength=8)
    assert len(sizes) == 8 and sizes.min() >= 5


def test_many_pictures_of_one_kind_at_first_do_not_take_all_groups() -> None:
    kind, rows = pictures(8, 400)
    order = np.concatenate([np.flatnonzero(kind == 0)[:30], np.flatnonzero(kind != 0)])
    clusters = Clusters()
    found = [clusters.of(rows[place]) for place in order]
    late = slice(100, None)
    # each of the kinds has a group of its own in the end
    assert min(shares(kind[order][late], found[late])) == 1 and len(set(found[late])) == 7


def test_groups_go_on_where_they_were() -> None:
    rng = np.random.default_rng(2)
    clusters = Clusters(4)
    assert {clusters.of(rng.normal(0, 1, 8)) for _ in range(500)} == set(range(4))
    back = Clusters.from_bytes(clusters.to_bytes(), 4)
    rows = rng.normal(0, 1, (50, 8))
    assert [clusters.of(row) for row in rows] == [back.of(row) for row in rows]
    # zeros, and features of another length, which nothing can be compared with
    assert clusters.of(np.zeros(8)) >= 0 and clusters.of(np.ones(5)) == 0
    for broken in (b"", b"{}\n", b"[]\nx", b'{"counts": [1]}\nxyz', b'{"counts": []}\n12345678'):
        with pytest.raises(ValueError):
            Clusters.from_bytes(broken)
