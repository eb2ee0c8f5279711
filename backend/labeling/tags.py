"""The tags of a labelling config, as plain values: what the controls read of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from backend.labeling.template import Element
from backend.labeling.visibility import Condition
from backend.system.spelling import did_you_mean
from model.values.task import LANGUAGES, Task

_OURS = ("auto", "mask", "propose", "notice", "find", "alike", "off")

WISHES = frozenset({*_OURS, *(task.value for task in Task), *LANGUAGES})
"""All words that our own attribute `pallas` may have."""


@dataclass(frozen=True)
class Child:
    """A <Label> or <Choice>.

    Attributes:
        label: as results carry it: its alias, if it has one, else its value, blanks and all.
        value: the same in every control, whatever aliases they give it.
        names: all words that mean it, for the model.
        wishes: the words of `pallas`.
        hints: what `hint` says of it, by its commas: words that it may be looked for by.
    """

    label: str
    value: str
    names: tuple[str, ...]
    wishes: frozenset[str] = frozenset()
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tag:
    """A control or an object (<Image> …) of a labelling config.

    Attributes:
        kind: the tag's own name, e.g. BrushLabels.
        name, to_name: its attributes; to_name is the first where several are given, and empty of an object.
        attributes: all attributes, names in lower case.
        children: its labels or choices; of nested choices the leaves.
        paths: for nested choices, the path of each child from the root, its own label last.
        language: of texts, where the tag does not say, en or zh.
        conditions: that must hold for Label Studio to show it.
    """

    kind: str
    name: str
    to_name: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: tuple[Child, ...] = ()
    paths: tuple[tuple[str, ...], ...] = ()
    language: str = "en"
    conditions: tuple[Condition, ...] = ()

    def is_set(self, attribute: str) -> bool:
        """Whether an attribute (in lower case) says true."""
        return self.attributes.get(attribute, "").lower() == "true"

    @property
    def per_region(self) -> bool:
        return self.is_set("perregion")

    @property
    def wishes(self) -> frozenset[str]:
        """The words of our own attribute `pallas`, in lower case."""
        return _words(self.attributes.get("pallas", ""))


def read_tags(root: Element, language: str = "en") -> tuple[list[Tag], list[Tag]]:
    """The controls of a config's tree, and its objects (<Image> …; their to_name is empty)."""
    controls, objects = [], []
    for element, conditions in _with_conditions(root, ()):
        attributes = dict(element.attrib)
        name, to_name = attributes.get("name", ""), attributes.get("toname", "")
        if name and to_name:
            leaves = list(_leaves(element, nested=_nests(element)))
            controls.append(
                Tag(
                    *(element.tag, name, to_name.split(",")[0], attributes),
                    *(tuple(child for child, _ in leaves), tuple(path for _, path in leaves), language, conditions),
                )
            )
        elif name and (attributes.get("value") or attributes.get("valuelist")):
            objects.append(Tag(element.tag, name, "", attributes))
    return controls, objects


def unknown_wishes(root: Element) -> list[str]:
    """Words of `pallas` that mean nothing, each with what may be meant."""
    found = []
    for element in root.iter():
        for word in sorted(_words(element.get("pallas", "")) - WISHES):
            where = element.get("name") or element.get("value") or ""
            found.append(f'pallas="{word}" on <{element.tag} {where}> means nothing{did_you_mean(word, WISHES)}')
    return found


def _with_conditions(
    element: Element, around: tuple[Condition, ...]
) -> Iterator[tuple[Element, tuple[Condition, ...]]]:
    own = Condition.of(element.attrib)
    conditions = around if own is None else (*around, own)
    yield element, conditions
    for child in element:
        yield from _with_conditions(child, conditions)


def _nests(element: Element) -> bool:
    """Whether Label Studio offers choices within choices: in <Choices> only where it is told to."""
    return element.tag != "Choices" or element.attrib.get("allownested", "").lower() == "true"


def _leaves(element: Element, nested: bool, path: tuple[str, ...] = ()) -> Iterator[tuple[Child, tuple[str, ...]]]:
    """In document order; labels may be grouped in <View>s and stand beside <Header>s."""
    for child in element:
        value = child.get("value", "")
        label = child.get("alias") or value
        if child.tag not in ("Label", "Choice"):
            yield from _leaves(child, nested, path)
        elif label.strip():
            here = (*path, label)
            inner = [one for one in child.iter("Choice") if one is not child] if nested else []
            if inner:
                yield from _leaves(child, nested, here)
            else:
                names = (value.strip(), label.strip(), *map(str.strip, child.get("predicted_values", "").split(",")))
                unique = tuple(dict.fromkeys(name for name in names if name))
                hints = tuple(filter(None, map(str.strip, re.split("[,;，；、]", child.get("hint", "")))))
                yield Child(label, value or label, unique, _words(child.get("pallas", "")), hints), here


def _words(text: str) -> frozenset[str]:
    return frozenset(text.lower().replace(",", " ").split())
