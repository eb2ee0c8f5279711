"""A PAM checkpoint on disk: the published Hugging Face folder and the SAM 2 weights that go with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from model.errors import CheckpointError
from model.language.qwen import Language
from model.language.unsure import Unsure
from model.loading import hub
from model.loading.weights import Tensors, load_into, read_folder, read_json
from model.perceiver import Vision
from model.sam.build import build_sam2, find_config, packaged_config

_VISION = (
    "vision_resampler.",
    "mm_projector_img.",
    "mm_projector_semT.",
    "image_newline",
    "semT_newline",
    "frame_newline",
)
_SAM2_NAMES = ("sam2.safetensors", "sam2.pt", hub.SAM2_FILE)


@dataclass(frozen=True)
class Checkpoint:
    """Where the parts of a model lie.

    Attributes:
        folder: the Hugging Face folder (config.json, weights, tokenizer).
        sam2_weights: SAM 2's .pt or .safetensors.
        sam2_config: the Hydra YAML that fits them.
    """

    folder: Path
    sam2_weights: Path
    sam2_config: Path

    @classmethod
    def find(
        cls, name: str | Path, sam2_checkpoint: str | Path | None = None, sam2_config: str | Path | None = None
    ) -> Checkpoint:
        """Resolve a model's name and its SAM 2 files (given, in the folder, or from the hub, in this order).

        Raises:
            CheckpointError: something is not there; the message says what.
        """
        folder = hub.resolve(name)
        # read before SAM 2 is looked for, so that a wrong folder does not start a download
        read_json(folder / "config.json")
        if sam2_checkpoint is not None:
            weights = Path(sam2_checkpoint).expanduser()
            if not weights.is_file():
                raise CheckpointError(f"{weights} is missing: sam2_checkpoint (--sam2) must name SAM 2's weight file")
        else:
            inside = [folder / name for name in _SAM2_NAMES if (folder / name).is_file()]
            weights = inside[0] if inside else hub.fetch_sam2()
        if sam2_config is None:
            config = find_config(weights)
        else:
            config = Path(sam2_config).expanduser()
            config = config if config.is_file() else packaged_config(str(sam2_config))
        return cls(folder, weights, config)

    def fingerprint(self) -> str:
        """Eight hex digits that change when the configuration or the weight files change (names and sizes)."""
        settings = (self.folder / "config.json", self.folder / "generation_config.json", self.sam2_config)
        parts = [file.read_bytes() for file in settings if file.is_file()]
        for file in sorted([*self.folder.glob("*.safetensors"), *self.folder.glob("*.bin"), self.sam2_weights]):
            parts.append(f"{file.name}:{file.stat().st_size}".encode())
            with file.open("rb") as data:
                parts.append(data.read(1 << 20))
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:8]

    def load_sam2(self, device: torch.device) -> SAM2Base:
        """SAM 2 in float32; see `model.sam.build.build_sam2`."""
        return build_sam2(self.sam2_config, self.sam2_weights, device)

    def load_language(self, device: torch.device, dtype: torch.dtype) -> tuple[Vision, Language]:
        """The Semantic Perceiver with its projectors, and the language model.

        Raises:
            CheckpointError: a file is missing or damaged, or the tensors do not fit config.json.
        """
        settings = read_json(self.folder / "config.json")
        _check_kind(settings, self.folder)
        tokenizer = _load_tokenizer(self.folder, settings)
        tensors = read_folder(self.folder)
        config = _qwen_config(settings, self.folder)
        fix = f"{self.folder / 'config.json'} and the weights must come from the same download: fetch the folder again"
        vision_tensors, qwen_tensors = _split(tensors)
        with torch.device("meta"):
            vision = Vision(config.hidden_size, int(settings.get("mm_hidden_size", 256)))
        load_into(vision, {k: v.to(device) for k, v in vision_tensors.items()}, self.folder, fix, assign=True)
        model = _load_qwen(config, qwen_tensors, len(tokenizer), self.folder, fix, device, dtype)
        defaults, unsure = _generation_defaults(self.folder, settings, tokenizer)
        longest = int(settings.get("tokenizer_model_max_length") or 12288)
        return vision.cast(dtype).eval().requires_grad_(False), Language(model, tokenizer, defaults, longest, unsure)


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


def _generation_defaults(
    folder: Path, settings: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> tuple[GenerationConfig, Unsure | None]:
    path = folder / "generation_config.json"
    values = read_json(path) if path.is_file() else {"eos_token_id": settings.get("eos_token_id")}
    values.pop("transformers_version", None)
    # not transformers' own: it would keep the entry without checking it
    entry = values.pop("unsure", None)
    return GenerationConfig(**values), None if entry is None else Unsure.read(entry, tokenizer, path)


def _split(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Vision tensors (without `model.`) and Qwen2 tensors; frozen copies of SAM 2 in the folder are left out."""
    vision: Tensors = {}
    qwen: Tensors = {}
    for name, tensor in tensors.items():
        bare = name.removeprefix("model.")
        if bare.startswith("vision_tower."):
            continue  # PAM always reads SAM 2 from its own file
        if bare.startswith(_VISION):
            vision[bare] = tensor
        else:
            qwen[name] = tensor
    return vision, qwen


def _load_qwen(
    config: Qwen2Config,
    tensors: Tensors,
    vocabulary: int,
    folder: Path,
    fix: str,
    device: torch.device,
    dtype: torch.dtype,
) -> Qwen2ForCausalLM:
    config.vocab_size = vocabulary
    # generate() must not see the padding rows beyond the tokenizer: they were never trained
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = _resize(tensors[name], vocabulary)
    if config.tie_word_embeddings and "model.embed_tokens.weight" in tensors:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    load_into(model, {k: v.to(device, dtype) for k, v in tensors.items()}, folder, fix, assign=True)
    model.tie_weights()
    # its frequencies are no parameters, so the meta device left them empty
    model.model.rotary_emb = Qwen2RotaryEmbedding(config=config).to(device)
    return model


def _resize(rows: torch.Tensor, count: int) -> torch.Tensor:
    if len(rows) >= count:
        return rows[:count]
    return torch.cat([rows, rows.float().mean(0, keepdim=True).to(rows.dtype).expand(count - len(rows), -1)])
