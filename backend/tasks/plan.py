"""What is asked about one picture or video of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from backend.job import Group, JobReply, RegionPrompt
from backend.labeling.roles import ImageRoles
from backend.tasks.results import Shaper
from backend.tasks.search import Search
from backend.tasks.wanted import WantedRegion

_WHOLE = RegionPrompt(box=(0, 0, 100, 100))


class Plan(ABC):
    """One job of a task.

    Attributes:
        picture: address of the picture or video.
        wanted: regions of a picture that are asked for.
        regions: the questions about them.
    """

    picture: str
    wanted: tuple[WantedRegion, ...] = ()
    regions: Group | None = None

    @abstractmethod
    def address(self, data: Mapping[str, Any]) -> str:
        """Of the picture or video, as the task's data has it."""

    @abstractmethod
    def has(self, item: Mapping[str, Any]) -> bool:
        """Whether an item of an answer is about it."""

    @abstractmethod
    def moved(self, picture: str) -> Plan:
        """The same with another address."""

    @abstractmethod
    def groups(self) -> tuple[object, ...]:
        """What is asked; empty where there is nothing to do."""

    @abstractmethod
    def asked(self) -> dict[str, Any]:
        """The fields of the job's request that say it."""

    @abstractmethod
    def shape(self, reply: JobReply, shaper: Shaper) -> None:
        """Add a reply's regions and words to the answer."""


@dataclass(frozen=True)
class PicturePlan(Plan):
    """What is asked about one picture of a task; without groups it is only encoded.

    `prompts` are the ids of the clicks and boxes that ask for it; `searches` are what is looked for, each with the
    questions about what is found.
    """

    image: ImageRoles
    picture: str
    wanted: tuple[WantedRegion, ...] = ()
    regions: Group | None = None
    whole: Group | None = None
    prompts: tuple[str, ...] = ()
    searches: tuple[tuple[Search, Group], ...] = ()

    @property
    def typed(self) -> bool:
        """Whether somebody typed what is looked for."""
        return any(search.text for search, _ in self.searches)

    def address(self, data: Mapping[str, Any]) -> str:
        return self.image.picture(data) or ""

    def has(self, item: Mapping[str, Any]) -> bool:
        return item.get("to_name") == self.image.name and item.get("item_index") in (self.image.page, None)

    def moved(self, picture: str) -> PicturePlan:
        return replace(self, picture=picture)

    def groups(self) -> tuple[Group, ...]:
        found = (group for _, group in self.searches)
        return tuple(group for group in (self.regions, self.whole, *found) if group is not None)

    def asked(self) -> dict[str, Any]:
        groups = []
        if self.regions is not None:
            prompts = tuple(region.prompt for region in self.wanted)
            groups.append(self.regions.model_copy(update={"prompts": prompts}))
        if self.whole is not None:
            groups.append(self.whole.model_copy(update={"prompts": (_WHOLE,)}))
        groups += [group for _, group in self.searches]
        return {"groups": tuple(groups)}

    def shape(self, reply: JobReply, shaper: Shaper) -> None:
        found = list(reply.groups)
        if self.regions is not None:
            regions = found.pop(0)
            wanted = self.wanted or tuple(WantedRegion(RegionPrompt()) for _ in regions)
            shaper.regions(reply, self.image, self.regions, wanted, regions)
        if self.whole is not None:
            shaper.whole(reply, self.image, self.whole, found.pop(0)[0])
        for (search, group), regions in zip(self.searches, found, strict=True):
            wanted = tuple(WantedRegion(RegionPrompt(labels=search.labels)) for _ in regions)
            shaper.regions(reply, self.image, group, wanted, regions)
