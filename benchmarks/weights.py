"""A checkpoint of the released shapes with random weights, to measure speed and memory without the real one.

    python -m benchmarks.weights OUT [--size 3b|1.5b] [--seed 0]

Writes OUT (PAM's layout, bfloat16, about 6.2 GB for 3b) with SAM 2.1-large inside, random too (0.9 GB). It says nothing
that makes sense; `python -m benchmarks.image --checkpoint OUT` then measures what the real weights would take:

    python -m benchmarks.weights /tmp/pam-3b
    python -m benchmarks.image --checkpoint /tmp/pam-3b --device cuda --regions 1,4,16 --texts 1,2,3 --out results
    python -m benchmarks.image --checkpoint /tmp/pam-3b --device cuda --compile --regions 1,16 --texts 1,2
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from model.loading.hub import BUNDLED
from model.perceiver import Vision
from model.sam.build import empty_sam2, packaged_config

_SAM2 = "sam2.1_hiera_l.yaml"
_SHARED: dict[str, Any] = {
    "model_type": "llava_qwen",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "max_position_embeddings": 32_768,
    "mm_vision_tower": "sam2",
    "mm_projector_type": "mlp2x_gelu",
    "mm_hidden_size": 256,
    "mm_use_im_patch_token": False,
    "tokenizer_model_max_length": 12_288,
}
SIZES = {
    "3b": {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "intermediate_size": 11_008},
    "1.5b": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "intermediate_size": 8_960},
}
VOCABULARY = 151_665
"""Rows that Qwen2.5's tokenizer leaves of the released table; the stand-in tokenizer knows fewer words."""


def write(target: Path, shape: dict[str, int], vocabulary: int, sam2_config: str, seed: int = 0) -> None:
    """Write the folder; weights of linear layers have a variance of 1 / inputs, those of norms are 1."""
    torch.manual_seed(seed)
    target.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(BUNDLED / "tiny", target, vocabulary)
    config = _SHARED | shape | {"num_key_value_heads": 2, "vocab_size": vocabulary}
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": 2002}) + "\n", encoding="utf-8")
    with torch.device("meta"):
        language = Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in config.items() if not k.startswith("mm_")}))
        vision = Vision(shape["hidden_size"])
    tensors = dict(_random(language)) | {f"model.{name}": tensor for name, tensor in _random(vision)}
    tensors.pop("lm_head.weight")  # the table's own
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    yaml = packaged_config(sam2_config)
    shutil.copy(yaml, target / "sam2.yaml")
    sam = empty_sam2(yaml)
    save_file({name: tensor.contiguous() for name, tensor in sam.state_dict().items()}, target / "sam2.safetensors")


def _random(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in module.state_dict().items():
        if tensor.ndim > 1:
            yield name, (torch.randn(tensor.shape) / tensor[0].numel() ** 0.5).bfloat16()
        else:
            yield name, torch.full(tensor.shape, float("norm" in name and name.endswith("weight"))).bfloat16()


def _write_tokenizer(source: Path, target: Path, vocabulary: int) -> None:
    """The bundled tokenizer, filled up with words that no text has."""
    for name in ("merges.txt", "special_tokens_map.json", "tokenizer_config.json"):
        shutil.copy(source / name, target)
    whole = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    words = whole["model"]["vocab"]
    known = max([*words.values(), *(token["id"] for token in whole["added_tokens"])]) + 1
    words |= {f"\u2400{number}": number for number in range(known, vocabulary)}
    (target / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    (target / "vocab.json").write_text(json.dumps(words), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folder of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weights", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="3b")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    write(options.out, SIZES[options.size], VOCABULARY, _SAM2, options.seed)
    print(f"written to {options.out}: python -m benchmarks.image --checkpoint {options.out} --device cuda")


if __name__ == "__main__":
    main()
