"""The sentences that the model learns: for each task of PAM, English and Chinese, from the truth about a thing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tiny.art import Kind, kinds
from tiny.looks import COLOURS, PLACES, SIZES, UNKNOWN, mirrored

_PLURAL = {"glasses", "trousers", "scissors", "french fries", "grapes"}
_UNKNOWN = Kind(UNKNOWN, "物体", "个", (), "a thing that I do not know", "我不认识的东西")
_BESIDE_EN = {"beside": "Beside it is", "covered": "It is partly covered by", "front": "It is in front of"}
_BESIDE_ZH = {"beside": "旁边是{}", "covered": "一部分被{}遮住", "front": "它在{}前面"}


ACTS = {
    "still": ("stays where it is", "stay where they are", "停在原处"),
    "left": ("moves to the left", "move to the left", "向左移动"),
    "right": ("moves to the right", "move to the right", "向右移动"),
    "up": ("moves up", "move up", "向上移动"),
    "down": ("moves down", "move down", "向下移动"),
    "gone": ("is gone", "are gone", "不见了"),
}
"""What a thing does in a clip: English of one, of several, Chinese."""


@dataclass(frozen=True)
class Neighbour:
    """Another thing: `relation` is beside, covered (it covers this one) or front (this one covers it)."""

    relation: str
    kind: str
    colour: str


@dataclass(frozen=True)
class Truth:
    """What is true of one thing in one picture; every word is a key of the English tables. `surveyed`: whether all that
    is in the picture is known, so that it may be said that nothing is near."""

    kind: str
    colour: str
    place: str
    size: str
    neighbour: Neighbour | None = None
    surveyed: bool = True

    def mirror(self) -> Truth:
        """The truth about the picture turned left for right."""
        return replace(self, place=mirrored(self.place))


def kind_of(name: str) -> Kind:
    """The class table's row, or the row for unknown things."""
    return kinds().get(name, _UNKNOWN)


def definition(name: str, language: str = "en") -> str:
    """Definition with function of a class, language en or zh."""
    return kind_of(name).does_zh if language == "zh" else kind_of(name).does_en


def label(name: str, language: str = "en") -> str:
    """Class name in language en or zh."""
    return kind_of(name).zh if language == "zh" else kind_of(name).en


def write(task: str, truth: Truth, language: str = "en") -> str:
    """The text for task recognize, explain, brief or detailed, in en or zh. Raises KeyError for another task."""
    tasks = {"recognize": _recognize, "explain": _explain, "brief": _brief, "detailed": _detailed}
    return tasks[task](truth, language)


def tell(truth: Truth, act: str, before: str | None = None, language: str = "en") -> str:
    """The caption of a clip: what the thing does (a key of ACTS), given what it did before, if that was told."""
    one, several, chinese = ACTS[act]
    if language == "zh":
        if before is None:
            return f"{_phrase_zh(truth.kind, truth.colour)}{chinese}。"
        row = kind_of(truth.kind)
        word = "现在" if act != before else "仍然"
        return f"这{row.measure}{COLOURS[truth.colour]}的{row.zh}{word}{chinese}。"
    verb = several if truth.kind in _PLURAL else one
    if before is None:
        return f"{_capital(_phrase_en(truth.kind, truth.colour))} {verb}."
    return f"The {truth.colour} {truth.kind} {verb} {'now' if act != before else 'as before'}."


def _recognize(truth: Truth, language: str) -> str:
    return label(truth.kind, language)


def _explain(truth: Truth, language: str) -> str:
    return f"{label(truth.kind, language)}{'：' if language == 'zh' else ': '}{definition(truth.kind, language)}"


def _brief(truth: Truth, language: str) -> str:
    if language == "zh":
        return f"{PLACES[truth.place]}的{_phrase_zh(truth.kind, truth.colour)}。"
    return f"{_capital(_phrase_en(truth.kind, truth.colour))} {truth.place}."


def _detailed(truth: Truth, language: str) -> str:
    other = truth.neighbour
    if language == "zh":
        first = f"{PLACES[truth.place]}的{_phrase_zh(truth.kind, truth.colour, truth.size)}"
        if other is None:
            return f"{first}，旁边没有别的东西。" if truth.surveyed else f"{first}。"
        return f"{first}，{_BESIDE_ZH[other.relation].format(_phrase_zh(other.kind, other.colour))}。"
    first = f"{_capital(_phrase_en(truth.kind, truth.colour, truth.size))} {truth.place}."
    if other is None:
        return f"{first} Nothing else is near it." if truth.surveyed else first
    return f"{first} {_BESIDE_EN[other.relation]} {_phrase_en(other.kind, other.colour)}."


def _phrase_en(kind: str, colour: str, size: str | None = None) -> str:
    words = " ".join(word for word in (size, colour, kind) if word)
    if kind in _PLURAL:
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _phrase_zh(kind: str, colour: str, size: str | None = None) -> str:
    row = kind_of(kind)
    return f"一{row.measure}{SIZES[size] + '的' if size else ''}{COLOURS[colour]}的{row.zh}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
