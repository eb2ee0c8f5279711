"""What training writes is what the product reads."""

from __future__ import annotations

import json
import shutil
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


def test_the_words_for_unknown_things_are_written(tmp_path: Path, vocabulary: Path) -> None:
    shutil.copytree(vocabulary, tmp_path, dirs_exist_ok=True)
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


def test_the_widest_matrices_are_kept_in_float8_and_read_again(tmp_path: Path, vocabulary: Path) -> None:
    shutil.copytree(vocabulary, tmp_path, dirs_exist_ok=True)
    config = language.qwen_config(tmp_path, SIZES)
    speaker = language.Speaker(config)
    export.export(tmp_path, {}, speaker, config)
    written = load_file(tmp_path / "model.safetensors")
    short = {name.removeprefix("model.vision_resampler.") for name, v in written.items() if v.dtype != torch.float16}
    assert short == {"proj.weight", *(f"layers.{i}.mlp.layers.{j}.weight" for i in (0, 1) for j in (0, 1))}
    assert written["model.vision_resampler.proj.weight"].dtype == torch.float8_e4m3fn
    again = language.Speaker(config)
    speaking._load_speaker(again, tmp_path, tmp_path)
    torch.testing.assert_close(
        again.vision.vision_resampler.proj.weight, speaker.vision.vision_resampler.proj.weight, atol=0.002, rtol=0.07
    )


def test_a_new_vocabulary_keeps_the_words_that_both_have(tmp_path: Path, vocabulary: Path) -> None:
    """The classes grow, and with them the words: what was learned of the old ones goes on."""
    tokenizer.learn(tmp_path / "old", 600)
    shutil.copytree(vocabulary, tmp_path / "new")
    speakers = [language.Speaker(language.qwen_config(tmp_path / name, SIZES)) for name in ("old", "new")]
    export.export(tmp_path / "old", {}, speakers[0], language.qwen_config(tmp_path / "old", SIZES))
    words = "model.embed_tokens.weight"
    fresh = speakers[1].qwen.state_dict()[words].clone()
    speaking._load_speaker(speakers[1], tmp_path / "old", tmp_path / "new")
    before, now = (Qwen2Tokenizer.from_pretrained(tmp_path / name).get_vocab() for name in ("old", "new"))
    known, carried = (speaker.qwen.state_dict()[words] for speaker in speakers)
    alone = sorted(set(now) - set(before))
    assert alone
    for word in (*alone[:5], *sorted(set(now) & set(before))[:200]):
        wanted = known[before[word]].half() if word in before else fresh[now[word]].half()
        torch.testing.assert_close(carried[now[word]].half(), wanted, atol=1e-3, rtol=1e-3)
