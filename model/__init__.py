"""Perceive Anything: a visual prompt on a picture becomes a mask, a class, a definition and a caption.

    from model import PerceiveAnything, Prompt, Task

    pam = PerceiveAnything.from_pretrained("PAM-3B")
    embedding = pam.encode(image)
    regions = pam.segment(embedding, [Prompt(points=[(320, 200, 1)]), Prompt(box=(10, 20, 200, 180))])
    texts = pam.describe(regions, tasks=[Task.RECOGNIZE, Task.BRIEF])
"""

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
from model.pam import PerceiveAnything
from model.prompt import Prompt
from model.region import Perception, Region, Text, Texts
from model.task import LANGUAGES, Task

__all__ = [
    "LANGUAGES",
    "CheckpointError",
    "DeviceError",
    "Embedding",
    "ModelError",
    "Perception",
    "PerceiveAnything",
    "PictureError",
    "PictureTooLargeError",
    "Prompt",
    "PromptError",
    "Region",
    "Task",
    "Text",
    "Texts",
    "open_picture",
]
