"""Prompts in time: which object, on which frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import PromptError
from model.values.prompt import Prompt
from model.video.source import Video


@dataclass(frozen=True, eq=False)
class FramePrompt:
    """A prompt on one frame of a video.

    Attributes:
        prompt: in pixels of the frame.
        frame: its number, from 0.
        object_id: prompts with the same number are about the same thing.
        correction: it mends what tracking gives on this frame (a click on what is missing, or is too much), instead of
            saying anew where the thing is. Points or a box; an object's first prompt is none.
    """

    prompt: Prompt
    frame: int = 0
    object_id: int = 0
    correction: bool = False


Timeline = dict[int, FramePrompt]
"""One object's prompts by frame."""


def by_object(prompts: Sequence[Prompt | FramePrompt], start_frame: int, video: Video) -> dict[int, Timeline]:
    """Each object's prompts; plain ones lie on the start frame, and each is an object of its own.

    Raises:
        PromptError: no prompts, a frame that is not there, a prompt outside the picture, two of one object on one
            frame, a correction of what no other prompt has begun, or by a mask.
    """
    found: dict[int, Timeline] = defaultdict(dict)
    for number, given in enumerate(prompts):
        prompt = given if isinstance(given, FramePrompt) else FramePrompt(given, start_frame, number)
        if not 0 <= prompt.frame < video.frame_count:
            raise PromptError(f"a prompt on frame {prompt.frame} of a video of {video.frame_count} frames")
        prompt.prompt.check_inside(video.width, video.height)
        mine = found[prompt.object_id]
        if prompt.frame in mine:
            raise PromptError(
                f"object {prompt.object_id} has two prompts on frame {prompt.frame}: put points and box into one"
            )
        if prompt.correction and prompt.prompt.mask is not None:
            raise PromptError(f"a correction by a mask on frame {prompt.frame}: give it as a prompt of its own")
        mine[prompt.frame] = prompt
    if not found:
        raise PromptError("no prompt: give at least one box, point or mask on a frame")
    for name, mine in found.items():
        if all(prompt.correction for prompt in mine.values()):
            raise PromptError(f"object {name} has nothing but corrections: say first where it is")
    return {name: dict(sorted(mine.items())) for name, mine in found.items()}
