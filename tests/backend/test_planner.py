"""The planner alone: a task and a labelling config in, plans out; replies in, a prediction out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from backend.errors import BadRequest, ConfigError, PromptError
from backend.job import JobReply, LabelReply, RegionReply, TextReply
from backend.label_studio.protocol import Context, LabelStudioTask
from backend.labeling.roles import read_roles
from backend.settings import Settings
from backend.tasks.answers import Remembered
from backend.tasks.planner import Planner
from model.values.mask import to_rle
from tests.http.stack import CONFIG, box, point

ROLES = read_roles(CONFIG)


class Nothing:
    """A memory of no answers."""

    def get(self, ids: Sequence[str]) -> dict[str, Remembered]:
        return {}

    def of_task(self, project: str, task: int | None) -> list[Remembered]:
        return []

    def prompted(self, task: int | None, ids: Sequence[str]) -> set[str]:
        return set()


class Ours(Nothing):
    """All regions with these ids are known as ours."""

    def __init__(self, *ids: str) -> None:
        self._ids = ids

    def get(self, ids: Sequence[str]) -> dict[str, Remembered]:
        return {name: Remembered(id=name, image="image") for name in ids if name in self._ids}


def planner(**changes: Any) -> Planner:
    return Planner(Settings(_env_file=None, **changes), Nothing())


def task(*regions: dict[str, Any], image: str = " /data/upload/1/a.jpg ") -> LabelStudioTask:
    return LabelStudioTask.model_validate({"id": 7, "data": {"image": image}, "drafts": [{"result": list(regions)}]})


def context(*regions: dict[str, Any]) -> Context:
    return Context.model_validate({"result": list(regions)})


def reply(number: int) -> JobReply:
    mask = np.zeros((20, 30), bool)
    mask[5:10, 5:15] = True
    region = RegionReply(
        **{"mask": to_rle(mask), "area": 50, "iou": 0.9, "object_score": 5.0},
        texts={"recognize.en": TextReply(string="cat", score=0.8), "brief.en": TextReply(string="a cat", score=0.5)},
        labels=(LabelReply(label="animal", probability=0.8),),
    )
    return JobReply(width=30, height=20, groups=((region,) * number,), seconds={}, model_version="m@1", cached=False)


def test_a_click_is_planned_and_its_reply_shaped() -> None:
    plan = planner().click(task(), context(point(10, 20, label="object")), "1.1", ROLES)
    assert plan is not None and plan.picture == "/data/upload/1/a.jpg" and len(plan.wanted) == 1
    (group,) = plan.asked()["groups"]
    assert [(p.x, p.y) for p in group.prompts[0].points] == [(10, 20)] and group.texts and group.label_sets
    shaped = planner().shape([(plan, reply(1))])
    assert shaped.stored is shaped.prediction and shaped.prediction.model_version == "m@1"
    assert {item["id"] for item in shaped.prediction.result} == {plan.wanted[0].id}
    assert [region.id for region in shaped.remembered] == [plan.wanted[0].id]


def test_what_we_answered_ourselves_is_no_prompt() -> None:
    ours = Planner(Settings(_env_file=None), Ours("b"))
    assert ours.click(task(), context(box(5, 5, 30, 40, id="b")), "1.1", ROLES) is None
    assert planner().click(task(), context(box(5, 5, 30, 40, id="b")), "1.1", ROLES) is not None


def test_a_click_that_cannot_be_planned() -> None:
    boxes = [box(5, 5, 30, 40, id=str(i)) for i in range(3)]
    with pytest.raises(PromptError, match="3 regions in one request, the limit is 2"):
        planner(max_prompts=2).click(task(), context(*boxes), "1.1", ROLES)
    with pytest.raises(BadRequest, match=r"tasks\.0\.data\.image"):
        planner().click(task(image=" "), context(point(10, 20, label="object")), "1.1", ROLES)
    with pytest.raises(ConfigError, match="reload the page"):
        planner().click(task(), context(point(10, 20) | {"from_name": "gone"}), "1.1", ROLES)


def test_more_regions_than_one_job_may_have_become_several() -> None:
    plans = planner(max_prompts=2).plans(task(*(box(5, 5, 30, 40, id=str(i)) for i in range(5))), ROLES)
    assert [len(plan.wanted) for plan in plans] == [2, 2, 1]
    shaped = planner().shape([(plan, reply(len(plan.wanted))) for plan in plans])
    assert len({item["id"] for item in shaped.prediction.result}) == 5


def test_a_task_without_anything_to_do_is_only_encoded() -> None:
    (plan,) = planner().plans(task(), ROLES)
    assert plan.groups() == () and plan.asked() == {"groups": ()}
    assert planner().plans(LabelStudioTask(data={}), ROLES) == []
    assert planner().shape([]).stored is None
