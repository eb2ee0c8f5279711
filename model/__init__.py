"""Perceive Anything: a visual prompt on a picture or video becomes a mask, a class, a definition and a caption.

    from model import PerceiveAnything, Prompt, Task

    pam = PerceiveAnything.from_pretrained("PAM-3B")
    embedding = pam.encode(image)
    regions = pam.segment(embedding, [Prompt(points=[(320, 200, 1)]), Prompt(box=(10, 20, 200, 180))])
    texts = pam.describe(regions, tasks=[Task.RECOGNIZE, Task.BRIEF])

    tracking = pam.track("clip.mp4", [Prompt(box=(10, 20, 200, 180))])
    tracks = tracking.finish()
    texts = pam.describe_video(tracks[0])

Names are imported when they are first used: who only needs `Task` does not wait for torch.
"""

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.adapter import Adapter
    from model.compute.clock import Clock, Span
    from model.compute.device import share_cores
    from model.compute.turns import run_through
    from model.errors import (
        CheckpointError,
        DeviceError,
        ModelError,
        PictureError,
        PictureTooLargeError,
        PromptError,
        VideoError,
        VideoTooLargeError,
    )
    from model.finding.detector import Detector
    from model.pam import PerceiveAnything
    from model.reading import Reading
    from model.trial import Trial, try_model
    from model.tuning.fit import Outcome, TuningRun
    from model.tuning.lessons import Choices, Example, Lessons
    from model.values.embedding import Embedding
    from model.values.image import open_picture
    from model.values.prompt import Prompt
    from model.values.region import Found, Perception, Region, Segment, Text, Texts
    from model.values.sampling import Sampling, TokenLimits
    from model.values.task import LANGUAGES, Task, VideoTask
    from model.values.window import Window
    from model.video.opening import open_video
    from model.video.prompt import FramePrompt
    from model.video.source import Chosen, Limits, Video
    from model.video.stream import Event
    from model.video.track import Progress, Sighting, Track, TrackedFrame, Tracking

_HOME = {
    "Adapter": "adapter",
    "Choices": "tuning.lessons",
    "Example": "tuning.lessons",
    "Lessons": "tuning.lessons",
    "Outcome": "tuning.fit",
    "TuningRun": "tuning.fit",
    "Clock": "compute.clock",
    "Span": "compute.clock",
    "Trial": "trial",
    "try_model": "trial",
    "share_cores": "compute.device",
    "run_through": "compute.turns",
    "Embedding": "values.embedding",
    "CheckpointError": "errors",
    "DeviceError": "errors",
    "ModelError": "errors",
    "PictureError": "errors",
    "PictureTooLargeError": "errors",
    "PromptError": "errors",
    "open_picture": "values.image",
    "PerceiveAnything": "pam",
    "Reading": "reading",
    "Prompt": "values.prompt",
    "Detector": "finding.detector",
    "Found": "values.region",
    "Perception": "values.region",
    "Region": "values.region",
    "Sampling": "values.sampling",
    "TokenLimits": "values.sampling",
    "Text": "values.region",
    "Texts": "values.region",
    "LANGUAGES": "values.task",
    "Task": "values.task",
    "Chosen": "video.source",
    "Event": "video.stream",
    "FramePrompt": "video.prompt",
    "Limits": "video.source",
    "Segment": "values.region",
    "Sighting": "video.track",
    "Progress": "video.track",
    "Track": "video.track",
    "TrackedFrame": "video.track",
    "Tracking": "video.track",
    "Video": "video.source",
    "VideoError": "errors",
    "VideoTask": "values.task",
    "VideoTooLargeError": "errors",
    "Window": "values.window",
    "open_video": "video.opening",
}

__all__ = [
    "LANGUAGES",
    "Adapter",
    "CheckpointError",
    "Choices",
    "Chosen",
    "Clock",
    "Detector",
    "DeviceError",
    "Embedding",
    "Event",
    "Example",
    "Found",
    "FramePrompt",
    "Lessons",
    "Limits",
    "ModelError",
    "Outcome",
    "PerceiveAnything",
    "Perception",
    "PictureError",
    "PictureTooLargeError",
    "Progress",
    "Prompt",
    "PromptError",
    "Reading",
    "Region",
    "Sampling",
    "Segment",
    "Sighting",
    "Span",
    "Task",
    "Text",
    "Texts",
    "TokenLimits",
    "Track",
    "TrackedFrame",
    "Tracking",
    "Trial",
    "TuningRun",
    "Video",
    "VideoError",
    "VideoTask",
    "VideoTooLargeError",
    "Window",
    "open_picture",
    "open_video",
    "run_through",
    "share_cores",
    "try_model",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        # torch and transformers make a million objects that all stay: to look for garbage among them while they come
        # is a quarter of the time that importing them takes
        enabled = gc.isenabled()
        gc.disable()
        try:
            return getattr(import_module(f"model.{_HOME[name]}"), name)
        finally:
            if enabled:
                gc.enable()
    raise AttributeError(f"module 'model' has no attribute {name!r}")
