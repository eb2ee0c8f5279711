"""The one configuration of a training, checked once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

DEFAULT = Path(__file__).with_name("recipe.yaml")


Precision = Literal["float32", "bfloat16"]
"""Of the products; the weights stay float32."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rates(_Strict):
    """Peak learning rates of the stages; `trunk` is that of a trunk which was trained elsewhere, in *segment*."""

    crops: PositiveFloat
    segment: PositiveFloat
    trunk: PositiveFloat = 1e-4
    memory: PositiveFloat
    speak: PositiveFloat


class Crops(_Strict):
    """The image encoder's first lesson; 0 minutes leave it out (as when fine-tuning)."""

    minutes: float = Field(ge=0)
    side: int = Field(ge=64, multiple_of=64)
    batch: PositiveInt
    crowds: PositiveInt


class Regions(_Strict):
    """Regions of photographs: `views` of each, the whole one first."""

    views: PositiveInt


class Lesson(_Strict):
    """A stretch of the SAM 2 stage at one picture size; `films` of every eight steps track `pieces` of clips, a share
    of the others are `photographs`. `frozen`: the trunk stays as it is."""

    side: int = Field(ge=64, multiple_of=64)
    pictures: PositiveInt
    regions: PositiveInt
    pieces: int = Field(default=0, ge=0)
    films: int = Field(default=1, ge=1, le=4)
    grounds: float = Field(default=0.0, ge=0, lt=1)
    photographs: float = Field(default=0.0, ge=0, le=1)
    frozen: bool = False
    minutes: PositiveFloat


class Memory(_Strict):
    """The lesson for video: SAM 2's memory, with everything that pictures need frozen; `told` clips are watched at its
    end, for the language stage."""

    clips: PositiveInt
    told: PositiveInt = 320
    pieces: PositiveInt
    frames: int = Field(ge=2, le=8)
    minutes: PositiveFloat


class Speak(_Strict):
    """The language stage."""

    pictures: PositiveInt
    regions: PositiveInt
    answers: int = Field(ge=1, le=8)
    clips: PositiveInt = 2
    skipped: float = Field(ge=0, lt=1)
    grounds: float = Field(default=0.0, ge=0, lt=1)
    photographs: float = Field(default=0.0, ge=0, le=1)
    precision: Precision = "float32"
    minutes: PositiveFloat
    unsure: float | None = Field(default=None, gt=0, le=1)


class Recipe(_Strict):
    """recipe.yaml; minutes are those of the machine at hand, a GPU simply gets further in them.

    `settle` are minutes for the throw-away heads alone before a checkpoint is fine-tuned.
    """

    seed: int
    side: int = Field(ge=64, multiple_of=64)
    shards: PositiveInt
    regions: Regions | None = None
    rates: Rates
    crops: Crops
    settle: float = Field(default=0.0, ge=0)
    segment: tuple[Lesson, ...]
    precision: Precision = "float32"
    compiled: bool = False
    memory: Memory
    speak: Speak
    vocabulary: int = Field(ge=300)
    language_model: dict[str, int]

    @property
    def minutes(self) -> float:
        """What all lessons take together; drawing ahead, regions and clips are not in it."""
        lessons = sum(lesson.minutes for lesson in self.segment)
        return self.crops.minutes + lessons + self.memory.minutes + self.speak.minutes

    def within(self, minutes: float) -> Recipe:
        """The same lessons in the same proportions, in so many minutes."""
        factor = minutes / self.minutes
        parts = {name: getattr(self, name) for name in ("crops", "memory", "speak")}
        shorter = {n: part.model_copy(update={"minutes": part.minutes * factor}) for n, part in parts.items()}
        lessons = tuple(one.model_copy(update={"minutes": one.minutes * factor}) for one in self.segment)
        return self.model_copy(update={**shorter, "segment": lessons})


def read(file: Path = DEFAULT) -> Recipe:
    """The recipe in a YAML file. Raises pydantic.ValidationError, which names what is wrong."""
    return Recipe.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
