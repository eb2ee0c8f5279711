"""python -m model perceive VIDEO, python -m model stream VIDEO."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from model.errors import PromptError
from model.values.mask import to_coco_rle
from model.values.prompt import Prompt
from model.values.region import Texts
from model.values.sampling import Sampling, TokenLimits
from model.values.task import Task, VideoTask
from model.video.opening import open_video
from model.video.prompt import FramePrompt
from model.video.source import Chosen, Video
from model.video.track import Track

if TYPE_CHECKING:
    from model import PerceiveAnything


def open_thinned(path: Path, options: argparse.Namespace) -> tuple[Video, int]:
    """The video with the frames that are wanted, and the number of the frame with the prompts among them."""
    video = open_video(path)
    if not 0 <= options.frame < video.frame_count:
        raise PromptError(f"--frame {options.frame}: the video has the frames 0 to {video.frame_count - 1}")
    if options.frame_rate is None:
        return video, options.frame
    if options.frame_rate <= 0:
        raise ValueError(f"--frame-rate {options.frame_rate:g}: give a positive number")
    thinned = video.thinned(options.frame_rate)
    return thinned, thinned.nearest(float(video.timestamps_s[options.frame]))


def sampling_of(options: argparse.Namespace) -> Sampling:
    """How answers are drawn, as the command line says; a length that is given is that of all texts."""
    most = options.max_new_tokens
    return Sampling(options.temperature, TokenLimits() if most is None else most)


def from_frame(video: Video, frame: int) -> Video:
    """The video from a frame on; it keeps its times."""
    return video if frame == 0 else Chosen(video, range(frame, video.frame_count))


def perceive(
    pam: PerceiveAnything, video: Video, frame: int, prompts: list[Prompt], options: argparse.Namespace
) -> None:
    """Track the prompts to both ends of the video, describe them, print, write the overlay."""
    wanted = options.task or (Task.RECOGNIZE, VideoTask.CAPTION)
    tasks = [VideoTask(name) if name == VideoTask.CAPTION else Task(name) for name in wanted]
    sampling = sampling_of(options)
    masks: dict[int, dict[int, dict[str, Any]]] = {}
    said = [FramePrompt(prompt, frame, number) for number, prompt in enumerate(prompts)]
    tracking = pam.track(video, said, direction="both")
    with _bars() as progress:
        bar = progress.add_task("tracking", total=tracking.total)
        for found in tracking:
            here = masks.setdefault(found.frame, {})
            here |= {name: to_coco_rle(region.mask) for name, region in found.regions.items()}
            progress.advance(bar)
        bar = progress.add_task("describing", total=len(tracking.tracks))
        texts: dict[int, Texts] = {}
        for name, track in tracking.tracks.items():
            texts[name] = pam.describe_video(track, tasks, options.language, sampling)
            progress.advance(bar)
        if options.out:
            from model.video.overlay import drawn, write_video

            captions = {name: ": ".join(text.string for text in mine.values()) for name, mine in texts.items()}
            frames = progress.track(drawn(video, masks, captions), len(masks), description="drawing")
            write_video(options.out, video, iter(frames))
    print(_as_json(pam, video, tracking.tracks, texts, masks) if options.json else _as_lines(tracking.tracks, texts))


def stream(pam: PerceiveAnything, video: Video, prompt: Prompt, options: argparse.Namespace) -> None:
    """Print each event of a video as soon as it is over."""
    events = pam.stream(
        video,
        prompt,
        options.clip_length,
        not options.fixed,
        options.language,
        sampling_of(options),
    )
    with _bars() as progress:
        bar = progress.add_task("watching", total=video.frame_count)
        for event in events:
            progress.update(bar, completed=event.end_frame + 1)
            if options.json:
                line = json.dumps(
                    {
                        "start_frame": event.start_frame,
                        "end_frame": event.end_frame,
                        "start_s": round(event.start_s, 3),
                        "end_s": round(event.end_s, 3),
                        "caption": event.caption.string,
                        "finished": event.caption.finished,
                        "box": event.box,
                        "seen": event.seen,
                    },
                    ensure_ascii=False,
                )
            else:
                line = f"{event.start_s:8.2f} – {event.end_s:.2f} s  {event.caption.shown}"
            # past the bar, which is on standard error
            print(line, file=sys.stdout, flush=True)


def _bars() -> Progress:
    """On a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def _as_lines(tracks: dict[int, Track], texts: dict[int, Texts]) -> str:
    lines = []
    for name, track in tracks.items():
        seen = [frame for frame in track.frames if track.sightings[frame].box is not None]
        where = f"seen on {len(seen)} of {len(track.frames)} frames" + (f", {seen[0]} to {seen[-1]}" if seen else "")
        lines.append(f"object {name + 1}: {where}")
        lines += [f"  {task}: {text.shown}" for task, text in texts[name].items()]
    return "\n".join(lines)


def _as_json(
    pam: PerceiveAnything,
    video: Video,
    tracks: dict[int, Track],
    texts: dict[int, Texts],
    masks: dict[int, dict[int, dict[str, Any]]],
) -> str:
    objects = []
    for name, track in tracks.items():
        frames = [
            {
                "frame": frame,
                "time_s": round(sighting.time_s, 4),
                "box": sighting.box,
                "object_score": sighting.object_score,
                "mask": masks[frame][name],
            }
            for frame, sighting in sorted(track.sightings.items())
        ]
        said = {
            str(task): {"text": text.string, "mean_logprob": text.mean_logprob, "finished": text.finished}
            for task, text in texts[name].items()
        }
        objects.append({"frames": frames, "texts": said})
    answer = {
        **{"model": pam.version, "device": str(pam.device), "width": video.width, "height": video.height},
        **{"frame_count": video.frame_count, "duration_s": video.duration_s, "objects": objects},
    }
    return json.dumps(answer, ensure_ascii=False)
