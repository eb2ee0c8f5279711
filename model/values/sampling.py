"""How answers are drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        temperature: 0 is greedy; PAM's authors use 0.1.
        max_new_tokens: tokens of an answer at most, the end token included.
        repetition_penalty: None takes the checkpoint's own (generation_config.json); 1 is none. It sees the generated
            tokens only, as in PAM.
        seed: for temperature > 0; None draws anew each time.

    Raises:
        ValueError: a number out of its range.
    """

    temperature: float = 0.0
    max_new_tokens: int = 64
    repetition_penalty: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature}: give 0 (greedy) or a positive number")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {self.max_new_tokens}: give at least 1")
        if self.repetition_penalty is not None and self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty {self.repetition_penalty}: give a positive number, 1 is none")


GREEDY = Sampling()
"""The likeliest token each time, 64 of them at most."""
