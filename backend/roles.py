"""What each control of a labelling config is for: where the pictures are, where masks, classes and texts go."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from backend.controls import REGISTRY, Control
from backend.errors import ConfigError


@dataclass(frozen=True)
class Roles:
    """The roles of one labelling config.

    Attributes:
        images: name of each <Image> → the key of its picture in a task's data.
        controls: names of all controls.
        outputs: what fills the answer, geometry first.
    """

    images: dict[str, str]
    controls: frozenset[str]
    outputs: tuple[Control, ...]

    def outputs_of(self, image: str) -> tuple[Control, ...]:
        """The outputs that belong to one <Image>."""
        return tuple(control for control in self.outputs if control.to_name == image)


@lru_cache(maxsize=64)
def read_roles(label_config: str) -> Roles:
    """Read a labelling config.

    Args:
        label_config: Label Studio's XML.

    Raises:
        ConfigError: broken XML, no <Image> with a $variable, or no control for a mask; the message says what to add.
    """
    # loaded late: the schema tools behind it take most of the front's start-up
    from label_studio_sdk.label_interface.interface import LabelInterface

    if "<!DOCTYPE" in label_config or "<!ENTITY" in label_config:
        raise ConfigError(
            "the labelling config declares a document type or entities, which is not allowed: remove them"
        )
    try:
        interface = LabelInterface(label_config)
        controls, objects = list(interface.controls), list(interface.objects)
    except Exception as error:  # the parser's own types are internal to the SDK
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"the labelling config cannot be read ({reason}): correct it in the project's settings"
        ) from None
    images = {
        o.name: o.value.removeprefix("$") for o in objects if o.tag == "Image" and (o.value or "").startswith("$")
    }
    if not images:
        raise ConfigError('the labelling config has no picture: add <Image name="image" value="$image"/>')
    on_images = [c for c in controls if c.to_name and c.to_name[0] in images]
    outputs = [kind.create(c) for kind in REGISTRY for c in on_images if kind.matches(c)]
    if not any(control.is_geometry for control in outputs):
        raise ConfigError(
            "the labelling config has no control for masks: add "
            '<BrushLabels name="mask" toName="image" smart="false"><Label value="object"/></BrushLabels>'
        )
    return Roles(images, frozenset(c.name for c in controls), tuple(outputs))
