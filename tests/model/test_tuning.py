"""Learning from reviewed regions: what it needs, going on after a kill, and what the gate lets through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from model import Choices, Example, Lessons, PerceiveAnything, Task, TuningRun
from model.errors import TuningError
from model.tuning import borders, words
from model.tuning.gate import LEAST_GAIN, gain, interval, of_others
from model.tuning.learner import Learner
from model.tuning.lessons import middle
from model.tuning.shelf import Shelf
from model.values.mask import mask_box, to_coco_rle
from tests.device import not_emulated
from tests.disks import small_disk
from tests.tuning import made


def example(number: int, mask: np.ndarray | None = None) -> Example:
    """Of the made-up work, as people left it."""
    _, own, kind = made.scene(number)
    mask = made.wide(own) if mask is None else mask
    box = mask_box(mask)
    assert box is not None
    texts = {(Task.BRIEF, "en"): f"Item: {kind}; intact"}
    choices = Choices((("disc",), ("box", "square")))
    return Example(f"t{number}", str(number), box, to_coco_rle(mask), int(kind == "box"), choices, texts)


def picture(name: str) -> Image.Image:
    return Image.fromarray(made.scene(int(name))[0])


def lessons(examples: Sequence[Example], *kinds: str, every: int = 6) -> Lessons:
    train = [one for number, one in enumerate(examples) if number % every]
    return Lessons(train, [one for number, one in enumerate(examples) if number % every == 0], (), picture, kinds)


def test_too_little_is_said_with_what_is_needed(pam: PerceiveAnything, tmp_path: Path) -> None:
    few = [example(number) for number in range(12)]
    with pytest.raises(TuningError, match="12 reviewed regions have masks, at least 40 are needed"):
        TuningRun(pam, lessons(few, "masks"), tmp_path, 60).run()
    one_task = [replace(few[0], group="t0") for _ in range(50)]
    with pytest.raises(TuningError, match=r"of too few tasks: 1 are held out, 5 are needed"):
        TuningRun(pam, lessons(one_task, "labels"), tmp_path, 60).run()


def test_nothing_is_kept_that_makes_something_else_worse(pam: PerceiveAnything, tmp_path: Path) -> None:
    groups = [f"t{number // 3}" for number in range(12)]
    better = gain(groups, [0.2] * 12, [0.8] * 12, [0.1] * 12)
    same, clearly = gain(groups, [0.5] * 12, [0.5] * 12, [0.1] * 12), gain(groups, [0.5] * 12, [0.4] * 12, [0.1] * 12)
    # a few regions of one task fell: noise, but too far
    far = gain(groups, [1.0] * 12, [0.0] * 3 + [1.0] * 9, [0.1] * 12)
    assert not same.worse and clearly.worse and far.worse and far.high == 0
    for other, kept in ((same, ["captions"]), (clearly, []), (far, [])):
        run = TuningRun(pam, lessons([example(0)], "labels", "captions"), tmp_path, 1)
        run._judge({"labels": other, "captions": better}, {}, {})
        assert run._outcome.kept == kept
        assert kept or run._outcome.reasons["captions"] == "labels became worse over it"


class _Killed(Exception):
    pass


def _learned(pam: PerceiveAnything, file: Path, kill_at: int | None) -> dict[str, torch.Tensor]:
    some = [example(number) for number in range(4)]
    calls = 0

    def pause() -> None:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            raise _Killed

    return words.learn(
        pam, lessons(some, "labels", "captions"), [], Shelf(pam, picture), 1e9, file, pause, lambda _: None
    )


@not_emulated
def test_words_go_on_where_they_were_killed(
    pam: PerceiveAnything, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "_ROUNDS", 8)
    monkeypatch.setattr(words, "_REPEATED", 1)
    before = {name: weight.clone() for name, weight in pam.language.model.state_dict().items()}
    whole = _learned(pam, tmp_path / "whole.safetensors", None)
    with pytest.raises(_Killed):
        _learned(pam, tmp_path / "killed.safetensors", 4)
    went_on = _learned(pam, tmp_path / "killed.safetensors", None)
    # two matrices for each of a layer's four, and of the projectors' four
    assert set(whole) == set(went_on) and len(whole) == 2 * 4 * (pam.language.model.config.num_hidden_layers + 1)
    assert all(torch.equal(whole[name], went_on[name]) for name in whole)
    assert any(bool(tensor.any()) for name, tensor in whole.items() if name.endswith("lora_B.weight"))
    # the base is as it was, and of its own classes
    assert all(torch.equal(before[name], weight) for name, weight in pam.language.model.state_dict().items())
    assert not any(weight.requires_grad for weight in pam.vision.parameters())


def test_a_damaged_checkpoint_begins_the_stage_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "state.safetensors"

    def learned() -> Learner:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(3))
        learner = Learner({"weight": weight}, 0.1, 1e9, 5, file)
        learner.run(lambda _: (weight**2).sum(), lambda: None, lambda _: None)
        return learner

    first = learned()
    assert first.step == 5 and learned().step == 5  # nothing is left to do
    file.write_bytes(b"\x10" * 50)
    again = learned()
    assert again.step == 5 and "begins anew" in caplog.text
    assert torch.equal(again.parameters["weight"], first.parameters["weight"])


def test_a_full_disk_is_an_error_of_the_disk_and_costs_nothing_that_was_saved(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        file = disk / "state.safetensors"
        weight = nn.Parameter(torch.randn(5000))  # 20 kB
        Learner({"weight": weight}, 0.1, 1e9, 5, file).save()
        (disk / "others").write_bytes(b"x" * 36_000)
        with pytest.raises(OSError, match=r"state|No space"):
            Learner({"weight": nn.Parameter(torch.zeros(5000))}, 0.1, 1e9, 5, file).save()
        assert [path.name for path in sorted(disk.iterdir())] == ["others", "state.safetensors"]
        again = nn.Parameter(torch.zeros(5000))
        Learner({"weight": again}, 0.1, 1e9, 5, file)
        assert torch.equal(again, weight)


@not_emulated
def test_borders_are_learned_and_nothing_else_changes(pam: PerceiveAnything, tmp_path: Path) -> None:
    """On random weights even: the head learns to fill what it is shown."""
    some = [example(number) for number in range(4)]
    shelf = Shelf(pam, picture)
    decoder = pam.tower.sam.sam_mask_decoder

    def loss() -> float:
        shown = [borders._logits(decoder, shelf, one, 0) for one in some]
        wanted = [borders._Targets(some, pam.tower.image_size // 4).of(number).to(pam.device) for number in range(4)]
        return float(borders.border_loss(torch.stack(shown), torch.stack(wanted)))

    before = loss()
    pam_before = {name: weight.clone() for name, weight in pam.tower.sam.state_dict().items()}
    tensors = borders.learn(pam, some, some[:1], shelf, 1e9, tmp_path / "m.safetensors", lambda: None, lambda _: None)
    assert all(torch.equal(pam_before[name], weight) for name, weight in pam.tower.sam.state_dict().items())
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if f"masks.{name}" in tensors:
                weight.copy_(tensors[f"masks.{name}"])
        after = loss()
    pam.tower.sam.load_state_dict(pam_before)
    assert after < before


def test_what_is_repeated_counts_by_how_far_it_has_moved() -> None:
    """A base that is unsure of a word is not made sure of it."""
    torch.manual_seed(0)
    taught = torch.randn(5, 7), torch.arange(5)
    base = torch.randn(3, 7), torch.arange(3)
    alone, kept = words._loss(taught), words._loss(taught, base, base)
    assert float(kept) == pytest.approx(5 / 8 * float(alone))
    surer = base[0] + 9 * torch.eye(3, 7), base[1]
    assert words._loss(taught, surer, base) > kept + 0.1


def test_the_shelf_keeps_what_fits(pam: PerceiveAnything) -> None:
    opened: list[str] = []

    def counted(name: str) -> Image.Image:
        opened.append(name)
        return picture(name)

    size = pam.encode(picture("0")).nbytes
    shelf = Shelf(pam, counted, most_bytes=2 * size)
    for name in ("0", "1", "0", "2", "0", "1"):
        shelf.embedding(name)
    assert opened == ["0", "1", "2", "1"]


def test_the_middle_is_inside() -> None:
    ring = np.zeros((40, 60), bool)
    ring[5:35, 5:55] = True
    ring[10:30, 10:50] = False
    x, y = middle(ring)
    assert ring[int(y), int(x)]


# the gate

GROUPS = [f"t{number // 2}" for number in range(40)]


def test_a_clear_gain_passes_and_noise_does_not() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.7, 40)
    clear = gain(GROUPS, base.tolist(), (base + 0.1).tolist(), (base - 0.2).tolist())
    assert clear.better and clear.low > 0.05 and clear.why == "better"
    noise = gain(GROUPS, base.tolist(), (base + rng.normal(0, 0.1, 40)).tolist(), (base - 0.2).tolist())
    assert not noise.better and noise.why == "not better beyond noise"
    slight = gain(GROUPS, base.tolist(), (base + LEAST_GAIN / 2).tolist(), (base - 0.2).tolist())
    assert not slight.better and "less than" in slight.why
    worse = gain(GROUPS, base.tolist(), (base - 0.1).tolist(), (base - 0.2).tolist())
    assert worse.high < 0 and not worse.better


def test_a_gain_that_fits_every_region_alike_does_not_pass() -> None:
    """A style that was learned from shuffled captions, or the commonest label."""
    style = gain(GROUPS, [0.4] * 40, [0.8] * 40, [0.8] * 40)
    assert style.low > 0 and not style.better and "shuffled" in style.why


def test_groups_are_drawn_whole() -> None:
    """Forty regions of two tasks are two opinions."""
    values = np.array([0.2] * 20 + [-0.1] * 20)
    few = interval(["a"] * 20 + ["b"] * 20, values)
    many = interval([str(number) for number in range(40)], values)
    assert few[0] < 0 < few[1] and many[1] - many[0] < few[1] - few[0]


def test_answers_at_other_regions_are_those_of_other_groups() -> None:
    worth = np.array([[1.0, 0.9, 0.2], [0.9, 1.0, 0.4], [0.1, 0.3, 1.0]])
    assert of_others(["a", "a", "b"], worth) == pytest.approx([0.2, 0.4, 0.2])
