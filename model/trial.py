"""A first click with a model: does it load here, how long does it take, and is what it says an answer at all?

Whether the answer is right nobody can tell here; what is caught are numbers that overflowed, a mask of nothing or of
everything, and words without an end, as a wrong dtype, driver or weight file gives.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model.compute.clock import Span
from model.pam import PerceiveAnything
from model.values.embedding import Embedding
from model.values.image import open_picture
from model.values.prompt import Prompt
from model.values.region import Region, Text, Texts
from model.values.sampling import GREEDY, Sampling
from model.values.task import Task

PICTURE = Path(__file__).parent.parent / "demo" / "pictures" / "coffee.jpg"
BOX = (170, 10, 410, 310)
"""Around the cup of that photograph, pixels."""

_LEAST_SHARE, _MOST_SHARE = 5e-4, 0.98
"""Of the picture, in a mask that shows something."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What came of it.

    Attributes:
        version: of the model.
        device, dtype: where and how it computed.
        load_s: seconds of loading.
        host_gb: the most host memory that the process ever had.
        device_gb: the most memory on the GPU; None on other devices.
        cold: seconds of the first click by stage: encode, segment, read, answer.
        warm: of a second one, on the picture that is encoded.
        region: of the first click.
        texts: about it.
        faults: what is wrong with it, for people; empty if it is an answer.
    """

    version: str
    device: str
    dtype: str
    load_s: float
    host_gb: float
    device_gb: float | None
    cold: dict[str, float]
    warm: dict[str, float]
    region: Region
    texts: Texts
    faults: tuple[str, ...]

    def report(self) -> str:
        """All of it but the faults, for people."""
        memory = "" if self.device_gb is None else f"{self.device_gb:.1f} GB on the device, "
        clicks = {"first click": self.cold, "next one": self.warm}
        return "\n".join(
            [
                f"{self.version} on {self.device}, {self.dtype}: loaded in {self.load_s:.1f} s; at most {memory}"
                f"{self.host_gb:.1f} GB of host memory",
                f"mask: {100 * self.share:.1f} % of the picture, IoU {self.region.iou:.2f}",
                *(f"{task}: {text.shown}" for task, text in self.texts.items()),
                *(
                    f"{name}: {sum(stages.values()):.2f} s ({', '.join(f'{k} {v:.2f}' for k, v in stages.items())})"
                    for name, stages in clicks.items()
                ),
            ]
        )

    @property
    def share(self) -> float:
        """Of the picture that is in the mask, 0..1."""
        return self.region.area / self.region.mask.size


def try_model(
    load: Callable[[], PerceiveAnything],
    picture: Image.Image | np.ndarray | None = None,
    prompt: Prompt | None = None,
    tasks: Sequence[Task | str] = (Task.RECOGNIZE, Task.BRIEF),
    sampling: Sampling = GREEDY,
) -> Trial:
    """Load a model and click twice.

    Args:
        load: makes the model.
        picture: as of `PerceiveAnything.encode`; None is a photograph of a cup, of the demo.
        prompt: the click; None is a box around that cup.
        tasks: what is asked about the region.
        sampling: how answers are drawn.

    Raises:
        ModelError: it cannot be loaded, or the prompt does not fit the picture.
    """
    picture = open_picture(PICTURE) if picture is None else picture
    prompt = Prompt(box=BOX) if prompt is None else prompt
    started = time.perf_counter()
    pam = load()
    if pam.device.type == "cuda":
        torch.cuda.synchronize(pam.device)
    load_s = time.perf_counter() - started
    begin = pam.clock.now()
    embedding = pam.encode(picture)
    encode_s = pam.clock.since(begin).seconds()
    region, texts, cold = _click(pam, embedding, prompt, tasks, sampling)
    _, _, warm = _click(pam, embedding, prompt, tasks, sampling)
    on_gpu = pam.device.type == "cuda"
    return Trial(
        version=pam.version,
        device=torch.cuda.get_device_name(pam.device) if on_gpu else str(pam.device),
        dtype=str(pam.dtype).removeprefix("torch."),
        load_s=load_s,
        host_gb=_peak_bytes() / 1e9,
        device_gb=torch.cuda.max_memory_allocated(pam.device) / 1e9 if on_gpu else None,
        cold={"encode": encode_s} | cold,
        warm=warm,
        region=region,
        texts=texts,
        faults=tuple(faults(region, texts)),
    )


def faults(region: Region, texts: Texts) -> list[str]:
    """What keeps a region and its texts from being an answer, each with what to try."""
    found = []
    tensors = (region.features.image, region.features.mask_tokens)
    numbers = (region.iou, region.object_score, *(text.mean_logprob for text in texts.values()))
    if not all(map(math.isfinite, numbers)) or not all(bool(tensor.isfinite().all()) for tensor in tensors):
        found.append("numbers that are not finite: this device cannot do this dtype, try --dtype float32")
    share = region.area / region.mask.size
    if not _LEAST_SHARE <= share <= _MOST_SHARE:
        what = "nothing" if share < _LEAST_SHARE else "everything"
        found.append(f"the mask shows {what} ({100 * share:.2f} % of the picture): are these SAM 2's own weights?")
    found += [f"{task}: {fault}" for task, text in texts.items() if (fault := _fault(text))]
    return found


def _fault(text: Text) -> str:
    if not text.string:
        return "says nothing: are these trained weights, and their own tokenizer?"
    if not text.finished:
        return f"goes on without an end after {len(text.token_ids)} tokens: are these trained weights?"
    if "\ufffd" in text.string:
        return "has broken characters: is this the weights' own tokenizer?"
    return ""


def _click(
    pam: PerceiveAnything, embedding: Embedding, prompt: Prompt, tasks: Sequence[Task | str], sampling: Sampling
) -> tuple[Region, Texts, dict[str, float]]:
    """The region, its texts, and seconds by stage."""
    marks = [pam.clock.now()]
    (region,) = pam.segment(embedding, [prompt])
    marks.append(pam.clock.now())
    reading = pam.read([region])
    marks.append(pam.clock.now())
    (texts,) = pam.describe(reading, tasks, sampling=sampling)
    marks.append(pam.clock.now())
    spans = zip(("segment", "read", "answer"), marks, marks[1:], strict=False)
    return region, texts, {stage: Span(begin, end).seconds() for stage, begin, end in spans}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
