"""A checkpoint of the released shapes with random weights, to measure speed and memory without the real one.

    python -m benchmarks.weights OUT [--size 3b|1.5b] [--layout flat|released] [--shard-gb 2] [--seed 0]
    python -m benchmarks.weights OUT --measure [--device meta|cpu|cuda] [--dtype auto] [--quantize none|int8]

The first writes OUT: PAM's layout in bfloat16 (about 6.2 GB for 3b, 3.1 for 1.5b) with SAM 2.1-large inside, random too
(0.9 GB). `--layout released` makes what the hub has: a folder in OUT (PAM-3B, PAM-1.5B) with shards and an index, the
tied head and a copy of SAM 2 in bfloat16 among them (7.3 and 4.0 GB), and Meta's file beside it. It says nothing that
makes sense; `python -m benchmarks.image --checkpoint OUT` then measures what the real weights would take:

    python -m benchmarks.weights /tmp/pam-3b
    python -m benchmarks.image --checkpoint /tmp/pam-3b --device cuda --regions 1,4,16 --texts 1,2,3 --out results
    python -m benchmarks.image --checkpoint /tmp/pam-3b --device cuda --compile --regions 1,16 --texts 1,2

The second loads OUT and tells seconds, and the most host memory that loading took beyond what the process had. `meta`
stands for a GPU where there is none: tensors are read, handed over, and kept nowhere.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from backend.system.memory import peak_bytes
from model import PerceiveAnything
from model.errors import ModelError
from model.loading.checkpoint import Checkpoint
from model.loading.hub import BUNDLED, SAM2_FILE
from model.loading.sam import empty_sam2, packaged_config
from model.perceiver import Vision

SAM2 = "sam2.1_hiera_l.yaml"
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
"""Of Qwen2.5's tokenizer; the stand-in is as large and knows fewer words."""
_ADDED = 22
"""Of them, which follow the words; the first three end texts and begin and end turns."""
_SPARE_ROWS = 271
"""Rows of Qwen2.5's table beyond its tokenizer."""


def write(
    target: Path,
    shape: dict[str, int],
    vocabulary: int,
    sam2_config: str,
    seed: int = 0,
    released: bool = False,
    shard_bytes: int = 2_000_000_000,
) -> None:
    """Write the folder; weights of linear layers have a variance of 1 / inputs, those of norms are 1.

    Args:
        target: gets the model's files.
        shape: of Qwen2.
        vocabulary: of the tokenizer; the table has some rows more.
        sam2_config: a name of the `sam2` package's.
        seed: of the weights.
        released: also the copies that the hub's folders hold, and SAM 2's file in the folder around target.
        shard_bytes: of a weight file, about, where released.
    """
    torch.manual_seed(seed)
    target.mkdir(parents=True, exist_ok=True)
    ends = write_tokenizer(target, vocabulary)
    config = _SHARED | shape | {"num_key_value_heads": 2, "vocab_size": vocabulary + _SPARE_ROWS}
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    generation = {"eos_token_id": ends, "do_sample": True, "repetition_penalty": 1.05, "top_k": 20}
    (target / "generation_config.json").write_text(json.dumps(generation) + "\n", encoding="utf-8")
    with torch.device("meta"):
        language = Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in config.items() if not k.startswith("mm_")}))
        vision = Vision(shape["hidden_size"])
    yaml = packaged_config(sam2_config)
    sam = empty_sam2(yaml).state_dict()
    table = "model.embed_tokens.weight"

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in _random(language):
            if name != "lm_head.weight":
                yield name, tensor
            if name == table and released:
                yield "lm_head.weight", tensor.clone()
        for name, tensor in _random(vision):
            yield f"model.{name}", tensor
        if released:
            for name, tensor in sam.items():
                yield f"model.vision_tower.sam2_model_predictor.{name}", tensor.bfloat16()

    if released:
        _write_shards(target, tensors(), shard_bytes)
        torch.save({"model": sam}, target.parent / SAM2_FILE)
        shutil.copy(yaml, target.parent / "sam2.yaml")
    else:
        save_file(dict(tensors()), target / "model.safetensors", metadata={"format": "pt"})
        save_file({name: tensor.contiguous() for name, tensor in sam.items()}, target / "sam2.safetensors")
        shutil.copy(yaml, target / "sam2.yaml")


def _random(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in module.state_dict().items():
        if tensor.ndim > 1:
            yield name, (torch.randn(tensor.shape) / tensor[0].numel() ** 0.5).bfloat16()
        else:
            yield name, torch.full(tensor.shape, float("norm" in name and name.endswith("weight"))).bfloat16()


def _write_shards(target: Path, tensors: Iterable[tuple[str, torch.Tensor]], shard_bytes: int) -> None:
    """Shards with their index, one of them in memory at a time."""
    table: dict[str, int] = {}
    part: dict[str, torch.Tensor] = {}
    count = total = 0

    def close() -> None:
        nonlocal count
        count += 1
        save_file(part, target / f"{count}.part", metadata={"format": "pt"})
        table.update(dict.fromkeys(part, count))
        part.clear()

    for name, tensor in tensors:
        if part and sum(t.nbytes for t in part.values()) + tensor.nbytes > shard_bytes:
            close()
        part[name] = tensor.contiguous()
        total += tensor.nbytes
    close()
    names = {number: f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)}
    for number, name in names.items():
        (target / f"{number}.part").rename(target / name)
    index = {"metadata": {"total_size": total}, "weight_map": {name: names[at] for name, at in table.items()}}
    (target / "model.safetensors.index.json").write_text(json.dumps(index) + "\n", encoding="utf-8")


def write_tokenizer(target: Path, vocabulary: int) -> list[int]:
    """The bundled tokenizer, filled up with words that no text has; returns the ids that end an answer.

    The added tokens stand where Qwen2.5's do, behind all words.
    """
    source = BUNDLED / "tiny"
    for name in ("merges.txt", "special_tokens_map.json"):
        shutil.copy(source / name, target)
    whole = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    words, first = whole["model"]["vocab"], vocabulary - _ADDED
    added = whole["added_tokens"]
    words |= {f"\u2400{number}": number for number in range(len(words), first)}
    spare = [{**added[0], "content": f"<|spare_{number}|>"} for number in range(_ADDED - len(added))]
    whole["added_tokens"] = [{**token, "id": first + number} for number, token in enumerate([*added, *spare])]
    (target / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    (target / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["added_tokens_decoder"] = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in whole["added_tokens"]
    }
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    ids = {token["content"]: token["id"] for token in whole["added_tokens"]}
    return [ids["<|im_end|>"], ids["<|endoftext|>"]]


def measure(folder: Path, device: str, dtype: str, quantize: str) -> dict[str, object]:
    """Seconds and host memory in GB of loading, in this process: what it had before does not count."""
    before = _resident()
    begin = time.perf_counter()
    parts: list[nn.Module]
    if device == "meta":
        found = Checkpoint.find(folder)
        vision, language = found.load_language(torch.device("meta"), getattr(torch, dtype))
        sam = found.load_sam2(torch.device("meta"))
        parts = [vision, language.model, sam]
    else:
        pam = PerceiveAnything.from_pretrained(folder, device=device, dtype=dtype, quantize=quantize)
        parts = [pam.vision, pam.language.model, pam.tower.sam]
    seconds = time.perf_counter() - begin
    weights = sum(weight.nbytes for part in parts for weight in part.parameters())
    # in this order: looking at what is resident begins the count of the peak anew
    peak = peak_bytes() - before
    kept = 0.0 if device in ("meta", "cuda") else _resident() - before
    return {
        **{"device": device, "dtype": dtype, "quantize": quantize, "seconds": round(seconds, 1)},
        **{"weights_gb": round(weights / 1e9, 2), "kept_gb": round(kept / 1e9, 2), "peak_gb": round(peak / 1e9, 2)},
    }


def _resident() -> int:
    """Bytes of this process now; the most that it ever had is counted from here on, where Linux can."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return peak_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folder of the command line, or load it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weights", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="3b")
    parser.add_argument("--layout", choices=("flat", "released"), default="flat")
    parser.add_argument("--shard-gb", type=float, default=2.0, help="of a weight file, in the released layout (2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", action="store_true", help="load what lies there, print one JSON object")
    parser.add_argument("--device", default="meta", help="meta (as a GPU, without one), or a device")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantize", default="none")
    options = parser.parse_args(arguments)
    if options.measure:
        try:
            print(json.dumps(measure(options.out, options.device, options.dtype, options.quantize)))
        except ModelError as error:
            raise SystemExit(f"error: {error}") from None
        return
    released = options.layout == "released"
    target = options.out / f"PAM-{options.size.upper()}" if released else options.out
    write(target, SIZES[options.size], VOCABULARY, SAM2, options.seed, released, int(options.shard_gb * 1e9))
    print(f"written to {options.out}: python -m benchmarks.image --checkpoint {options.out} --device cuda")


if __name__ == "__main__":
    main()
