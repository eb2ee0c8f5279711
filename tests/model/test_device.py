"""What a GPU needs and a CPU can hold: precision, devices by number, clocks; and the GPU's own run where one is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sam2.modeling.position_encoding import PositionEmbeddingSine
from torch.utils._python_dispatch import TorchDispatchMode

from backend.worker.replies import region_reply
from benchmarks import precision
from model import PerceiveAnything, Prompt, Sampling, Task
from model.compute.clock import Clock
from model.compute.device import pick_dtype
from model.compute.precision import full_float32
from model.language import prefix as sharing
from model.language.prefix import Prefix, attend
from model.sam.encoder import Encoder
from model.sam.tower import PROMPTS_ON_GPU, Tower, on_host, packed
from model.values.mask import to_rle
from model.values.task import instruction
from tests.device import DEVICE, not_emulated


@pytest.mark.skipif("PALLAS_TEST_DEVICE" in os.environ, reason="this is that run")
def test_everything_holds_on_the_gpu() -> None:
    """All of tests/parity and tests/model, on this machine's GPU, in a process of its own."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here: the tests of parity and model were NOT run on one")
    folder = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-q", str(folder / "parity"), str(folder / "model")]
    done = subprocess.run(
        command, env={**os.environ, "PALLAS_TEST_DEVICE": "cuda"}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:]


def switches() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def switch(convolutions: bool, products: bool) -> None:
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products


@pytest.fixture
def tf32() -> Iterator[None]:
    """As a program around might have it."""
    before = switches()
    switch(True, True)
    yield
    switch(*before)


def test_nothing_of_the_model_computes_in_tf32(
    tf32: None, pam: PerceiveAnything, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without graphs, in which no module is called
    monkeypatch.setattr(pam.tower, "encoder", Encoder(pam.tower.sam, torch.float32))
    seen: dict[str, tuple[bool, bool]] = {}
    handles = []

    def watch(module: torch.nn.Module, name: str) -> None:
        handles.append(module.register_forward_pre_hook(lambda *_: seen.__setitem__(name, switches())))

    sam = pam.tower.sam
    watch(sam.image_encoder, "encoder")
    watch(sam.sam_prompt_encoder, "prompts")
    watch(sam.sam_mask_decoder.transformer, "decoder")
    watch(sam.memory_attention, "memory")
    watch(sam.memory_encoder, "remembering")
    watch(pam.vision, "perceiver")
    watch(pam.language.model.model, "language")
    watch(pam.language.model.lm_head, "words")
    found = pam.perceive(coffee, [Prompt(points=[(300, 200, 1)])], [Task.BRIEF])
    pam.score(found.regions, ["cup"])
    pam.track([coffee, coffee], [Prompt(points=[(300, 200, 1)])]).finish()
    for handle in handles:
        handle.remove()
    assert len(seen) == 8 and set(seen.values()) == {(False, False)}
    assert switches() == (True, True)


def test_the_last_to_leave_puts_the_switches_back(tf32: None) -> None:
    with full_float32:
        with full_float32:
            assert switches() == (False, False)
        assert switches() == (False, False)
    with pytest.raises(ZeroDivisionError), full_float32:
        _ = 1 / 0
    assert switches() == (True, True)


@pytest.mark.parametrize(("own", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_cards_that_only_emulate_bfloat16_take_float16(
    own: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or own

    def current(device: torch.device) -> AbstractContextManager[None]:
        asked.append(device)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "device", current)
    assert pick_dtype("auto", torch.device("cuda:3")) == expected
    assert asked == [torch.device("cuda:3")]


def test_position_caches_are_made_where_the_model_is(pam: PerceiveAnything) -> None:
    """SAM 2 makes them on the first GPU, whatever the device is."""
    sam = pam.tower.sam
    caches = [module for module in sam.modules() if isinstance(module, PositionEmbeddingSine)]
    for module in caches:
        module.cache[3, 3] = torch.zeros(1, device="meta")
    turning = [module for module in sam.modules() if hasattr(module, "freqs_cis")]
    assert caches and turning
    Tower(sam)
    assert not any(module.cache for module in caches)
    assert {module.freqs_cis.device for module in turning} == {pam.device}


def heads(rows: int, steps: int, dtype: torch.dtype, scale: float = 1.0) -> list[torch.Tensor]:
    """Query, own keys and values, and a prefix's for attention with 4 heads, 2 of keys, of size 8."""
    made = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=made) * scale).to(dtype)

    return [some(rows, 4, steps, 8), some(rows, 2, 5, 8), some(rows, 2, 5, 8), some(2, 2, 7, 8), some(2, 2, 7, 8)]


class Layer(torch.nn.Module):
    layer_idx = 0


def attended(parts: list[torch.Tensor]) -> torch.Tensor:
    query, key, value, before, told = parts
    mask = torch.ones(len(query), 1, query.shape[2], key.shape[2], dtype=torch.bool)
    out, _ = attend(Layer(), query, key, value, mask, prefix=Prefix((before,), (told,)))
    return out


def plainly(parts: list[torch.Tensor]) -> torch.Tensor:
    """torch's own attention over the whole keys, the prefix copied to each row."""
    query, key, value, before, told = parts
    each = len(query) // len(before)
    keys = torch.cat([before.repeat_interleave(each, 0), key], 2).repeat_interleave(2, 1)
    values = torch.cat([told.repeat_interleave(each, 0), value], 2).repeat_interleave(2, 1)
    return torch.nn.functional.scaled_dot_product_attention(query, keys, values).transpose(1, 2)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_shared_prefix_is_attended_as_if_it_were_copied(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = heads(6, steps, torch.float32)
    torch.testing.assert_close(attended(parts), plainly(parts), atol=1e-5, rtol=1e-5)
    whole = attended(parts)
    monkeypatch.setattr(sharing, "SCORES_BYTES", 1)  # a region at a time
    torch.testing.assert_close(attended(parts), whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_not_rounded_to_a_lower_dtype(dtype: torch.dtype) -> None:
    """As near to the exact answer as torch's own attention, which keeps its scores in float32."""
    parts = heads(6, 3, dtype, 3.0)
    exact = plainly([part.double() for part in parts])
    ours, theirs = ((way(parts).double() - exact).abs().mean() for way in (attended, plainly))
    assert float(ours) <= 1.1 * float(theirs)


def test_large_scores_do_not_overflow_in_float16() -> None:
    """Products of two hundreds pass float16's largest number long before they are scaled."""
    parts = heads(4, 2, torch.float16, 200.0)
    assert (parts[0].float().abs().max() * parts[3].float().abs().max() * 8) > torch.finfo(torch.float16).max
    assert bool(attended(parts).isfinite().all())


def test_a_float16_model_gives_finite_numbers(small_checkpoint: Path, coffee: Image.Image) -> None:
    low = PerceiveAnything.from_pretrained(small_checkpoint, device=DEVICE, dtype="float16")
    found = low.perceive(coffee, [Prompt(points=[(300, 200, 1)]), Prompt(box=(5, 5, 600, 390))], list(Task))
    for region, texts in found:
        assert bool(region.features.image.isfinite().all()) and bool(region.low_res.isfinite().all())
        assert all(np.isfinite(text.mean_logprob) for text in texts.values())
    assert np.isfinite(low.score(found.regions, ["cup", "a red dog"])).all()


def test_a_batch_says_in_bfloat16_what_each_says_alone_as_often_as_the_plain_way(
    small_checkpoint: Path, coffee: Image.Image
) -> None:
    low = PerceiveAnything.from_pretrained(small_checkpoint, device=DEVICE, dtype="bfloat16")
    asked = precision.prompts(coffee, np.random.default_rng(0), 12)
    regions = low.segment(low.encode(coffee), asked)
    ours, plain = (
        precision.same(way(low, regions, 8, together=False), way(low, regions, 8, together=True))
        for way in (precision.texts, precision.plain_texts)
    )
    assert ours >= plain - 0.1  # 24 texts of random weights: by chance one way or the other is ahead
    # what differs does so where prompts are read: from what was read, all say together what each says alone
    prefix = low.read(regions).prefix
    questions = [instruction(task) for task in Task]
    together = low.language.answer(prefix, questions, Sampling(max_new_tokens=8))
    alone = [low.language.answer(prefix.part(i, i + 1), questions, Sampling(max_new_tokens=8))[0] for i in range(12)]
    pairs = [
        (a.token_ids, b.token_ids) for x, y in zip(together, alone, strict=True) for a, b in zip(x, y, strict=True)
    ]
    assert np.mean([a == b for a, b in pairs]) >= 0.9


class FakeGpu:
    """Takes work at once and does it later: one clock of its own."""

    def __init__(self) -> None:
        self.busy_until_ms = 0.0
        self.waits = 0

    def work(self, ms: float) -> None:
        self.busy_until_ms += ms

    def event(self, enable_timing: bool = False) -> Any:
        assert enable_timing
        gpu = self

        class Event:
            at_ms = -1.0

            def record(self, stream: object) -> None:
                assert stream == "stream of cuda:2"
                self.at_ms = gpu.busy_until_ms

            def synchronize(self) -> None:
                gpu.waits += 1

            def elapsed_time(self, other: Event) -> float:
                return other.at_ms - self.at_ms

        return Event()


def test_a_stage_is_billed_its_own_work_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    clock = Clock(torch.device("cuda:2"))
    begin = clock.now()
    gpu.work(30)
    reading = clock.since(begin)
    asked = clock.now()
    gpu.work(70)
    saying = clock.since(asked).shared(2)
    assert gpu.waits == 0
    assert [reading.seconds(), saying.seconds()] == pytest.approx([0.030, 0.035])
    assert gpu.waits == 2


@pytest.mark.parametrize("shape", [(3, 5), (8, 8), (1, 1), (37, 41)])
def test_masks_travel_as_bits(shape: tuple[int, int]) -> None:
    masks = [torch.rand(shape) > 0.5, torch.rand(shape[::-1]) > 0.5]
    for mask in masks:
        assert (packed(mask).numpy() == np.packbits(mask.numpy())).all()
    numbers = torch.randn(3, 2)
    for found, told in (on_host(masks, numbers, together=True), on_host(masks, numbers)):
        for one, mask in zip(found, masks, strict=True):
            assert one.dtype == bool and (one == mask.numpy()).all()
        assert told.dtype == np.float32 and (told == numbers.numpy()).all()
    assert on_host([], numbers, together=True)[0] == []


class HostCopies(TorchDispatchMode):
    """Counts what would wait for a GPU, on whatever device: copies to the host, and single numbers that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        for name in ("cpu", "tolist"):
            self._count_calls(name, monkeypatch)
        monkeypatch.setattr("model.sam.tower.on_host", partial(on_host, together=True))
        monkeypatch.setattr("model.sam.crops.on_host", partial(on_host, together=True))
        monkeypatch.setattr("model.sam.tower.PROMPTS_ON_CPU", PROMPTS_ON_GPU)

    def _count_calls(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(torch.Tensor, name)

        def counted(tensor: torch.Tensor) -> Any:
            self.count += 1
            return original(tensor)

        monkeypatch.setattr(torch.Tensor, name, counted)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@not_emulated
def test_a_batch_comes_to_the_host_in_one_copy(
    pam: PerceiveAnything, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks, scores and how sharp they are; what was given, or nobody reads, does not come."""
    embedding = pam.encode(coffee)
    boxes = [Prompt(box=(20 * i, 10 * i, 100 + 20 * i, 80 + 10 * i)) for i in range(16)]
    drawn = np.zeros((coffee.height, coffee.width), bool)
    drawn[100:200, 150:300] = True
    with HostCopies(monkeypatch) as copies:
        regions = pam.segment(embedding, boxes)
        assert copies.count == 1
        replies = [region_reply(region, to_rle(region.mask), {}, ()) for region in regions]
        assert copies.count == 1 and all(0 <= reply.stability <= 1 for reply in replies)
        pam.segment(embedding, [Prompt(mask=drawn)])
        assert copies.count == 2
        pam.features(regions)
        assert copies.count == 3


@not_emulated
def test_a_frame_comes_to_the_host_in_one_copy(pam: PerceiveAnything, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.effect_noise((320, 240), 60 + number).convert("RGB") for number in range(4)]
    with HostCopies(monkeypatch) as copies:
        tracking = pam.track(frames, [Prompt(box=(20 * i, 20, 100 + 20 * i, 120)) for i in range(4)])
        found = list(tracking)
        # when they are marked, and at each frame
        assert len(found) == 4 and copies.count == 1 + 4
