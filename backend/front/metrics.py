"""What /metrics shows, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Iterator

import redis
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backend.front.review import totals
from backend.job import JobReply
from backend.queueing.dispatcher import Dispatcher

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


class Metrics:
    """The front's counters; one object for each app, so that tests do not share them."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Live(dispatcher))
        self.requests = Counter(
            "pallas_requests", "Requests by page and HTTP code", ["page", "code"], registry=self._registry
        )
        self.errors = Counter("pallas_errors", "Errors by type", ["type"], registry=self._registry)
        self.webhooks = Counter("pallas_webhooks", "Webhook events by action", ["action"], registry=self._registry)
        self.regions = Counter("pallas_regions", "Regions answered", registry=self._registry)
        self.cached = Counter("pallas_embedding_hits", "Jobs whose picture was encoded before", registry=self._registry)
        self._stage = Histogram(
            "pallas_stage_seconds",
            "Seconds by stage: queue, fetch, encode, decode (masks), prefill, generate (words), shape, whole",
            ["stage"],
            registry=self._registry,
            buckets=_SECONDS,
        )

    def observe(self, reply: JobReply, seconds: dict[str, float], whole_s: float) -> None:
        """Count one click's job; its seconds by stage, and from its plan to its prediction."""
        for stage, taken in {**seconds, "whole": whole_s}.items():
            self._stage.labels(stage).observe(taken)
        self.regions.inc(sum(len(group) for group in reply.groups))
        if reply.cached:
            self.cached.inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Live(Collector):
    """Queue depth and workers, asked of Redis when somebody looks."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def describe(self) -> list[Metric]:
        return []  # keeps registration from asking Redis

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("pallas_redis_up", "1 if Redis answers")
        depth = GaugeMetricFamily("pallas_queue_depth", "Jobs waiting", labels=["queue"])
        workers = GaugeMetricFamily("pallas_workers", "Workers alive by state", labels=["state"])
        reviewed = GaugeMetricFamily(
            "pallas_reviewed",
            "Our answers after review by people: sums of regions, masks, labels, texts, those kept, of the masks' IoU "
            "with ours and of the texts' edit distance",
            labels=["what"],
        )
        own = GaugeMetricFamily(
            "pallas_worker",
            "Of each worker: embeddings found, not found, dropped since it began; bytes of them on its device and in "
            "host memory; bytes of GPU memory",
            labels=["worker", "what"],
        )
        try:
            for name, total in totals(self._dispatcher.redis).items():
                reviewed.add_metric([name], total)
            for name, count in self._dispatcher.depth().items():
                depth.add_metric([name], count)
            alive = self._dispatcher.workers()
            for worker in alive:
                for what, value in worker.stats.items():
                    own.add_metric([worker.name, what], value)
            states = [worker.state for worker in alive]
            for state in ("loading", "ready"):
                workers.add_metric([state], states.count(state))
            up.add_metric([], 1)
        except redis.RedisError:
            up.add_metric([], 0)
        yield from (up, depth, workers, own, reviewed)
