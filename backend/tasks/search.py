"""What is looked for in a picture: a text that was typed, clicks on examples, the names of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.errors import PromptError
from backend.job import Example, FindAsk, PointPrompt, RegionPrompt
from backend.label_studio.geometry import POINTS, kind_of
from backend.label_studio.protocol import LabelStudioTask, ResultItem
from backend.label_studio.regions import is_leftover
from backend.labeling.roles import ImageRoles
from backend.tasks import drawn
from backend.tasks.answers import Memory
from backend.tasks.wanted import point_of

MOST_LETTERS = 200
"""Of a text that is looked for."""


@dataclass(frozen=True)
class Search:
    """One search.

    Attributes:
        ask: what a worker is asked.
        labels: of what is found, by their values in the config; empty leaves them to the model.
        prompts: ids of the items that ask for it.
        text: what was typed; empty where examples were clicked on.
    """

    ask: FindAsk
    labels: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    text: str = ""

    def told(self, count: int) -> str:
        """For the annotator, what the answer alone does not say; empty where there is nothing of that."""
        what = f"“{self.text}”" if self.text else "things like the example"
        if not count:
            return f"nothing found: {what}"
        return f"{count} found, the most at a time: accept them, then look for more" if count == self.ask.limit else ""


class Searches:
    """Reads searches out of interactive requests.

    Args:
        memory: of what was answered before.
        most_pixels: of a mask drawn by hand.
        limit: regions that one search finds at most.
    """

    def __init__(self, memory: Memory, most_pixels: int, limit: int) -> None:
        self._memory = memory
        self._most_pixels = most_pixels
        self._limit = limit

    def of_click(
        self, items: Sequence[ResultItem], image: ImageRoles, task: LabelStudioTask, project: str
    ) -> Search | None:
        """What an interactive request looks for in a picture; None where it asks for something else.

        Raises:
            PromptError: the text is too long, or only counter-examples were clicked on.
        """
        clicks = [item for item in items if is_example(item, image)]
        if clicks:
            return self._by_example(clicks, image, task, project)
        if any(kind_of(item.type) and not is_leftover(item) for item in items):
            return None
        typed = self._typed(items, image, task)
        return None if typed is None else self._by_text(typed, image, task, project)

    def _typed(self, items: Sequence[ResultItem], image: ImageRoles, task: LabelStudioTask) -> ResultItem | None:
        """The text that nobody has been answered yet: Label Studio sends the older ones along with every text."""
        texts = [item for item in items if item.from_name == image.find and _text(item)]
        answered = self._memory.prompted(task.id, [asked_as(item) for item in texts])
        return next((item for item in reversed(texts) if asked_as(item) not in answered), None)

    def _by_text(self, item: ResultItem, image: ImageRoles, task: LabelStudioTask, project: str) -> Search:
        text = _text(item)
        if len(text) > MOST_LETTERS:
            raise PromptError(
                f"{len(text)} characters to look for, at most {MOST_LETTERS}: type a word or a short phrase"
            )
        labels = image.label_of(text)
        prompts = (asked_as(item),)
        ask = FindAsk(texts=(text,), known=self._known(task, project, image, prompts), limit=self._limit)
        return Search(ask, labels, prompts, text)

    def _by_example(
        self, clicks: Sequence[ResultItem], image: ImageRoles, task: LabelStudioTask, project: str
    ) -> Search:
        like: list[Example] = []
        unlike: list[Example] = []
        labels: tuple[str, ...] = ()
        for item in clicks:
            click = point_of(item)
            region = drawn.region_under(click, task, project, image, self._memory, self._most_pixels)
            labels = labels or (region.labels if region is not None and click.positive else ())
            (like if click.positive else unlike).append(Example(prompt=_example(click, region)))
        if not like:
            raise PromptError("only counter-examples: click on a thing first whose like is wanted")
        prompts = tuple(item.id for item in clicks if item.id)
        known = self._known(task, project, image, prompts)
        return Search(FindAsk(like=tuple(like), unlike=tuple(unlike), known=known, limit=self._limit), labels, prompts)

    def _known(
        self, task: LabelStudioTask, project: str, image: ImageRoles, prompts: Sequence[str]
    ) -> tuple[RegionPrompt, ...]:
        return tuple(drawn.all_known(task, project, image, self._memory, self._most_pixels, prompts))

    def of_kinds(self, image: ImageRoles, task: LabelStudioTask) -> list[Search]:
        """One for each kind that is looked for in a picture, beside what is drawn there."""
        known = tuple(drawn.all_known(task, "", image, self._memory, self._most_pixels))
        return [
            Search(FindAsk(texts=names, like=kind.like, known=known, limit=self._limit), kind.labels)
            for kind in image.looked_for
            # a label may be called "?", and a hint be a whole story: nothing to look for, and no reason to fail
            if (names := tuple(filter(is_name, kind.names))) or kind.like
        ]


def is_example(item: ResultItem, image: ImageRoles) -> bool:
    """Whether an item is a click that points at an example, or at a counter-example."""
    labels = image.alike.get(item.from_name, frozenset())
    return kind_of(item.type) in POINTS and not is_leftover(item) and bool(labels.intersection(item.labels()))


def is_name(text: str) -> bool:
    """Whether a text can be looked for: it has letters, and not too many."""
    return len(text) <= MOST_LETTERS and any(letter.isalnum() for letter in text)


def asked_as(item: ResultItem) -> str:
    """The name by which a typed text is remembered: editing it keeps the item's id."""
    return f"{item.id}:{_text(item)}"


def _text(item: ResultItem) -> str:
    found = (item.value.model_extra or {}).get("text")
    lines = found if isinstance(found, list) else [found]
    return " ".join(" ".join(str(line) for line in lines if line).split())


def _example(click: PointPrompt, region: RegionPrompt | None) -> RegionPrompt:
    """The region that was clicked on, as it is; else what the model sees there."""
    if region is None:
        return RegionPrompt(points=(click.model_copy(update={"positive": True}),))
    return RegionPrompt(mask=region.mask)
