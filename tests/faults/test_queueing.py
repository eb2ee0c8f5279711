"""The simulation of the queues where pencil and paper know the answer."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.queueing import Load, simulate


def test_one_annotator_waits_for_nobody() -> None:
    took, rate = simulate(Load(1, 1, click_s=0.1, encode_s=0.05, around_s=0.02, think_s=50))
    assert np.allclose(took, 0.12) and rate == 0


def test_bulk_jobs_use_all_the_time_that_clicks_leave() -> None:
    load = Load(2, 4, click_s=0.2, encode_s=0.1, job_s=0.05, think_s=2.0, clicks=5)
    took, rate = simulate(load)
    clicks = len(took) / 3600
    worked = clicks * (load.click_s + load.encode_s / load.clicks) + rate * 0.05
    assert worked == pytest.approx(2, rel=0.01)


def test_a_click_waits_for_a_step_of_bulk_at_most_and_for_half_of_one_on_average() -> None:
    took, _ = simulate(Load(1, 1, click_s=0.1, encode_s=0.0, job_s=0.1, step=4, around_s=0.0, think_s=5.0))
    assert max(took) <= 0.5 + 1e-9 and np.mean(took) == pytest.approx(0.3, rel=0.05)


def test_more_workers_shorten_the_queue() -> None:
    p95 = [np.percentile(simulate(Load(n, 40, 0.1, 0.05, None, think_s=3.0))[0], 95) for n in (1, 2, 4)]
    assert p95[0] > 2 * p95[1] > 2 * p95[2] * 0.9
