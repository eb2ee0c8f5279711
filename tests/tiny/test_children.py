from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_until

_POOL = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from tiny.children import end_with_parent
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(1, context, end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize("way", ["spawn", "fork"])
def test_a_pool_ends_with_the_one_that_was_killed(way: str, tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(_POOL)
    root = Path(__file__).parents[2]
    command = [sys.executable, str(script), way]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(root)}) as pool:
        assert pool.stdout is not None
        child = psutil.Process(int(pool.stdout.readline()))
        pool.kill()
    wait_until(lambda: not child.is_running())
