"""What PAM does with videos; `model.pam.PerceiveAnything` holds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from model.language.prefix import Prefix
from model.language.qwen import Language
from model.perceiver import Vision
from model.sam.tower import Tower
from model.values.prompt import Prompt
from model.values.region import RegionFeatures, Text, Texts
from model.values.sampling import GREEDY, Sampling
from model.values.task import Task, VideoTask, instruction, video_instruction
from model.video.compiled import settle
from model.video.opening import open_video
from model.video.prompt import FramePrompt
from model.video.source import FOLDER_RATE, Picture, Video
from model.video.stream import CLIP_LENGTH, Event, frames_of, stream
from model.video.track import Progress, Track, Tracking
from model.video.tracker import Direction, FrameCache, track


class Videos:
    """Track, describe and stream with the parts of a model."""

    def __init__(self, tower: Tower, vision: Vision, language: Language) -> None:
        self._tower = tower
        self._vision = vision
        self._language = language

    def settle(self, backend: str = "inductor") -> bool:
        """Compile what runs at every frame; see `model.video.compiled`."""
        return settle(self._tower, backend)

    def track(
        self,
        video: Video | str | Path | Sequence[Picture],
        prompts: Sequence[Prompt | FramePrompt],
        start_frame: int | None = None,
        direction: Direction = "forward",
        progress: Progress | None = None,
        encoded: FrameCache | None = None,
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
            encoded: embeddings of this video's frames: those that are there are not encoded again, and those of frames
                with prompts are put there.

        Returns:
            An iterator of `TrackedFrame`; its `tracks` say what is known of each object so far.

        Raises:
            VideoError: the video cannot be opened or read, now or at a frame.
            PromptError: no prompt, one outside the picture or on no frame, or a correction of nothing.
        """
        return track(self._tower, open_video(video), prompts, start_frame, direction, progress, encoded)

    def describe(
        self,
        track: Track,
        tasks: Sequence[VideoTask | Task | str] = (VideoTask.CAPTION,),
        language: str = "en",
        sampling: Sampling = GREEDY,
        previous: str = "",
    ) -> Texts:
        """The texts of an object through the frames tracked so far.

        As the paper does it, the model sees 16 of them: the first in full, 15 others evenly spread with a quarter of
        the detail in each direction. Of fewer than 16, frames come several times.

        Args:
            track: from `Tracking.tracks` of this model.
            tasks: a `VideoTask` (or its value), or any other string, which is asked as it stands, about the clip; a
                `Task` (or its value) about the picture in which the object was first prompted.
            language, sampling: as of `PerceiveAnything.describe`.
            previous: the caption of the clip before, if this one goes on from it.

        Raises:
            ValueError: nothing was tracked yet, an unknown language, an empty instruction.
        """
        wanted = list(dict.fromkeys(_video_task(task) for task in tasks))
        of_clip: dict[Task | VideoTask | str, str] = {
            task: video_instruction(task, language, previous) for task in wanted if not isinstance(task, Task)
        }
        of_picture: dict[Task | VideoTask | str, str] = {
            task: instruction(task, language) for task in wanted if isinstance(task, Task)
        }
        clip = track.clip()
        texts: Texts = {}
        if of_clip:
            prefix = self._read(clip)
            texts |= self._language.texts(prefix, of_clip, language, sampling)[0]
        if of_picture and track.anchor is not None:
            prefix = self._language.read(self._vision.blocks([track.anchor.features]))
            texts |= self._language.texts(prefix, of_picture, language, sampling)[0]
        return {task: texts[task] for task in wanted if task in texts}

    def _read(self, clip: Sequence[RegionFeatures]) -> Prefix:
        """A clip's prompt, for any number of questions."""
        return self._language.read(self._vision.clip_block(clip)[None])

    def stream(
        self,
        frames: Video | str | Path | Iterable[Image.Image | np.ndarray],
        prompt: Prompt,
        clip_length: int = CLIP_LENGTH,
        changes: bool = True,
        language: str = "en",
        sampling: Sampling = GREEDY,
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
            language, sampling: as of `PerceiveAnything.describe`.
            frame_rate: of pictures that come without times, frames per second.

        Yields:
            Events, as soon as each is over.

        Raises:
            VideoError, PromptError, ValueError: as of `track` and `describe_video`, when the first event is asked for.
        """
        steps = self._steps(frames, prompt, clip_length, changes, language, sampling, frame_rate)
        return (event for event in steps if event is not None)

    def watch(
        self,
        frames: Video | str | Path,
        prompt: Prompt,
        language: str = "en",
        sampling: Sampling = GREEDY,
        previous: str = "",
    ) -> Iterator[Event | None]:
        """As `stream`, and None after each frame: for whoever has something else to do meanwhile.

        `previous` is the caption of the event before, where the frames go on from one.
        """
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
            prefix = self._read(clip)
            asked: dict[Task | VideoTask | str, str] = {
                VideoTask.CAPTION: video_instruction(VideoTask.CAPTION, language, before)
            }
            return self._language.texts(prefix, asked, language, sampling)[0][VideoTask.CAPTION], prefix

        source = open_video(frames) if isinstance(frames, str | Path) else frames
        return stream(self._tower, frames_of(source, frame_rate), prompt, caption, clip_length, changes, previous)


def _video_task(task: VideoTask | Task | str) -> VideoTask | Task | str:
    for kind in (VideoTask, Task):
        if task in list(kind):
            return kind(task)
    return task
