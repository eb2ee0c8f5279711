"""The tags of a labelling config, as plain values: what the controls read of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree

from backend.errors import ConfigError

_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_MOST_CHARACTERS = 2_000_000


@dataclass(frozen=True)
class Child:
    """A <Label> or <Choice>: value as results carry it (its alias, if it has one), all its names, and its wishes."""

    value: str
    names: tuple[str, ...]
    wishes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Tag:
    """A control of a labelling config.

    Attributes:
        kind: the tag's own name, e.g. BrushLabels.
        name, to_name: its attributes; to_name is the first where several are given.
        attributes: all attributes as they are written.
        children: its labels or choices; of nested choices the leaves.
        paths: for nested choices, the path of each child from the root, its own value last.
        language: of texts, where the tag does not say, en or zh.
    """

    kind: str
    name: str
    to_name: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: tuple[Child, ...] = ()
    paths: tuple[tuple[str, ...], ...] = ()
    language: str = "en"

    @property
    def per_region(self) -> bool:
        return self.attributes.get("perRegion", "").lower() == "true"

    @property
    def wishes(self) -> frozenset[str]:
        """The words of our own attribute `pallas`, in lower case."""
        return _words(self.attributes.get("pallas", ""))


def read_tags(label_config: str, language: str = "en") -> tuple[list[Tag], list[Tag]]:
    """The controls of a labelling config, and its objects (<Image> …; their to_name is empty).

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
        interface = LabelInterface(label_config)
        controls, objects = list(interface.controls), list(interface.objects)
        # the interface flattens nested choices and drops attributes of their parents
        elements = {e.get("name"): e for e in ElementTree.fromstring(label_config).iter() if e.get("name")}
    except Exception as error:  # the parser's own types are internal to the SDK
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"the labelling config cannot be read ({reason}): correct it in the project's settings"
        ) from None
    found = []
    for control in controls:
        if not control.to_name:
            continue
        leaves = list(_leaves(elements[control.name]))
        found.append(
            Tag(
                control.tag,
                control.name,
                control.to_name[0],
                dict(control.attr),
                tuple(child for child, _ in leaves),
                tuple(path for _, path in leaves),
                language,
            )
        )
    return found, [Tag(o.tag, o.name, "", dict(o.attr)) for o in objects]


def _leaves(element: ElementTree.Element, path: tuple[str, ...] = ()) -> Iterator[tuple[Child, tuple[str, ...]]]:
    for child in element:
        if child.tag not in ("Label", "Choice"):
            continue
        value = (child.get("alias") or child.get("value") or "").strip()
        if not value:
            continue
        here = (*path, value)
        if any(inner.tag == "Choice" for inner in child):
            yield from _leaves(child, here)
        else:
            synonyms = child.get("predicted_values", "").split(",")
            names = [name.strip() for name in (child.get("value", ""), value, *synonyms)]
            unique = tuple(dict.fromkeys(name for name in names if name))
            yield Child(value, unique, _words(child.get("pallas", ""))), here


def _words(text: str) -> frozenset[str]:
    return frozenset(text.lower().replace(",", " ").split())
