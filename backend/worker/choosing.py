"""Which label of a project's closed sets each region gets: by the model's likelihoods and by the label memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from backend.job import Group, LabelReply
from backend.learning.packing import pack_features
from backend.worker.judges import Judges
from backend.worker.replies import best_label

if TYPE_CHECKING:
    import numpy as np

    from model import PerceiveAnything, Reading, Region


class Chooser:
    """Chooses for regions that are read.

    Args:
        pam: the model.
        judges: the label memories; None where there are none.
    """

    def __init__(self, pam: PerceiveAnything, judges: Judges | None) -> None:
        self._pam = pam
        self._judges = judges

    def labels(
        self, reading: Reading, group: Group, memory: str
    ) -> tuple[list[tuple[LabelReply, ...]], np.ndarray | None]:
        """For each region the likeliest label of each set of its group; and the regions' features where they were made.

        Args:
            reading: regions of pictures that are asked the same.
            group: what they are asked.
            memory: as in `JobRequest`.
        """
        judge = self._judges.get(memory) if self._judges is not None and group.label_sets and memory else None
        features = None
        if judge is not None:
            features = self._pam.features(cast("tuple[Region, ...]", reading.regions))
        chosen: list[list[LabelReply]] = [[] for _ in reading.regions]
        for labels in group.label_sets:
            names = list(dict.fromkeys(name for candidate in labels.candidates for name in candidate.names))
            scores = self._pam.score(reading, names, language=labels.language)
            said: Sequence[dict[str, float]] = [{}] * len(chosen)
            if judge is not None and features is not None:
                said = judge.say(features, [candidate.label for candidate in labels.candidates])
            for mine, row, known in zip(chosen, scores.tolist(), said, strict=True):
                mine.append(best_label(labels.candidates, dict(zip(names, row, strict=True)), known))
        return [tuple(mine) for mine in chosen], features

    def shown(self, regions: Sequence[Region], wanted: bool, known: np.ndarray | None = None) -> list[str]:
        """What each region looks like, as a reply carries it: empty where it is not wanted; `known`: made already."""
        if not wanted:
            return [""] * len(regions)
        return list(map(pack_features, self._pam.features(regions) if known is None else known))
