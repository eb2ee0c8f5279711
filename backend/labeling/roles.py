"""What each control of a labelling config is for: where the pictures are, where masks, classes and texts go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from backend.errors import ConfigError
from backend.job import Example, FindAsk, Group, TextAsk
from backend.label_studio.protocol import ResultItem
from backend.label_studio.variables import has_variable, placed, value_of
from backend.labeling.controls import REGISTRY, Control
from backend.labeling.controls.rectangle import Rectangle
from backend.labeling.labels import Labels
from backend.labeling.tags import Tag, read_tags
from backend.labeling.template import MOST_PAGES, Element, filled, is_open, read_tree
from backend.labeling.video_roles import VideoRoles


@dataclass(frozen=True)
class Kind:
    """What is looked for: names, any of which may be meant, and examples; and the labels of what is found, by value."""

    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    like: tuple[Example, ...] = ()


@dataclass(frozen=True)
class ImageRoles:
    """The roles of the controls of one <Image>.

    Attributes:
        name: of the tag.
        value: where its picture is in a task's data, e.g. `$image`, `$photo.url`; of a listed one its pictures.
        geometry: what receives masks, the preferred one first; rectangles only where there is nothing better.
        words: what receives labels and texts of a region.
        whole: what receives words about the whole picture.
        notice: name of the control that takes messages to the annotator (a <TextArea> with pallas="notice"), or None.
        find: name of the control whose text is looked for (a <TextArea> with pallas="find"), or None.
        alike: labels of clicks that point at examples (pallas="alike"), by the control's name.
        looked_for: in such tasks; with pallas-find="label values" the labels' names and hints.
        everywhere: what is looked for is so in pictures with regions, too.
        propose: with pallas="propose", regions are proposed for tasks in which nobody has marked anything.
        labels: of every control of the picture by its name, also those that only prompts come from.
        listed: the tag shows several pictures (`valueList`).
        page: of those the one that these roles are for, from 0 (`item_index` in results); None of a tag with one.
        per_item: names of the controls that speak about each picture (perItem="true"), not about all of them together.
    """

    name: str
    value: str
    geometry: tuple[Control, ...]
    words: tuple[Control, ...]
    whole: tuple[Control, ...]
    notice: str | None = None
    find: str | None = None
    alike: Mapping[str, frozenset[str]] = field(default_factory=dict)
    looked_for: tuple[Kind, ...] = ()
    everywhere: bool = False
    propose: bool = False
    labels: Mapping[str, Labels] = field(default_factory=dict)
    listed: bool = False
    page: int | None = None
    per_item: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """Of its picture in a task's data, as messages call it."""
        return self.value.removeprefix("$")

    def picture(self, data: Mapping[str, Any]) -> str | None:
        """The address of a task's picture; None where the task has none."""
        found = value_of(self.value, data)
        if self.listed:
            pictures = found if isinstance(found, list) else [found]
            page = self.page or 0
            found = pictures[page] if page < len(pictures) else None
        return found if isinstance(found, str) and found.strip() else None

    def data_of(self, address: str) -> dict[str, Any]:
        """The data of a task with this picture alone."""
        return placed(self.value, [address] if self.listed else address)

    def on(self, page: int) -> ImageRoles:
        """Of one picture of several; what speaks about all of them goes with the first."""
        if not self.listed:
            return self
        whole = self.whole if page == 0 else tuple(c for c in self.whole if c.name in self.per_item)
        return replace(self, page=page, whole=whole)

    def pages(self, data: Mapping[str, Any]) -> list[ImageRoles]:
        """Of each picture that a task has; one where the tag shows one.

        Raises:
            ConfigError: more than MOST_PAGES.
        """
        if not self.listed:
            return [self]
        found = value_of(self.value, data)
        count = len(found) if isinstance(found, list) else 1
        if count > MOST_PAGES:
            raise ConfigError(
                f"the task has {count} pictures in {self.key}, at most {MOST_PAGES} are read: split the task"
            )
        return [self.on(page) for page in range(count)]

    def has(self, item: ResultItem) -> bool:
        """Whether an item is about this picture."""
        return item.to_name == self.name and (self.page is None or item.item_index == self.page)

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

    def ask_find(self, find: FindAsk, chosen: Sequence[str] = ()) -> Group:
        """The questions about what is looked for; `chosen` are the labels that it is to have."""
        return self.ask([chosen]).model_copy(update={"find": find})

    def kinds(self) -> tuple[Kind, ...]:
        """The labels that a region may have, with all their names and hints."""
        for control in (*self.geometry, *self.words):
            labels = control.labels
            if labels:
                rows = zip(labels.candidates, labels.values, labels.hints, strict=True)
                return tuple(
                    Kind(tuple(dict.fromkeys((*one.names, *hints))), (value,))
                    for one, value, hints in rows
                    if one.label not in labels.free
                )
        return ()

    def label_of(self, text: str) -> tuple[str, ...]:
        """The value of the label that a text names, by whatever name; empty where it names none."""
        wanted = text.strip().casefold()
        return next((kind.labels for kind in self.kinds() if wanted in map(str.casefold, kind.names)), ())

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
        if control.labels and open_choice and control.labels.label_set not in sets:
            sets.append(control.labels.label_set)
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
    shown = [o for o in objects if has_variable(_source(o))]
    return Roles(
        {o.name: _image(o, mine[o.name]) for o in shown if o.kind == "Image"},
        {tag.name: tag for tag in tags},
        {o.name: VideoRoles.of(o, mine[o.name]) for o in shown if o.kind == "Video"},
        language=language,
    )


def _source(tag: Tag) -> str:
    return tag.attributes.get("valuelist") or tag.attributes.get("value", "")


def _image(picture: Tag, tags: Sequence[Tag]) -> ImageRoles:
    mine = [tag for tag in tags if not tag.wishes & {"off", "notice", "find"}]
    controls = [kind.create(tag) for kind in REGISTRY for tag in mine if kind.matches(tag)]
    # pallas="mask" says which of several
    first = {tag.name for tag in mine if "mask" in tag.wishes}
    geometry = sorted((c for c in controls if c.is_geometry), key=lambda c: c.name not in first)
    # a rectangle beside a brush is a prompt; alone, it is what the project is about
    masks = [control for control in geometry if not isinstance(control, Rectangle)]
    roles = ImageRoles(
        name=picture.name,
        value=_source(picture),
        geometry=tuple(masks or geometry),
        words=tuple(c for c in controls if not c.is_geometry and c.per_region),
        whole=tuple(c for c in controls if not c.is_geometry and not c.per_region),
        notice=next((tag.name for tag in tags if tag.kind == "TextArea" and "notice" in tag.wishes), None),
        find=next((tag.name for tag in tags if tag.kind == "TextArea" and "find" in tag.wishes), None),
        alike={
            tag.name: labels
            for tag in tags
            if (labels := frozenset(child.label for child in tag.children if "alike" in child.wishes))
        },
        propose="propose" in picture.wishes,
        labels={tag.name: Labels.of(tag) for tag in tags},
        listed=bool(picture.attributes.get("valuelist")),
        per_item=frozenset(tag.name for tag in tags if tag.is_set("peritem")),
    )
    by_name = any(tag.attributes.get("pallas-find", "").lower() == "label values" for tag in (picture, *mine))
    return replace(roles, looked_for=roles.kinds()) if by_name else roles
