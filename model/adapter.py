"""A version of a model: what was learned on top of a base, a few MB that are put into its weights and taken out again.

Two parts, either of which may be missing: LoRA matrices of the language model and the projectors (`words.`), in the
names of the `peft` package; and new weights of the mask decoder's head (`masks.`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from model.errors import AdapterError
from model.language.qwen import Language
from model.perceiver import Vision
from model.sam.tower import Tower

MASKS, WORDS = "masks.", "words."
HEAD = ("output_upscaling.", "output_hypernetworks_mlps.0.")
"""What of SAM 2's mask decoder a version may change: what turns the features that the words are read from into a mask,
not those features."""

MOST_BYTES = 256 << 20
_FORMAT = "pallas-adapter-1"
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, eq=False)
class Adapter:
    """One version.

    Attributes:
        name: what follows the base's version and a plus sign, e.g. `project-7.3`.
        base: version of the model that it was learned on.
        tensors: by name, on the CPU.
        scale: that the product of two LoRA matrices is multiplied by.
        card: what else is known of it: figures, when, of what; JSON values.
    """

    name: str
    base: str
    tensors: Mapping[str, torch.Tensor]
    scale: float = 1.0
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        return f"{self.base}+{self.name}"

    def to_bytes(self) -> bytes:
        """A safetensors file, its card in the header."""
        said = {"format": _FORMAT, "name": self.name, "base": self.base, "scale": repr(self.scale)}
        return save(dict(self.tensors), said | {"card": json.dumps(dict(self.card), sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "the adapter") -> Adapter:
        """What `to_bytes` made.

        Raises:
            AdapterError: it is something else, or damaged.
        """
        if len(data) > MOST_BYTES:
            raise AdapterError(f"{source} has {len(data)} bytes, an adapter at most {MOST_BYTES}: it is none of ours")
        try:
            length = int.from_bytes(data[:8], "little")
            said = json.loads(data[8 : 8 + length])["__metadata__"]
            if said["format"] != _FORMAT:
                raise ValueError(f"its format is {said['format']!r}, not {_FORMAT!r}")
            tensors = load(data)
            if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
                raise ValueError("numbers in it are not finite")
            return cls(said["name"], said["base"], tensors, float(said["scale"]), json.loads(said["card"]))
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise AdapterError(
                f"{source} cannot be used ({type(error).__name__}: {str(error)[:200]}): it is damaged or no adapter; "
                "delete its folder, or copy it anew"
            ) from None

    @classmethod
    def read(cls, path: Path) -> Adapter:
        """Of a file. Raises AdapterError."""
        try:
            if path.stat().st_size > MOST_BYTES:
                raise AdapterError(f"{path} is larger than {MOST_BYTES} bytes: it is no adapter of ours")
            data = path.read_bytes()
        except OSError as error:
            raise AdapterError(f"{path} cannot be read ({error.strerror}): the version's folder is damaged") from None
        return cls.from_bytes(data, str(path))

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of its numbers."""
        found = hashlib.sha256()
        for name in sorted(self.tensors):
            found.update(name.encode())
            found.update(self.tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:8]


class Wardrobe:
    """Puts adapters into the weights of one model, in place, and the base's own numbers back.

    The base's numbers of what an adapter ever changed are kept in host memory, so that what is put back is the base to
    the last bit. Captured graphs and joined weights stay right: no tensor moves.
    """

    def __init__(self, tower: Tower, vision: Vision, language: Language) -> None:
        self._decoder: nn.Module = tower.sam.sam_mask_decoder
        self._words = speaking(language, vision)
        self._base: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by id: each weight, and what it was
        self._changed: set[int] = set()

    @torch.no_grad()
    def put_on(self, adapter: Adapter) -> None:
        """In place of whatever is on.

        Raises:
            AdapterError: it does not fit this model; the base is on then.
        """
        self.take_off()
        for weight, change in self._planned(adapter):
            if id(weight) not in self._base:
                self._base[id(weight)] = weight, weight.detach().to("cpu", copy=True)
            self._changed.add(id(weight))
            weight.copy_(change)

    @torch.no_grad()
    def take_off(self) -> None:
        """The base again."""
        for weight, before in (self._base[key] for key in self._changed):
            weight.copy_(before)
        self._changed.clear()

    def _planned(self, adapter: Adapter) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each weight that changes, and its new numbers: all that can be wrong is wrong here."""
        planned = []
        for name, tensor in adapter.tensors.items():
            if name.startswith(MASKS):
                weight = self._head(name.removeprefix(MASKS))
                if weight is None or weight.shape != tensor.shape:
                    raise self._unfit(adapter, name)
                planned.append((weight, tensor))
            elif name.startswith(WORDS) and name.endswith(_B):
                layer = self._layer(name.removeprefix(WORDS).removesuffix(_B))
                down = adapter.tensors.get(name.removesuffix(_B) + _A)
                if layer is None or down is None or (len(tensor), down.shape[1]) != tuple(layer.weight.shape):
                    raise self._unfit(adapter, name)
                if tensor.shape[1] != len(down):
                    raise self._unfit(adapter, name)
                device = layer.weight.device
                change = tensor.to(device).float() @ down.to(device).float() * adapter.scale
                planned.append((layer.weight, layer.weight.float() + change))
            elif not (name.startswith(WORDS) and name.endswith(_A)):
                raise self._unfit(adapter, name)
        return planned

    def _head(self, name: str) -> torch.Tensor | None:
        return dict(self._decoder.named_parameters()).get(name) if name.startswith(HEAD) else None

    def _layer(self, name: str) -> nn.Linear | None:
        try:
            layer = self._words.get_submodule(name)
        except AttributeError:
            return None
        return layer if isinstance(layer, nn.Linear) else None

    def _unfit(self, adapter: Adapter, name: str) -> AdapterError:
        eight = (
            ""
            if isinstance(self._layer("language.model.layers.0.self_attn.q_proj"), nn.Linear)
            else (" (a language model in eight bits, PALLAS_QUANTIZE, takes no adapters)")
        )
        return AdapterError(
            f"{adapter.name} does not fit this model at {name}{eight}: it was learned on {adapter.base}"
        )


def speaking(language: Language, vision: Vision) -> nn.Module:
    """What LoRA names its layers from: the language model as `language`, perceiver and projectors as `vision`."""
    whole = nn.Module()
    whole.language, whole.vision = language.model, vision
    return whole
