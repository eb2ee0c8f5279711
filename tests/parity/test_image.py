"""The picture path against the goldens, stage by stage, so that a failure says where the paths part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.plain import blocks, embed, endless, generate
from model import Embedding, PerceiveAnything, Region, Sampling
from model.perceiver import MASK_TOKENS
from model.sam.tower import Decoded, full_size
from model.values.image import to_input
from tests.parity.goldens import Case, cases, distance, overridden, stability, stats, stats_distance

FEATURES = 1e-4
HALF = 1e-3  # arrays that are stored as float16
STEPS = 32

IMAGES = [case for case in cases() if case.is_image]


@dataclass(frozen=True, eq=False)
class Run:
    """What our code computes for one case."""

    case: Case
    embedding: Embedding
    decoded: Decoded
    region: Region
    block: torch.Tensor
    semantic: torch.Tensor
    prompt: torch.Tensor


@pytest.fixture(scope="package")
def runs(pam: PerceiveAnything) -> dict[str, Run]:
    return {case.name: _run(pam, case) for case in IMAGES}


def _run(pam: PerceiveAnything, case: Case) -> Run:
    with overridden(pam, case.facts.get("sam2_override")), torch.no_grad():
        embedding = pam.encode(case.image)
        decoded = pam.tower.decode(embedding, *pam.tower.tensors(embedding, [case.prompt]))
        (region,) = pam.segment(embedding, [case.prompt])
    features = region.features
    with torch.no_grad():
        _, semantic = pam.vision.vision_resampler(features.image[None], features.mask_tokens[None])
    block = blocks(pam, [region])[0]
    prompt = embed(pam.language, block, case.instruction)
    return Run(case, embedding, decoded, region, block, semantic[0], prompt)


@pytest.fixture(params=[case.name for case in IMAGES])
def run(request: pytest.FixtureRequest, runs: dict[str, Run]) -> Run:
    return runs[request.param]


def check(run: Run, name: str, ours: object, tolerance: float = FEATURES) -> None:
    """Compare with the case's array of that name, if the folder has it."""
    if name in run.case.arrays:
        golden = run.case.arrays[name]
        tolerance = max(tolerance, HALF) if golden.dtype == np.float16 else tolerance
        away = (
            stats_distance(ours, golden)
            if isinstance(ours, np.ndarray) and name.endswith("_stats")
            else distance(ours, golden)
        )
        assert away <= tolerance, f"{run.case.name}: {name} is {away:.2e} away, allowed {tolerance:.0e}"


def test_the_folder_has_image_cases() -> None:
    assert IMAGES


def test_preprocessing(run: Run, pam: PerceiveAnything) -> None:
    pixels = to_input(Image.fromarray(run.case.image), pam.tower.image_size)
    check(run, "image_sub", pixels[:, ::16, ::16])
    check(run, "image_stats", stats(pixels))


def test_encoder(run: Run) -> None:
    check(run, "vision_features_sub", run.embedding.features[0, :, ::8, ::8])
    check(run, "vision_features_stats", stats(run.embedding.features))


def test_mask_decoder(run: Run) -> None:
    decoded = run.decoded
    check(run, "low_res_logits", decoded.mask_logits[0], HALF)
    check(run, "low_res_stats", stats(decoded.mask_logits[0]))
    check(run, "object_score", decoded.object_scores)
    check(run, "score", decoded.object_scores[None])
    check(run, "iou_pred", decoded.ious[0])
    if bool(decoded.object_scores > 0):
        check(run, "stability", stability(decoded.mask_logits))
    if "best_multimask" in run.case.arrays:
        assert 1 + int(decoded.ious[0, 1:].argmax()) == int(run.case.arrays["best_multimask"])
    check(run, "mid_mask_tokens_out", decoded.mask_tokens[0])
    check(run, "mid_image_embed_sub", decoded.image[0][:, ::8, ::8])
    check(run, "mid_image_embed_stats", stats(decoded.image[0]))


def golden_of(run: Run, name: str) -> np.ndarray:
    if name not in run.case.arrays:
        pytest.skip(f"the folder has no {name} for {run.case.name}")
    return run.case.arrays[name]


def test_mask(run: Run) -> None:
    bits = golden_of(run, "mask_bits")
    shape = tuple(run.case.arrays["mask_shape"])
    golden = np.unpackbits(bits)[: shape[0] * shape[1]].reshape(shape).astype(bool)
    logits = full_size(run.decoded.mask_logits[0], *shape).cpu().numpy()
    assert run.region.mask.shape == golden.shape == run.case.image.shape[:2]
    wrong = (run.region.mask != golden) & (np.abs(logits) > 1e-3)
    assert not wrong.any(), f"{run.case.name}: {int(wrong.sum())} pixels differ"
    check(run, "mask_logits_sub8", logits[::8, ::8])


def test_perceiver(run: Run) -> None:
    check(run, "sem_tokens", run.semantic)
    images = len(run.block) - len(run.semantic) - MASK_TOKENS
    if "image_tokens_shape" in run.case.arrays:
        assert images == run.case.arrays["image_tokens_shape"][-2]


def test_prompt(run: Run, pam: PerceiveAnything) -> None:
    before, after = pam.language.prompt_ids(run.case.instruction)
    np.testing.assert_array_equal([*before, -200, *after], golden_of(run, "input_ids").ravel())
    arrays, prompt = run.case.arrays, run.prompt
    if "image_rows_first" in arrays:
        assert int(arrays["image_rows_first"]) == len(before)
    if "inputs_embeds_shape" in arrays:
        assert tuple(prompt.shape) == tuple(arrays["inputs_embeds_shape"])[-2:]
    check(run, "inputs_embeds_stats", stats(prompt))
    check(run, "inputs_embeds_row_norm", prompt.norm(dim=1))
    check(run, "inputs_embeds_rows", prompt[::16])
    check(run, "inputs_embeds_last64", prompt[-64:])


def test_image_tokens(run: Run, pam: PerceiveAnything) -> None:
    features = run.region.features
    with torch.no_grad():
        tokens, _ = pam.vision.vision_resampler(features.image[None], features.mask_tokens[None])
    check(run, "image_tokens_row_norm", tokens[0].norm(dim=1))
    check(run, "image_tokens_rows64", tokens[0][::64])


def test_first_logits(run: Run, pam: PerceiveAnything) -> None:
    with torch.no_grad():
        logits = pam.language.model(inputs_embeds=run.prompt[None]).logits[0, -1]
    check(run, "logits_first", logits)
    check(run, "logits_step0", logits)


@pytest.mark.parametrize(("array", "penalty"), [("greedy_ids", 1.0), ("greedy_ids_reppen", None)])
def test_greedy_tokens(run: Run, pam: PerceiveAnything, array: str, penalty: float | None) -> None:
    sampling = Sampling(max_new_tokens=STEPS, repetition_penalty=penalty)
    golden = golden_of(run, array).tolist()
    with endless(pam.language):
        (answer,) = generate(pam.language, [run.prompt], sampling)
    assert list(answer.token_ids) == golden


def test_last_logits(run: Run, pam: PerceiveAnything) -> None:
    ids = torch.tensor(golden_of(run, "greedy_ids")[: STEPS - 1], device=pam.device)
    with torch.no_grad():
        words = pam.language.model.get_input_embeddings()(ids)
        logits = pam.language.model(inputs_embeds=torch.cat([run.prompt, words])[None]).logits[0, -1]
    check(run, "logits_step_last", logits)


@pytest.mark.parametrize(("array", "penalty"), [("greedy_ids", 1.0), ("greedy_ids_reppen", None)])
def test_a_batch_of_all_cases_says_the_same(
    runs: dict[str, Run], pam: PerceiveAnything, array: str, penalty: float | None
) -> None:
    sampling = Sampling(max_new_tokens=STEPS, repetition_penalty=penalty)
    with endless(pam.language):
        answers = generate(pam.language, [run.prompt for run in runs.values()], sampling)
    for run, answer in zip(runs.values(), answers, strict=True):
        assert list(answer.token_ids) == golden_of(run, array).tolist(), run.case.name
