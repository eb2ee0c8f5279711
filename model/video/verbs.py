"""The façade's verbs for videos; `model.pam.PerceiveAnything` has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from model.language.prefix import Prefix
from model.language.qwen import Language, Sampling
from model.perceiver import Vision
from model.sam.tower import Tower
from model.values.prompt import Prompt
from model.values.region import RegionFeatures, Segment, Text, Texts
from model.values.task import Task, VideoTask
from model.video.describing import describe_clip, read_clip
from model.video.prompt import FramePrompt
from model.video.source import FOLDER_RATE, Picture, Video, open_video
from model.video.stream import CLIP_LENGTH, Event, frames_of, stream
from model.video.track import Progress, Track, Tracking
from model.video.tracker import Direction, track


class VideoVerbs(ABC):
    """Track, describe and stream; the parts of the model and the verb for pictures are `PerceiveAnything`'s."""

    tower: Tower
    vision: Vision
    language: Language

    @abstractmethod
    def describe(
        self,
        regions: Sequence[Segment],
        tasks: Sequence[Task | str],
        language: str,
        temperature: float,
        max_new_tokens: int,
        repetition_penalty: float | None,
        seed: int | None,
    ) -> list[Texts]:
        """The texts of regions of pictures."""

    def track(
        self,
        video: Video | str | Path | Sequence[Picture],
        prompts: Sequence[Prompt | FramePrompt],
        start_frame: int | None = None,
        direction: Direction = "forward",
        progress: Progress | None = None,
    ) -> Tracking:
        """Follow objects through a video, all of them together, frame by frame.

        Memory does not grow with the length: a frame is decoded when its turn comes, and kept is what SAM 2 looks back
        at, one box a frame, and 16 frames of each object for `describe_video`.

        Args:
            video: from `open_video`, or what that takes.
            prompts: `FramePrompt`s on any frames; a plain `Prompt` is an object of its own on the start frame.
            start_frame: where all objects begin; None begins each on the first frame on which it is prompted.
            direction: "forward" to the end, "backward" to frame 0, or "both": forward, then from the beginning of each
                object backward. ("backward" alone begins on the last prompted frame.)
            progress: of a tracking of the same video with the same prompts (`Tracking.progress`): only the frames after
                it come. Its few masks stand for what SAM 2 remembered, so what comes may differ a little from what an
                uninterrupted tracking gives; corrections before it count through them alone.

        Returns:
            An iterator of `TrackedFrame`; its `tracks` say what is known of each object so far.

        Raises:
            VideoError: the video cannot be opened or read, now or at a frame.
            PromptError: no prompt, one outside the picture or on no frame, or a correction of nothing.
        """
        return track(self.tower, open_video(video), prompts, start_frame, direction, progress)

    def describe_video(
        self,
        track: Track,
        tasks: Sequence[VideoTask | Task | str] = (VideoTask.CAPTION,),
        language: str = "en",
        temperature: float = 0.0,
        max_new_tokens: int = 64,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        previous: str = "",
    ) -> Texts:
        """The texts of an object through the frames tracked so far.

        As the paper does it, the model sees 16 of them: the first in full, 15 others evenly spread with a quarter of
        the detail in each direction. Of fewer than 16, frames come several times.

        Args:
            track: from `Tracking.tracks` of this model.
            tasks: a `VideoTask` (or its value), or any other string, which is asked as it stands, about the clip; a
                `Task` (or its value) about the picture in which the object was first prompted.
            language, temperature, max_new_tokens, repetition_penalty, seed: as of `describe`.
            previous: the caption of the clip before, if this one goes on from it.

        Raises:
            ValueError: nothing was tracked yet, an unknown language, an empty instruction, a number out of its range.
        """
        sampling = Sampling(temperature, max_new_tokens, repetition_penalty, seed)
        wanted = list(dict.fromkeys(_video_task(task) for task in tasks))
        about_clip = [task for task in wanted if not isinstance(task, Task)]
        clip = track.clip()
        texts: Texts = {}
        if about_clip:
            prefix = read_clip(self.vision, self.language, clip)
            texts |= describe_clip(self.language, prefix, about_clip, language, sampling, previous)
        asked = [task for task in wanted if isinstance(task, Task)]
        if asked and track.anchor is not None:
            texts |= self.describe(
                [track.anchor], asked, language, temperature, max_new_tokens, repetition_penalty, seed
            )[0]
        return {task: texts[task] for task in wanted if task in texts}

    def stream(
        self,
        frames: Video | str | Path | Iterable[Image.Image | np.ndarray],
        prompt: Prompt,
        clip_length: int = CLIP_LENGTH,
        changes: bool = True,
        language: str = "en",
        temperature: float = 0.0,
        max_new_tokens: int = 64,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        frame_rate: float = FOLDER_RATE,
    ) -> Iterator[Event]:
        """Tell what a thing does, event by event, while the frames come.

        From clip to clip goes what the paper hands on: the box of the last mask, and the caption before, which stands
        in the prompt.

        Args:
            frames: a video, or pictures that keep coming, without an end if need be.
            prompt: the thing on the first frame.
            clip_length: frames of an event at most.
            changes: end an event also where the thing comes or goes, starts, stops or turns, or the scene changes; such
                an event is known a few frames later. Without them events have clip_length frames, as in the paper.
            language, temperature, max_new_tokens, repetition_penalty, seed: as of `describe`.
            frame_rate: of pictures that come without times, frames per second.

        Yields:
            Events, as soon as each is over.

        Raises:
            VideoError, PromptError, ValueError: as of `track` and `describe_video`, when the first event is asked for.
        """
        sampling = Sampling(temperature, max_new_tokens, repetition_penalty, seed)
        steps = self._steps(frames, prompt, clip_length, changes, language, sampling, frame_rate)
        return (event for event in steps if event is not None)

    def watch(
        self,
        frames: Video | str | Path,
        prompt: Prompt,
        language: str = "en",
        max_new_tokens: int = 64,
        previous: str = "",
    ) -> Iterator[Event | None]:
        """As `stream`, and None after each frame: for whoever has something else to do meanwhile.

        `previous` is the caption of the event before, where the frames go on from one.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens)
        return self._steps(frames, prompt, CLIP_LENGTH, True, language, sampling, FOLDER_RATE, previous)

    def _steps(
        self,
        frames: Video | str | Path | Iterable[Image.Image | np.ndarray],
        prompt: Prompt,
        clip_length: int,
        changes: bool,
        language: str,
        sampling: Sampling,
        frame_rate: float,
        previous: str = "",
    ) -> Iterator[Event | None]:
        def caption(clip: Sequence[RegionFeatures], before: str) -> tuple[Text, Prefix]:
            prefix = read_clip(self.vision, self.language, clip)
            texts = describe_clip(self.language, prefix, [VideoTask.CAPTION], language, sampling, before)
            return texts[VideoTask.CAPTION], prefix

        source = open_video(frames) if isinstance(frames, str | Path) else frames
        return stream(self.tower, frames_of(source, frame_rate), prompt, caption, clip_length, changes, previous)


def _video_task(task: VideoTask | Task | str) -> VideoTask | Task | str:
    for kind in (VideoTask, Task):
        if task in list(kind):
            return kind(task)
    return task
