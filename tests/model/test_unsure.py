"""A checkpoint may name the words that stand for a guess; without them nothing changes."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.plain import blocks, embed
from model import CheckpointError, PerceiveAnything, Prompt, Sampling, Task
from model.language.unsure import PreferUnsure, Unsure
from tests.device import DEVICE

PROMPT = Prompt(box=(100, 50, 400, 300))


def logits(*chances: float) -> torch.Tensor:
    return torch.tensor(chances).log()


def test_only_a_guess_gives_way_and_only_to_a_possible_label() -> None:
    scores = torch.stack(
        [
            logits(0.50, 0.20, 0.20, 0.10),  # sure enough
            logits(0.32, 0.30, 0.20, 0.18),  # a guess: the likelier label is 2
            logits(0.32, 0.30, 0.10, 0.28),  # a guess: the likelier label is 3
            logits(0.33, 0.33, 0.335, 0.005),  # a guess for a label, which stays
            logits(0.34, 0.65, 0.005, 0.005),  # sure
            logits(0.33, 0.33, 0.004, 0.006) + 7.0,  # a guess, but no label is possible (and logits have any offset)
        ]
    )
    changed = PreferUnsure(Unsure(0.35, (2, 3)))(torch.zeros(6, 3, dtype=torch.int64), scores)
    assert changed.argmax(-1).tolist() == [0, 2, 3, 2, 1, 0]
    for row in (0, 4, 5):
        assert torch.equal(changed[row], scores[row])
    assert torch.isinf(changed[1]).sum() == 3


def with_entry(source: Path, target: Path, entry: Any) -> Path:
    folder = Path(shutil.copytree(source, target))
    file = folder / "generation_config.json"
    values = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**values, "repetition_penalty": 1.0, "unsure": entry}))
    return folder


def test_the_entry_of_a_checkpoint_is_followed(
    small_checkpoint: Path, tmp_path: Path, pam: PerceiveAnything, coffee: Image.Image
) -> None:
    regions = pam.segment(pam.encode(coffee), [PROMPT])
    vectors = embed(pam.language, blocks(pam, regions)[0], "Classify this subject and provide its label.")
    chances = pam.language.model(inputs_embeds=vectors[None]).logits[0, -1].float().softmax(-1)
    words = pam.language.tokenizer
    first = int(chances.argmax())
    # the likeliest other token that a string stands for
    other = next(
        i
        for i in chances.argsort(descending=True).tolist()
        if i != first and words(words.decode([i]), add_special_tokens=False)["input_ids"] == [i]
    )
    assert chances[other] >= 0.01
    entry = {"threshold": 1.0, "labels": [words.decode([other])]}
    told = PerceiveAnything.from_pretrained(
        with_entry(small_checkpoint, tmp_path / "told", entry), device=DEVICE, dtype="float32"
    )
    (texts,) = told.describe(
        told.segment(told.encode(coffee), [PROMPT]), [Task.RECOGNIZE], sampling=Sampling(max_new_tokens=1)
    )
    assert texts[Task.RECOGNIZE].token_ids == (other,)
    # the probability stays the model's own
    assert texts[Task.RECOGNIZE].mean_logprob == pytest.approx(math.log(chances[other]), abs=1e-4)
    # drawn answers are drawn
    drawn = told.describe(regions, [Task.RECOGNIZE], sampling=Sampling(max_new_tokens=1, temperature=1e-4, seed=0))[0]
    assert drawn[Task.RECOGNIZE].token_ids == (first,)
    assert told.version != pam.version


@pytest.mark.parametrize(
    "entry",
    [
        0.35,
        {"threshold": 0.35},
        {"threshold": 1.5, "labels": ["object"]},
        {"threshold": True, "labels": ["object"]},
        {"threshold": 0.35, "labels": []},
        {"threshold": 0.35, "labels": "object"},
        {"threshold": 0.35, "labels": [""]},
        {"threshold": 0.35, "labels": ["object"], "word": "object"},
    ],
)
def test_a_wrong_entry_is_named(pam: PerceiveAnything, entry: Any) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json has .*unsure"):
        Unsure.read(entry, pam.language.tokenizer, "generation_config.json")


def test_a_wrong_entry_stops_the_loading(small_checkpoint: Path, tmp_path: Path) -> None:
    folder = with_entry(small_checkpoint, tmp_path / "wrong", {"threshold": 2, "labels": ["object"]})
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        PerceiveAnything.from_pretrained(folder, device=DEVICE)
