"""What each control of a labelling config is for: where the pictures are, where masks, classes and texts go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from backend.errors import ConfigError
from backend.job import Group, TextAsk
from backend.label_studio.protocol import ResultItem
from backend.label_studio.variables import has_variable, value_of
from backend.labeling.controls import REGISTRY, Control
from backend.labeling.controls.rectangle import Rectangle
from backend.labeling.labels import Labels
from backend.labeling.tags import Tag, read_tags
from backend.labeling.template import Element, filled, is_open, read_tree
from backend.labeling.video_roles import VideoRoles


@dataclass(frozen=True)
class ImageRoles:
    """The roles of the controls of one <Image>.

    Attributes:
        name: of the tag.
        value: where its picture is in a task's data, e.g. `$image`, `$photo.url`.
        geometry: what receives masks, the preferred one first; rectangles only where there is nothing better.
        words: what receives labels and texts of a region.
        whole: what receives words about the whole picture.
        notice: name of the control that takes messages to the annotator (a <TextArea> with pallas="notice"), or None.
        propose: with pallas="propose", regions are proposed for tasks in which nobody has marked anything.
        labels: of every control of the picture by its name, also those that only prompts come from.
    """

    name: str
    value: str
    geometry: tuple[Control, ...]
    words: tuple[Control, ...]
    whole: tuple[Control, ...]
    notice: str | None = None
    propose: bool = False
    labels: Mapping[str, Labels] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Of its picture in a task's data, as messages call it."""
        return self.value.removeprefix("$")

    def picture(self, data: Mapping[str, Any]) -> str | None:
        """The address of a task's picture; None where the task has none."""
        found = value_of(self.value, data)
        return found if isinstance(found, str) and found.strip() else None

    def chosen(self, item: ResultItem) -> tuple[str, ...]:
        """The labels of an item by their values, which are the same in every control."""
        labels = item.labels()
        known = self.labels.get(item.from_name)
        return known.values_of(labels) if known is not None else tuple(labels)

    def geometry_for(self, chosen: Sequence[str]) -> Control:
        """Of several mask controls the one that has the annotator's label, else the first."""
        return next((control for control in self.geometry if control.labels.matching(chosen)), self.geometry[0])

    def ask(self, chosen: Sequence[Sequence[str]], propose: bool = False) -> Group:
        """The questions about regions; `chosen` are the labels that the annotator chose at each prompt."""
        return _group((*self.geometry, *self.words), chosen, propose)

    def ask_whole(self) -> Group:
        """The questions about the whole picture."""
        return _group(self.whole, [()], False)


def _group(controls: Sequence[Control], chosen: Sequence[Sequence[str]], propose: bool) -> Group:
    texts: dict[TextAsk, None] = {}
    sets = []
    for control in controls:
        texts |= dict.fromkeys(control.texts())
        open_choice = propose or any(not control.labels.fixed(labels) for labels in chosen)
        # the model need not choose where the annotator has
        if control.labels and open_choice and control.labels.label_set() not in sets:
            sets.append(control.labels.label_set())
    return Group(propose=propose, texts=tuple(texts), label_sets=tuple(sets))


@dataclass(frozen=True)
class Roles:
    """The roles of one labelling config.

    Attributes:
        images, videos: by the name of their tag.
        tags: all controls by name, in the config's order.
        template: the config's tree where it depends on the task (`of`), else None.
        language: of texts, where the config does not say.
    """

    images: dict[str, ImageRoles]
    tags: Mapping[str, Tag] = field(default_factory=dict)
    videos: dict[str, VideoRoles] = field(default_factory=dict)
    template: Element | None = None
    language: str = "en"

    @property
    def controls(self) -> Set[str]:
        """The names of all controls."""
        return self.tags.keys()

    def of(self, data: Mapping[str, Any]) -> Roles:
        """The roles in a task with this data: pages of a <Repeater>, labels that come from the task.

        Raises:
            ConfigError: it has too many pages.
        """
        return self if self.template is None else _read(filled(self.template, data), self.language)


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
    root = read_tree(label_config)
    roles = _read(root, language)
    images, videos = roles.images, roles.videos
    if not images and not videos:
        raise ConfigError('the labelling config has no picture and no video: add <Image name="image" value="$image"/>')
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
    return replace(roles, template=root) if is_open(root) else roles


def _read(root: Element, language: str) -> Roles:
    tags, objects = read_tags(root, language)
    mine = {o.name: [tag for tag in tags if tag.to_name == o.name] for o in objects}
    shown = [o for o in objects if has_variable(o.attributes.get("value", ""))]
    return Roles(
        {o.name: _image(o, mine[o.name]) for o in shown if o.kind == "Image"},
        {tag.name: tag for tag in tags},
        {o.name: VideoRoles.of(o, mine[o.name]) for o in shown if o.kind == "Video"},
        language=language,
    )


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
        value=picture.attributes["value"],
        geometry=tuple(masks or geometry),
        words=tuple(c for c in controls if not c.is_geometry and c.per_region),
        whole=tuple(c for c in controls if not c.is_geometry and not c.per_region),
        notice=next((tag.name for tag in tags if tag.kind == "TextArea" and "notice" in tag.wishes), None),
        propose="propose" in picture.wishes,
        labels={tag.name: Labels.of(tag) for tag in tags},
    )
