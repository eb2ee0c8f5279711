"""The video path and the stream against the goldens: every frame's mask and tokens, the clip's prompt, the words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.plain import embed, endless
from model import PerceiveAnything, Sampling, TrackedFrame
from model.sam.tower import Decoded
from model.values.image import to_input
from model.values.task import VideoTask, video_instruction
from model.video.stream import next_prompt
from model.video.track import Track, clip_numbers
from tests.parity.goldens import FOLDER, Case, cases, distance, overridden, stability, stats, stats_distance

FEATURES = 1e-3
HALF = 1e-3  # arrays that are stored as float16
FRAME_HALF = 2e-3  # of each frame's logits
STEPS = 32

VIDEOS = [case for case in cases() if not case.is_image]


@dataclass(frozen=True, eq=False)
class Run:
    """What our code computes for one clip; `first` is the decoder's answer to the prompt."""

    case: Case
    pictures: list[np.ndarray]
    frames: list[TrackedFrame]
    track: Track
    first: Decoded
    features: torch.Tensor
    block: torch.Tensor
    prompt: torch.Tensor


def _run(pam: PerceiveAnything, case: Case) -> Run:
    # arrays, since the reference ignores EXIF orientation
    pictures = [np.asarray(Image.open(FOLDER / name).convert("RGB")) for name in case.facts["frames"]]
    with overridden(pam, case.facts.get("sam2_override")):
        tracking = pam.track(pictures, [case.prompt])
        frames = list(tracking)
        embedding = pam.encode(pictures[0])
        first = pam.tower.decode(embedding, *pam.tower.tensors(embedding, [case.prompt]))
    track = tracking.tracks[0]
    block = pam.vision.clip_block(track.clip())
    return Run(
        case, pictures, frames, track, first, embedding.features, block, embed(pam.language, block, case.instruction)
    )


@pytest.fixture(scope="package")
def runs(pam: PerceiveAnything) -> dict[str, Run]:
    return {case.name: _run(pam, case) for case in VIDEOS}


@pytest.fixture(params=[case.name for case in VIDEOS])
def run(request: pytest.FixtureRequest, runs: dict[str, Run]) -> Run:
    return runs[request.param]


def check(run: Run, name: str, ours: object, tolerance: float = FEATURES) -> None:
    """Compare with the case's array of that name, if the folder has it."""
    if name in run.case.arrays:
        golden = run.case.arrays[name]
        away = (
            stats_distance(ours, golden)
            if isinstance(ours, np.ndarray) and name.endswith("_stats")
            else distance(ours, golden)
        )
        assert away <= tolerance, f"{run.case.name}: {name} is {away:.2e} away, allowed {tolerance:.0e}"


def golden_of(run: Run, name: str) -> np.ndarray:
    if name not in run.case.arrays:
        pytest.skip(f"the folder has no {name} for {run.case.name}")
    return run.case.arrays[name]


def unpack(bits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.unpackbits(bits)[: shape[0] * shape[1]].reshape(shape).astype(bool)


def test_the_folder_has_a_video() -> None:
    assert VIDEOS


def test_the_prompted_frame(run: Run, pam: PerceiveAnything) -> None:
    pixels = to_input(Image.fromarray(run.pictures[0]), pam.tower.image_size)
    check(run, "image_sub", pixels[:, ::16, ::16])
    check(run, "image_stats", stats(pixels))
    check(run, "vision_features_sub", run.features[0, :, ::8, ::8])
    check(run, "vision_features_stats", stats(run.features))
    first = run.first
    check(run, "low_res_logits", first.mask_logits[0], HALF)
    check(run, "low_res_stats", stats(first.mask_logits[0]))
    check(run, "object_score", first.object_scores)
    check(run, "iou_pred", first.ious[0])
    if bool(first.object_scores > 0):
        check(run, "stability", stability(first.mask_logits))
    if "best_multimask" in run.case.arrays:
        assert 1 + int(first.ious[0, 1:].argmax()) == int(run.case.arrays["best_multimask"])
    check(run, "mid_mask_tokens_out", first.mask_tokens[0])
    check(run, "mid_image_embed_sub", first.image[0][:, ::8, ::8])
    check(run, "mid_image_embed_stats", stats(first.image[0]))


def test_every_frame_is_tracked(run: Run) -> None:
    regions = [frame.regions[0] for frame in run.frames]
    assert [frame.frame for frame in run.frames] == list(range(len(run.pictures)))
    scores = np.array([region.object_score for region in regions])
    check(run, "frame_object_score", scores)
    check(run, "frame_score", scores[:, None, None])
    if "frame_object_score" in run.case.arrays:
        golden = run.case.arrays["frame_object_score"]
        np.testing.assert_array_equal(scores > 0, golden > 0)
    tokens = torch.stack([region.features.mask_tokens for region in regions])
    check(run, "frame_mid_mask_tokens", tokens)
    images = torch.stack([region.features.image for region in regions])
    check(run, "frame_mid_image_embed_sub", images[:, ::8, ::8, ::8])
    logits = np.stack([region.mask_logits for region in regions])
    check(run, "frame_low_res_sub4", logits[:, ::4, ::4], FRAME_HALF)


def test_low_res_masks_of_every_frame(run: Run) -> None:
    bits = golden_of(run, "frame_low_res_bits")
    for frame, row in zip(run.frames, bits, strict=True):
        logits = frame.regions[0].mask_logits
        wrong = ((logits > 0) != unpack(row, logits.shape)) & (np.abs(logits) > 1e-3 * np.abs(logits).max())
        assert not wrong.any(), f"{run.case.name}, frame {frame.frame}: {int(wrong.sum())} pixels differ"


def test_masks(run: Run) -> None:
    bits = golden_of(run, "frame_mask_bits")
    shape = tuple(run.case.arrays["mask_shape"])
    for frame, row in zip((run.frames[0], run.frames[1], run.frames[-1]), bits, strict=True):
        mask = frame.regions[0].mask
        assert mask.shape == shape == run.pictures[0].shape[:2]
        wrong = int((mask != unpack(row, shape)).sum())
        assert wrong <= 2, f"{run.case.name}, frame {frame.frame}: {wrong} pixels differ"
    fractions = [frame.regions[0].mask.mean() for frame in run.frames]
    np.testing.assert_allclose(fractions, run.case.facts["mask_fractions"], atol=2e-4)


def test_which_frames_are_described(run: Run) -> None:
    assert clip_numbers(len(run.frames)) == sorted(run.track.moments) == golden_of(run, "selected_frames").tolist()


def test_prompt(run: Run, pam: PerceiveAnything) -> None:
    history = run.case.facts.get("history", "None")
    language = "en" if run.case.instruction.isascii() or "history" in run.case.facts else "zh"
    previous = "" if history == "None" else history
    assert video_instruction(VideoTask.CAPTION, language, previous) == run.case.instruction
    before, after = pam.language.prompt_ids(run.case.instruction)
    np.testing.assert_array_equal([*before, -200, *after], golden_of(run, "input_ids").ravel())
    if "image_rows_first" in run.case.arrays:
        assert int(run.case.arrays["image_rows_first"]) == len(before)
    assert tuple(run.prompt.shape) == tuple(golden_of(run, "inputs_embeds_shape"))[-2:]
    check(run, "inputs_embeds_stats", stats(run.prompt))
    check(run, "inputs_embeds_row_norm", run.prompt.norm(dim=1))
    check(run, "inputs_embeds_rows", run.prompt[::64])
    check(run, "inputs_embeds_last64", run.prompt[-64:])


def test_first_and_last_logits(run: Run, pam: PerceiveAnything) -> None:
    ids = torch.tensor(golden_of(run, "greedy_ids")[: STEPS - 1], device=pam.device)
    with torch.no_grad():
        words = pam.language.model.get_input_embeddings()(ids)
        logits = pam.language.model(inputs_embeds=torch.cat([run.prompt, words])[None]).logits[0]
    first = logits[len(run.prompt) - 1]
    check(run, "logits_first", first)
    check(run, "logits_step0", first)
    check(run, "logits_step_last", logits[-1])


@pytest.mark.parametrize(("array", "penalty"), [("greedy_ids", 1.0), ("greedy_ids_reppen", None)])
def test_greedy_tokens(run: Run, pam: PerceiveAnything, array: str, penalty: float | None) -> None:
    sampling = Sampling(max_new_tokens=STEPS, repetition_penalty=penalty)
    golden = golden_of(run, array).tolist()
    with endless(pam.language):
        ((answer,),) = pam.language.answer(pam.language.read(run.block[None]), [run.case.instruction], sampling)
    assert list(answer.token_ids) == golden


@pytest.mark.parametrize("name", [case.name for case in VIDEOS if "next_box" in case.facts])
def test_what_the_next_clip_begins_with(runs: dict[str, Run], name: str) -> None:
    run = runs[name]
    # the reference has nothing to hand on where the last mask is empty; ours hands on that of the last mask seen
    assert run.frames[-1].regions[0].box is not None
    prompt = next_prompt([frame.regions[0] for frame in run.frames], run.case.prompt)
    assert list(prompt.box or ()) == run.case.facts["next_box"]
