"""What each control of a labelling config is for: where the pictures are, where masks, classes and texts go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from backend.errors import ConfigError
from backend.job import Group, TextAsk
from backend.labeling.controls import REGISTRY, Control
from backend.labeling.controls.rectangle import Rectangle
from backend.labeling.tags import Tag, read_tags
from backend.labeling.video_roles import VideoRoles


@dataclass(frozen=True)
class ImageRoles:
    """The roles of the controls of one <Image>.

    Attributes:
        name: of the tag.
        key: of its picture in a task's data.
        geometry: what receives masks, the preferred one first; rectangles only where there is nothing better.
        words: what receives labels and texts of a region.
        whole: what receives words about the whole picture.
        notice: name of the control that takes messages to the annotator (a <TextArea> with pallas="notice"), or None.
        propose: with pallas="propose", regions are proposed for tasks in which nobody has marked anything.
    """

    name: str
    key: str
    geometry: tuple[Control, ...]
    words: tuple[Control, ...]
    whole: tuple[Control, ...]
    notice: str | None = None
    propose: bool = False

    def geometry_for(self, label: str | None) -> Control:
        """Of several mask controls the one that has the annotator's label, else the first."""
        return next((control for control in self.geometry if label in control.labels), self.geometry[0])

    def ask(self, labels: Sequence[str | None], propose: bool = False) -> Group:
        """The questions about regions; `labels` are those the annotator chose at their prompts."""
        return _group((*self.geometry, *self.words), labels, propose)

    def ask_whole(self) -> Group:
        """The questions about the whole picture."""
        return _group(self.whole, [None], False)


def _group(controls: Sequence[Control], labels: Sequence[str | None], propose: bool) -> Group:
    texts: dict[TextAsk, None] = {}
    sets = []
    for control in controls:
        texts |= dict.fromkeys(control.texts())
        open_choice = propose or any(control.labels.fixed(label) is None for label in labels)
        # the model need not choose where the annotator has
        if control.labels and open_choice and control.labels.label_set() not in sets:
            sets.append(control.labels.label_set())
    return Group(propose=propose, texts=tuple(texts), label_sets=tuple(sets))


@dataclass(frozen=True)
class Roles:
    """The roles of one labelling config: pictures and videos by the name of their tag, the names of all controls."""

    images: dict[str, ImageRoles]
    controls: frozenset[str]
    videos: dict[str, VideoRoles] = field(default_factory=dict)


@lru_cache(maxsize=64)
def read_roles(label_config: str, language: str = "en") -> Roles:
    """Read a labelling config.

    Args:
        label_config: Label Studio's XML.
        language: of texts, where the config does not say.

    Raises:
        ConfigError: broken XML, no <Image> or <Video> with a $variable, or no control for a mask or box; the message
            says what to add.
    """
    tags, objects = read_tags(label_config, language)
    pictures = [o for o in objects if o.kind == "Image" and o.attributes.get("value", "").startswith("$")]
    videos = {
        o.name: VideoRoles.of(o, [t for t in tags if t.to_name == o.name])
        for o in objects
        if o.kind == "Video" and o.attributes.get("value", "").startswith("$")
    }
    if not pictures and not videos:
        raise ConfigError('the labelling config has no picture and no video: add <Image name="image" value="$image"/>')
    images = {picture.name: _image(picture, [t for t in tags if t.to_name == picture.name]) for picture in pictures}
    if videos and not images and not any(video.useful for video in videos.values()):
        raise ConfigError(
            "the labelling config has no control for boxes: add "
            f'<VideoRectangle name="box" toName="{next(iter(videos))}"/> and <Labels>'
        )
    if not videos and not any(image.geometry or image.whole for image in images.values()):
        raise ConfigError(
            "the labelling config has no control for masks: add "
            '<BrushLabels name="mask" toName="image" smart="false"><Label value="object"/></BrushLabels>'
        )
    return Roles(images, frozenset(tag.name for tag in tags), videos)


def _image(picture: Tag, tags: Sequence[Tag]) -> ImageRoles:
    mine = [tag for tag in tags if not tag.wishes & {"off", "notice"}]
    controls = [kind.create(tag) for kind in REGISTRY for tag in mine if kind.matches(tag)]
    # pallas="mask" says which of several
    first = {tag.name for tag in mine if "mask" in tag.wishes}
    geometry = sorted((c for c in controls if c.is_geometry), key=lambda c: c.name not in first)
    # a rectangle beside a brush is a prompt; alone, it is what the project is about
    masks = [control for control in geometry if not isinstance(control, Rectangle)]
    return ImageRoles(
        name=picture.name,
        key=picture.attributes["value"].removeprefix("$"),
        geometry=tuple(masks or geometry),
        words=tuple(c for c in controls if not c.is_geometry and c.per_region),
        whole=tuple(c for c in controls if not c.is_geometry and not c.per_region),
        notice=next((tag.name for tag in tags if tag.kind == "TextArea" and "notice" in tag.wishes), None),
        propose="propose" in picture.wishes,
    )
