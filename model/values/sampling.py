"""How answers are drawn."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class TokenLimits:
    """Tokens of an answer at most, the end token included, by what is asked; PAM's authors allow 512 everywhere.

    An answer that ends earlier costs no more for a higher limit.

    Attributes:
        recognize, brief, detailed, explain: of the `Task`s.
        caption: of clips and of events in a video (`VideoTask`).
        other: of free instructions.

    Raises:
        ValueError: a number below 1.
    """

    recognize: int = 64
    brief: int = 128
    detailed: int = 512
    explain: int = 256
    caption: int = 512
    other: int = 512

    def __post_init__(self) -> None:
        for name, most in asdict(self).items():
            if most < 1:
                raise ValueError(f"max_new_tokens of {name} {most}: give at least 1")

    @classmethod
    def same(cls, most: int) -> TokenLimits:
        """One limit for all."""
        return cls(most, most, most, most, most, most)

    def of(self, task: str) -> int:
        """Of a `Task`, a `VideoTask`, or a free instruction."""
        return int(asdict(self).get(str(task), self.other))


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        temperature: 0 is greedy; PAM's authors use 0.1.
        max_new_tokens: tokens of an answer at most, the end token included: by what is asked, or one number for all.
        repetition_penalty: None takes the checkpoint's own (generation_config.json); 1 is none. It sees the generated
            tokens only, as in PAM.
        seed: for temperature > 0; None draws anew each time.

    Raises:
        ValueError: a number out of its range.
    """

    temperature: float = 0.0
    max_new_tokens: int | TokenLimits = TokenLimits()
    repetition_penalty: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature}: give 0 (greedy) or a positive number")
        if isinstance(self.max_new_tokens, int) and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {self.max_new_tokens}: give at least 1")
        if self.repetition_penalty is not None and self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty {self.repetition_penalty}: give a positive number, 1 is none")

    def most(self, task: str) -> int:
        """Tokens of an answer to a task, or to a free instruction."""
        return self.max_new_tokens if isinstance(self.max_new_tokens, int) else self.max_new_tokens.of(task)


GREEDY = Sampling()
"""The likeliest token each time."""
