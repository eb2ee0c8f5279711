"""Answers packed behind one prompt are learned exactly as if each stood alone, which is how they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Tokenizer

from model.language.qwen import Language
from model.values.task import instruction
from tiny import language
from tiny.texts import Truth, write

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
TRUTH = Truth("dog", "brown", "on the left", "large")


def test_tokenizer_gives_back_any_text(vocabulary: Path) -> None:
    words = Qwen2Tokenizer.from_pretrained(vocabulary)
    for text in (write("detailed", TRUTH), write("explain", TRUTH, "zh"), "Ünïcode ✓ 龘\n\t<image>"):
        assert words.decode(words(text)["input_ids"]) == text
    assert words("<|im_end|>")["input_ids"] == [words.eos_token_id]


def test_packed_answers_see_nothing_of_each_other(vocabulary: Path) -> None:
    torch.manual_seed(0)
    words = Qwen2Tokenizer.from_pretrained(vocabulary)
    speaker = language.Speaker(language.qwen_config(vocabulary, SIZES)).eval()
    image, tokens = torch.randn(1, 256, 4, 4), torch.randn(1, 2, 256)
    packed = language.Packer(words, 22).pack(np.random.default_rng(0), [TRUTH], 3)
    with torch.no_grad():
        together, _ = speaker(image, tokens, packed)
        block = speaker.vision(image, tokens)[0]
        for number in (1, 2, 3):
            mine = packed.group[0] == number
            table = speaker.qwen.get_input_embeddings()
            alone = torch.cat([table(packed.ids[0, : packed.slots.start]), block, table(packed.ids[0][mine])])
            assert torch.equal(packed.positions[0][mine], torch.arange(len(alone) - int(mine.sum()), len(alone)))
            logits = speaker.qwen(inputs_embeds=alone[None]).logits[0, -int(mine.sum()) :]
            asked = packed.targets[0][mine] >= 0
            own = packed.group[packed.targets >= 0] == number
            assert asked.sum() >= 2  # a word and the end at least
            assert torch.allclose(logits[asked], together[own], atol=1e-4)


def test_bfloat16_changes_the_rounding_only(vocabulary: Path) -> None:
    torch.manual_seed(0)
    exact = language.Speaker(language.qwen_config(vocabulary, SIZES))
    rounded = language.Speaker(language.qwen_config(vocabulary, SIZES), "bfloat16")
    rounded.load_state_dict(exact.state_dict())
    image, tokens = torch.randn(2, 256, 4, 4), torch.randn(2, 2, 256)
    words = Qwen2Tokenizer.from_pretrained(vocabulary)
    packed = language.Packer(words, 22).pack(np.random.default_rng(0), [TRUTH, TRUTH], 3)
    slopes = []
    for speaker in (exact, rounded):
        value, _ = language.loss(speaker(image, tokens, packed)[0], packed)
        value.backward()
        slopes.append(torch.cat([p.grad.flatten() for p in speaker.parameters() if p.grad is not None]))
    assert slopes[1].dtype == torch.float32
    difference = float((slopes[1] - slopes[0]).norm() / slopes[0].norm())
    assert 0 < difference < 0.03


def test_packed_prompt_is_the_one_that_serves(vocabulary: Path) -> None:
    words = Qwen2Tokenizer.from_pretrained(vocabulary)
    packer = language.Packer(words, 22)
    serving = Language.__new__(Language)
    serving.tokenizer = words
    before, after = serving.prompt_ids(instruction("brief", "zh"))
    assert packer.before == before == packer.pack(np.random.default_rng(0), [TRUTH], 1).ids[0, : len(before)].tolist()
    told = [[(instruction("brief", "zh"), write("brief", TRUTH, "zh"))]]
    laid = packer.lay(told).ids[0].tolist()
    assert laid[len(before) + 22 :][: len(after)] == after
