"""The videos that a worker has in hand, so that the next job goes on where the one before was put down."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.fetching.pictures import PictureStore
from backend.job import ClipReply, JobReply, JobRequest
from backend.settings import Settings
from backend.worker.choosing import Chooser
from backend.worker.embedding_cache import EmbeddingCache
from backend.worker.judges import Judges
from backend.worker.video_checkpoint import Checkpoint, Checkpoints
from backend.worker.video_files import VideoFiles
from backend.worker.video_job import VideoJob

if TYPE_CHECKING:
    from model import PerceiveAnything

IN_HAND = 3
"""Videos that a worker keeps the state of; the one that was longest not asked for is put away into its checkpoint."""

_LIVE_SLICE_S = 0.5  # an annotator looks on: what is tracked is answered after so long

_STEADY_S = 0.3  # so long a job goes on at least, however many wait: or nothing would ever be done

log = logging.getLogger(__name__)


class VideoSessions:
    """Answers jobs about videos, in slices.

    Args:
        settings, pam, pictures: as the engine has them.
        wanted: whether somebody with a click waits for this worker.
        checkpoints: what is known of videos under way.
        cache: of embeddings, where those of frames that an annotator is at lie too.
        judges: the label memories.
        worker: its name.
    """

    def __init__(
        self,
        settings: Settings,
        pam: PerceiveAnything,
        pictures: PictureStore,
        wanted: Callable[[], bool],
        checkpoints: Checkpoints,
        cache: EmbeddingCache,
        judges: Judges,
        worker: str = "",
    ) -> None:
        self._settings = settings
        self._pam = pam
        self._pictures = pictures
        self._wanted = wanted
        self._checkpoints = checkpoints
        self._worker = worker
        self._chooser = Chooser(pam, judges)
        self._in_hand: OrderedDict[str, VideoJob] = OrderedDict()
        self._files = VideoFiles(settings, pictures, cache)

    def advance(self, request: JobRequest) -> JobReply:
        """Work on a video for a while; the reply says whether it is done."""
        begin, live = time.monotonic(), request.clip is not None and request.clip.live
        if request.clip is not None and request.clip.warm:
            return self._warmed(request, begin)
        key = _key(request)
        job = self._in_hand.pop(key, None) or self._begin(key, request)
        going = True
        try:
            while going and not self._put_down(time.monotonic() - begin, live):
                going = job.run()
                if going and time.monotonic() - job.kept_at > self._settings.video_checkpoint_s:
                    self._keep(key, job)
        except BaseException as error:
            job.close()
            if isinstance(error, Exception):
                # an error of the video's comes again; one that came of the checkpoint must not
                self._checkpoints.drop(key)
            raise
        reply = job.reply()
        if going:
            self._in_hand[key] = job
            reply = reply.model_copy(update={"worker": self._worker})
        else:
            job.close()
            self._checkpoints.drop(key)
        return self._reply(request, job, reply, begin)

    def _warmed(self, request: JobRequest, begin: float) -> JobReply:
        """Frames are encoded until somebody with a click waits; the others are when they are asked for."""
        job = self._job(request, None)
        try:
            while job.run() and not self._wanted():
                pass
        finally:
            job.close()
        return self._reply(request, job, job.reply(), begin)

    def _reply(self, request: JobRequest, job: VideoJob, reply: ClipReply, begin: float) -> JobReply:
        seconds = {"queue": max(0.0, time.time() - request.sent_at), "video": time.monotonic() - begin}
        return JobReply(
            width=job.width,
            height=job.height,
            groups=(),
            seconds=seconds,
            model_version=self._pam.version,
            cached=False,
            clip=reply,
        )

    def _begin(self, key: str, request: JobRequest) -> VideoJob:
        assert request.clip is not None
        checkpoint = self._checkpoints.get(key)
        if request.clip.part and checkpoint is None:
            log.info("a video's work was not in hand any more: it is begun anew")
        while len(self._in_hand) >= IN_HAND:
            other, job = self._in_hand.popitem(last=False)
            self._keep(other, job)
            job.close()
        return self._job(request, checkpoint)

    def _job(self, request: JobRequest, checkpoint: Checkpoint | None) -> VideoJob:
        assert request.clip is not None
        return VideoJob(
            self._settings,
            self._pam,
            self._pictures,
            request.picture,
            request.clip,
            request.limits,
            checkpoint,
            self._files,
            self._chooser,
            request.memory,
        )

    def _keep(self, key: str, job: VideoJob) -> None:
        job.kept_at = time.monotonic()
        checkpoint = job.checkpoint()
        if checkpoint is not None:
            self._checkpoints.keep(key, checkpoint)

    def _put_down(self, seconds: float, live: bool) -> bool:
        if seconds > (_LIVE_SLICE_S if live else self._settings.video_slice_s):
            return True
        return seconds > _STEADY_S and self._wanted()


def _key(request: JobRequest) -> str:
    """The same for all parts of the work on one video."""
    assert request.clip is not None
    clip = request.clip.model_copy(update={"part": 0})
    text = f"{request.picture}\0{request.adapter}\0{request.limits}\0{clip.model_dump_json()}"
    return hashlib.sha256(text.encode()).hexdigest()
