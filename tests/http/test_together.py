"""Jobs that nobody clicked for are taken together: the real worker, real queues."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from backend.errors import PictureNotFound, WorkerDied
from backend.job import Group, JobRequest, PointPrompt, RegionPrompt, TextAsk
from backend.queueing.dispatcher import Dispatcher
from backend.queueing.queues import BATCH
from model import TokenLimits
from model.values.mask import from_rle, mask_iou
from model.values.task import Task
from tests.http.stack import PictureHost, point, run_stack
from tests.waiting import wait_until

TEXTS = (TextAsk(task=Task.RECOGNIZE), TextAsk(task=Task.BRIEF))


def request(picture: str, x: float, alone: bool = False) -> JobRequest:
    group = Group(prompts=(RegionPrompt(points=(PointPrompt(x=x, y=50),)),), texts=TEXTS)
    return JobRequest(
        request_id="r", picture=picture, groups=(group,), limits=TokenLimits.same(8), sent_at=time.time(), alone=alone
    )


def test_jobs_that_nobody_clicked_for_are_taken_together(
    small_checkpoint: Path, tmp_path: Path, host: PictureHost
) -> None:
    with run_stack(tmp_path, small_checkpoint, PALLAS_STEP_S="60") as stack:
        dispatcher = Dispatcher(stack.settings)
        coffee = f"{host.url}/coffee.jpg"
        # the first one says how long such a job takes
        first = dispatcher.collect(dispatcher.submit(request(coffee, 30), BATCH), request(coffee, 30))
        wanted = [request(coffee, 10 + 5 * i) for i in range(10)]
        wanted[3] = request(f"{host.url}/gone.jpg", 50)
        wanted[6] = request(coffee, 40, alone=True)
        wait_until(lambda: stack.wait_for_worker().stats["jobs"] == 1)  # heartbeats carry the numbers
        # while it is held up they all wait
        host.gate.clear()
        held = request(f"{host.url}/held/rocket.jpg", 30, alone=True)
        first_of_all = dispatcher.submit(held, BATCH)
        jobs = [dispatcher.submit(one, BATCH) for one in wanted]
        host.gate.set()
        dispatcher.collect(first_of_all, held)
        for i, (one, job) in enumerate(zip(wanted, jobs, strict=True)):
            if i == 3:
                with pytest.raises(PictureNotFound):
                    dispatcher.collect(job, one)
                continue
            reply = dispatcher.collect(job, one)
            assert len(reply.groups[0]) == 1 and set(reply.groups[0][0].texts) == {"recognize.en", "brief.en"}
            if i == 4:
                same, before = reply.groups[0][0], first.groups[0][0]  # the same question as the first one's
                assert [t.string for t in same.texts.values()] == [t.string for t in before.texts.values()]
                assert mask_iou(from_rle(same.mask), from_rle(before.mask)) > 0.999
        wait_until(lambda: stack.wait_for_worker().stats["jobs"] == 12)
        # the first, the held one, four and the gone one together, the one alone, three together
        assert stack.wait_for_worker().stats["steps"] <= 6
        # a click beside them is answered as ever
        assert stack.predict(coffee, [point(50, 50)]).status_code == 200
        assert "pallas_worker{" in stack.get("/metrics").text


def test_what_was_begun_together_is_lost_together(small_checkpoint: Path, tmp_path: Path, host: PictureHost) -> None:
    """None of it is put back as if nothing had happened: it may be what killed the worker."""
    with run_stack(tmp_path, small_checkpoint, PALLAS_STEP_S="60", PALLAS_FETCH_TIMEOUT_S="4") as stack:
        dispatcher = Dispatcher(stack.settings)
        coffee, slow = f"{host.url}/coffee.jpg", f"{host.url}/trickle"
        dispatcher.collect(dispatcher.submit(request(coffee, 30), BATCH), request(coffee, 30))
        # while the first one hangs, the others wait, to be taken together
        asked = [request(slow, 10, alone=True), request(slow, 20), request(coffee, 40)]
        jobs = [dispatcher.submit(one, BATCH) for one in asked]
        wait_until(lambda: jobs[2].get_status(refresh=True) == "started")
        os.kill(stack.wait_for_worker().pid, signal.SIGKILL)
        for one, job in zip(asked[1:], jobs[1:], strict=True):
            with pytest.raises(WorkerDied):
                dispatcher.collect(job, one)
