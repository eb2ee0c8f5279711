"""The façade on a small random-weight checkpoint: shapes, units, batching, prompts of all kinds."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from model import PerceiveAnything, PictureError, Prompt, PromptError, Sampling, Task
from model.values.mask import from_rle
from model.values.region import region_to_json
from tests.device import DEVICE

PROMPTS = [
    Prompt(points=[(300, 200, 1)]),
    Prompt(points=[(300, 200, 1), (30, 30, 0)]),
    Prompt(box=(170, 10, 410, 310)),
    Prompt(points=[(290, 140, 0)], box=(170, 10, 410, 310)),
    Prompt(points=[(100, 300, 1)]),
]


def circle(width: int, height: int, x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def test_regions_carry_what_they_promise(pam: PerceiveAnything, coffee: Image.Image) -> None:
    embedding = pam.encode(coffee)
    assert (embedding.width, embedding.height) == coffee.size
    assert embedding.nbytes == sum(t.numel() * 4 for t in (embedding.features, *embedding.high_resolution))
    for region in pam.segment(embedding, PROMPTS):
        assert region.mask.shape == (coffee.height, coffee.width) and region.mask.dtype == bool
        assert region.mask_logits.shape == (64, 64) and region.mask_logits.dtype == np.float32
        assert 0 <= region.iou <= 1
        x1, y1, x2, y2 = region.box or (0, 0, 0, 0)
        assert region.mask[int(y1) : int(y2), int(x1) : int(x2)].sum() == region.area > 0


def test_a_batch_of_prompts_equals_one_by_one(pam: PerceiveAnything, coffee: Image.Image) -> None:
    embedding = pam.encode(coffee)
    together = pam.segment(embedding, PROMPTS)
    for prompt, region in zip(PROMPTS, together, strict=True):
        (alone,) = pam.segment(embedding, [prompt])
        assert region.prompt is prompt
        np.testing.assert_allclose(region.mask_logits, alone.mask_logits, atol=1e-3)
        assert (region.mask != alone.mask).mean() < 1e-4


def test_a_batch_of_texts_equals_one_by_one(pam: PerceiveAnything, coffee: Image.Image) -> None:
    regions = pam.segment(pam.encode(coffee), PROMPTS)
    tasks = list(Task)
    together = pam.describe(regions, tasks, sampling=Sampling(max_new_tokens=8))
    assert [list(texts) for texts in together] == [tasks] * len(regions)
    for i, task in itertools.product(range(len(regions)), tasks):
        alone = pam.describe([regions[i]], [task], sampling=Sampling(max_new_tokens=8))[0][task]
        assert together[i][task].token_ids == alone.token_ids
        assert together[i][task].mean_logprob == pytest.approx(alone.mean_logprob, abs=1e-3)


def test_regions_of_several_pictures_are_described_together(pam: PerceiveAnything, coffee: Image.Image) -> None:
    other = Image.new("RGB", (90, 120), "green")
    regions = [*pam.segment(pam.encode(coffee), PROMPTS[:1]), *pam.segment(pam.encode(other), PROMPTS[:0])]
    regions += pam.segment(pam.encode(other), [Prompt(points=[(45, 60, 1)])])
    texts = pam.describe(regions, [Task.BRIEF], sampling=Sampling(max_new_tokens=6))
    for region, text in zip(regions, texts, strict=True):
        assert (
            text[Task.BRIEF].token_ids
            == pam.describe([region], [Task.BRIEF], sampling=Sampling(max_new_tokens=6))[0][Task.BRIEF].token_ids
        )


def test_a_mask_prompt_keeps_or_refines_its_mask(pam: PerceiveAnything, coffee: Image.Image) -> None:
    embedding = pam.encode(coffee)
    mask = circle(*coffee.size, 300, 160, 90)
    prompt = Prompt(mask=mask)
    (kept,) = pam.segment(embedding, [prompt])
    (refined,) = pam.segment(embedding, [prompt], refine_masks=True)
    assert (kept.mask == mask).all()
    assert (refined.mask != mask).any()
    np.testing.assert_array_equal(kept.mask_logits, refined.mask_logits)
    # the dense prompt reaches the decoder: the mask's box alone gives another answer
    box = kept.box
    assert box is not None
    (from_box,) = pam.segment(embedding, [Prompt(box=box)])
    assert np.abs(from_box.mask_logits - refined.mask_logits).max() > 1e-2
    other = circle(*coffee.size, 300, 160, 90) & ~circle(*coffee.size, 300, 160, 60)
    (ring,) = pam.segment(embedding, [Prompt(mask=other)])
    assert np.abs(ring.mask_logits - kept.mask_logits).max() > 1e-2
    assert pam.describe([kept], [Task.BRIEF], sampling=Sampling(max_new_tokens=4))[0][Task.BRIEF].string


def test_exif_orientation_moves_the_coordinates(pam: PerceiveAnything) -> None:
    upright = Image.new("RGB", (60, 120), "white")
    upright.paste("red", (10, 20, 40, 60))
    turned = upright.rotate(90, expand=True)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()
    straight, tagged = pam.encode(upright), pam.encode(turned)
    assert (tagged.width, tagged.height) == (60, 120)
    torch.testing.assert_close(straight.features, tagged.features)


def test_perceive_is_the_three_verbs(pam: PerceiveAnything, coffee: Image.Image) -> None:
    embedding = pam.encode(coffee)
    found = pam.perceive(coffee, PROMPTS[:2], [Task.RECOGNIZE], sampling=Sampling(max_new_tokens=5))
    regions = pam.segment(embedding, PROMPTS[:2])
    texts = pam.describe(regions, [Task.RECOGNIZE], sampling=Sampling(max_new_tokens=5))
    for (region, text), expected, words in zip(found, regions, texts, strict=True):
        assert (region.mask == expected.mask).all()
        assert text[Task.RECOGNIZE] == words[Task.RECOGNIZE]
    again = pam.perceive(found.embedding, PROMPTS[:1], [], sampling=Sampling(max_new_tokens=5))
    assert again.seconds["encode"] == 0 and again.texts == [{}]


def test_text_fields(pam: PerceiveAnything, coffee: Image.Image) -> None:
    (region,) = pam.segment(pam.encode(coffee), PROMPTS[:1])
    text = pam.describe([region], ["brief"], language="zh", sampling=Sampling(max_new_tokens=5))[0][Task.BRIEF]
    assert (text.task, text.language) == (Task.BRIEF, "zh")
    assert 0 < len(text.token_ids) <= 5 and text.mean_logprob < 0
    assert text.finished is (len(text.token_ids) < 5)
    free = pam.describe([region], ["What colour is it?"], sampling=Sampling(max_new_tokens=3))[0]
    assert list(free) == ["What colour is it?"]


def test_sampling_follows_the_seed(pam: PerceiveAnything, coffee: Image.Image) -> None:
    regions = pam.segment(pam.encode(coffee), PROMPTS[:1])

    def draw(seed: int) -> tuple[int, ...]:
        return pam.describe(regions, [Task.BRIEF], sampling=Sampling(temperature=3.0, seed=seed, max_new_tokens=12))[0][
            Task.BRIEF
        ].token_ids

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_an_absent_object_has_an_empty_mask(pam: PerceiveAnything, coffee: Image.Image) -> None:
    bias = pam.tower.sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    before = bias.clone()
    try:
        bias.fill_(-1000.0)
        (region,) = pam.segment(pam.encode(coffee), PROMPTS[:1])
    finally:
        bias.copy_(before)
    assert region.object_score < 0 and region.area == 0 and region.box is None
    assert (region.mask_logits == -1024).all()


def test_threads_do_not_mix_their_answers(pam: PerceiveAnything, coffee: Image.Image) -> None:
    embedding = pam.encode(coffee)
    expected = [pam.segment(embedding, [prompt])[0].mask_logits for prompt in PROMPTS]
    with ThreadPoolExecutor(8) as pool:
        order = list(range(len(PROMPTS))) * 8
        found = list(pool.map(lambda i: pam.segment(embedding, [PROMPTS[i]])[0].mask_logits, order))
    for i, logits in zip(order, found, strict=True):
        np.testing.assert_allclose(logits, expected[i], atol=1e-3)


def test_json_keeps_the_mask(pam: PerceiveAnything, coffee: Image.Image) -> None:
    found = pam.perceive(coffee, PROMPTS[:1], [Task.BRIEF], sampling=Sampling(max_new_tokens=3))
    entry = region_to_json(found.regions[0], found.texts[0])
    assert (from_rle(entry["mask"]) == found.regions[0].mask).all()
    assert entry["texts"]["brief"]["text"] == found.texts[0][Task.BRIEF].string


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_gives_nearly_the_same_mask(small_checkpoint, coffee, pam, dtype: str) -> None:  # type: ignore[no-untyped-def]
    low = pam.from_pretrained(small_checkpoint, device=DEVICE, dtype=dtype)
    prompt = Prompt(box=(170, 10, 410, 310))
    (exact,) = pam.segment(pam.encode(coffee), [prompt])
    found = low.perceive(coffee, [prompt], [Task.BRIEF], sampling=Sampling(max_new_tokens=4))
    assert str(low.dtype) == f"torch.{dtype}"
    assert (found.regions[0].mask == exact.mask).mean() > 0.97
    assert found.texts[0][Task.BRIEF].token_ids


def test_bad_arguments(pam: PerceiveAnything, coffee: Image.Image) -> None:
    embedding = pam.encode(coffee)
    with pytest.raises(PictureError):
        pam.encode("coffee.jpg")  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="outside the picture"):
        pam.segment(embedding, [Prompt(points=[(5000, 10, 1)])])
    regions = pam.segment(embedding, PROMPTS[:1])
    with pytest.raises(ValueError, match="language"):
        pam.describe(regions, language="fr")
    with pytest.raises(ValueError, match="max_new_tokens"):
        pam.describe(regions, sampling=Sampling(max_new_tokens=0))
    assert pam.segment(embedding, []) == [] and pam.describe([]) == []
