"""Tracking on a small random-weight checkpoint: the same as SAM 2's own predictor, and what only ours does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file
from sam2.sam2_video_predictor import SAM2VideoPredictor

from model import (
    Embedding,
    FramePrompt,
    PerceiveAnything,
    Progress,
    Prompt,
    PromptError,
    Region,
    Sampling,
    Task,
    VideoError,
    open_video,
)
from model.sam.encoder import Encoder
from model.sam.tower import full_size
from model.video.memory import Remembering
from model.video.track import CLIP_FRAMES, clip_numbers
from model.video.tracker import Tracker
from tests.checkpoints import COMPACT
from tests.device import DEVICE, not_emulated
from tests.model.test_encoder import compilations

FOLDER = COMPACT / "inputs" / "video"
LEFT, RIGHT = (60.0, 80.0, 130.0, 150.0), (200.0, 60.0, 300.0, 170.0)
CLOSE = 1e-3
"""Of the largest logit: SAM 2's predictor rounds all memories to bfloat16, PAM's those of prompted frames alone."""


@pytest.fixture(scope="session")
def predictor(small_checkpoint: Path) -> SAM2VideoPredictor:
    """SAM 2's own predictor with the settings of PAM."""
    tree: Any = OmegaConf.to_container(OmegaConf.load(small_checkpoint / "sam2.yaml"))
    config = tree["model"] | {
        "_target_": "sam2.sam2_video_predictor.SAM2VideoPredictor",
        "binarize_mask_from_pts_for_mem_enc": True,
        "add_all_frames_to_correct_as_cond": True,
        "fill_hole_area": 0,
    }
    model = instantiate(config, _recursive_=True)
    model.load_state_dict({k: v.float() for k, v in load_file(small_checkpoint / "sam2.safetensors").items()})
    return model.eval().to(DEVICE)


Logits = dict[int, dict[int, np.ndarray]]


def theirs(predictor: SAM2VideoPredictor, said: list[FramePrompt], ways: list[tuple[int, bool]]) -> Logits:
    """Full-size logits by object and frame, for propagations from a frame, forward or in reverse."""
    state = predictor.init_state(str(FOLDER))
    found: Logits = {}
    for prompt in [p for p in said if not p.correction]:
        say(predictor, state, prompt)
    for start, reverse in ways:
        for frame, names, logits in predictor.propagate_in_video(state, start_frame_idx=start, reverse=reverse):
            for name, mask in zip(names, logits, strict=True):
                found.setdefault(name, {})[frame] = mask[0].cpu().numpy()
    for prompt in [p for p in said if p.correction]:
        say(predictor, state, prompt)
        for frame, names, logits in predictor.propagate_in_video(state, start_frame_idx=prompt.frame):
            for name, mask in zip(names, logits, strict=True):
                found[name][frame] = mask[0].cpu().numpy()
    return found


def say(predictor: SAM2VideoPredictor, state: dict, given: FramePrompt) -> None:
    points = given.prompt.points
    predictor.add_new_points_or_box(
        state,
        given.frame,
        given.object_id,
        points=None if points is None else [point[:2] for point in points],
        labels=None if points is None else [point[2] for point in points],
        box=given.prompt.box,
    )


def same(pam: PerceiveAnything, expected: Logits, said: list[FramePrompt], **how: object) -> None:
    seen: dict[int, set[int]] = {name: set() for name in expected}
    for found in pam.track(FOLDER, said, **how):  # type: ignore[arg-type]
        for name, region in found.regions.items():
            golden = expected[name][found.frame]
            ours = full_size(torch.from_numpy(region.mask_logits), *golden.shape).numpy()
            away = np.abs(ours - golden).max() / np.abs(golden).max()
            assert away < CLOSE, f"object {name}, frame {found.frame}: {away:.1e} away"
            seen[name].add(found.frame)
    assert seen == {name: set(frames) for name, frames in expected.items()}


@not_emulated
def test_one_object_forward(pam: PerceiveAnything, predictor: SAM2VideoPredictor) -> None:
    said = [FramePrompt(Prompt(box=LEFT))]
    same(pam, theirs(predictor, said, [(0, False)]), said)


@not_emulated
def test_several_objects_and_frames_with_prompts(pam: PerceiveAnything, predictor: SAM2VideoPredictor) -> None:
    said = [
        FramePrompt(Prompt(box=LEFT), 0, 1),
        FramePrompt(Prompt(points=[(250, 120, 1), (20, 20, 0)]), 0, 2),
        FramePrompt(Prompt(box=RIGHT), 9, 1),
        FramePrompt(Prompt(points=[(180, 120, 1)]), 0, 3),
    ]
    same(pam, theirs(predictor, said, [(0, False)]), said, start_frame=0)


@not_emulated
def test_forward_and_then_backward(pam: PerceiveAnything, predictor: SAM2VideoPredictor) -> None:
    said = [FramePrompt(Prompt(box=LEFT), 8, 0), FramePrompt(Prompt(box=RIGHT), 8, 1)]
    expected = theirs(predictor, said, [(8, False), (8, True)])
    same(pam, expected, said, direction="both")
    backward = theirs(predictor, said, [(8, True)])
    same(pam, backward, said, direction="backward")


@not_emulated
def test_a_correction_goes_on_from_what_was_tracked(pam: PerceiveAnything, predictor: SAM2VideoPredictor) -> None:
    said = [
        FramePrompt(Prompt(box=LEFT), 0, 4),
        FramePrompt(Prompt(points=[(300, 30, 0), (100, 110, 1)]), 6, 4, correction=True),
    ]
    same(pam, theirs(predictor, said, [(0, False)]), said)
    # and it is not the same as saying anew where the thing is
    anew = [said[0], FramePrompt(said[1].prompt, 6, 4)]
    corrected, restated = (
        [f.regions[4].mask_logits for f in pam.track(FOLDER, prompts, start_frame=0)][6:] for prompts in (said, anew)
    )
    assert max(np.abs(a - b).max() for a, b in zip(corrected, restated, strict=True)) > 0.1


def test_objects_together_are_as_each_alone(pam: PerceiveAnything) -> None:
    said = [
        FramePrompt(Prompt(box=LEFT), 0, 0),
        FramePrompt(Prompt(box=RIGHT), 4, 1),
        FramePrompt(Prompt(box=LEFT), 4, 2),
    ]
    together = list(pam.track(FOLDER, said))
    for prompt in said:
        alone = list(pam.track(FOLDER, [prompt]))
        # each begins where it was prompted
        assert [frame.frame for frame in alone] == list(range(prompt.frame, 18))
        for frame in alone:
            mine = together[frame.frame].regions[prompt.object_id]
            np.testing.assert_allclose(mine.mask_logits, frame.regions[prompt.object_id].mask_logits, atol=2e-3)


def test_a_mask_is_remembered_as_it_was_given(pam: PerceiveAnything) -> None:
    rows, columns = np.mgrid[:240, :360]
    disc = (columns - 100) ** 2 + (rows - 115) ** 2 < 35**2
    ring = disc & ((columns - 100) ** 2 + (rows - 115) ** 2 > 20**2)
    of_disc, of_ring = (list(pam.track(FOLDER, [Prompt(mask=mask)])) for mask in (disc, ring))
    assert (of_disc[0].regions[0].mask == disc).all() and isinstance(of_disc[0].regions[0], Region)
    assert np.abs(of_disc[1].regions[0].mask_logits - of_ring[1].regions[0].mask_logits).max() > 1e-2


def test_only_the_window_is_remembered(pam: PerceiveAnything, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [Image.open(FOLDER / f"{i % 18:05d}.jpg").convert("RGB") for i in range(40)]
    sizes: list[tuple[int, int]] = []
    forget = Remembering.forget

    def spy(self: Remembering, bank, frame, backward, near) -> None:  # type: ignore[no-untyped-def]
        forget(self, bank, frame, backward, near)
        sizes.append((len(bank.recent), sum(memory.features is not None for memory in bank.recent.values())))

    monkeypatch.setattr(Remembering, "forget", spy)
    tracking = pam.track(pictures, [Prompt(box=LEFT)])
    track = tracking.finish()[0]
    assert max(pointers for pointers, _ in sizes) == 16 and max(features for _, features in sizes) == 7
    assert len(track.moments) == CLIP_FRAMES and sorted(track.moments) == clip_numbers(40)
    assert track.frames == list(range(40)) and len(track.sightings) == 40
    sizes.clear()
    # a second pass needs what lies beside its beginning, and no more
    pam.track(pictures, [FramePrompt(Prompt(box=LEFT), 20)], direction="both").finish()
    assert max(pointers for pointers, _ in sizes) <= 2 * 16


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The frames that are tracked, as they are."""
    frames: list[int] = []
    step = Tracker._step

    def spy(self: Tracker, frame: int, *rest: Any) -> Any:
        frames.append(frame)
        return step(self, frame, *rest)

    monkeypatch.setattr(Tracker, "_step", spy)
    return frames


def test_nothing_is_computed_before_it_is_asked_for(pam: PerceiveAnything, steps: list[int]) -> None:
    tracking = pam.track(FOLDER, [Prompt(box=LEFT)])
    assert steps == [] and tracking.total == 18
    next(tracking)
    next(tracking)
    assert steps == [0, 1] and tracking.tracks[0].frames == [0, 1]
    # what is there can be described
    assert pam.describe_video(tracking.tracks[0], sampling=Sampling(max_new_tokens=2))


def test_the_frames_that_are_described() -> None:
    assert clip_numbers(16) == list(range(16))
    assert clip_numbers(32) == [0, *np.linspace(1, 31, 15, dtype=int).tolist()]
    assert clip_numbers(1) == [0] * 16
    for count in range(2, 16):
        numbers = clip_numbers(count)
        assert len(numbers) == 16 and numbers == sorted(numbers) and set(numbers) == set(range(count))


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_lower_precision_gives_nearly_the_same_masks(pam, small_checkpoint: Path, dtype: str) -> None:  # type: ignore[no-untyped-def]
    low = pam.from_pretrained(small_checkpoint, device=DEVICE, dtype=dtype)
    exact = [frame.regions[0].mask for frame in pam.track(FOLDER, [Prompt(box=LEFT)])]
    tracking = low.track(FOLDER, [Prompt(box=LEFT)])
    for mask, frame in zip(exact, tracking, strict=True):
        assert (mask == frame.regions[0].mask).mean() > 0.95
    assert low.describe_video(tracking.tracks[0], sampling=Sampling(max_new_tokens=2))


@pytest.mark.parametrize(
    ("prompts", "how", "says"),
    [
        ([], {}, "no prompt"),
        ([FramePrompt(Prompt(box=LEFT), 99)], {}, "frame 99 of a video of 18 frames"),
        ([Prompt(points=[(900, 1, 1)])], {}, "outside the picture"),
        ([FramePrompt(Prompt(box=LEFT)), FramePrompt(Prompt(box=RIGHT))], {}, "two prompts on frame 0"),
        ([FramePrompt(Prompt(box=LEFT), correction=True)], {}, "nothing but corrections"),
        (
            [FramePrompt(Prompt(box=LEFT), 5), FramePrompt(Prompt(points=[(9, 9, 0)]), 2, correction=True)],
            {},
            "not tracked over frame 2",
        ),
        ([Prompt(box=LEFT)], {"start_frame": 18}, "start_frame 18"),
    ],
)
def test_prompts_that_cannot_be_used(pam: PerceiveAnything, prompts: list, how: dict, says: str) -> None:
    with pytest.raises(PromptError, match=says):
        pam.track(FOLDER, prompts, **how)


def test_other_faults(pam: PerceiveAnything) -> None:
    with pytest.raises(ValueError, match="direction 'up'"):
        pam.track(FOLDER, [Prompt(box=LEFT)], direction="up")  # type: ignore[arg-type]
    pictures = [Image.new("RGB", (360, 240)), Image.new("RGB", (200, 240))]
    with pytest.raises(VideoError, match="one size"):
        pam.track(pictures, [Prompt(box=LEFT)]).finish()
    with pytest.raises(ValueError, match="iterate"):
        pam.describe_video(pam.track(FOLDER, [Prompt(box=LEFT)]).tracks[0])
    assert torch.is_grad_enabled() and open_video(FOLDER).frame_count == 18


def test_tracking_is_taken_up_where_it_was_left(pam: PerceiveAnything, steps: list[int]) -> None:
    """Only what comes after is tracked; it goes on from the masks of the few frames before, and so do the texts."""
    said = [FramePrompt(Prompt(box=LEFT), 2, 0), FramePrompt(Prompt(box=RIGHT), 4, 1)]
    whole = pam.track(FOLDER, said, direction="both")
    frames = list(whole)
    left = pam.track(FOLDER, said, direction="both")
    cut = whole.total // 2
    for _ in range(cut):
        next(left)
    written = json.loads(json.dumps(left.progress().masks))
    masks = {int(name): {int(frame): mask for frame, mask in mine.items()} for name, mine in written.items()}
    steps.clear()
    again = pam.track(FOLDER, said, direction="both", progress=Progress(cut, masks))
    rest = list(again)
    assert steps == [found.frame for found in rest] == [found.frame for found in frames[cut:]]
    assert again.total == whole.total and again.progress().steps == whole.total
    for name, track in again.tracks.items():
        assert set(track.moments) <= set(whole.tracks[name].moments) and len(track.clip()) == CLIP_FRAMES
        assert pam.describe_video(track, sampling=Sampling(max_new_tokens=2))
    # the first frames after are those that lean most on what was remembered
    for one, other in zip(frames[cut:], rest, strict=True):
        assert set(one.regions) == set(other.regions)
    ended = pam.track(FOLDER, said, direction="both", progress=again.progress())
    assert list(ended) == [] and ended.tracks[0].clip()
    with pytest.raises(PromptError, match="another video"):
        pam.track(FOLDER, said, progress=Progress(10_000, {}))


@pytest.fixture
def batches(pam: PerceiveAnything, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many pictures are encoded at a time, by an encoder that takes one or eight."""
    found: list[int] = []
    encode = pam.tower.encode

    def counted(images: list[Image.Image]) -> list[Embedding]:
        found.append(len(images))
        return encode(images)

    before, pam.tower.encoder = pam.tower.encoder, Encoder(pam.tower.sam, torch.float32)
    pam.tower.encoder.settle((1, 8), False)
    monkeypatch.setattr(pam.tower, "encode", counted)
    yield found
    pam.tower.encoder = before


def test_frames_are_encoded_ahead_in_batches(pam: PerceiveAnything, batches: list[int]) -> None:
    """With the same tracks; those of a stream are encoded one by one, as they come."""
    said = [FramePrompt(Prompt(box=LEFT), 3)]
    ahead = list(pam.track(FOLDER, said, direction="both"))
    assert batches == [1, 7, 7, 3]  # the first of them is there already
    next(iter(pam.stream(FOLDER, Prompt(box=LEFT), clip_length=2, changes=False, sampling=Sampling(max_new_tokens=1))))
    assert set(batches[4:]) == {1}
    pam.tower.encoder.sizes = ()
    for one, other in zip(ahead, pam.track(FOLDER, said, direction="both"), strict=True):
        assert one.frame == other.frame and (one.regions[0].mask == other.regions[0].mask).mean() > 0.999


def test_frames_before_a_damaged_one_come_first(pam: PerceiveAnything, batches: list[int]) -> None:
    pictures = [Image.new("RGB", (360, 240)) for _ in range(5)] + [Image.new("RGB", (200, 240))]
    tracking = pam.track(pictures, [Prompt(box=LEFT)])
    with pytest.raises(VideoError, match="frame 5"):
        tracking.finish()
    assert batches == [1, 4] and len(tracking.tracks[0].sightings) == 5


def test_frames_that_are_encoded_already_are_not_encoded_again(
    pam: PerceiveAnything, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kept(dict[float, Embedding]):
        def put(self, time_s: float, embedding: Embedding) -> None:
            self[time_s] = embedding

    video, kept, prompts = open_video(FOLDER), Kept(), [FramePrompt(Prompt(box=LEFT), 1)]
    plain = [found.regions[0].mask for found in pam.track(video, prompts)]
    list(pam.track(video, prompts, encoded=kept))
    # those with prompts are kept: they are likely to be asked about again
    assert list(kept) == [float(video.timestamps_s[1])]
    for number, picture in video.read(range(video.frame_count)):
        kept.put(float(video.timestamps_s[number]), pam.encode(picture, large=0))

    def none(_pictures: object) -> list[Embedding]:
        raise AssertionError("encoded again")

    monkeypatch.setattr(pam.tower, "encode", none)
    again = [found.regions[0].mask for found in pam.track(video, prompts, encoded=kept)]
    assert len(again) == len(plain) and all((one == other).all() for one, other in zip(again, plain, strict=True))


@pytest.mark.parametrize("sizes", [(1, 8), ()])
def test_frames_with_prompts_are_encoded_once(
    pam: PerceiveAnything, batches: list[int], monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]
) -> None:
    """Also for what is then asked about their pictures; as many as there is room for."""
    pam.tower.encoder.sizes = sizes
    said = [FramePrompt(Prompt(box=LEFT), 2), FramePrompt(Prompt(box=LEFT), 9), FramePrompt(Prompt(box=RIGHT), 5, 1)]
    tracking = pam.track(FOLDER, said, direction="both")
    before = list(tracking)
    # frames 2 to 17 forward; 4 to 0 backward from the second object's first one, frame 2 once more
    assert len(before) == 16 + 5 and sum(batches) == 16 + 4
    pam.describe_video(tracking.tracks[1], [Task.BRIEF], sampling=Sampling(max_new_tokens=2))
    assert sum(batches) == 20
    batches.clear()
    monkeypatch.setattr("model.video.tracker.MARKED_KEPT", 1)
    again = list(pam.track(FOLDER, said, direction="both"))
    assert sum(batches) == 22
    for one, other in zip(before, again, strict=True):
        for name, region in one.regions.items():
            assert one.frame == other.frame and (region.mask == other.regions[name].mask).mean() > 0.999


@pytest.fixture
def compiled(pam: PerceiveAnything) -> Iterator[PerceiveAnything]:
    """What tracks videos is compiled; the backend runs what was traced."""
    torch._dynamo.reset()
    assert pam.video.settle("eager")
    yield pam
    sam = pam.tower.sam
    for part in (sam.memory_attention, sam.memory_encoder, sam.sam_mask_decoder.transformer):
        part.__dict__.pop("forward", None)
    torch._dynamo.reset()


@not_emulated
def test_nothing_is_compiled_while_a_video_is_tracked(compiled: PerceiveAnything) -> None:
    """However many objects there are, and frames that are remembered; with the same masks."""
    said = [FramePrompt(Prompt(box=LEFT), 0), FramePrompt(Prompt(points=[(220, 100, 1)]), 2, 1)]
    said += [FramePrompt(Prompt(box=RIGHT), 4, number) for number in (2, 3)]
    ready = compilations()
    assert ready
    found = list(compiled.track(FOLDER, said))
    compiled.segment(compiled.encode(found[0].picture), [Prompt(box=LEFT), Prompt(points=[(220, 100, 1)])])
    assert compilations() == ready
    sam = compiled.tower.sam
    for part in (sam.memory_attention, sam.memory_encoder, sam.sam_mask_decoder.transformer):
        del part.forward
    for one, other in zip(found, compiled.track(FOLDER, said), strict=True):
        for name, region in one.regions.items():
            assert (region.mask == other.regions[name].mask).mean() > 0.999


@not_emulated
def test_where_compiling_fails_videos_are_tracked_as_they_are(
    pam: PerceiveAnything, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("no compiler here")

    with caplog.at_level("WARNING"):
        assert not pam.video.settle(broken)  # type: ignore[arg-type]
    assert caplog.text.count("what tracks videos is not compiled") == 1
    assert "forward" not in pam.tower.sam.memory_attention.__dict__
    assert len(list(pam.track(FOLDER, [FramePrompt(Prompt(box=LEFT), 12)]))) == 6
