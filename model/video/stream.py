"""A stream told event by event: PAM's clips, with what it carries from one to the next.

arXiv 2506.05302, section 3.3: each clip is tracked anew from the box of the last mask, and described with the caption
before in its prompt. PAM's clips have a fixed length; here a clip also ends where something changes (`changes.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from model.language.prefix import Prefix
from model.sam.tower import Tower
from model.values.mask import Box
from model.values.prompt import Prompt
from model.values.region import RegionFeatures, Segment, Text
from model.video.changes import Changes, Moment
from model.video.source import Pictures, Video
from model.video.track import clip_numbers
from model.video.tracker import track

CLIP_LENGTH = 32
"""Frames of a clip at most, as in PAM's demonstration."""


@dataclass(frozen=True, eq=False)
class Event:
    """What a thing does for a while.

    Attributes:
        start_frame: number of its first frame.
        end_frame: number of its last frame.
        start_s: when its first frame is shown, seconds since the stream began.
        end_s: when its last frame is shown, seconds.
        caption: what the model says.
        box: of the thing's last mask, pixels; None where it was not seen at the end.
        seen: the share of the frames on which the thing was seen, 0..1.
        region: the thing on the event's first frame.
        clip: the event as the language model read it, for `score`; it takes memory on the device as long as it is kept.
    """

    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    caption: Text
    box: Box | None
    seen: float
    region: Segment = field(repr=False)
    clip: Prefix = field(repr=False)


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a stream."""

    number: int
    time_s: float
    picture: Image.Image = field(repr=False)


Describe = Callable[[Sequence[RegionFeatures], str], tuple[Text, Prefix]]
"""The caption of a clip's features (16 of them), given the caption before ("" at first), and what was read."""


def frames_of(source: Video | Iterable[Image.Image | np.ndarray], frame_rate: float) -> Iterator[Frame]:
    """The frames of a video, or of pictures that keep coming."""
    if isinstance(source, Video):
        for number, picture in source.read(range(source.frame_count)):
            yield Frame(number, float(source.timestamps_s[number]), picture)
    else:
        for number, given in enumerate(source):
            yield Frame(number, number / frame_rate, Pictures([given]).frame(0))


def stream(
    tower: Tower,
    frames: Iterator[Frame],
    prompt: Prompt,
    describe: Describe,
    clip_length: int = CLIP_LENGTH,
    changes: bool = True,
    previous: str = "",
) -> Iterator[Event | None]:
    """See `PerceiveAnything.stream` and `watch`; None after each frame."""
    if clip_length < 1:
        raise ValueError(f"clips of {clip_length} frames: give at least 1")
    pushed: deque[Frame] = deque()
    said = previous
    while clip := (yield from _clip(tower, frames, pushed, prompt, clip_length, changes)):
        numbers = clip_numbers(len(clip))
        caption, read = describe([clip[i][1].features for i in numbers], said)
        yield _event(clip, caption, read)
        prompt, said = next_prompt([region for _, region in clip], prompt), caption.string


def next_prompt(regions: Sequence[Segment], before: Prompt) -> Prompt:
    """What the next clip begins with: the box of the last mask that is not empty, else what this one began with."""
    box = next((box for region in reversed(regions) if (box := region.box) is not None), None)
    return before if box is None else Prompt(box=box)


Seen = list[tuple[Frame, Segment]]


def _clip(
    tower: Tower, frames: Iterator[Frame], pushed: deque[Frame], prompt: Prompt, length: int, changes: bool
) -> Generator[None, None, Seen]:
    """Track until the clip is full or something changes; frames that belong to the next clip are pushed back."""
    seen: Seen = []
    live = _Clip(frames, pushed, length)
    if not live.begin():
        return []
    watch = Changes(float(np.hypot(live.width, live.height)))
    edge: int | None = None
    for found in track(tower, live, [prompt]):
        region = found.regions[0]
        seen.append((live.taken[found.frame], region))
        edge = watch.add(Moment.of(found.picture, region)) if changes else None
        yield
        if edge is not None:
            break
    edge = edge or watch.last() or len(seen)
    pushed.extendleft(frame for frame, _ in reversed(seen[edge:]))
    return seen[:edge]


class _Clip(Video):
    """The next frames of a stream, as a video whose frames are taken when they are read.

    Its length is the most that it may have: the stream may end before.
    """

    live = True

    def __init__(self, frames: Iterator[Frame], pushed: deque[Frame], length: int) -> None:
        self._frames = frames
        self._pushed = pushed
        self.taken: list[Frame] = []
        self.timestamps_s = np.arange(length, dtype=np.float64)
        self.duration_s = float(length)
        self.width = self.height = 0

    def begin(self) -> bool:
        """Take the first frame; False where the stream is over."""
        if not self._take():
            return False
        self.width, self.height = self.taken[0].picture.size
        return True

    def _take(self) -> bool:
        frame = self._pushed.popleft() if self._pushed else next(self._frames, None)
        if frame is not None:
            self.taken.append(frame)
        return frame is not None

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        for number in numbers:
            while len(self.taken) <= number:
                if not self._take():
                    return
            yield number, self.taken[number].picture


def _event(clip: Seen, caption: Text, read: Prefix) -> Event:
    first, last = clip[0][0], clip[-1][0]
    seen = sum(region.box is not None for _, region in clip)
    return Event(
        start_frame=first.number,
        end_frame=last.number,
        start_s=first.time_s,
        end_s=last.time_s,
        caption=caption,
        box=clip[-1][1].box,
        seen=round(seen / len(clip), 3),
        region=clip[0][1],
        clip=read,
    )
