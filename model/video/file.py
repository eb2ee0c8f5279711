"""Video files, through PyAV (ffmpeg's libraries)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image

from model.errors import VideoError
from model.video.source import Limits, Video, check

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,flv,asf,h264,hevc,gif"
"""Containers that may be opened. No playlists: they would have ffmpeg fetch whatever they name."""

_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}


class VideoFile(Video):
    """A video file. Its packets are listed once, without decoding; frames are decoded on demand.

    Times are those in the file, so a variable frame rate is seen as it is. Each call of `read` has a decoder of its
    own: several may run at once.

    Args:
        path: of the file.
        limits: what it may measure; most are checked before anything is decoded.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        check(limits, size=path.stat().st_size)
        with self._opened() as (container, stream):
            seconds = (container.duration or 0) / av.time_base
            check(limits, seconds=seconds, pixels=stream.width * stream.height)
            self._list_packets(container, stream, limits)
            rate = float(stream.average_rate or 0)
            unit = float(stream.time_base or 0)
            start = container.start_time
        times = np.array(self._pts, dtype=np.float64) * unit
        # players count from where the first of the file's streams begins, which may be its sound
        zero = float(times[0]) if start is None else min(float(times[0]), max(0.0, start / av.time_base))
        self.timestamps_s = times - zero
        typical = float(np.median(np.diff(times))) if len(times) > 1 else 1 / rate if rate else 0.04
        # the file's own duration may be that of a longer sound track, which is what players show
        self.duration_s = max(float(self.timestamps_s[-1]) + typical, seconds)
        check(limits, seconds=self.duration_s)
        self.width = self.height = 0
        for _, picture in self._read(range(min(len(times), 64))):
            self.width, self.height = picture.size
            break
        if not self.width:
            raise VideoError(f"no frame of {path.name} can be decoded: the file is damaged, make it anew")

    def _list_packets(self, container: InputContainer, stream: VideoStream, limits: Limits) -> None:
        packets: dict[int, bool] = {}
        try:
            for packet in container.demux(stream):
                shown = packet.pts if packet.pts is not None else packet.dts
                # the last, empty packet flushes the decoder; discarded ones lie outside the edit list
                if shown is None or not packet.size or packet.is_discard:
                    continue
                packets[shown] = packets.get(shown, False) or packet.is_keyframe
                check(limits, frames=len(packets))
        except av.error.FFmpegError:
            pass  # a truncated file: what came before is there
        if not packets:
            raise VideoError(f"{self.path.name} has no video frames: give a video file")
        self._pts = sorted(packets)
        self._numbers = {pts: number for number, pts in enumerate(self._pts)}
        self._keys = [number for number, pts in enumerate(self._pts) if packets[pts]] or [0]

    @contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        try:
            container = av.open(str(self.path.absolute()), options=dict(_OPTIONS))
        except av.error.FFmpegError as error:
            if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
                raise
            raise VideoError(
                f"{self.path.name} is not a video of a known format (MP4, WebM, Matroska, AVI, MPEG, OGG …)"
            ) from None
        with container:
            if not container.streams.video:
                raise VideoError(f"{self.path.name} has no pictures, only sound: give a video file")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        wanted = list(numbers)
        with self._opened() as (container, stream):
            at = 0  # the decoder gives this frame next, or an earlier one
            while wanted:
                key = self._key_before(wanted[0])
                if key > at:
                    container.seek(self._pts[key], stream=stream)
                for number, frame in self._decode(container, stream):
                    if key > at and number > key:
                        # this file cannot be entered where it says: from now on it is read from its beginning
                        self._keys = [0]
                        yield from self._read(wanted)
                        return
                    at = max(at, number + 1, key)
                    while wanted and wanted[0] < number:
                        wanted.pop(0)  # damaged: it did not come
                    if wanted and wanted[0] == number:
                        wanted.pop(0)
                        yield number, self._shown(frame)
                    # jump where a later key frame is nearer to the next one than we are
                    if not wanted or self._key_before(wanted[0]) > at:
                        break
                else:
                    return  # the end of the file

    def _key_before(self, number: int) -> int:
        return self._keys[max(bisect_right(self._keys, number) - 1, 0)]

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[int, av.VideoFrame]]:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue  # a damaged packet: go on with the next
            for frame in frames:
                shown = frame.pts if frame.pts is not None else frame.dts
                number = self._numbers.get(shown) if shown is not None else None
                if number is not None:
                    yield number, frame

    def _shown(self, frame: av.VideoFrame) -> Image.Image:
        picture = frame.to_image()
        turn = round(frame.rotation) % 360
        if turn:
            picture = picture.rotate(turn, expand=True)
        # a stream may change its size on the way: regions and boxes are in pixels of its first frame
        return picture.resize((self.width, self.height)) if self.width and picture.width != self.width else picture
