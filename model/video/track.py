"""What tracking gives: regions frame by frame, and what is kept of each object to describe it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from model.values.mask import Box, to_rle
from model.values.region import Region, RegionFeatures, Segment

CLIP_FRAMES = 16
"""Frames of an object that the language model sees, as PAM was trained."""


RECALLED = 6
"""Newest frames with a thing on them that are remembered anew when its tracking is taken up again: SAM 2's window."""

Masks = Mapping[int, Mapping[int, dict[str, object]]]
"""By object and frame, as `model.values.mask.to_rle` makes them."""


@dataclass(frozen=True)
class Progress:
    """How far tracking came, in a form that can be written down: enough to go on elsewhere (`track(..., progress=…)`).

    SAM 2's memories are not in it (megabytes a frame): they are made anew of the masks on these few frames.

    Attributes:
        steps: frames that came.
        masks: on the newest frames on which each object was seen, and on those that are kept to describe it.
    """

    steps: int
    masks: Masks = field(repr=False)


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """One frame with the objects in it.

    Attributes:
        frame: its number, from 0.
        time_s: when it is shown, seconds since the first frame.
        picture: upright RGB.
        regions: by object number; a `Region` where the object has a prompt on this frame.
    """

    frame: int
    time_s: float
    picture: Image.Image = field(repr=False)
    regions: dict[int, Segment]


@dataclass(frozen=True)
class Sighting:
    """An object on one frame; box in pixels, None where it is not seen; iou and object_score as of a `Region`."""

    time_s: float
    box: Box | None
    iou: float
    object_score: float


@dataclass(eq=False)
class Track:
    """One object through the frames seen so far.

    Attributes:
        object_id: of its prompts.
        width: of the frames, pixels.
        height: of the frames, pixels.
        sightings: by frame number.
        anchor: the region on the first frame on which it was prompted: what is asked of a picture is asked of this one.
        moments: features of the frames that are kept to describe it, by frame number, at most CLIP_FRAMES.
    """

    object_id: int
    width: int
    height: int
    sightings: dict[int, Sighting] = field(default_factory=dict, repr=False)
    anchor: Region | None = field(default=None, repr=False)
    moments: dict[int, RegionFeatures] = field(default_factory=dict, repr=False)

    @property
    def frames(self) -> list[int]:
        """Numbers of the tracked frames, rising."""
        return sorted(self.sightings)

    def see(self, frame: TrackedFrame, region: Segment, keep: bool) -> None:
        """Note a region of this object; `keep` its features."""
        self.sightings[frame.frame] = Sighting(frame.time_s, region.box, region.iou, region.object_score)
        if keep:
            self.moments[frame.frame] = region.features

    def clip(self) -> list[RegionFeatures]:
        """The features of CLIP_FRAMES frames in order of time; shorter clips repeat frames, evenly.

        Raises:
            ValueError: nothing was tracked yet.
        """
        kept = [self.moments[frame] for frame in sorted(self.moments)]
        if not kept:
            raise ValueError("nothing to describe: iterate over the tracking first")
        return [kept[i] for i in clip_numbers(len(kept))]


def clip_numbers(count: int) -> list[int]:
    """Which of `count` frames the language model sees: the first, and CLIP_FRAMES - 1 evenly spread over the others.

    PAM refuses clips of fewer than CLIP_FRAMES frames. Here their frames come several times, so that the prompt keeps
    the form that the weights were trained with.
    """
    if count == 1:
        return [0] * CLIP_FRAMES
    return [0, *np.linspace(1, count - 1, CLIP_FRAMES - 1, dtype=int).tolist()]


class Tracking(Iterator[TrackedFrame]):
    """Frames as they are tracked; nothing is computed before it is asked for, and it may be left at any frame.

    Attributes:
        tracks: what is known of each object after the frames so far; after a `progress` without earlier sightings.
        total: frames that come in all; a frame comes twice where objects are tracked from it in both directions.
    """

    def __init__(
        self,
        frames: Iterator[TrackedFrame],
        tracks: dict[int, Track],
        kept: Mapping[int, set[int]],
        total: int,
        progress: Progress | None = None,
    ) -> None:
        self._frames = frames
        self.tracks = tracks
        self.total = total
        self._kept = kept
        self._steps = progress.steps if progress is not None else 0
        # the newest masks are encoded when somebody asks for the progress: most never do
        self._newest: dict[int, deque[tuple[int, np.ndarray | dict[str, object]]]] = {
            name: deque(maxlen=RECALLED) for name in kept
        }
        self._moments: dict[int, dict[int, dict[str, object]]] = {name: {} for name in kept}
        for name, masks in (progress.masks if progress is not None else {}).items():
            self._moments[name] = {frame: mask for frame, mask in masks.items() if frame in kept[name]}
            # whatever is no kept frame was among the newest ones
            self._newest[name].extend((frame, mask) for frame, mask in masks.items() if frame not in kept[name])

    def __next__(self) -> TrackedFrame:
        found = next(self._frames)
        self._steps += 1
        for name, region in found.regions.items():
            keep = found.frame in self._kept[name]
            self.tracks[name].see(found, region, keep)
            if region.mask.any():
                self._newest[name].append((found.frame, region.mask))
                if keep:
                    self._moments[name][found.frame] = to_rle(region.mask)
        return found

    def progress(self) -> Progress:
        """How far it came, to go on from there with the same video and prompts."""
        newest = {
            name: {frame: to_rle(mask) if isinstance(mask, np.ndarray) else mask for frame, mask in row}
            for name, row in self._newest.items()
        }
        return Progress(self._steps, {name: self._moments[name] | newest[name] for name in self._kept})

    def finish(self) -> dict[int, Track]:
        """Track to the end; the tracks by object number."""
        for _ in self:
            pass
        return self.tracks


def kept_frames(planned: Mapping[int, Sequence[int]]) -> dict[int, set[int]]:
    """Of the frames that each object will be tracked over, those that are kept to describe it."""
    found = {}
    for name, numbers in planned.items():
        rising = sorted(numbers)
        found[name] = {rising[i] for i in clip_numbers(len(rising))}
    return found
