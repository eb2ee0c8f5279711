"""One stage of tuning: parameters, their optimiser, the planned time; it goes on where a killed run saved it."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

log = logging.getLogger(__name__)

SAVE_EVERY_S = 15.0
LONGEST_STEP_S = 30.0
"""A step counts as this long at most: a machine that slept has not learned."""

_WARM = 20
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Learner:
    """AdamW over some parameters, for a planned time, up over the first steps and then down a cosine.

    Args:
        parameters: by name; trained in place, float32.
        rate: the peak of the learning rate.
        seconds: planned, of steps alone.
        most_steps: it ends earlier after so many.
        file: where it saves itself; one that is there already is gone on from.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], rate: float, seconds: float, most_steps: int, file: Path
    ) -> None:
        self.parameters = dict(parameters)
        self._rate = rate
        self._seconds = seconds
        self._most_steps = most_steps
        self._file = file
        self._optimizer = torch.optim.AdamW(self.parameters.values(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
        self.step = 0
        self.gone_s = 0.0
        if file.is_file():
            self._load()

    @property
    def share(self) -> float:
        """Of the plan that is done, 0…1."""
        return min(1.0, max(self.gone_s / max(self._seconds, 1e-9), self.step / max(1, self._most_steps)))

    def run(self, loss: Callable[[int], torch.Tensor], pause: Callable[[], None], say: Callable[[float], None]) -> None:
        """To the end.

        Args:
            loss: of the step of a number: the same number gives the same examples.
            pause: called before each step: it may wait as long as it likes, or raise what ends the run, which is saved.
            say: called after each step with the share that is done.
        """
        saved = time.monotonic()
        try:
            while self.share < 1:
                pause()
                begin = time.monotonic()
                self._descend(loss(self.step))
                self.step += 1
                self.gone_s += min(time.monotonic() - begin, LONGEST_STEP_S)
                say(self.share)
                if time.monotonic() - saved > SAVE_EVERY_S:
                    self.save()
                    saved = time.monotonic()
        finally:
            self.save()

    def _descend(self, loss: torch.Tensor) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * min(1.0, (self.step + 1) / _WARM) * 0.5 * (1 + math.cos(math.pi * self.share))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self._optimizer.step()

    def save(self) -> None:
        """Everything that going on needs, in place of what was saved before. Raises OSError."""
        tensors = {f"parameter.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            state = self._optimizer.state.get(parameter, {})
            tensors |= {f"{moment}.{name}": state[moment] for moment in _MOMENTS if moment in state}
        part = self._file.with_suffix(".part")
        books = {"step": str(self.step), "seconds": repr(self.gone_s)}
        try:
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, part, books)
        except (SafetensorError, OSError) as error:
            # what is half written takes room that others need
            with contextlib.suppress(OSError):
                part.unlink()
            if isinstance(error, OSError):
                raise
            # its way to say that the disk is full
            raise OSError(f"{part} cannot be written ({error})") from None
        part.replace(self._file)

    @torch.no_grad()
    def _load(self) -> None:
        try:
            with safe_open(self._file, framework="pt") as saved:
                books = saved.metadata() or {}
                found = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
                step, seconds = int(books["step"]), float(books["seconds"])
            shapes = {f"parameter.{name}": p.shape for name, p in self.parameters.items()}
            if any(name not in found or found[name].shape != shape for name, shape in shapes.items()):
                raise ValueError("of another model")
        except (SafetensorError, KeyError, OSError, ValueError) as error:
            log.warning("%s cannot be gone on from (%s): this stage begins anew", self._file, error)
            return
        self.step, self.gone_s = step, seconds
        for name, parameter in self.parameters.items():
            parameter.copy_(found[f"parameter.{name}"])
            moments = {
                moment: found[f"{moment}.{name}"].to(parameter.device)
                for moment in _MOMENTS
                if f"{moment}.{name}" in found
            }
            if moments:
                self._optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
