"""Tracking as PAM does it: SAM 2's video predictor of the unmodified package, several objects at once, frame by frame.

arXiv 2506.05302, section 3.1, and SAM 2 (arXiv 2408.00714), section 4. A frame is encoded once for all objects; objects
that look back at the same frames go through memory attention and mask decoder together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

import torch
from PIL import Image

from model.errors import PromptError
from model.sam.tower import Decoded, Tower
from model.values.embedding import Embedding
from model.values.image import as_rgb
from model.values.mask import from_rle
from model.values.prompt import Prompt
from model.values.region import Region, Segment
from model.video.memory import Bank, Look, Memory, Remembering
from model.video.prompt import FramePrompt, Timeline, by_object
from model.video.source import Video
from model.video.track import Masks, Progress, Track, TrackedFrame, Tracking, kept_frames

Direction = Literal["forward", "backward", "both"]

OBJECTS_PER_BATCH = 8
"""Objects that go through memory attention together; bounds its memory (about 60 MB an object at n = 64)."""

MARKED_KEPT = 16
"""Frames with prompts, those that come first, whose embeddings are kept until their turn (17 MB each at n = 64)."""

_CLAMP = 32.0  # of the logits that a correction starts from, as in SAM 2


class FrameCache(Protocol):
    """Embeddings of a video's frames by when they are shown, in seconds (`Video.timestamps_s`); any may be gone."""

    def get(self, time_s: float) -> Embedding | None:
        """A frame's, if it is there."""

    def put(self, time_s: float, embedding: Embedding) -> None:
        """Keep a frame's."""


@dataclass(frozen=True)
class Pass:
    """One way through the video: the frames of each object, in the order in which they are visited."""

    backward: bool
    frames: dict[int, range]

    @property
    def order(self) -> list[int]:
        """All frames, each once."""
        return sorted({number for frames in self.frames.values() for number in frames}, reverse=self.backward)


def track(
    tower: Tower,
    video: Video,
    prompts: Sequence[Prompt | FramePrompt],
    start_frame: int | None = None,
    direction: Direction = "forward",
    progress: Progress | None = None,
    encoded: FrameCache | None = None,
) -> Tracking:
    """See `PerceiveAnything.track`."""
    if start_frame is not None and not 0 <= start_frame < video.frame_count:
        raise PromptError(f"start_frame {start_frame} of a video of {video.frame_count} frames")
    objects = by_object(prompts, start_frame or 0, video)
    passes = _passes(objects, start_frame, direction, video.frame_count)
    planned = {name: [number for way in passes for number in way.frames[name]] for name in objects}
    for name, timeline in objects.items():
        for prompt in timeline.values():
            if prompt.correction and prompt.frame not in planned[name]:
                raise PromptError(f"object {name} is not tracked over frame {prompt.frame}, which a correction is for")
    tracks = {name: Track(name, video.width, video.height) for name in objects}
    total, kept = sum(len(way.order) for way in passes), kept_frames(planned)
    if progress is not None and not (0 <= progress.steps <= total and set(progress.masks) <= set(objects)):
        raise PromptError("this progress is of another video, or of other prompts")
    frames = Tracker(tower, video, objects, tracks, encoded).run(passes, progress, kept)
    return Tracking(frames, tracks, kept, total, progress)


def _passes(objects: dict[int, Timeline], start: int | None, direction: Direction, count: int) -> list[Pass]:
    if direction not in ("forward", "backward", "both"):
        raise ValueError(f"direction {direction!r} is not one of forward, backward, both")
    begins = {}
    for name, timeline in objects.items():
        said = [prompt.frame for prompt in timeline.values() if not prompt.correction]
        begins[name] = start if start is not None else said[-1 if direction == "backward" else 0]
    passes = []
    if direction != "backward":
        passes.append(Pass(False, {name: range(begin, count) for name, begin in begins.items()}))
    if direction != "forward":
        back = int(direction == "both")  # the first frame itself was there already
        passes.append(Pass(True, {name: range(begin - back, -1, -1) for name, begin in begins.items()}))
    return passes


class Tracker:
    """One video's tracking under way."""

    def __init__(
        self,
        tower: Tower,
        video: Video,
        objects: dict[int, Timeline],
        tracks: dict[int, Track],
        kept: FrameCache | None = None,
    ) -> None:
        self._tower = tower
        self._video = video
        self._objects = objects
        self._tracks = tracks
        self._memory = Remembering(tower, video.frame_count)
        self._banks = {name: Bank() for name in objects}
        self._encoded: tuple[int, Embedding] | None = None
        self._kept = kept
        self._turns: Counter[int] = Counter()  # of marked frames that are kept, how often they are still to come
        self._marked: dict[int, Embedding] = {}

    def run(
        self, passes: Sequence[Pass], progress: Progress | None, kept: Mapping[int, set[int]]
    ) -> Iterator[TrackedFrame]:
        """First the frames with prompts, then every frame of every pass that did not come before the progress."""
        done = 0 if progress is None else progress.steps
        orders = []
        for way in passes:
            skipped, done = min(done, len(way.order)), max(0, done - len(way.order))
            orders.append(way.order[skipped:])
        self._mark(orders)
        if progress is not None:
            self._recall(progress.masks, kept)
        for number, (way, order) in enumerate(zip(passes, orders, strict=True)):
            again = number + 1 < len(passes)
            for frame, picture in self._ahead(self._video.read(order)):
                here = [name for name, frames in way.frames.items() if frame in frames]
                regions = self._step(frame, picture, here, way.backward)
                self._leave(frame)
                for name in here:
                    self._memory.forget(self._banks[name], frame, way.backward, way.frames[name][0] if again else None)
                yield TrackedFrame(frame, float(self._video.timestamps_s[frame]), picture, regions)

    def _ahead(self, frames: Iterator[tuple[int, Image.Image]]) -> Iterator[tuple[int, Image.Image]]:
        """The same frames, as many of them decoded and encoded at once as the encoder takes; live ones one by one."""
        sizes = self._tower.encoder.sizes
        together = 1 if self._video.live or not sizes else sizes[-1]
        if together == 1:
            yield from frames
            return
        while True:
            part: list[tuple[int, Image.Image]] = []
            fault: Exception | None = None
            try:
                part.extend(islice(frames, together))
            except Exception as error:  # the frames before it come first
                fault = error
            known = {frame: self._found(frame) for frame, _ in part}
            missing = [(frame, picture) for frame, picture in part if known[frame] is None]
            made = self._tower.encode([as_rgb(picture) for _, picture in missing]) if missing else []
            known |= zip([frame for frame, _ in missing], made, strict=True)
            for frame, picture in part:
                embedding = known[frame]
                assert embedding is not None
                self._encoded = frame, embedding
                yield frame, picture
            if fault is not None:
                raise fault
            if len(part) < together:
                return

    def _leave(self, frame: int) -> None:
        """A frame's turn is over."""
        if frame in self._marked:
            self._turns[frame] -= 1
            if not self._turns[frame]:
                del self._marked[frame]

    def _mark(self, orders: Sequence[Sequence[int]]) -> None:
        """Remember the objects on the frames with prompts, without any memory: all later ones build on these."""
        said = defaultdict(list)
        for name, timeline in self._objects.items():
            for frame, prompt in timeline.items():
                if not prompt.correction:
                    said[frame].append(name)
        turns = Counter(frame for order in orders for frame in order if frame in said)
        self._turns = Counter({frame: turns[frame] for frame in list(turns)[:MARKED_KEPT]})
        for frame in sorted(said):
            embedding = self._embed(frame, lambda frame=frame: self._video.frame(frame), keep=True)  # type: ignore[misc]
            if frame in self._turns:
                self._marked[frame] = embedding
            for name, region, memory in self._prompted(embedding, frame, said[frame]):
                self._banks[name].marked[frame] = memory
                if self._tracks[name].anchor is None:
                    self._tracks[name].anchor = region

    def _recall(self, masks: Masks, kept: Mapping[int, set[int]]) -> None:
        """Remember what was tracked before, from its masks: memories for the frames to come, features to describe."""
        for frame in sorted({frame for mine in masks.values() for frame in mine}):
            embedding = self._embed(frame, lambda frame=frame: self._video.frame(frame))  # type: ignore[misc]
            for name, mine in masks.items():
                if frame not in mine:
                    continue
                coords, labels, dense = self._tower.tensors(embedding, [Prompt(mask=from_rle(mine[frame]))])
                assert dense is not None
                decoded = self._tower.decode(embedding, coords, labels, dense)
                if frame not in self._banks[name].marked:
                    (memory,) = self._memory.encode(embedding, decoded, False, dense[:, 0])
                    self._banks[name].recent[frame] = memory
                if frame in kept[name]:
                    self._tracks[name].moments[frame] = decoded.features(0)
        for name, track in self._tracks.items():
            if not track.moments and track.anchor is not None:
                # seen on none of the kept frames so far: something is to be described in any case
                track.moments[min(self._banks[name].marked)] = track.anchor.features

    def _step(self, frame: int, picture: Image.Image, names: Sequence[int], backward: bool) -> dict[int, Segment]:
        embedding = self._embed(frame, lambda: picture)
        marked = [name for name in names if frame in self._banks[name].marked]
        regions: dict[int, Segment] = {name: region for name, region, _ in self._prompted(embedding, frame, marked)}
        groups: dict[Look, list[int]] = defaultdict(list)
        for name in names:
            if name not in regions:
                groups[self._memory.look(self._banks[name], frame, backward)].append(name)
        for look, members in groups.items():
            for begin in range(0, len(members), OBJECTS_PER_BATCH):
                part = members[begin : begin + OBJECTS_PER_BATCH]
                regions |= self._tracked(embedding, frame, part, look, backward)
        return {name: regions[name] for name in names}

    def _prompted(self, embedding: Embedding, frame: int, names: Sequence[int]) -> Iterator[tuple[int, Region, Memory]]:
        """Objects on a frame with prompts: they look at nothing but the frame."""
        groups: dict[tuple[int, bool, bool], list[int]] = defaultdict(list)
        for name in names:
            groups[self._objects[name][frame].prompt.kind].append(name)
        for members in groups.values():
            prompts = [self._objects[name][frame].prompt for name in members]
            coords, labels, dense = self._tower.tensors(embedding, prompts)
            decoded = self._tower.decode(embedding, coords, labels, dense)
            # a mask that a person gave is what is remembered, a box's rough one is not
            given = dense[:, 0] if dense is not None and prompts[0].mask is not None else None
            memories = self._memory.encode(embedding, decoded, True, given)
            segments = self._tower.segments(embedding, decoded, [prompt.mask for prompt in prompts])
            for name, prompt, segment, memory in zip(members, prompts, segments, memories, strict=True):
                yield name, Region.of(segment, prompt), memory

    def _tracked(
        self, embedding: Embedding, frame: int, names: Sequence[int], look: Look, backward: bool
    ) -> dict[int, Segment]:
        """Objects on a frame without prompts, and with corrections."""
        features = self._memory.attend(embedding, [self._banks[name] for name in names], look, frame, backward)
        nothing = torch.zeros(len(names), 1, 2, device=features.device)
        padding = -torch.ones(len(names), 1, dtype=torch.int32, device=features.device)
        decoded = self._tower.decode_features(features, embedding.high_resolution, nothing, padding)
        memories = self._memory.encode(embedding, decoded, False)
        regions = dict(zip(names, self._tower.segments(embedding, decoded), strict=True))
        for row, name in enumerate(names):
            mend = self._objects[name].get(frame)
            if mend is None:
                self._banks[name].recent[frame] = memories[row]
                continue
            mended = self._corrected(embedding, features[row : row + 1], decoded.mask_logits[row], mend)
            (self._banks[name].marked[frame],) = self._memory.encode(embedding, mended, True)
            (regions[name],) = self._tower.segments(embedding, mended)
        return regions

    def _corrected(
        self, embedding: Embedding, features: torch.Tensor, logits: torch.Tensor, mend: FramePrompt
    ) -> Decoded:
        """The frame's own answer with clicks on it: memory, the mask so far and the clicks together."""
        coords, labels, _ = self._tower.tensors(embedding, [mend.prompt])
        dense = logits[None, None].clamp(-_CLAMP, _CLAMP)
        return self._tower.decode_features(features, embedding.high_resolution, coords, labels, dense)

    def _embed(self, frame: int, picture: Callable[[], Image.Image], keep: bool = False) -> Embedding:
        """Of a frame; `keep`: it is likely to be prompted again, by another tracking."""
        if self._encoded is None or self._encoded[0] != frame:
            embedding = self._found(frame)
            if embedding is None:
                embedding = self._tower.encode([as_rgb(picture())])[0]
                if self._kept is not None and keep:
                    self._kept.put(float(self._video.timestamps_s[frame]), embedding)
            self._encoded = frame, embedding
        return self._encoded[1]

    def _found(self, frame: int) -> Embedding | None:
        """What was encoded of a frame before, by this tracking or another one."""
        if frame in self._marked:
            return self._marked[frame]
        return None if self._kept is None else self._kept.get(float(self._video.timestamps_s[frame]))
