"""What comes out: regions with their masks, and the texts about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from model.values.embedding import Embedding
from model.values.mask import Box, mask_box, to_coco_rle
from model.values.prompt import Prompt
from model.values.task import Task, VideoTask
from model.values.window import Window


@dataclass(frozen=True, eq=False)
class RegionFeatures:
    """What the Semantic Perceiver reads of a region; the tensors stay on the model's device.

    Attributes:
        image: (256, n, n), the image side of the mask decoder's transformer: it depends on the prompt.
        mask_tokens: (2, 256), the stable-or-best mask token, then mask token 0.
    """

    image: torch.Tensor
    mask_tokens: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.image.nbytes + self.mask_tokens.nbytes


@dataclass(frozen=True, eq=False, kw_only=True)
class Segment:
    """What SAM 2 sees of one thing in one picture, or in one frame of a video.

    Attributes:
        mask: boolean (H, W), at the size of the original picture.
        low_res: float32 (4n, 4n), SAM 2's low-res mask logits (256×256 for the published weights), on the model's
            device; all -1024 where the object score says that nothing is there.
        iou: SAM 2's own estimate of the mask's IoU, 0..1.
        object_score: raw logit; <= 0 means that the model sees no object at the prompt, and the mask is then empty.
        stability: IoU of the mask with its logits' threshold at 1 and at -1, 0..1: how sharp its edge is; 0 of an empty
            mask.
        features: what `describe` needs.
        window: the part of a large picture that it was seen in, and that `low_res` and `features` are of; None: all.
    """

    mask: np.ndarray = field(repr=False)
    low_res: torch.Tensor = field(repr=False)
    iou: float
    object_score: float
    stability: float
    features: RegionFeatures = field(repr=False)
    window: Window | None = None

    @property
    def mask_logits(self) -> np.ndarray:
        """`low_res` on the host, which waits for the device."""
        return self.low_res.cpu().numpy()

    @property
    def box(self) -> Box | None:
        """The box of the mask (x1, y1, x2, y2), pixels; None where the mask is empty."""
        return mask_box(self.mask)

    @property
    def area(self) -> int:
        """Pixels in the mask."""
        return int(np.count_nonzero(self.mask))


@dataclass(frozen=True, eq=False, kw_only=True)
class Region(Segment):
    """A segment that answers a prompt.

    Attributes:
        prompt: the prompt it answers.
        embedding: of the picture; None in a video, where it would keep all frames' in memory.
    """

    prompt: Prompt
    embedding: Embedding | None = field(default=None, repr=False)

    @classmethod
    def of(cls, segment: Segment, prompt: Prompt, embedding: Embedding | None = None) -> Region:
        """A segment as the answer to a prompt."""
        return cls(
            prompt=prompt,
            embedding=embedding,
            mask=segment.mask,
            low_res=segment.low_res,
            iou=segment.iou,
            object_score=segment.object_score,
            stability=segment.stability,
            features=segment.features,
            window=segment.window,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Found(Region):
    """A region that was looked for.

    Attributes:
        score: how sure it is that this is one, 0..1.
    """

    score: float

    @classmethod
    def scored(cls, region: Region, score: float) -> Found:
        """A region with its score."""
        return cls(**{one.name: getattr(region, one.name) for one in fields(region)}, score=score)


@dataclass(frozen=True)
class Text:
    """One answer of the language model about one region.

    Attributes:
        task: the task, or the free instruction, that was asked.
        language: "en" or "zh".
        string: the answer, without special tokens and surrounding blanks.
        token_ids: the answer's tokens, the end token not among them.
        mean_logprob: mean natural log-probability of the generated tokens (the end token too), <= 0; before any
            repetition penalty or temperature.
        finished: False where the answer was cut at its limit of tokens.
    """

    task: Task | VideoTask | str
    language: str
    string: str
    token_ids: tuple[int, ...]
    mean_logprob: float
    finished: bool

    def __str__(self) -> str:
        return self.string

    @property
    def shown(self) -> str:
        """For people: the answer, and that it was cut, if it was."""
        return self.string if self.finished else f"{self.string} … (cut off after {len(self.token_ids)} tokens)"


Texts = dict[Task | VideoTask | str, Text]
"""The texts of one region by task, in the order asked."""


@dataclass(frozen=True, eq=False)
class Perception:
    """Regions and their texts, one entry of `texts` for each region.

    Attributes:
        embedding: of the picture, to be used again for the next prompt.
        regions: in the order of the prompts.
        texts: for each region, its texts by task.
        seconds: wall-clock time by stage: encode, segment, describe.
    """

    embedding: Embedding
    regions: list[Region]
    texts: list[Texts]
    seconds: dict[str, float]

    def __iter__(self) -> Iterator[tuple[Region, Texts]]:
        return iter(zip(self.regions, self.texts, strict=True))


def region_to_json(region: Region, texts: Texts) -> dict[str, Any]:
    """A region as JSON values: mask (COCO compressed RLE), box, area, iou, object_score, texts by task."""
    return {
        "mask": to_coco_rle(region.mask),
        "box": region.box,
        "area": region.area,
        "iou": region.iou,
        "object_score": region.object_score,
        "texts": {
            str(task): {
                "text": text.string,
                "token_ids": list(text.token_ids),
                "mean_logprob": text.mean_logprob,
                "finished": text.finished,
                "language": text.language,
            }
            for task, text in texts.items()
        },
    }
