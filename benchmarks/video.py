"""Memory while an hour of video is tracked: `python -m benchmarks.video [--minutes 60] [--frame-rate 1]`.

Makes a generated video, tracks two objects through all of it, describes one of them, and samples the process's resident
memory on the way. Exits with 1 where memory grows by more than the stated limit after the first minute of video.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import Progress

from model import PerceiveAnything, Prompt, Sampling, Video, VideoTask, open_video
from model.video.overlay import write_video

GROWTH_LIMIT_MB = 150
"""Resident memory may grow by so much between the first minute of video and the end of the hour."""

WIDTH, HEIGHT, SIDE = 320, 240, 60


class _Generated(Video):
    """Two squares that go round and round; each frame is drawn when it is asked for."""

    def __init__(self, seconds: int, frame_rate: float) -> None:
        self.width, self.height, self.duration_s = WIDTH, HEIGHT, float(seconds)
        self.timestamps_s = np.arange(round(seconds * frame_rate)) / frame_rate

    def _read(self, numbers: object) -> Iterator[tuple[int, Image.Image]]:
        for number in numbers:  # type: ignore[attr-defined]
            picture = Image.new("RGB", (WIDTH, HEIGHT), (90, 110, 90))
            pen = ImageDraw.Draw(picture)
            for phase, colour in ((0.0, (200, 60, 40)), (np.pi, (40, 80, 200))):
                x = (WIDTH - SIDE) / 2 * (1 + np.cos(number / 20 + phase))
                y = (HEIGHT - SIDE) / 2 * (1 + np.sin(number / 20 + phase) / 2)
                pen.rectangle((x, y, x + SIDE, y + SIDE), fill=colour)
            yield number, picture


@dataclass
class Curve:
    """Seconds of video, seconds of the clock and resident memory in MB, sample by sample."""

    video_s: list[float]
    clock_s: list[float]
    memory_mb: list[float]

    def growth_mb(self) -> float:
        """From the first minute of video to the highest point after it."""
        first = next(i for i, seconds in enumerate(self.video_s) if seconds >= min(60, self.video_s[-1]))
        return max(self.memory_mb[first:]) - self.memory_mb[first]


def measure(pam: PerceiveAnything, video: Video, console: Console) -> Curve:
    process, curve, begin = psutil.Process(), Curve([], [], []), time.perf_counter()
    boxes = [(WIDTH - SIDE, (HEIGHT - SIDE) / 2), (0.0, (HEIGHT - SIDE) / 2)]
    tracking = pam.track(video, [Prompt(box=(x, y, x + SIDE, y + SIDE)) for x, y in boxes])
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("tracking", total=tracking.total)
        for found in tracking:
            if found.frame % 10 == 0:
                curve.video_s.append(found.time_s)
                curve.clock_s.append(time.perf_counter() - begin)
                curve.memory_mb.append(process.memory_info().rss / 2**20)
            progress.advance(bar)
    pam.describe_video(tracking.tracks[0], [VideoTask.CAPTION], sampling=Sampling(max_new_tokens=16))
    curve.video_s.append(video.duration_s)
    curve.clock_s.append(time.perf_counter() - begin)
    curve.memory_mb.append(process.memory_info().rss / 2**20)
    return curve


def plot(curve: Curve, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2))
    axes.plot(np.array(curve.video_s) / 60, curve.memory_mb, color="#4363d8")
    axes.set(xlabel="minutes of video tracked", ylabel="resident memory, MB", ylim=(0, max(curve.memory_mb) * 1.15))
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.video", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=int, default=60, help="length of the video (60)")
    parser.add_argument("--frame-rate", type=float, default=1.0, help="its frames per second (1)")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"), help="folder for curve and figures")
    options = parser.parse_args()
    console = Console(stderr=True)
    options.out.mkdir(parents=True, exist_ok=True)
    made = _Generated(60 * options.minutes, options.frame_rate)
    path = options.out / "hour.mp4"
    write_video(path, made, made.read(range(made.frame_count)))
    video = open_video(path)
    pam = PerceiveAnything.from_pretrained(options.model, device=options.device)
    curve = measure(pam, video, console)
    plot(curve, options.out / "video-memory.png")
    found = {
        "model": pam.version,
        "device": str(pam.device),
        "frames": video.frame_count,
        "minutes": options.minutes,
        "objects": 2,
        "seconds": round(curve.clock_s[-1], 1),
        "frames_per_second": round(video.frame_count / curve.clock_s[-1], 2),
        "memory_first_minute_mb": round(curve.memory_mb[next(i for i, s in enumerate(curve.video_s) if s >= 60)], 1),
        "memory_highest_mb": round(max(curve.memory_mb), 1),
        "growth_mb": round(curve.growth_mb(), 1),
        "growth_limit_mb": GROWTH_LIMIT_MB,
    }
    (options.out / "video.json").write_text(json.dumps(found | {"curve": curve.__dict__}), encoding="utf-8")
    print(json.dumps(found, indent=1))
    return 0 if curve.growth_mb() <= GROWTH_LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
