"""What training writes is what the product reads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import Qwen2Tokenizer

from model.language.unsure import Unsure
from tiny import export, language, speaking, tokenizer

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}


def test_the_words_for_unknown_things_are_written(tmp_path: Path) -> None:
    tokenizer.learn(tmp_path, 700)
    config = language.qwen_config(tmp_path, SIZES)
    speaker = language.Speaker(config)
    export.export(tmp_path, {}, speaker, config)
    assert "unsure" not in json.loads((tmp_path / "generation_config.json").read_text())
    export.export(tmp_path, {}, speaker, config, unsure=0.4)
    words = Qwen2Tokenizer.from_pretrained(tmp_path)
    found = Unsure.read(json.loads((tmp_path / "generation_config.json").read_text())["unsure"], words, tmp_path)
    assert found.threshold == 0.4
    said = [words.decode([i]).strip() for i in found.first_ids]
    # each label must begin with a token of its own, or another word would be said
    assert len(said) == 3
    assert all("object".startswith(word) or "物体".startswith(word) for word in said)


def test_the_widest_projection_is_kept_in_float8_and_read_again(tmp_path: Path) -> None:
    tokenizer.learn(tmp_path, 700)
    config = language.qwen_config(tmp_path, SIZES)
    speaker = language.Speaker(config)
    export.export(tmp_path, {}, speaker, config)
    written = load_file(tmp_path / "model.safetensors")
    assert [name for name, value in written.items() if value.dtype != torch.float16] == [
        "model.vision_resampler.proj.weight"
    ]
    assert written["model.vision_resampler.proj.weight"].dtype == torch.float8_e4m3fn
    again = language.Speaker(config)
    speaking._load_speaker(again, tmp_path)
    torch.testing.assert_close(
        again.vision.vision_resampler.proj.weight, speaker.vision.vision_resampler.proj.weight, atol=0.002, rtol=0.07
    )
