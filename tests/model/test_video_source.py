"""Videos from files, folders and lists: the right frames at the right times, limits, damage."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from model import Limits, PictureError, Video, VideoError, VideoTooLargeError, open_video
from model.video.opening import is_video
from tests.videos import number_of, picture, write

PICTURES = [picture(i) for i in range(40)]


def check(video: Video, numbers: list[int]) -> None:
    found = [(number, number_of(image)) for number, image in video.read(numbers)]
    assert [number for number, _ in found] == numbers
    assert all(abs(number - seen) <= 2 for number, seen in found), found


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mov", "libx264"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libx264"), ("a.ts", "libx264")],
)
def test_files(tmp_path: Path, name: str, codec: str) -> None:
    video = open_video(write(tmp_path / name, PICTURES, codec=codec))
    assert (video.width, video.height, video.frame_count) == (160, 120, 40)
    assert video.frame_rate == pytest.approx(25, abs=0.1) and video.duration_s == pytest.approx(1.6, abs=0.03)
    np.testing.assert_allclose(video.timestamps_s, np.arange(40) / 25, atol=1e-3)
    check(video, list(range(40)))
    check(video, list(range(39, -1, -1)))
    check(video, [1, 5, 30, 39])
    check(video, [38])
    check(video, [])


def test_two_readers_do_not_disturb_each_other(tmp_path: Path) -> None:
    video = open_video(write(tmp_path / "a.mp4", PICTURES))
    one, two = video.read(range(20)), video.read(range(39, 10, -1))
    for _ in range(10):
        a, b = next(one), next(two)
        assert abs(number_of(a[1]) - a[0]) <= 2 and abs(number_of(b[1]) - b[0]) <= 2


def test_a_variable_frame_rate(tmp_path: Path) -> None:
    times = [40 * i + (800 if i >= 20 else 0) for i in range(40)]
    video = open_video(write(tmp_path / "a.mp4", PICTURES, times_ms=times))
    np.testing.assert_allclose(video.timestamps_s, np.array(times) / 1000, atol=2e-3)
    # frame 19 stands for 0.84 s
    assert [video.nearest(s) for s in (0, 0.039, 0.041, 1.5, 1.61, 99)] == [0, 0, 1, 19, 20, 39]
    few = video.thinned(5)
    assert few.timestamps_s.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 1.6, 1.8, 2.0, 2.2], abs=0.01)
    check_times = [number_of(image) for _, image in few.read(range(few.frame_count))]
    np.testing.assert_allclose(check_times, [0, 5, 10, 15, 20, 25, 30, 35], atol=2)
    assert video.thinned(1000) is video


def test_a_turned_phone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", PICTURES)
    data = bytearray(path.read_bytes())
    # a quarter turn to the right, in the track header's matrix
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    video = open_video(path)
    assert (video.width, video.height) == (120, 160)
    turned = np.asarray(video.frame(10))
    upright = np.asarray(PICTURES[10].rotate(-90, expand=True))
    assert np.abs(turned.astype(int) - upright.astype(int)).mean() < 8


def test_a_folder_is_read_in_the_order_of_numbers(tmp_path: Path) -> None:
    for number in (0, 2, 9, 10, 33):
        PICTURES[number].save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    video = open_video(tmp_path)
    assert [number_of(image) for _, image in video.read(range(5))] == [0, 2, 9, 10, 33]
    assert video.frame_rate == 25 and video.duration_s == 0.2


def test_lists(tmp_path: Path) -> None:
    video = open_video([PICTURES[0], np.asarray(PICTURES[1]), PICTURES[2]])
    check(video, [0, 1, 2])
    check(video, [2, 1])
    assert open_video(video) is video
    with pytest.raises(VideoError, match="frame 3 of a video of 3"):
        video.frame(3)
    with pytest.raises(PictureError):
        open_video([np.zeros((3, 3))])
    with pytest.raises(VideoError, match="without frames"):
        open_video([])


def test_limits(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", PICTURES)
    for limits, says in (
        (Limits(max_frames=39), "more than 39 frames"),
        (Limits(max_seconds=1.0), "2 s long, the limit is 1 s"),
        (Limits(max_bytes=100), "bytes, the limit is 100"),
        (Limits(max_pixels=100), "19,200 pixels"),
    ):
        with pytest.raises(VideoTooLargeError, match=says):
            open_video(path, limits)
    with pytest.raises(VideoTooLargeError, match="more than 2 frames"):
        open_video(PICTURES, Limits(max_frames=2))
    assert open_video(path, Limits(40, 1.7, path.stat().st_size, 160 * 120)).frame_count == 40


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    # a playlist would make ffmpeg read what it names
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/hostname\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile a.mp4\n")
    for name, says in (
        ("a.mp4", "not a video of a known format"),
        ("empty.mp4", "not a video of a known format"),
        ("folder", "holds no pictures"),
        ("list.m3u8", "not a video of a known format"),
        ("list.ffconcat", "not a video of a known format"),
    ):
        with pytest.raises(VideoError, match=says):
            open_video(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        open_video(tmp_path / "nothing.mp4")


def test_a_damaged_file_gives_what_is_left(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ts", PICTURES, key_every=5)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) * 2 // 3])
    video = open_video(path)
    assert 10 < video.frame_count < 40
    found = [number for number, _ in video.read(range(video.frame_count))]
    assert found == sorted(found) and len(found) >= video.frame_count - 3


def test_pictures_and_videos_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PICTURES[0].save(tmp_path / "a.png")
    PICTURES[0].save(tmp_path / "a.gif")
    assert not is_video(tmp_path / "a.png") and not is_video(tmp_path / "a.gif")
    assert is_video(write(tmp_path / "a.mp4", PICTURES[:2])) and is_video(tmp_path)
    assert not is_video(tmp_path / "nothing")
    # Pillow would call it a picture
    assert is_video(write(tmp_path / "a.mpg", PICTURES[:8], codec="mpeg1video"))
    # a picture of more pixels than Pillow takes is a picture all the same: it is refused as one
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert not is_video(tmp_path / "a.png")


@pytest.mark.parametrize(("sound_s", "first_s"), [(None, 0.0), (0.0, 0.5), (0.5, 0.0), (0.2, 0.3)])
@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libvpx"), ("a.mkv", "libx264"), ("a.ts", "libx264")])
def test_time_counts_from_where_the_first_stream_begins(
    tmp_path: Path, name: str, codec: str, sound_s: float | None, first_s: float
) -> None:
    """As players count: pictures may begin after the sound."""
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        voice = "libopus" if name == "a.webm" else "aac"
        sound = container.add_stream(voice, rate=48_000) if sound_s is not None else None
        for number in range(20):
            frame = av.VideoFrame.from_image(picture(number))
            frame.pts, frame.time_base = 500 + 40 * number, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if isinstance(sound, av.AudioStream) and sound_s is not None:
            for number in range(40):
                samples = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
                samples.sample_rate, samples.pts = 48_000, round(48_000 * sound_s) + 1024 * number
                samples.time_base = Fraction(1, 48_000)
                container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
    video = open_video(tmp_path / name)
    # encoders of sound begin a few milliseconds early
    assert video.timestamps_s[0] == pytest.approx(first_s, abs=0.03)
    assert video.frame_count == 20 and video.nearest(first_s + 0.3) in (6, 7)
    assert np.allclose(np.diff(video.timestamps_s), 0.04, atol=1e-3)
