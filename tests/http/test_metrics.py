"""/metrics of a running stack: every stage, the queues, the workers and what they remember."""

from __future__ import annotations

import time

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.http.stack import PictureHost, Stack, point
from tests.waiting import wait_until

STAGES = {"queue", "fetch", "encode", "decode", "prefill", "generate", "shape", "whole"}


def page(stack: Stack) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(stack.get("/metrics").text)}


def values(family: Metric, suffix: str, label: str) -> dict[str, float]:
    return {s.labels[label]: s.value for s in family.samples if s.name == family.name + suffix}


def test_every_stage_of_a_click_is_a_histogram(stack: Stack, host: PictureHost) -> None:
    assert stack.predict(f"{host.url}/coffee.jpg", [point(31, 50)]).status_code == 200
    before = page(stack)["pallas_stage_seconds"]
    began = time.perf_counter()
    assert stack.predict(f"{host.url}/coffee.jpg", [point(32, 50), point(70, 20)]).status_code == 200
    took = time.perf_counter() - began
    after = page(stack)["pallas_stage_seconds"]
    assert after.type == "histogram"
    counts, sums = (
        {
            stage: value - values(before, suffix, "stage")[stage]
            for stage, value in values(after, suffix, "stage").items()
        }
        for suffix in ("_count", "_sum")
    )
    assert counts == dict.fromkeys(STAGES, 1)
    assert 0 < sums["whole"] <= took and sum(sums[s] for s in STAGES - {"whole"}) <= sums["whole"] + 0.01
    # the picture was there already, so nothing is encoded; the rest takes time
    assert sums["encode"] == 0 and all(sums[stage] > 0 for stage in STAGES - {"encode", "fetch"})
    for stage in STAGES:
        buckets = [s.value for s in after.samples if s.name.endswith("_bucket") and s.labels["stage"] == stage]
        assert buckets == sorted(buckets) and buckets[-1] == values(after, "_count", "stage")[stage]


def test_queues_workers_and_what_they_remember(stack: Stack, host: PictureHost) -> None:
    for x in (20, 25, 30):
        assert stack.predict(f"{host.url}/coffee.jpg", [point(x, 50)]).status_code == 200
    # a heartbeat carries the workers' numbers
    wait_until(lambda: values(page(stack)["pallas_worker"], "", "what").get("steps", 0) >= 3)
    found = page(stack)
    empty = dict.fromkeys(("interactive", "batch", "bulk", "learn", "tuning"), 0)
    assert values(found["pallas_queue_depth"], "", "queue") == empty
    states = values(found["pallas_workers"], "", "state")
    assert states["ready"] == 1 and states["loading"] == 0
    own = values(found["pallas_worker"], "", "what")
    assert own["embedding_hits"] >= 2 and own["embeddings_encoded"] >= 1 and own["embedding_bytes"] > 0
    assert own["embedding_misses"] >= own["embeddings_encoded"] and own["embeddings_received"] == 0
    assert {"embedding_evictions", "embedding_host_bytes", "jobs", "steps", "encode_seconds"} <= set(own)
    assert own["jobs"] >= own["steps"] >= 3
