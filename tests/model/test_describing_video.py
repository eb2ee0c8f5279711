"""Texts about clips, and streams told event by event, on a small random-weight checkpoint and on made-up masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from model import PerceiveAnything, Prompt, PromptError, Sampling, Segment, Task, Video, VideoTask
from model.language.prefix import Prefix
from model.sam.tower import Tower
from model.values.region import RegionFeatures, Text
from model.values.task import video_instruction
from model.video import stream as streaming
from model.video.stream import Frame, next_prompt
from model.video.track import Track, TrackedFrame, Tracking
from model.video.tracker import track
from tests.checkpoints import COMPACT
from tests.videos import SIDE, picture

FOLDER = COMPACT / "inputs" / "video"
BOX = (60.0, 80.0, 130.0, 150.0)


@pytest.fixture(scope="module")
def clip(pam: PerceiveAnything) -> Track:
    return pam.track(FOLDER, [Prompt(box=BOX)]).finish()[0]


def test_the_clip_has_the_papers_layout(pam: PerceiveAnything, clip: Track) -> None:
    side = pam.tower.image_size // 16
    block = pam.vision.clip_block(clip.clip())
    first, other = (side // 2) ** 2, (side // 4) ** 2
    length = first + other * 15 + 16 * (1 + 16 + 1 + 1)
    assert block.shape == (length, pam.language.model.config.hidden_size)
    # with the published 64 × 64 features these are 5168
    assert (64 // 2) ** 2 + (64 // 4) ** 2 * 15 + 16 * 19 == 5168
    ends = [first + 18, *(first + 19 + (other + 19) * i + other + 18 for i in range(15))]
    assert all(torch.equal(block[i], pam.vision.frame_newline) for i in ends)


def test_texts_of_a_clip(pam: PerceiveAnything, clip: Track) -> None:
    tasks = [VideoTask.CAPTION, Task.RECOGNIZE, "What does it do?", "brief"]
    texts = pam.describe_video(clip, tasks, sampling=Sampling(max_new_tokens=4))
    assert list(texts) == [VideoTask.CAPTION, Task.RECOGNIZE, "What does it do?", Task.BRIEF]
    assert texts[VideoTask.CAPTION].task == VideoTask.CAPTION and texts[VideoTask.CAPTION].token_ids
    # a task of pictures is asked about the region that was prompted
    (region,) = pam.segment(pam.encode(Image.open(FOLDER / "00000.jpg")), [Prompt(box=BOX)])
    alone = pam.describe([region], [Task.RECOGNIZE], sampling=Sampling(max_new_tokens=4))[0][Task.RECOGNIZE]
    assert texts[Task.RECOGNIZE].token_ids == alone.token_ids
    chinese = pam.describe_video(clip, language="zh", sampling=Sampling(max_new_tokens=4))[VideoTask.CAPTION]
    assert chinese.language == "zh" and chinese.token_ids != texts[VideoTask.CAPTION].token_ids
    later = pam.describe_video(clip, previous="It lies still.", sampling=Sampling(max_new_tokens=4))[VideoTask.CAPTION]
    assert later.mean_logprob != texts[VideoTask.CAPTION].mean_logprob
    with pytest.raises(ValueError, match="language"):
        pam.describe_video(clip, language="fr")


def test_instructions() -> None:
    assert video_instruction(VideoTask.CAPTION) == (
        "Provide a caption for this subject in this video.\nPrevious caption: None"
    )
    assert video_instruction("caption", "zh", "它在动") == "对该视频中的目标对象提供一个描述。\n历史描述：它在动"
    assert video_instruction("Where does it go?", "zh") == "Where does it go?"
    for wrong in (("caption", "fr"), (" ", "en")):
        with pytest.raises(ValueError):
            video_instruction(*wrong)


def test_a_clip_of_a_few_frames(pam: PerceiveAnything) -> None:
    for count in (1, 2, 5):
        pictures = [Image.open(FOLDER / f"{i:05d}.jpg") for i in range(count)]
        few = pam.track(pictures, [Prompt(box=BOX)]).finish()[0]
        assert len(few.clip()) == 16 and pam.describe_video(few, sampling=Sampling(max_new_tokens=2))


def test_a_stream_carries_box_and_caption(pam: PerceiveAnything, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Prompt] = []

    def spy(tower: Tower, video: Video, prompts: list[Prompt]) -> Tracking:
        asked.extend(prompts)
        return track(tower, video, prompts)

    monkeypatch.setattr(streaming, "track", spy)
    frames = [Image.open(FOLDER / f"{i:05d}.jpg").convert("RGB") for i in range(18)]
    events = list(
        pam.stream(
            frames, Prompt(box=BOX), clip_length=7, changes=False, sampling=Sampling(max_new_tokens=4), frame_rate=10
        )
    )
    assert [(e.start_frame, e.end_frame) for e in events] == [(0, 6), (7, 13), (14, 17)]
    assert [(e.start_s, e.end_s) for e in events] == [(0, 0.6), (0.7, 1.3), (1.4, 1.7)]
    previous, prompt = "", Prompt(box=BOX)
    for event, given in zip(events, asked, strict=True):
        assert given.box == prompt.box
        mine = pam.track(frames[event.start_frame : event.end_frame + 1], [prompt]).finish()[0]
        said = pam.describe_video(mine, previous=previous, sampling=Sampling(max_new_tokens=4))[VideoTask.CAPTION]
        assert said.token_ids == event.caption.token_ids
        last = mine.sightings[mine.frames[-1]]
        assert event.box == last.box
        previous, prompt = event.caption.string, Prompt(box=event.box) if event.box else prompt


def test_a_stream_gives_events_as_they_come(pam: PerceiveAnything) -> None:
    taken = 0

    def camera() -> Iterator[Image.Image]:
        nonlocal taken
        while True:
            taken += 1
            yield Image.open(FOLDER / f"{taken % 18:05d}.jpg").convert("RGB")

    events = pam.stream(camera(), Prompt(box=BOX), clip_length=3, changes=False, sampling=Sampling(max_new_tokens=2))
    assert (next(events).end_frame, taken) == (2, 3)
    assert (next(events).end_frame, taken) == (5, 6)
    with pytest.raises(PromptError, match="outside"):
        next(pam.stream(camera(), Prompt(points=[(5000, 1, 1)])))
    with pytest.raises(ValueError, match="clips of 0 frames"):
        next(pam.stream(camera(), Prompt(box=BOX), clip_length=0))


def segment(box: tuple[int, int, int, int] | None) -> Segment:
    mask = np.zeros((120, 160), bool)
    if box is not None:
        mask[box[1] : box[3], box[0] : box[2]] = True
    features = RegionFeatures(torch.zeros(1), torch.zeros(1))
    return Segment(mask=mask, low_res=torch.zeros(1, 1), iou=1.0, object_score=1.0, stability=1.0, features=features)


def told(
    monkeypatch: pytest.MonkeyPatch, places: Sequence[int | None], cut_at: int | None = None
) -> list[tuple[int, int]]:
    """The events of a stream in which tracking finds a square at these places (left edge; None: it is gone)."""

    def made_up(_tower: object, video: streaming._Clip, _prompts: object) -> Iterator[TrackedFrame]:
        for number, image in video.read(range(video.frame_count)):
            left = places[video.taken[number].number]
            box = None if left is None else (left, 40, left + SIDE, 80)
            yield TrackedFrame(number, number / 10, image, {0: segment(box)})

    monkeypatch.setattr(streaming, "track", made_up)
    frames = (Frame(i, i / 10, picture(100 if cut_at is not None and i >= cut_at else 5)) for i in range(len(places)))
    say = Text(VideoTask.CAPTION, "en", "…", (), 0.0, True)
    found = streaming.stream(None, frames, Prompt(box=(4, 40, 44, 80)), lambda *_: (say, Prefix((), ())), 32)  # type: ignore[arg-type]
    return [(event.start_frame, event.end_frame) for event in found if event is not None]


def test_an_event_ends_where_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = [10] * 12 + [10 + 4 * i for i in range(14)]
    stops = [10 + 4 * i for i in range(12)] + [54] * 12
    turns = [10 + 4 * i for i in range(12)] + [54 - 4 * i for i in range(12)]
    leaves: list[int | None] = [10 + 3 * i for i in range(12)]
    leaves += [None] * 12
    for places in (starts, stops, turns, leaves):
        (first, second) = told(monkeypatch, places)
        assert abs(second[0] - 12) <= 3 and first == (0, second[0] - 1) and second[1] == len(places) - 1
    ((_, end), (begin, _)) = told(monkeypatch, [10] * 26, cut_at=15)
    assert (end, begin) == (14, 15)


def test_nothing_changes_in_a_quiet_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    assert told(monkeypatch, [10] * 40) == [(0, 31), (32, 39)]
    assert told(monkeypatch, [10 + 3 * i for i in range(30)]) == [(0, 29)]
    # masks that tremble are no movement
    assert told(monkeypatch, [int(40 + rng.integers(-1, 2)) for _ in range(32)]) == [(0, 31)]
    # a thing that is hidden for a frame or two has not left
    assert told(monkeypatch, [30] * 10 + [None, None] + [30] * 10) == [(0, 21)]


def test_the_next_clip_begins_with_the_last_mask_seen() -> None:
    before = Prompt(box=(1, 2, 3, 4))
    assert next_prompt([segment((5, 6, 15, 16)), segment(None)], before).box == (5, 6, 15, 16)
    assert next_prompt([segment(None)], before) is before
