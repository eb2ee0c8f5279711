"""Whether a version is better than what was there: beyond noise, because of the pictures, and at no price elsewhere.

All three are asked of regions that were held out:

- better: by LEAST_GAIN at least, and by a paired bootstrap over groups of regions (tasks): the whole 95 % interval of
  the gain lies above zero.
- because of the pictures: answers fit their own region better than others', by the same test. Annotations that were
  shuffled teach a style, or to say the commonest thing; that is a gain on paper, and this finds it out.
- at no price: on pictures whose truth is known nothing falls by more than FORGOTTEN, and nothing that was learned
  together falls beyond noise, or by as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

FORGOTTEN = 0.2
LEAST_GAIN = 0.01
_DRAWS = 2000
_TAIL = 0.025


@dataclass(frozen=True)
class Gain:
    """Of one measure on held-out regions; means 0…1.

    Attributes:
        regions, groups: how many it was measured on.
        before, after: of the base and of the version.
        low, high: 95 % interval of the difference.
        own_low: lower end of the 95 % interval of how much better answers fit their own region than others'.
    """

    regions: int
    groups: int
    before: float
    after: float
    low: float
    high: float
    own_low: float

    @property
    def better(self) -> bool:
        """Beyond noise, and because of the pictures."""
        return self.low > 0 and self.after - self.before >= LEAST_GAIN and self.own_low > 0

    @property
    def worse(self) -> bool:
        """Beyond noise, or by more than anything may fall where there is little to measure it on."""
        return self.high < 0 or self.before - self.after > FORGOTTEN

    @property
    def why(self) -> str:
        """In a word, for people."""
        if self.low <= 0:
            return "not better beyond noise"
        if self.after - self.before < LEAST_GAIN:
            return f"better by less than {LEAST_GAIN}"
        return "better" if self.own_low > 0 else "its answers fit other regions as well: are the annotations shuffled?"

    def to_json(self) -> dict[str, float | int | bool | str]:
        numbers = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {**numbers, "better": self.better, "why": self.why}


def gain(groups: Sequence[str], before: Sequence[float], after: Sequence[float], strange: Sequence[float]) -> Gain:
    """Compare two models region by region.

    Args:
        groups: of each region; those of a group are drawn together.
        before, after: what each region's answer is worth, 0…1.
        strange: what the version's answer would be worth if it stood at other regions.
    """
    first, second, third = (np.asarray(values, dtype=float) for values in (before, after, strange))
    low, high = interval(groups, second - first)
    return Gain(
        len(first),
        len(set(groups)),
        float(first.mean()),
        float(second.mean()),
        low,
        high,
        interval(groups, second - third)[0],
    )


def interval(groups: Sequence[str], values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of (N,) values, whole groups of them drawn with replacement."""
    names = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    numbers = np.array([names[name] for name in groups])
    sums, counts = np.bincount(numbers, values), np.bincount(numbers)
    drawn = np.random.default_rng(0).integers(len(names), size=(_DRAWS, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def of_others(groups: Sequence[str], worth: np.ndarray) -> np.ndarray:
    """(N,): what each answer would be worth at the regions of other groups, in the mean.

    `worth` is (N, N): of answer i at region j.
    """
    names = np.array(groups)
    apart = names[:, None] != names[None, :]
    return (worth * apart).sum(1) / np.maximum(apart.sum(1), 1)
