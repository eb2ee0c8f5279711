"""A video's job in the worker: fetch, track, describe, tell; it can be put down between any two frames."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.errors import PromptError
from backend.fetching.pictures import PictureStore
from backend.fetching.videos import fetch, opened
from backend.job import ClipAsk, ClipMark, ClipReply, EventReply, Group, LabelReply, LabelSet, TextAsk, TextReply
from backend.label_studio.geometry import hull
from backend.label_studio.protocol import RegionValue
from backend.learning.packing import pack_features
from backend.settings import Settings
from backend.worker.choosing import Chooser
from backend.worker.replies import best_label, text_reply
from backend.worker.video_checkpoint import Checkpoint, ObjectSoFar
from backend.worker.video_files import FrameEmbeddings, VideoFiles
from backend.worker.video_object import TrackedObject
from model import Sampling, TokenLimits
from model.values.task import Task, VideoTask, video_instruction

if TYPE_CHECKING:
    from model import PerceiveAnything, Prompt, Reading, Track, Tracking, Video

_WHOLE_FRAMES = 16
_EVENT_SHARE, _TRACK_SHARE = 0.4, 0.9  # of the work: with events, without them

log = logging.getLogger(__name__)


class VideoJob:
    """One video and what is wanted of it. `run` goes on, `reply` says what is known; `close` when it is over.

    Args:
        settings: limits and rates.
        pam: the model.
        pictures: fetches.
        address: of the video.
        ask: what is wanted.
        limits: of each text, in tokens.
        checkpoint: of the same work, to go on from; it is not used where the model or the video is another one now.
        files: keeps the videos of live asks.
        chooser: chooses labels of objects.
        memory: of the project's labels, as in `JobRequest`.

    Attributes:
        width, height: of the video, pixels; 0 before it is open.
        kept_at: when a checkpoint was made last, by the monotonic clock.
    """

    def __init__(
        self,
        settings: Settings,
        pam: PerceiveAnything,
        pictures: PictureStore,
        address: str,
        ask: ClipAsk,
        limits: TokenLimits,
        checkpoint: Checkpoint | None = None,
        files: VideoFiles | None = None,
        chooser: Chooser | None = None,
        memory: str = "",
    ) -> None:
        self._chooser = chooser or Chooser(pam, None)
        self._memory = memory
        self._features = [""] * len(ask.looks)
        self._files = files
        self._settings = settings
        self._pam = pam
        self._version = pam.version
        self._pictures = pictures
        self._address = address
        self._ask = ask
        self._sampling = Sampling(max_new_tokens=limits)
        self._objects = [TrackedObject() for _ in ask.objects]
        self._texts: dict[str, TextReply] = {}
        self._labels: tuple[LabelReply, ...] = ()
        self._duration_s = 0.0
        self._share = 0.0
        self._before = checkpoint
        self._tracking: Tracking | None = None
        self._video = (0, 0, 0, 0)
        self.kept_at = time.monotonic()
        self._file: tempfile._TemporaryFileWrapper[bytes] | None = None
        self._encoded: FrameEmbeddings | None = None
        self.width = self.height = 0
        self._steps: Generator[None, None, None] = self._run()

    def run(self) -> bool:
        """One step: a frame or a text; False when everything is done. Raises what the video is found wrong with."""
        try:
            next(self._steps)
            return True
        except StopIteration:
            self._share = 1.0
            return False

    def reply(self) -> ClipReply:
        """What is known so far."""
        return ClipReply(
            duration_s=self._duration_s,
            objects=tuple(found.reply() for found in self._objects),
            texts=self._texts,
            labels=self._labels,
            features=tuple(self._features),
            share=round(self._share, 4),
            done=self._share >= 1,
        )

    def checkpoint(self) -> Checkpoint | None:
        """What a work begun elsewhere can go on from; None where nothing is worth it yet."""
        if self._tracking is not None:
            progress = self._tracking.progress()
            steps, masks = progress.steps, progress.masks
        elif self._before is not None and self._video == self._before.video:
            steps, masks = self._before.steps, {i: one.masks for i, one in enumerate(self._before.objects)}
        else:
            return None
        return Checkpoint(
            model_version=self._version,
            video=self._video,
            steps=steps,
            objects=tuple(
                ObjectSoFar(
                    found=found.reply(), seen=len(found.ious), masks=dict(masks.get(number, {})), told=found.told
                )
                for number, found in enumerate(self._objects)
            ),
            texts=self._texts,
            labels=self._labels,
        )

    def close(self) -> None:
        """Forget the frames; the file goes from the disk."""
        self._steps.close()
        if self._file is not None and not self._kept:
            self._file.close()

    def _run(self) -> Generator[None, None, None]:
        video = self._opened()
        self.width, self.height, self._duration_s = video.width, video.height, video.duration_s
        if self._ask.warm:
            yield from self._warm(video)
        if self._ask.looks:
            yield from self._look(video)
        if not self._ask.objects:
            yield from self._whole(video)
            return
        self._take_up(video)
        yield
        share = _EVENT_SHARE if self._ask.events is not None else _TRACK_SHARE
        video = self._near(video)
        if not all(self._described(found) for found in self._objects):
            tracks = yield from self._track(video, share)
            for number, track in tracks.items():
                yield from self._describe(video, number, track)
        if self._ask.events is not None:
            for number in range(len(self._objects)):
                yield from self._tell(video, number, share)
        yield from self._whole(video)

    def _take_up(self, video: Video) -> None:
        """Go on from the checkpoint, if it is of this model and this video."""
        assert self._file is not None
        self._video = self._file.tell(), video.width, video.height, video.frame_count
        before = self._before
        if before is None:
            return
        if (before.model_version, before.video) != (self._version, self._video):
            log.info("a video's checkpoint is of another model or another video: it is begun anew")
            self._before = None
            return
        self._objects = [TrackedObject.of(kept) for kept in before.objects]
        self._texts, self._labels = before.texts, before.labels

    def _described(self, found: TrackedObject) -> bool:
        return bool(found.texts) and len(found.labels) == len(self._ask.label_sets)

    def _opened(self) -> Video:
        """Fetch the video to a file of its own, if it is not kept, and open it with fewer frames."""
        if self._kept and self._files is not None:
            kept = self._files.get(self._address)
            self._file, self._encoded = kept.file, self._files.frames(kept)
        else:
            self._file = fetch(self._pictures, self._address, self._settings)
        rate = self._ask.frame_rate or self._settings.video_frame_rate
        return opened(Path(self._file.name), self._settings).thinned(rate)

    def _warm(self, video: Video) -> Iterator[None]:
        """Encode the frames that are not encoded yet; who asks about one of them need not wait for that."""
        if self._encoded is None:
            return
        times = {float(video.timestamps_s[number]): number for number in map(video.nearest, self._ask.warm)}
        missing = {number: time_s for time_s, number in times.items() if self._encoded.get(time_s) is None}
        for number, picture in video.read(sorted(missing)):
            self._encoded.put(missing[number], self._pam.encode(picture, large=0))
            yield

    def _look(self, video: Video) -> Iterator[None]:
        """What each of the marked things looks like on its frame."""
        from model.errors import PromptError as NoPrompt

        frames = defaultdict(list)
        for place, mark in enumerate(self._ask.looks):
            frames[video.nearest(mark.time_s)].append((place, mark))
        for number, picture in video.read(sorted(frames)):
            embedding = self._pam.encode(picture, large=0)
            for place, mark in frames[number]:
                try:
                    regions = self._pam.segment(embedding, [self._prompt(mark)])
                except NoPrompt:  # it lies outside the picture
                    continue
                (row,) = self._pam.features(regions)
                self._features[place] = pack_features(row)
            yield

    @property
    def _kept(self) -> bool:
        """Whether the file belongs to others too."""
        return self._ask.live and self._files is not None

    def _near(self, video: Video) -> Video:
        """The frames of it that are tracked."""
        from model import Chosen

        most = self._ask.most_frames
        if most is None:
            return video
        marks = [video.nearest(mark.time_s) for asked in self._ask.objects for mark in asked.marks]
        first = max(0, max(marks) - most + 1) if self._ask.direction == "backward" else min(marks)
        after = max(marks) + 1 if self._ask.direction == "backward" else min(video.frame_count, min(marks) + most)
        if self._ask.direction == "both":
            first = max(0, min(marks) - most + 1)
        return Chosen(video, range(first, after))

    def _track(self, video: Video, share: float) -> Generator[None, None, dict[int, Track]]:
        """Follow all objects together, forward and then, if that is wanted, backward; their tracks by number."""
        from model import FramePrompt, Progress
        from model.values.mask import to_rle

        prompts = []
        last_s = float(video.timestamps_s[-1]) + 1 / self._settings.video_frame_rate
        for number, asked in enumerate(self._ask.objects):
            marks: dict[int, ClipMark] = {}
            for mark in asked.marks:
                if mark.time_s >= self._duration_s + 1 / self._settings.video_frame_rate:
                    raise PromptError(
                        f"a box lies at {mark.time_s:.2f} s of a video of {self._duration_s:.2f} s: is the frameRate "
                        "of <Video> that of the file?"
                    )
                if self._ask.most_frames is None or float(video.timestamps_s[0]) - 1e-3 <= mark.time_s <= last_s:
                    marks[video.nearest(mark.time_s)] = mark
            prompts += [FramePrompt(self._prompt(mark), frame, number) for frame, mark in marks.items()]
        before = None
        if self._before is not None:
            masks = {number: kept.masks for number, kept in enumerate(self._before.objects)}
            before = Progress(self._before.steps, masks)
        self._tracking = tracking = self._pam.track(
            video, prompts, direction=self._ask.direction, progress=before, encoded=self._encoded
        )
        known = before.steps if before is not None else 0
        if known:
            log.info("a video is taken up again: %d of %d frames are tracked already", known, tracking.total)
        for count, tracked in enumerate(tracking, start=known + 1):
            for number, region in tracked.regions.items():
                found = self._objects[number]
                found.sightings[tracked.time_s] = (tracked.time_s, self._percent(region.box))
                if region.box is not None:
                    found.ious.append(region.iou)
                    if self._ask.live:
                        found.masks[tracked.time_s] = to_rle(region.mask)
            self._share = share * count / tracking.total
            yield
        log.info("a video is tracked: %d frames here, %d before", tracking.total - known, known)
        return tracking.tracks

    def _describe(self, video: Video, number: int, track: Track) -> Iterator[None]:
        """The texts and labels of one object."""
        found = self._objects[number]
        if not found.texts:
            found.texts = self._words(track, self._ask.texts)
            yield
        if self._ask.label_sets and track.anchor is not None and not found.labels:
            anchor = track.anchor
            if self._memory:
                # the memory knows what things look like: that is seen on the picture, which a track does not keep
                mark = min(self._ask.objects[number].marks, key=lambda mark: mark.time_s)
                embedding = self._pam.encode(video.frame(video.nearest(mark.time_s)), large=0)
                (anchor,) = self._pam.segment(embedding, [self._prompt(mark)])
            reading = self._pam.read([anchor])
            asked = Group(label_sets=self._ask.label_sets)
            ((found.labels,), _) = self._chooser.labels(reading, asked, self._memory)
            yield

    def _words(self, track: Track, asks: Sequence[TextAsk]) -> dict[str, TextReply]:
        words: dict[str, TextReply] = {}
        by_language = defaultdict(list)
        for ask in asks:
            by_language[ask.language].append(ask)
        for language, mine in by_language.items():
            # the brief caption of a video is that of the clip; the weights know the other tasks of pictures only
            tasks: list[Task | VideoTask | str] = [
                VideoTask.CAPTION if ask.task is Task.BRIEF else ask.task for ask in mine
            ]
            said = self._pam.describe_video(track, tasks, language, self._sampling)
            words |= {ask.key: text_reply(said[task]) for ask, task in zip(mine, tasks, strict=True)}
        return words

    def _tell(self, video: Video, number: int, share: float) -> Iterator[None]:
        """The events of one object, from where it is first seen."""
        from model import Chosen, Prompt, Reading

        found = self._objects[number]
        seen = [sighting for sighting in found.reply().sightings if sighting[1] is not None]
        if not seen:
            return
        first_s, box = seen[0]
        assert box is not None and self._ask.events is not None
        begin, said = video.nearest(first_s), ""
        if found.told is not None:
            begin, said = found.told, found.events[-1].caption.string if found.events else ""
            if begin >= video.frame_count:
                return
            box = found.box_before(float(video.timestamps_s[begin])) or box
        rest = Chosen(video, range(begin, video.frame_count))
        prompt = Prompt(box=self._pixels(ClipMark(time_s=first_s, box=box)))
        for event in self._pam.watch(rest, prompt, self._ask.events, self._sampling, said):
            if event is None:
                yield
                continue
            label = None
            if self._ask.event_labels is not None:
                # as what would be said of the event, not as the class of what is in it
                how = video_instruction(VideoTask.CAPTION, self._ask.event_labels.language)
                label = self._choose(Reading((event.region,), event.clip), self._ask.event_labels, how)
            after = event.end_frame + 1
            # its last frame stands until the next one comes
            end_s = float(rest.timestamps_s[after]) if after < rest.frame_count else self._duration_s
            found.events.append(
                EventReply(start_s=event.start_s, end_s=end_s, caption=text_reply(event.caption), label=label)
            )
            found.told = begin + after
            done = found.told / max(1, video.frame_count)
            self._share = share + (_TRACK_SHARE - share) * (number + done) / len(self._objects)
            yield

    def _whole(self, video: Video) -> Iterator[None]:
        """Texts and labels of the whole video: of everything that its frames show."""
        from model import Chosen, Prompt

        if not self._ask.whole and not self._ask.whole_sets:
            return
        numbers = sorted({round(i) for i in np.linspace(0, video.frame_count - 1, _WHOLE_FRAMES)})
        few = Chosen(video, numbers)
        tracking = self._pam.track(few, [Prompt(box=(0, 0, video.width, video.height))])
        for _ in tracking:
            yield
        track = tracking.tracks[0]
        self._texts = self._words(track, self._ask.whole)
        yield
        if self._ask.whole_sets and track.anchor is not None:
            reading = self._pam.read([track.anchor])
            self._labels = tuple(self._choose(reading, labels) for labels in self._ask.whole_sets)
            yield

    def _choose(self, reading: Reading, labels: LabelSet, how: Task | str = Task.RECOGNIZE) -> LabelReply:
        names = list(dict.fromkeys(name for candidate in labels.candidates for name in candidate.names))
        (row,) = self._pam.score(reading, names, how, labels.language).tolist()
        return best_label(labels.candidates, dict(zip(names, row, strict=True)))

    def _prompt(self, mark: ClipMark) -> Prompt:
        from model import Prompt

        points = [(p.x / 100 * self.width, p.y / 100 * self.height, int(p.positive)) for p in mark.points]
        box = self._pixels(mark) if mark.box is not None or mark.drawing is not None else None
        return Prompt(points=points or None, box=box)

    def _pixels(self, mark: ClipMark) -> tuple[float, float, float, float]:
        box = mark.box
        if mark.drawing is not None:
            box = hull(mark.drawing.kind, RegionValue.model_validate(mark.drawing.value), self.width / self.height)
        assert box is not None
        x1, y1, x2, y2 = box
        width, height = self.width / 100, self.height / 100
        return x1 * width, y1 * height, x2 * width, y2 * height

    def _percent(self, box: tuple[float, float, float, float] | None) -> tuple[float, float, float, float] | None:
        if box is None:
            return None
        x, y = 100 / self.width, 100 / self.height
        return round(box[0] * x, 4), round(box[1] * y, 4), round(box[2] * x, 4), round(box[3] * y, 4)
