"""What the parts share: the loaded model, its timer, pictures and prompts, and the floors of its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from benchmarks.bounds import Machine, operations
from benchmarks.gpu.rows import Timer
from benchmarks.pictures import PICTURE, boxes
from model import Embedding, PerceiveAnything, Prompt, Region, Sampling, Task, Texts

TASKS = (Task.RECOGNIZE, Task.BRIEF)
TOKENS = 24
"""Of each text; random weights say nothing, so they hardly ever end by themselves."""


@dataclass(frozen=True)
class Bench:
    """A checkpoint, where it runs, and how large the work is.

    Attributes:
        folder: of the checkpoint.
        device: where.
        dtype: by name; "auto" as the product does it.
        most: regions and rows at most, to keep a trial on a CPU short.
        compile: load it with `--compile`.
        resident: as `from_pretrained` has it.
    """

    folder: str
    device: torch.device
    dtype: str = "auto"
    most: int = 128
    compile: bool = False
    resident: bool | None = None

    @cached_property
    def pam(self) -> PerceiveAnything:
        """The model, loaded when it is first asked for."""
        return PerceiveAnything.from_pretrained(
            self.folder, device=self.device, dtype=self.dtype, compile=self.compile, resident=self.resident
        )

    @cached_property
    def timer(self) -> Timer:
        return Timer(self.device)

    @cached_property
    def machine(self) -> Machine:
        return Machine.measure(self.device, self.pam.dtype)

    @cached_property
    def picture(self) -> Image.Image:
        return Image.open(PICTURE).convert("RGB")

    def sized(self, width: int, height: int) -> Image.Image:
        """The picture at another size."""
        return self.picture.resize((width, height))

    def pictures(self, count: int) -> list[Image.Image]:
        """Different pictures of one size."""
        pixels = np.asarray(self.picture)
        return [Image.fromarray(np.roll(pixels, 20 * number, axis=1)) for number in range(count)]

    def prompts(self, count: int) -> list[Prompt]:
        """Boxes from a fixed seed."""
        return boxes(*self.picture.size, count)

    @cached_property
    def embedding(self) -> Embedding:
        return self.pam.encode(self.picture)

    def regions(self, count: int) -> list[Region]:
        return self.pam.segment(self.embedding, self.prompts(count))

    def texts(self, regions: Sequence[Region], tasks: Sequence[Task] = TASKS[:1], tokens: int = TOKENS) -> list[Texts]:
        """Texts of so many tokens."""
        return self.pam.describe(regions, tasks, sampling=Sampling(max_new_tokens=tokens))

    @cached_property
    def weight_bytes(self) -> int:
        """Of the language model: what each token has to read."""
        return sum(w.numel() * w.element_size() for w in self.pam.language.model.parameters())

    @property
    def token_floor_ms(self) -> float:
        """Of a token: reading the weights once."""
        return self.weight_bytes / self.machine.bytes_per_s * 1000

    def floor_ms(self, work: object) -> float:
        """Of work that is bound by arithmetic, a callable: its counted operations at the card's best."""
        return operations(work) / self.machine.operations_per_s * 1000  # type: ignore[arg-type]
