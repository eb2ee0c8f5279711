"""What is looked for: a text that was typed, clicks on examples, labels; and what a worker answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image, ImageDraw

from backend.errors import PromptError
from backend.fetching.pictures import PictureStore
from backend.job import Example, FindAsk, Group, JobReply, JobRequest, PointPrompt, RegionPrompt, RegionReply, TextAsk
from backend.label_studio.protocol import Context, LabelStudioTask
from backend.label_studio.rle import encode
from backend.labeling.roles import read_roles
from backend.settings import Settings
from backend.tasks.answers import Answers, Remembered
from backend.tasks.plan import PicturePlan
from backend.tasks.planner import Planner
from backend.worker.embedding_locks import EmbeddingLocks
from backend.worker.embeddings import Embeddings
from backend.worker.engine import Engine
from model import Embedding, PerceiveAnything, Task
from model.finding import finder
from model.values.mask import from_rle, mask_iou, to_rle
from tests.device import DEVICE
from tests.http.stack import point

CONFIG = """<View>
  <TextArea name="message" toName="image" pallas="notice"/>
  <TextArea name="find" toName="image" pallas="find" maxSubmissions="1"/>
  <TextArea name="note" toName="image"/>
  <Image name="image" value="$image" {more}/>
  <KeyPointLabels name="point" toName="image" smart="true"><Label value="alike" pallas="alike"/>
    <Label value="cup"/></KeyPointLabels>
  <BrushLabels name="mask" toName="image" smart="false"><Label value="cup" predicted_values="mug,red mug"/>
    <Label value="plate"/></BrushLabels>
</View>"""
ROLES = read_roles(CONFIG.format(more=""))
SIZE = (320, 240)


def typed(text: str, name: str = "find", id: str = "t1") -> dict[str, Any]:
    value = {"text": [text] if text else []}
    return {"id": id, "from_name": name, "to_name": "image", "type": "textarea", "origin": "manual", "value": value}


def task(*drawn: dict[str, Any]) -> LabelStudioTask:
    drafts = [{"result": list(drawn), "updated_at": "2026-11-23T02:52:42.355671Z"}] if drawn else []
    return LabelStudioTask.model_validate({"id": 7, "data": {"image": "/data/upload/1/a.jpg"}, "drafts": drafts})


def brush(mask: np.ndarray, id: str = "r1", label: str = "plate") -> dict[str, Any]:
    value = {"format": "rle", "rle": encode(mask), "brushlabels": [label]}
    size = {"original_width": mask.shape[1], "original_height": mask.shape[0]}
    return {"id": id, "from_name": "mask", "to_name": "image", "type": "brushlabels", "value": value} | size


@pytest.fixture
def answers(client: redis.Redis) -> Answers:
    return Answers(client, 3600)


def plan(answers: Answers, on: LabelStudioTask, *items: dict[str, Any], **settings: Any) -> PicturePlan | None:
    planner = Planner(Settings(_env_file=None, **settings), answers)
    return planner.click(on, Context.model_validate({"result": list(items)}), "1.1", ROLES)


def ask(found: PicturePlan | None) -> FindAsk:
    assert found is not None
    ((search, group),) = found.searches
    assert group.find == search.ask
    return search.ask


def test_a_typed_text_is_looked_for_once(answers: Answers) -> None:
    found = plan(answers, task(), typed("  a  big\nspoon "))
    assert ask(found).texts == ("a big spoon",)
    assert found is not None and found.typed and found.searches[0][0].labels == ()
    assert answers.claim(7, found.prompts) and not answers.claim(7, found.prompts)
    # it comes along with every other text, and whatever else is typed
    assert plan(answers, task(), typed("a big spoon"), typed("looks good", "note", "n1")) is None
    assert plan(answers, task(), typed("looks good", "note", "n1"), typed("hello", "message", "m1")) is None
    # another text in the same field is a new search, and so is the old one once more after it
    assert ask(plan(answers, task(), typed("a fork"))).texts == ("a fork",)
    assert ask(plan(answers, task(), typed("a big spoon", id="t2"))).texts == ("a big spoon",)
    # one that failed may be asked again
    answers.disclaim(7, found.prompts)
    assert plan(answers, task(), typed("a big spoon")) is not None


def test_a_text_does_not_turn_a_click_into_a_search(answers: Answers) -> None:
    found = plan(answers, task(), typed("spoon"), point(20, 20, label="cup"))
    assert found is not None and found.searches == () and len(found.wanted) == 1


def test_a_text_that_names_a_label_gives_it(answers: Answers) -> None:
    for text, labels in (("Mug", ("cup",)), ("red mug", ("cup",)), ("plate", ("plate",)), ("spoon", ())):
        found = plan(answers, task(), typed(text, id=text))
        assert found is not None and found.searches[0][0].labels == labels


def test_bad_texts(answers: Answers) -> None:
    assert plan(answers, task(), typed("")) is None
    with pytest.raises(PromptError, match="2000 characters to look for, at most 200"):
        plan(answers, task(), typed("x" * 2000))


def test_a_click_on_a_region_makes_it_the_example(answers: Answers) -> None:
    """The accepted region, its label, and what is known; a click beside all regions is asked as a click."""
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:30] = True
    other = np.zeros((40, 60), bool)
    other[30:35, 40:50] = True
    drawn = task(brush(mask), brush(other, "r2", "cup"))
    found = plan(answers, drawn, point(33, 37, label="alike"), point(80, 20, False, "alike", id="not"))
    like, unlike = ask(found).like, ask(found).unlike
    assert like[0].prompt.mask is not None and mask_iou(from_rle(like[0].prompt.mask), mask) == 1
    assert [(p.x, p.y, p.positive) for p in unlike[0].prompt.points] == [(80, 20, True)]
    assert found is not None and found.searches[0][0].labels == ("plate",) and not found.typed
    assert [from_rle(known.mask or {}).sum() for known in ask(found).known] == [200, 50]
    with pytest.raises(PromptError, match="only counter-examples"):
        plan(answers, drawn, point(33, 37, False, "alike"))


def test_what_was_answered_to_these_clicks_is_not_known(answers: Answers) -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:30] = True
    clicked = RegionPrompt(points=(PointPrompt(x=30, y=37),))
    answers.keep("1.1", 7, [Remembered(id="s1", image="image", mask=to_rle(mask), prompt=clicked)], ["p1"])
    assert len(ask(plan(answers, task(), point(90, 90, label="alike", id="p2"))).known) == 1
    assert ask(plan(answers, task(), point(90, 90, label="alike", id="p1"))).known == ()
    # a wrong suggestion is the counter-example that was clicked on
    found = plan(answers, task(), point(90, 90, label="alike", id="p1"), point(33, 37, False, "alike", id="p3"))
    assert ask(found).unlike[0].prompt.mask is not None


def test_labels_are_looked_for_where_the_config_says_so(answers: Answers) -> None:
    planner = Planner(Settings(_env_file=None), answers)
    (found,) = planner.plans(task(), read_roles(CONFIG.format(more='pallas-find="label values"')))
    assert isinstance(found, PicturePlan)
    assert [search.ask.texts for search, _ in found.searches] == [("cup", "mug", "red mug"), ("plate",)]
    assert [search.labels for search, _ in found.searches] == [("cup",), ("plate",)]
    assert len(found.groups()) == len(found.asked()["groups"]) == 3  # and the whole picture's note
    mask = np.ones((4, 4), bool)
    roles = read_roles(CONFIG.format(more='pallas-find="label values"'))
    assert not any(one.searches for one in planner.plans(task(brush(mask)), roles) if isinstance(one, PicturePlan))


def test_hints_are_searched_too(answers: Answers) -> None:
    """A label's hint may list what it means; it changes neither its value nor what the class is chosen among."""
    hinted = CONFIG.replace('<Label value="plate"/>', '<Label value="plate" alias="p1" hint="dish, soup plate"/>')
    hinted = hinted.replace('<TextArea name="note" toName="image"/>', "")
    roles = read_roles(hinted.format(more='pallas-find="label values"'))
    planner = Planner(Settings(_env_file=None), answers)
    (found,) = planner.plans(task(), roles)
    assert isinstance(found, PicturePlan)
    searches = [search for search, _ in found.searches]
    assert [search.ask.texts for search in searches][1] == ("plate", "p1", "dish", "soup plate")
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:30] = True
    region = RegionReply(mask=to_rle(mask), area=200, iou=0.8, object_score=3.0)
    shaped = planner.shape([(found, reply([], [region]))])
    assert [item["value"]["brushlabels"] for item in shaped.prediction.result if item["type"] == "brushlabels"] == [
        ["p1"]
    ]
    (image,) = roles.images.values()
    assert image.label_of("Soup plate") == ("plate",)
    assert [c.names for c in image.geometry[0].labels.candidates][1] == ("plate", "p1")
    # what cannot be looked for is left out, and the others are found
    for odd, texts in (('value="?" hint="..."', [("cup", "mug", "red mug")]), (f'value="plate" hint="{"x" * 300}"', 2)):
        config = CONFIG.replace('<Label value="plate"/>', f"<Label {odd}/>").format(more='pallas-find="label values"')
        (found,) = planner.plans(task(), read_roles(config))
        assert isinstance(found, PicturePlan)
        asked = [search.ask.texts for search, _ in found.searches]
        assert asked == texts or (texts == 2 and asked[1] == ("plate",))


def reply(*groups: Sequence[RegionReply]) -> JobReply:
    return JobReply(
        width=60, height=40, groups=tuple(map(tuple, groups)), seconds={}, model_version="m@1", cached=False
    )


def test_what_was_found_gets_the_label_and_says_what_is_missing(answers: Answers) -> None:
    planner = Planner(Settings(_env_file=None), answers)
    found = plan(answers, task(), typed("mug"), max_prompts=2)
    assert found is not None
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:30] = True
    region = RegionReply(mask=to_rle(mask), area=200, iou=0.8, object_score=3.0)
    shaped = planner.shape([(found, reply([region, region]))])
    assert [item["value"]["brushlabels"] for item in shaped.prediction.result] == [["cup"], ["cup"]]
    assert len({item["id"] for item in shaped.prediction.result}) == 2
    assert shaped.prediction.score == min(item["score"] for item in shaped.prediction.result)
    search = found.searches[0][0]
    assert "nothing found" in search.told(0) and search.told(1) == "" and "most at a time" in search.told(2)


@pytest.fixture(scope="module")
def tiny() -> PerceiveAnything:
    return PerceiveAnything.from_pretrained("tiny", device=DEVICE)


REDS, BLUES = ((50, 50), (160, 60), (270, 50)), ((60, 180), (200, 180))


def disc(x: int, y: int) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= 30**2)


def test_a_worker_finds_the_others(tiny: PerceiveAnything, tmp_path: Path, client: redis.Redis) -> None:
    picture, elsewhere = (Image.new("RGB", SIZE, (225, 225, 215)) for _ in range(2))
    for places, colour in ((REDS, (210, 30, 30)), (BLUES, (40, 60, 200))):
        for x, y in places:
            ImageDraw.Draw(picture).ellipse((x - 30, y - 30, x + 30, y + 30), fill=colour)
    ImageDraw.Draw(elsewhere).ellipse((120, 90, 180, 150), fill=(40, 60, 200))
    picture.save(tmp_path / "a.png")
    elsewhere.save(tmp_path / "b.png")
    settings = Settings(local_roots=(tmp_path,))
    embeddings = Embeddings(settings, tiny, PictureStore(settings, client), EmbeddingLocks(client, tiny.version, 60))
    engine = Engine(settings, tiny, embeddings)

    def found(*asks: FindAsk) -> list[list[RegionReply]]:
        groups = tuple(Group(find=one, texts=(TextAsk(task=Task.RECOGNIZE),)) for one in asks)
        request = JobRequest(request_id="r", picture=str(tmp_path / "a.png"), groups=groups, sent_at=time.time())
        answer = engine.perform(request.model_dump(mode="json"))
        assert "error" not in answer, answer
        return [list(group) for group in JobReply.model_validate(answer).groups]

    def met(regions: Sequence[RegionReply], places: Sequence[tuple[int, int]]) -> int:
        return sum(any(mask_iou(from_rle(r.mask), disc(*place)) > 0.5 for r in regions) for place in places)

    red = Example(prompt=RegionPrompt(mask=to_rle(disc(*REDS[0]))))
    blue = Example(prompt=RegionPrompt(mask=to_rle(disc(150, 120))), picture=str(tmp_path / "b.png"))
    known = (RegionPrompt(mask=to_rle(disc(*REDS[1]))),)
    (reds,) = found(FindAsk(like=(red,), known=known))
    assert met(reds, REDS) == met(reds, REDS[2:]) == 1 and met(reds, BLUES) == 0
    assert all(0.5 <= one.iou <= 1 and one.texts for one in reds)
    # of two kinds at once each keeps its own
    reds, blues = found(FindAsk(like=(red,)), FindAsk(like=(blue,)))
    assert (met(reds, REDS), met(reds, BLUES)) == (2, 0)
    assert met(blues[:2], BLUES) == 2  # the surest; a disc of another colour may come after them


def test_a_worker_finds_in_the_tiles_of_a_large_picture(
    tiny: PerceiveAnything, tmp_path: Path, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Image.new("RGB", (2400, 900), (225, 225, 215))
    places = ((300, 200), (1200, 450), (2100, 700))
    for x, y in places:
        ImageDraw.Draw(picture).ellipse((x - 40, y - 40, x + 40, y + 40), fill=(210, 30, 30))
    picture.save(tmp_path / "large.png")
    rows, columns = np.ogrid[: picture.height, : picture.width]
    masks = [np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= 40**2) for x, y in places]
    ask = FindAsk(like=(Example(prompt=RegionPrompt(mask=to_rle(masks[0]))),))
    group = Group(find=ask, texts=(TextAsk(task=Task.RECOGNIZE),))
    request = JobRequest(request_id="r", picture=str(tmp_path / "large.png"), groups=(group,), sent_at=time.time())
    monkeypatch.setattr(finder, "PEAKS", 6)
    encode = tiny.tower.encode
    shown: list[tuple[int, int]] = []

    def encoded(images: Sequence[Image.Image]) -> list[Embedding]:
        shown.extend(image.size for image in images)
        return encode(images)

    monkeypatch.setattr(tiny.tower, "encode", encoded)
    for most in (1, 4):
        settings = Settings(_env_file=None, local_roots=(tmp_path,), max_tiles=most)
        locks = EmbeddingLocks(client, tiny.version, 60)
        embeddings = Embeddings(settings, tiny, PictureStore(settings, client), locks)
        shown.clear()
        answer = Engine(settings, tiny, embeddings).perform(request.model_dump(mode="json"))
        assert "error" not in answer, answer
        (found,) = JobReply.model_validate(answer).groups
        assert shown.count((909, 900)) == (4 if most == 4 else 0)  # its tiles
        hits = [sum(mask_iou(from_rle(one.mask), mask) > 0.5 for one in found) for mask in masks]
        assert max(hits) <= 1 and hits[0] == 0 and all(one.texts for one in found)
    # each of the others once, in the picture's pixels
    assert hits == [0, 1, 1]


def test_jobs_of_before_are_read(tmp_path: Path) -> None:
    """What was put into a queue before there was anything to look for."""
    request = JobRequest(request_id="r", picture="p", groups=(Group(propose=True),), sent_at=1.0)
    payload = request.model_dump(mode="json")
    del payload["groups"][0]["find"]
    assert JobRequest.model_validate(payload) == request
