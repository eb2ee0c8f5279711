"""Clips for the language stage are asked and answered exactly as they are when it serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2Tokenizer

from tiny import language, telling
from tiny.texts import ACTS, Truth

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
TOKENS = 4  # image tokens of a picture of 4 × 4 cells


def scene(act: str) -> telling.Scene:
    rng = torch.Generator().manual_seed(len(act))
    image, tokens = torch.randn(16, 256, 4, 4, generator=rng), torch.randn(16, 2, 256, generator=rng)
    return telling.Scene(image.half(), tokens.half(), Truth("dog", "brown", "on the left", "large"), act)


@pytest.fixture(scope="module")
def packer(vocabulary: Path) -> language.Packer:
    words = Qwen2Tokenizer.from_pretrained(vocabulary)
    return language.Packer(words, TOKENS + 19 + 15 * (TOKENS // 4 + 19))


@pytest.mark.parametrize("act", ACTS)
def test_an_answer_follows_from_the_clip_and_the_caption_before(act: str) -> None:
    for instruction, answer in telling.questions(np.random.default_rng(3), scene(act), 40):
        zh = "历史描述" in instruction
        assert ACTS[act][2 if zh else 0] in answer
        first = instruction.endswith(("Previous caption: None", "历史描述：无"))
        assert first == answer.startswith(("A brown dog", "一只棕色的狗"))
        assert not (first and act == "gone"), "nobody can tell what is not there"


def test_clips_are_written_and_read(tmp_path: Path) -> None:
    telling.save([scene("left"), scene("gone")], tmp_path / "told.pt")
    first, second = telling.load(tmp_path / "told.pt")
    assert torch.equal(first.image, scene("left").image) and second.act == "gone"
    assert first.truth == scene("left").truth


def test_a_lesson_is_what_the_language_model_reads_when_it_serves(packer: language.Packer, vocabulary: Path) -> None:
    torch.manual_seed(0)
    speaker = language.Speaker(language.qwen_config(vocabulary, SIZES)).eval()
    scenes = [scene("left"), scene("up")]
    lesson = telling.lesson(np.random.default_rng(0), packer, scenes, 2, 2, torch.device("cpu"))
    with torch.no_grad():
        together, kind = speaker(lesson.image, lesson.mask_tokens, lesson.packed)
        assert kind.shape[0] == 2
        mine = lesson.packed.group[0] == 1
        block = speaker.vision.clip(lesson.image[0], lesson.mask_tokens[0])
        table = speaker.qwen.get_input_embeddings()
        ids = lesson.packed.ids[0]
        alone = torch.cat([table(ids[: lesson.packed.slots.start]), block, table(ids[mine])])
        logits = speaker.qwen(inputs_embeds=alone[None]).logits[0, -int(mine.sum()) :]
    asked = lesson.packed.targets[0][mine] >= 0
    own = (lesson.packed.group == 1)[lesson.packed.targets >= 0]
    rows = int((lesson.packed.targets[0] >= 0).sum())
    assert torch.allclose(logits[asked], together[:rows][own[:rows]], atol=1e-4)
