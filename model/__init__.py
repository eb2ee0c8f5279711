"""Perceive Anything: a visual prompt on a picture becomes a mask, a class, a definition and a caption.

    from model import PerceiveAnything, Prompt, Task

    pam = PerceiveAnything.from_pretrained("PAM-3B")
    embedding = pam.encode(image)
    regions = pam.segment(embedding, [Prompt(points=[(320, 200, 1)]), Prompt(box=(10, 20, 200, 180))])
    texts = pam.describe(regions, tasks=[Task.RECOGNIZE, Task.BRIEF])

Names are imported when they are first used: who only needs `Task` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.embedding import Embedding
    from model.errors import (
        CheckpointError,
        DeviceError,
        ModelError,
        PictureError,
        PictureTooLargeError,
        PromptError,
    )
    from model.image import open_picture
    from model.pam import PerceiveAnything, Reading
    from model.prompt import Prompt
    from model.region import Perception, Region, Text, Texts
    from model.task import LANGUAGES, Task

_HOME = {
    "Embedding": "embedding",
    "CheckpointError": "errors",
    "DeviceError": "errors",
    "ModelError": "errors",
    "PictureError": "errors",
    "PictureTooLargeError": "errors",
    "PromptError": "errors",
    "open_picture": "image",
    "PerceiveAnything": "pam",
    "Reading": "pam",
    "Prompt": "prompt",
    "Perception": "region",
    "Region": "region",
    "Text": "region",
    "Texts": "region",
    "LANGUAGES": "task",
    "Task": "task",
}

__all__ = [
    "LANGUAGES",
    "CheckpointError",
    "DeviceError",
    "Embedding",
    "ModelError",
    "PerceiveAnything",
    "Perception",
    "PictureError",
    "PictureTooLargeError",
    "Prompt",
    "PromptError",
    "Reading",
    "Region",
    "Task",
    "Text",
    "Texts",
    "open_picture",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"model.{_HOME[name]}"), name)
    raise AttributeError(f"module 'model' has no attribute {name!r}")
