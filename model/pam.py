"""The façade: Perceive Anything (PAM, arXiv 2506.05302) for pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model.attention import Prefix
from model.batches import fitting, in_batches
from model.checkpoint import Checkpoint
from model.device import pick_device, pick_dtype
from model.embedding import Embedding
from model.image import as_rgb
from model.language import Language, Sampling
from model.likelihood import answer_ids, log_likelihoods
from model.linear import quicken
from model.perceiver import Vision
from model.prompt import Prompt
from model.proposals import Wanted, propose
from model.region import Perception, Region, Text, Texts
from model.task import Task, instruction
from model.tower import Tower

REGIONS_PER_BATCH = 16
"""Regions that go through perceiver and language model together, with all their tasks; fewer where memory is short."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Regions whose prompts have been read: the language model's keys and values, one prefix for each region."""

    regions: tuple[Region, ...]
    prefixes: tuple[Prefix, ...]

    def __len__(self) -> int:
        return len(self.regions)


class PerceiveAnything:
    """Segment, recognize, explain and caption regions of pictures.

    Make one with `from_pretrained`. The methods may be called from several threads; each call is complete in itself.

    Attributes:
        name: the name or folder it was loaded from.
        version: `<name>@<fingerprint>`, changes only when configuration or weights change.
    """

    def __init__(self, tower: Tower, vision: Vision, language: Language, name: str = "pam", version: str = "") -> None:
        self.tower = tower
        self.vision = vision
        self.language = language
        self.name = name
        for module in (tower.sam, vision, language.model):
            quicken(module)
        self.version = version or name

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        sam2_checkpoint: str | Path | None = None,
        sam2_config: str | Path | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> PerceiveAnything:
        """Load a published checkpoint, or one in the same layout.

        Args:
            folder_or_id: a folder, a name of `model.hub.KNOWN` or of a bundled checkpoint, or a Hugging Face hub id.
            sam2_checkpoint: SAM 2's weights; None takes those in the folder, else facebook/sam2.1-hiera-large.
            sam2_config: the Hydra YAML that fits them, a path or a name of the `sam2` package; None finds it.
            device: "auto" (cuda, mps, cpu in this order), "cuda", "cuda:1", "mps", "cpu".
            dtype: "auto" (bfloat16 on GPUs that have it, float16 on others, float32 on the CPU), or one of these.

        Raises:
            CheckpointError: something is missing, damaged or does not fit; the message names the file and the fix.
            DeviceError: the machine has no such device, or it cannot do this dtype.
        """
        place = pick_device(device)
        kind = pick_dtype(dtype, place)
        checkpoint = Checkpoint.find(folder_or_id, sam2_checkpoint, sam2_config)
        vision, language = checkpoint.load_language(place, kind)
        tower = Tower(checkpoint.load_sam2(place), kind)
        name = Path(folder_or_id).name
        return cls(tower, vision, language, name, f"{name}@{checkpoint.fingerprint()}")

    @property
    def device(self) -> torch.device:
        return self.tower.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the language model and the perceiver; SAM 2's weights are float32 (see `model.tower`)."""
        return self.vision.dtype

    def encode(self, image: Image.Image | np.ndarray) -> Embedding:
        """Encode a picture once for any number of prompts.

        Args:
            image: a PIL picture (its EXIF orientation is applied), or an upright array (H, W, 3) uint8 RGB.

        Raises:
            PictureError: it is neither.
        """
        return self.tower.encode(as_rgb(image))

    def segment(self, embedding: Embedding, prompts: Sequence[Prompt], refine_masks: bool = False) -> list[Region]:
        """One region for each prompt, in their order.

        Args:
            embedding: from `encode` of this model.
            prompts: points, boxes or masks, in pixels of the original picture.
            refine_masks: regions of mask prompts carry SAM 2's refined mask instead of the given one.

        Raises:
            PromptError: a prompt does not lie on the picture.
        """
        for prompt in prompts:
            prompt.check_inside(embedding.width, embedding.height)
        return self.tower.segment(self._here(embedding), prompts, refine_masks)

    def propose(
        self,
        embedding: Embedding,
        points_per_side: int = 16,
        min_iou: float = 0.7,
        min_stability: float = 0.7,
        max_overlap: float = 0.6,
        min_area_share: float = 0.001,
        limit: int = 64,
    ) -> list[Region]:
        """Regions of a picture without a prompt: a grid of clicks, of which the good and different answers stay.

        Args:
            embedding: from `encode` of this model.
            points_per_side: clicks along each side, evenly spread.
            min_iou: of SAM 2's own estimate, 0..1. The defaults suit the bundled checkpoint; for its released weights
                SAM 2 uses 0.8.
            min_stability: IoU of the mask with its logits' threshold at 1 and at -1, 0..1; SAM 2 uses 0.95 for those.
            max_overlap: IoU of two masks above which the one with the lower predicted IoU is dropped.
            min_area_share: of the picture, 0..1.
            limit: regions at most.

        Returns:
            Regions by predicted IoU, the best first; the prompt of each is its click.

        Raises:
            ValueError: a number out of its range.
        """
        wanted = Wanted(points_per_side, min_iou, min_stability, max_overlap, min_area_share, limit)
        return propose(self.tower, self._here(embedding), wanted)

    def _here(self, embedding: Embedding) -> Embedding:
        return embedding if embedding.device == self.device else embedding.to(self.device)

    def describe(
        self,
        regions: Sequence[Region] | Reading,
        tasks: Sequence[Task | str] = (Task.RECOGNIZE, Task.BRIEF),
        language: str = "en",
        temperature: float = 0.0,
        max_new_tokens: int = 64,
        repetition_penalty: float | None = None,
        seed: int | None = None,
    ) -> list[Texts]:
        """The texts of each region by task, regions and tasks in their order.

        Args:
            regions: from `segment` of this model, or read already (`read`).
            tasks: `Task`s (or their values); any other string is asked as it stands.
            language: "en" or "zh".
            temperature: 0 is greedy.
            max_new_tokens: of each text, the end token included.
            repetition_penalty: None takes the checkpoint's generation_config.json.
            seed: for temperature > 0.

        Raises:
            ValueError: an unknown language, an empty instruction, or a number out of its range.
        """
        sampling = Sampling(temperature, max_new_tokens, repetition_penalty, seed)
        wanted = list(dict.fromkeys(_task(task) for task in tasks))
        instructions = [instruction(task, language) for task in wanted]

        def texts(part: Sequence[Prefix]) -> list[Texts]:
            answers = self.language.answer(Prefix.join(part), instructions, sampling)
            return [
                {
                    task: Text(task, language, a.string, a.token_ids, a.mean_logprob, a.finished)
                    for task, a in zip(wanted, row, strict=True)
                }
                for row in answers
            ]

        reading = self._read(regions)
        rows = fitting(self.device, self.language.bytes_of(max_new_tokens) * max(1, len(wanted)), REGIONS_PER_BATCH)
        return in_batches(reading.prefixes, texts, rows)

    def score(
        self,
        regions: Sequence[Region] | Reading,
        candidates: Sequence[str],
        task: Task | str = Task.RECOGNIZE,
        language: str = "en",
    ) -> np.ndarray:
        """How likely each candidate is as the whole answer about each region: to choose among given labels.

        Args:
            regions: from `segment` of this model, or read already (`read`).
            candidates: at least one answer, each as the model would write it ("dog", not " Dog ").
            task: a `Task` (or its value); any other string is asked as it stands.
            language: "en" or "zh", of the instruction.

        Returns:
            (R, N) float32, natural-log likelihoods <= 0, the end token counted; `exp` gives probabilities, which sum to
            less than 1 since the model may say something else. A longer answer is less likely by its length alone.

        Raises:
            ValueError: no candidates, one without tokens, an unknown language, an empty instruction, or a checkpoint
                without an end token.
        """
        asked = instruction(_task(task), language)
        answers = answer_ids(self.language, candidates)

        def scores(part: Sequence[Prefix]) -> list[np.ndarray]:
            prefix = Prefix.join(part)
            found = log_likelihoods(self.language, prefix, self.language.question_ids(prefix, asked), answers)
            return list(found.float().cpu().numpy())

        rows = in_batches(self._read(regions).prefixes, scores, REGIONS_PER_BATCH)
        return np.array(rows, dtype=np.float32).reshape(len(rows), len(answers))

    def read(self, regions: Sequence[Region]) -> Reading:
        """Read the prompts of regions once, for any number of calls of `describe` and `score` about them.

        What is read takes memory on the device as long as it is kept: two vectors a layer and token.
        """

        def prefixes(part: Sequence[Region]) -> list[Prefix]:
            return self.language.read(self.image_blocks(part)).split()

        return Reading(tuple(regions), tuple(in_batches(regions, prefixes, REGIONS_PER_BATCH)))

    def _read(self, regions: Sequence[Region] | Reading) -> Reading:
        return regions if isinstance(regions, Reading) else self.read(regions)

    def perceive(
        self,
        image_or_embedding: Image.Image | np.ndarray | Embedding,
        prompts: Sequence[Prompt],
        tasks: Sequence[Task | str] = (Task.RECOGNIZE, Task.BRIEF),
        language: str = "en",
        temperature: float = 0.0,
        max_new_tokens: int = 64,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        refine_masks: bool = False,
    ) -> Perception:
        """Encode (unless an embedding is given), segment and describe in one call; arguments as in the three verbs."""
        begin = time.perf_counter()
        if isinstance(image_or_embedding, Embedding):
            embedding, encode_s = image_or_embedding, 0.0
        else:
            embedding = self.encode(image_or_embedding)
            encode_s = time.perf_counter() - begin
        encoded = time.perf_counter()
        regions = self.segment(embedding, prompts, refine_masks)
        segmented = time.perf_counter()
        texts = self.describe(regions, tasks, language, temperature, max_new_tokens, repetition_penalty, seed)
        seconds = {
            "encode": encode_s,
            "segment": segmented - encoded,
            "describe": time.perf_counter() - segmented,
        }
        return Perception(embedding, regions, texts, seconds)

    @torch.no_grad()
    def image_blocks(self, regions: Sequence[Region]) -> torch.Tensor:
        """The vectors that stand for each region in the language model's prompt: (R, K, hidden), K = (n/2)² + 18."""
        image = torch.stack([region.features.image for region in regions])
        tokens = torch.stack([region.features.mask_tokens for region in regions])
        return self.vision(image, tokens)


def _task(task: Task | str) -> Task | str:
    try:
        return Task(task)
    except ValueError:
        return task
