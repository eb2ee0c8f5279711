"""Reading regions: each one's prompt goes through the language model once, whatever is then asked about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from model.compute.batches import batch_by_batch, fitting, in_batches
from model.language.prefix import Prefix
from model.language.qwen import Language
from model.perceiver import Vision
from model.values.region import Segment

REGIONS_ON_CPU, REGIONS_ON_GPU = 8, 64
"""Regions that are answered together with all their tasks, at most; fewer where memory is short.

On a CPU more would only take memory: eight rows already share each reading of the weights.
"""

ANSWERED_ON_CPU = 3 << 10
"""Prompt tokens that may be answered together there all the same: of small models a step costs more to call than to
compute."""

TOKENS_ON_CPU, TOKENS_ON_GPU = 1 << 10, 1 << 15
"""Prompt tokens that are read together, at most; a CPU is busy with those of one region."""

Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Reading:
    """Regions whose prompts have been read: the language model's keys and values of them."""

    regions: tuple[Segment, ...]
    prefix: Prefix

    def __len__(self) -> int:
        return len(self.regions)

    def take(self, rows: Sequence[int]) -> Reading:
        """Of some regions only, by their numbers."""
        if list(rows) == list(range(len(self))):
            return self
        numbers = torch.tensor(list(rows), dtype=torch.long, device=self.prefix.device)
        return Reading(tuple(self.regions[i] for i in rows), self.prefix.take(numbers))


class Reader:
    """Reads as many regions at a time as memory has room for.

    Args:
        vision: the Semantic Perceiver and the projectors.
        language: the language model.
        side: of the image features, n.
    """

    def __init__(self, vision: Vision, language: Language, side: int) -> None:
        self._vision = vision
        self._language = language
        self._tokens = vision.length(side)
        self._bytes_each = language.bytes_to_read(self._tokens) + vision.bytes_each(side)

    def read(self, regions: Sequence[Segment]) -> Reading:
        """All of them."""

        def prefix(part: Sequence[Segment]) -> Prefix:
            return self._language.read(self._vision.blocks([region.features for region in part]))

        together = (TOKENS_ON_CPU if self._on_cpu else TOKENS_ON_GPU) // self._tokens
        parts = batch_by_batch(regions, prefix, self._fitting(max(1, together)))
        return Reading(tuple(regions), Prefix.join(parts, len(regions)))

    def readings(self, regions: Sequence[Segment]) -> Iterator[Reading]:
        """As many as memory has room for, then the next ones: all of them, in their order."""
        most = max(REGIONS_ON_CPU, ANSWERED_ON_CPU // self._tokens) if self._on_cpu else REGIONS_ON_GPU
        return batch_by_batch(regions, self.read, self._fitting(most))

    def of_each(
        self,
        regions: Sequence[Segment] | Reading,
        work: Callable[[Prefix], Sequence[Found]],
        bytes_each: int,
        besides: int = 0,
    ) -> list[Found]:
        """The results of work on as many regions' prefixes at a time as fit, one result for each region.

        Args:
            regions: read already or not.
            work: on the prefix of R regions: R results.
            bytes_each: what a region takes meanwhile.
            besides: what however many take.
        """
        if not isinstance(regions, Reading):
            found: list[Found] = []
            for reading in self.readings(regions):
                found += self.of_each(reading, work, bytes_each, besides)
                del reading  # the next regions are read now
            return found
        prefix = regions.prefix
        numbers = range(len(regions))
        most = fitting(self._vision.device, bytes_each, max(1, len(regions)), besides)
        return in_batches(numbers, lambda part: work(prefix.part(part[0], part[-1] + 1)), most)

    def _fitting(self, most: int) -> int:
        return fitting(self._vision.device, self._bytes_each, most)

    @property
    def _on_cpu(self) -> bool:
        return self._vision.device.type == "cpu"
