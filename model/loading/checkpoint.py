"""A PAM checkpoint on disk: the published Hugging Face folder and the SAM 2 weights that go with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from model.errors import CheckpointError
from model.language.qwen import Language
from model.language.unsure import Unsure
from model.loading import hub
from model.loading.folder import model_folder, read_json
from model.loading.frozen_copy import compare
from model.loading.plan import HEAD, TABLE, Plan
from model.loading.sam import build_sam2, check_sam2, find_config, packaged_config
from model.loading.weights import Tensors, list_folder, shapes_of
from model.perceiver import Vision

_SAM2_NAMES = ("sam2.safetensors", "sam2.pt", hub.SAM2_FILE)


@dataclass(frozen=True)
class Checkpoint:
    """Where the parts of a model lie.

    Attributes:
        folder: the Hugging Face folder (config.json, weights, tokenizer).
        sam2_weights: SAM 2's .pt or .safetensors, or a PAM folder with a copy in its shards.
        sam2_config: the Hydra YAML that fits them.
        name: what to call it; see `hub.Location`.
        commit: of the hub's repository that the folder is of; None for other folders.
    """

    folder: Path
    sam2_weights: Path
    sam2_config: Path
    name: str
    commit: str | None = None

    @classmethod
    def find(
        cls, name: str | Path, sam2_checkpoint: str | Path | None = None, sam2_config: str | Path | None = None
    ) -> Checkpoint:
        """Resolve a model's name and its SAM 2 files.

        Args:
            name: see `hub.resolve`.
            sam2_checkpoint: SAM 2's weights, or a PAM folder whose shards hold a copy of them; None looks in the
                model's folder, then in the one around it (as the published repositories and their clones lie), then on
                the hub.
            sam2_config: a YAML file or a name of the `sam2` package's; None finds what fits the weights.

        Raises:
            CheckpointError: something is not there; the message says what.
        """
        place = hub.resolve(name)
        folder = place.folder
        # read before SAM 2 is looked for, so that a wrong folder does not start a download
        read_json(folder / "config.json")
        if sam2_checkpoint is not None:
            weights = Path(sam2_checkpoint).expanduser()
            if weights.is_dir():
                weights = model_folder(weights) or weights
            elif not weights.is_file():
                raise CheckpointError(f"{weights} is missing: sam2_checkpoint (--sam2) must name SAM 2's weight file")
        else:
            near = [at / file for at in (folder, folder.parent) for file in _SAM2_NAMES if (at / file).is_file()]
            weights = near[0] if near else hub.fetch_sam2()
        if sam2_config is None:
            config = find_config(weights)
        else:
            config = Path(sam2_config).expanduser()
            config = config if config.is_file() else packaged_config(str(sam2_config))
        return cls(folder, weights, config, place.name, place.commit)

    @property
    def version(self) -> str:
        """The name with the fingerprint: it changes only when configuration or weights change."""
        return f"{self.name}{'-' if '@' in self.name else '@'}{self.fingerprint()}"

    def fingerprint(self) -> str:
        """Eight hex digits that change when the configuration or the weight files change (names and sizes)."""
        settings = (self.folder / "config.json", self.folder / "generation_config.json", self.sam2_config)
        parts = [file.read_bytes() for file in settings if file.is_file()]
        weights = [*self.folder.glob("*.safetensors"), *self.folder.glob("*.bin")]
        if self.sam2_weights.is_dir():
            parts.append(b"its own SAM 2")
        else:
            weights.append(self.sam2_weights)
        # by name: wherever the hub's cache lies, the same weights have the same fingerprint
        for file in sorted(weights, key=lambda file: file.name):
            parts.append(f"{file.name}:{file.stat().st_size}".encode())
            with file.open("rb") as data:
                parts.append(data.read(1 << 20))
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:8]

    def load_sam2(self, device: torch.device) -> SAM2Base:
        """SAM 2 in float32; see `build_sam2`. Where the folder has a copy of another one, a warning says so."""
        compare(list_folder(self.folder), self.sam2_weights)
        return build_sam2(self.sam2_config, self.sam2_weights, device)

    def load_language(
        self, device: torch.device, dtype: torch.dtype, shrink: Callable[[nn.Module], None] | None = None
    ) -> tuple[Vision, Language]:
        """The Semantic Perceiver with its projectors, and the language model.

        Weights go to the device one by one, as they are read: host memory holds the largest of them.

        Args:
            device: where they go.
            dtype: of both.
            shrink: replaces layers of the language model while they have the dtype of the files; the rest is cast then.

        Raises:
            CheckpointError: a file is missing or damaged, or the tensors do not fit config.json.
        """
        plan = Plan.of(self.folder)
        vision_tensors: Tensors = {}
        qwen_tensors: Tensors = {}
        wanted = shapes_of(plan.vision)
        for name, tensor in plan.weights.read():
            if name in wanted:
                vision_tensors[name] = tensor.to(device)
            else:
                moved = tensor.to(device) if shrink is not None else tensor.to(device).to(dtype)
                qwen_tensors[name] = _resize(moved, plan.rows) if name in (TABLE, HEAD) else moved
        qwen_tensors.setdefault(HEAD, qwen_tensors[TABLE])
        vision, model = plan.vision, plan.qwen
        vision.load_state_dict(vision_tensors, assign=True)
        model.load_state_dict(qwen_tensors, assign=True)
        model.tie_weights()
        if shrink is not None:
            shrink(model)
            nn.Module.to(model, dtype)
        # its frequencies are no parameters, so the meta device left them empty
        model.model.rotary_emb = Qwen2RotaryEmbedding(config=model.config).to(device)
        defaults, unsure = _generation_defaults(self.folder, plan.settings, plan.tokenizer)
        longest = int(plan.settings.get("tokenizer_model_max_length") or 12288)
        language = Language(model, plan.tokenizer, defaults, longest, unsure)
        return vision.cast(dtype).eval().requires_grad_(False), language

    def check(self) -> None:
        """Everything that loading does but reading the weights.

        Raises:
            CheckpointError: it would not load; the message names the file and the fix.
        """
        plan = Plan.of(self.folder)
        _generation_defaults(self.folder, plan.settings, plan.tokenizer)
        check_sam2(self.sam2_config, self.sam2_weights)
        compare(list_folder(self.folder), self.sam2_weights)


def _generation_defaults(
    folder: Path, settings: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> tuple[GenerationConfig, Unsure | None]:
    path = folder / "generation_config.json"
    values = read_json(path) if path.is_file() else {"eos_token_id": settings.get("eos_token_id")}
    values.pop("transformers_version", None)
    # not transformers' own: it would keep the entry without checking it
    entry = values.pop("unsure", None)
    return GenerationConfig(**values), None if entry is None else Unsure.read(entry, tokenizer, path)


def _resize(rows: torch.Tensor, count: int) -> torch.Tensor:
    """A table of as many words: generate() must not see the padding rows beyond the tokenizer, never trained."""
    if len(rows) >= count:
        return rows[:count]
    return torch.cat([rows, rows.float().mean(0, keepdim=True).to(rows.dtype).expand(count - len(rows), -1)])
