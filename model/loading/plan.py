"""What a checkpoint's folder will be loaded into, held against the names and shapes of its tensors; none is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from model.errors import CheckpointError
from model.loading.folder import read_json
from model.loading.frozen_copy import is_frozen_copy
from model.loading.weights import Listing, Shape, check_fit, list_folder, shapes_of
from model.perceiver import Vision

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_VISION = (
    "vision_resampler.",
    "mm_projector_img.",
    "mm_projector_semT.",
    "image_newline",
    "semT_newline",
    "frame_newline",
)
_QWEN_ROWS = 151_643
"""Of Qwen's vocabulary without the tokens that were added to it."""
_RELEASED_WIDTHS = (1536, 2048)
_QWEN_IDS = {"<|im_start|>": 151_644, "<|im_end|>": 151_645}


@dataclass(frozen=True, eq=False)
class Plan:
    """What a folder will be loaded into, held against its tensors' names and shapes.

    Attributes:
        settings: config.json.
        rows: of the table of words, as many as the tokenizer knows.
        weights: the tensors to read, under their names in the modules.
        vision, qwen: modules on the meta device.
    """

    settings: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase
    rows: int
    weights: Listing
    vision: Vision
    qwen: Qwen2ForCausalLM

    @classmethod
    def of(cls, folder: Path) -> Plan:
        """Raises CheckpointError where the parts do not go together."""
        settings = read_json(folder / "config.json")
        _check_kind(settings, folder)
        tokenizer = _load_tokenizer(folder, settings)
        weights = list_folder(folder)
        # transformers' own default is a head of its own, which then has to be there
        settings.setdefault("tie_word_embeddings", HEAD not in weights.shapes)
        config = _qwen_config(settings, folder)
        _check_ids(tokenizer, config, folder)
        rows = config.vocab_size = len(tokenizer)
        with torch.device("meta"):
            vision = Vision(config.hidden_size, int(settings.get("mm_hidden_size", 256)))
            qwen = Qwen2ForCausalLM(config)
        names = _names(weights.shapes)
        expected = shapes_of(vision) | shapes_of(qwen)
        if config.tie_word_embeddings:
            # a copy of the table, if there is one, is not read
            expected.pop(HEAD)
            names.pop(HEAD, None)
        found = {new: _resized(weights.shapes[old], rows, new) for new, old in names.items()}
        fix = f"{folder / 'config.json'} and the weights must come from the same download: fetch the folder again"
        check_fit(expected, found, folder, fix, strict=False)
        wanted = weights.only({new: old for new, old in names.items() if new in expected})
        return cls(settings, tokenizer, rows, wanted, vision, qwen)


def _check_kind(settings: dict[str, Any], folder: Path) -> None:
    tower = str(settings.get("mm_vision_tower", ""))
    if "sam2" not in tower:
        raise CheckpointError(
            f"{folder / 'config.json'} has mm_vision_tower {tower!r}: this is not a PAM checkpoint "
            "(PAM names its SAM 2 there); give a PAM folder"
        )
    kind = settings.get("mm_projector_type", "linear")
    if kind != "mlp2x_gelu":
        raise CheckpointError(f"{folder / 'config.json'} has mm_projector_type {kind!r}; PAM's is 'mlp2x_gelu'")


def _qwen_config(settings: dict[str, Any], folder: Path) -> Qwen2Config:
    own = {k: v for k, v in settings.items() if not k.startswith("mm_") and k not in ("model_type", "architectures")}
    # rope_scaling: PAM's code drops it whatever the file says; the dtype is from_pretrained's to choose
    for name in ("rope_scaling", "torch_dtype", "dtype", "transformers_version"):
        own.pop(name, None)
    try:
        config = Qwen2Config(**own)
    except Exception as error:
        raise CheckpointError(f"{folder / 'config.json'} is not a Qwen2 configuration: {error}") from None
    config._attn_implementation = "sdpa"
    return config


def _load_tokenizer(folder: Path, settings: dict[str, Any]) -> PreTrainedTokenizerBase:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise CheckpointError(f"{folder} has no tokenizer.json: the download stopped half-way, fetch the folder again")
    try:
        # by its class: AutoTokenizer would read config.json, whose model type transformers does not know
        tokenizer = Qwen2Tokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"the tokenizer in {folder} cannot be read ({error}): fetch the folder again") from None
    # as in PAM's code: these lengthen the vocabulary (and so the logits), ids of words stay as they are
    extra = ["<im_patch>"] if settings.get("mm_use_im_patch_token", True) else []
    extra += ["<im_start>", "<im_end>"] if settings.get("mm_use_im_start_end", False) else []
    if extra:
        tokenizer.add_tokens(extra, special_tokens=True)
    return tokenizer


def _check_ids(tokenizer: PreTrainedTokenizerBase, config: Qwen2Config, folder: Path) -> None:
    """The released weights were trained with these ids: with others they would say odd things, and no error."""
    if config.hidden_size not in _RELEASED_WIDTHS or config.vocab_size <= _QWEN_ROWS:
        return
    for token, number in _QWEN_IDS.items():
        found = tokenizer.convert_tokens_to_ids(token)
        if found != number:
            raise CheckpointError(
                f"the tokenizer in {folder} has {found} for {token}, where Qwen's has {number}: these are other files "
                "than the weights were trained with, fetch the folder again"
            )


def _names(stored: Iterable[str]) -> dict[str, str]:
    """Names in the modules to those in the folder, where those of `Vision` begin with `model.` too.

    Copies of SAM 2 are left out: PAM always reads it from its own file.
    """
    names = {}
    for name in stored:
        bare = name.removeprefix("model.")
        if not is_frozen_copy(name):
            names[bare if bare.startswith(_VISION) else name] = name
    return names


def _resized(shape: Shape, rows: int, name: str) -> Shape:
    return (rows, *shape[1:]) if name in (TABLE, HEAD) and len(shape) == 2 else shape
