"""More clicks than can be served: who waits, who is told, and which pages answer all the while."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from backend.errors import QueueFull
from backend.predict.seats import Seats
from backend.queueing.connection import connect
from backend.queueing.queues import INTERACTIVE, make_queue
from benchmarks.overload import body, crowd, pose_as_worker
from tests.http.stack import CONFIG, run_stack

WAITING = 200
HANG_S = 60


def test_two_hundred_clicks_wait_and_the_next_is_told(small_checkpoint: Path, tmp_path: Path) -> None:
    # seats for seven of eight
    own = {"PALLAS_THREADS": "229", "PALLAS_SHOW_ERRORS": "true", "PALLAS_WAIT_S": "99"}
    with run_stack(tmp_path, small_checkpoint, "--workers", "0", **own) as stack:
        client = connect(stack.settings)
        pose_as_worker(client)
        with crowd(stack.url, client, WAITING) as codes:
            assert make_queue(INTERACTIVE, client).count == WAITING
            for _ in range(3):
                assert requests.get(f"{stack.url}/live", timeout=HANG_S).json() == {"status": "UP"}
                assert requests.get(f"{stack.url}/health", timeout=HANG_S).json()["status"] == "UP"
            assert not codes and make_queue(INTERACTIVE, client).count == WAITING
            with crowd(stack.url, client, 1):
                told: dict[str, Any] = requests.post(f"{stack.url}/predict", json=body(), timeout=HANG_S).json()
            (result,) = told["results"]
            (notice,) = [item for item in result["result"] if item["type"] == "textarea"]
            assert notice["value"]["text"][0].startswith("Pallas: 201 requests are waiting here: try again")
            # and what waits for no worker works
            setup = requests.post(f"{stack.url}/setup", json={"schema": CONFIG}, timeout=HANG_S)
            assert setup.status_code == 200 and not codes


def test_live_answers_while_health_waits_for_redis(small_checkpoint: Path, tmp_path: Path) -> None:
    """All that /health may hold up are threads of its own."""
    with run_stack(tmp_path, small_checkpoint, "--workers", "0") as stack:
        client = connect(stack.settings)
        slow = threading.Thread(target=client.execute_command, args=("DEBUG", "SLEEP", "1.5"), daemon=True)
        slow.start()
        time.sleep(0.2)
        asked = [threading.Thread(target=stack.get, args=["/health"], daemon=True) for _ in range(8)]
        for thread in asked:
            thread.start()
        assert stack.get("/live").status_code == 200
        for thread in (slow, *asked):
            thread.join(HANG_S)
            assert not thread.is_alive()
        assert stack.get("/health").status_code == 200


@pytest.mark.parametrize(("threads", "seats"), [(1, 1), (2, 1), (8, 7), (64, 56), (288, 252)])
def test_seats(threads: int, seats: int) -> None:
    room = Seats(threads)
    taken = [room.taken() for _ in range(seats)]
    for one in taken:
        one.__enter__()
    with pytest.raises(QueueFull, match=f"{seats} requests"), room.taken():
        pass
    taken[0].__exit__(None, None, None)
    with room.taken():
        pass
