"""Memory that is free goes back to the system, and threads share their heaps; in processes of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from itertools import chain, repeat

import pytest

from backend.system.memory import Tidy
from tests.waiting import HANG_S

_OURS = ("MALLOC_", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")

_HEAPS = """
import ctypes, sys, tempfile, threading
from backend.system import memory
print(memory.few_heaps())
gate = threading.Barrier(12)
def work():
    gate.wait()
    kept = [bytes(700) for _ in range(2000)]
    gate.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    out = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, out)
    libc.fclose(out)
    print(file.read().decode().count("<heap nr="))
"""

_HOLES = """
import psutil
from backend.system import memory
kept = [bytes(4096) for _ in range(50_000)]
kept = kept[::100] + kept[-1:]
before = psutil.Process().memory_info().rss
print(memory.give_back())
print(before - psutil.Process().memory_info().rss)
"""

_KERNELS = """
import sys
from backend.system import memory
if sys.argv[1] == "few":
    memory.few_kernels()
import torch
import psutil
weights = torch.randn(512, 256)
def ask(shapes):
    for rows in shapes:
        torch.ops.mkldnn._linear_pointwise(torch.randn(rows, 256), weights, None, "none", [], "")
    memory.give_back()
    return psutil.Process().memory_info().rss
with torch.inference_mode():
    before = ask(range(1, 5))
    print(ask(range(5, 700)) - before)
"""


def _run(program: str, *arguments: str, **environment: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=clean | environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    ).stdout.split()


@glibc
def test_threads_share_two_heaps() -> None:
    assert _run(_HEAPS) == ["True", "2"]


@glibc
def test_the_environment_may_ask_for_more_heaps() -> None:
    done, heaps = _run(_HEAPS, MALLOC_ARENA_MAX="5")
    assert done == "False" and int(heaps) > 2


@glibc
def test_what_is_free_between_what_is_kept_goes_back() -> None:
    done, freed = _run(_HOLES)
    assert done == "True" and int(freed) > 100e6


@glibc
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="where oneDNN makes the products")
def test_kernels_for_many_shapes_are_not_all_kept() -> None:
    (few,), (all_of_them,) = _run(_KERNELS, "few"), _run(_KERNELS, "all")
    assert int(few) < 0.6 * int(all_of_them)


def test_once_a_minute() -> None:
    times = chain([0.0], [59.0], [60.0], repeat(61.0))
    tidy = Tidy(60, times.__next__)
    assert [tidy.look() for _ in range(3)] == [False, True, False]
