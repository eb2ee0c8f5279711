"""What runs at every frame of a video, compiled: memory attention, memory encoder, and the mask decoder's transformer.

Its shapes change from frame to frame, with what is remembered and how many objects there are. So sizes are left open,
and a short tracking when the model loads meets all that are compiled apart: one object and several, one frame that is
remembered and more.
"""

from __future__ import annotations

from PIL import Image
from torch import compile as compiled

from model.compute import compiler
from model.sam.tower import Tower
from model.values.prompt import Prompt
from model.video.prompt import FramePrompt
from model.video.source import Pictures
from model.video.tracker import track

_FRAMES, _SIDE = 4, 64
_BOX = (8.0, 8.0, 40.0, 40.0)


def settle(tower: Tower, backend: str = "inductor") -> bool:
    """Compile it, and try it; `backend` is of torch.compile.

    Returns:
        Whether it is compiled: where that fails it runs as it is, and the log says so.
    """
    compiler.begin("what tracks videos")
    sam = tower.sam
    parts = (sam.memory_attention, sam.memory_encoder, sam.sam_mask_decoder.transformer)
    # as it is, first: sam2 remembers positions, and what is compiled before that is not what runs after it
    _try(tower)
    for part in parts:
        part.forward = compiled(part.forward, dynamic=True, backend=backend)
    try:
        _try(tower)
    except Exception as error:
        for part in parts:
            del part.forward  # the class has it
        compiler.warn("what tracks videos is", error)
        return False
    return True


def _try(tower: Tower) -> None:
    for objects in (1, 2):
        said = [FramePrompt(Prompt(box=_BOX), object_id=number) for number in range(objects)]
        for _ in track(tower, Pictures([Image.new("RGB", (_SIDE, _SIDE), "gray")] * _FRAMES), said):
            pass
