"""A labelling config as a tree, and what it becomes with a task's data: repeaters and lists of labels filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from backend.errors import ConfigError
from backend.label_studio.variables import is_variable, value_of

Element = ElementTree.Element

MOST_PAGES = 500
"""Of one <Repeater>, or of one valueList."""

_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_MOST_CHARACTERS = 2_000_000
_INDEX = "{{idx}}"

_GEOMETRIES = ("Brush", "Bitmask", "Polygon", "Vector", "Rectangle", "Ellipse", "KeyPoint")
_KINDS = {
    kind.lower(): kind
    for kind in (
        *("View", "Repeater", "Header", "Label", "Choice", "Image", "Video", "Labels", "Choices", "Taxonomy"),
        *("TextArea", "VideoRectangle", "TimelineLabels", "Rating", "Number", "Text", "HyperText", "Audio"),
        *_GEOMETRIES,
        *(f"{kind}Labels" for kind in _GEOMETRIES),
    )
}
# the SDK reads these as they are written here; the editor takes any case
_ATTRIBUTES = {"toname": "toName", "valuelist": "valueList", "indexflag": "indexFlag"}


def read_tree(label_config: str) -> Element:
    """The config's tree: names of tags as Label Studio's documentation spells them, names of attributes in lower case.

    Label Studio's editor knows neither's case.

    Raises:
        ConfigError: broken XML, or one that Label Studio's own reader refuses.
    """
    # loaded late: the schema tools behind it take most of the front's start-up
    from label_studio_sdk.label_interface.interface import LabelInterface

    if len(label_config) > _MOST_CHARACTERS:
        raise ConfigError(f"the labelling config has more than {_MOST_CHARACTERS:,} characters: shorten it")
    if "<!DOCTYPE" in label_config or "<!ENTITY" in label_config:
        raise ConfigError(
            "the labelling config declares a document type or entities, which is not allowed: remove them"
        )
    # Label Studio takes one with a declaration; the SDK's reader, which has text and not bytes, does not
    label_config = _DECLARATION.sub("", label_config)
    try:
        root = ElementTree.fromstring(label_config)
        for element in root.iter():
            element.tag = _KINDS.get(element.tag.lower(), element.tag)
            attributes = {_ATTRIBUTES.get(name.lower(), name): value for name, value in element.attrib.items()}
            element.attrib.clear()
            element.attrib.update(attributes)
        LabelInterface(ElementTree.tostring(root, encoding="unicode"))
    except Exception as error:  # the parser's own types are internal to the SDK
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"the labelling config cannot be read ({reason}): correct it in the project's settings"
        ) from None
    for element in root.iter():
        attributes = {name.lower(): value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update(attributes)
    return root


def is_open(root: Element) -> bool:
    """Whether the config depends on a task's data: it has a repeater, or labels that come from the task."""
    return any(element.tag == "Repeater" or _takes_labels(element) for element in root.iter())


def filled(root: Element, data: Mapping[str, Any]) -> Element:
    """The tree of one task: what a <Repeater> repeats once for each entry of its list, and the labels of the data.

    Raises:
        ConfigError: more pages than MOST_PAGES.
    """
    (found,) = _filled(root, data, {})
    return found


def _filled(element: Element, data: Mapping[str, Any], indexes: Mapping[str, str]) -> list[Element]:
    attributes = {name: _with(value, indexes) for name, value in element.attrib.items()}
    if element.tag == "Repeater":
        return _repeated(element, attributes, data, indexes)
    new = ElementTree.Element(element.tag, attributes)
    for child in element:
        new.extend(_filled(child, data, indexes))
    if _takes_labels(new):
        _add_labels(new, value_of(new.attrib["value"], data), "Label" if new.tag.endswith("Labels") else "Choice")
    return [new]


def _repeated(
    element: Element, attributes: Mapping[str, str], data: Mapping[str, Any], indexes: Mapping[str, str]
) -> list[Element]:
    entries = value_of(attributes.get("on", ""), data)
    count = len(entries) if isinstance(entries, Sequence) and not isinstance(entries, str) else 0
    if count > MOST_PAGES:
        raise ConfigError(f"the task has {count} pages for a <Repeater>, at most {MOST_PAGES} are read: split the task")
    flag = attributes.get("indexflag", _INDEX)
    return [
        page
        for number in range(count)
        for child in element
        for page in _filled(child, data, {**indexes, flag: str(number)})
    ]


def _with(value: str, indexes: Mapping[str, str]) -> str:
    for flag, number in indexes.items():
        value = value.replace(flag, number)
    return value


def _takes_labels(element: Element) -> bool:
    kind = element.tag.endswith("Labels") or element.tag in ("Choices", "Taxonomy")
    return kind and is_variable(element.attrib.get("value", ""))


def _add_labels(parent: Element, entries: Any, kind: str) -> None:
    for entry in entries if isinstance(entries, list) else ():
        fields = entry if isinstance(entry, dict) else {"value": entry}
        plain = {name.lower(): str(value) for name, value in fields.items() if isinstance(value, str | int | float)}
        child = ElementTree.SubElement(parent, kind, plain)
        _add_labels(child, fields.get("children"), kind)
