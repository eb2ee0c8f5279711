"""What a bulk job asks of a task, and its books."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from backend.bulk.examples import MOST, examples
from backend.bulk.ledger import FINISHED, PAUSED, RUNNING, Done, Ledger, Trouble, names
from backend.bulk.sources import Item
from backend.bulk.spec import Spec
from backend.bulk.wanted import wanted_roles, wanted_task
from backend.errors import BadRequest, ConfigError, PromptError
from backend.job import Example, Group, RegionPrompt
from backend.label_studio.protocol import LabelStudioTask
from backend.labeling.roles import Roles, read_roles
from backend.queueing.connection import connect
from backend.run.embedded_redis import running
from backend.settings import Settings
from backend.tasks.drawn import newest
from backend.tasks.planner import Planner
from tests.backend.test_planner import Nothing
from tests.http.stack import CONFIG, box

TWO_TEXTS = CONFIG.replace(
    "</View>", '<TextArea name="long" toName="image" perRegion="true" pallas="detailed"/></View>'
)


def spec(**changes: object) -> Spec:
    return Spec.model_validate({"label_config": CONFIG, "model_version": "ours"} | changes)


def task(**data: object) -> LabelStudioTask:
    drawn = [{"id": 1, "result": [box(1, 1, 5, 5)], "updated_at": "2026-01-01T00:00:00Z"}]
    return LabelStudioTask.model_validate({"id": 1, "data": {"image": "x"} | data, "annotations": drawn})


def test_regions_of_other_predictions() -> None:
    roles = read_roles(CONFIG)
    theirs = {"model_version": "detector", "result": [box(7, 7, 5, 5)]}
    ours = {"model_version": "ours", "result": [box(9, 9, 5, 5)]}
    found = wanted_task(task(), [theirs, ours], roles, spec(regions="from-predictions"))
    assert newest(found) == theirs["result"]
    assert newest(wanted_task(task(), [ours], roles, spec(regions="from-predictions"))) == []
    assert newest(wanted_task(task(), [theirs], roles, spec())) == [box(1, 1, 5, 5)]


def test_regions_of_a_field() -> None:
    roles = read_roles(CONFIG)
    own = spec(regions="from-field", regions_field="b")
    (item,) = newest(
        wanted_task(task(b='[{"x": 1, "y": 2, "width": 3, "height": 4, "label": "food"}]'), [], roles, own)
    )
    assert item["value"] == {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 0, "rectanglelabels": ["food"]}
    assert newest(wanted_task(task(), [], roles, own)) == newest(wanted_task(task(b=""), [], roles, own)) == []
    for wrong in (
        "{",
        {"x": 1},
        [[1, 2, 3]],
        [{"x": "a", "y": 1, "width": 1, "height": 1}],
        [[10, 10, 400, 300]],
        ["a"],
    ):
        with pytest.raises(PromptError, match=r"data\.b"):
            wanted_task(task(b=wrong), [], roles, own)


def test_texts_and_proposals() -> None:
    roles = read_roles(TWO_TEXTS)

    def words(**changes: object) -> set[str]:
        (image,) = wanted_roles(roles, spec(**changes)).images.values()
        return {control.name for control in image.words}

    assert words() == {"class", "caption", "long"}
    assert words(texts=("detailed",)) == words(texts=("long",)) == {"class", "long"}
    assert words(texts=("none",)) == {"class"}
    with pytest.raises(ConfigError, match="brief, caption, detailed, long"):
        wanted_roles(roles, spec(texts=("explain",)))
    assert next(iter(wanted_roles(roles, spec(regions="propose")).images.values())).propose
    assert not next(iter(wanted_roles(roles, spec(regions="from-annotations")).images.values())).propose
    assert newest(wanted_task(task(), [], roles, spec(regions="propose"))) == []


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    settings = Settings(state_dir=tmp_path_factory.mktemp("ledger"))
    with running(settings):
        yield connect(settings)


def test_the_books_are_bounded_and_go_on(client: redis.Redis) -> None:
    ledger = Ledger.create(client, spec())
    assert ledger.cursor() == -1 and ledger.lease() and not Ledger(client, ledger.job).lease()
    ledger.settle("1", 1, Done(regions=2, score=0.95, labels=("a", "b"), seconds={"encode": 0.5}))
    ledger.settle("2", 2, None)
    assert ledger.ahead() == {"1", "2"}
    ledger.settle("0", 0, Done(skipped="nothing to predict"), ["0", "1", "2"], 2)
    assert ledger.ahead() == set() and ledger.cursor() == 2
    fields = ledger.fields()
    assert fields["done"] == "1" and fields["skipped nothing to predict"] == "1" and fields["score 9"] == "1"
    ledger.later(Trouble("2", "WorkerDied", "it died", 1, 1), 0)
    (due,) = ledger.troubles_due(10)
    assert due == Trouble("2", "WorkerDied", "it died", 1, 1)
    ledger.failed(Trouble("2", "WorkerDied", "it died", 2, 2))
    assert ledger.waiting() == 0 and ledger.failures() == 1 and ledger.troubles_due(10) == []
    assert ledger.retry_failed() == 1 and ledger.failures() == 0
    assert ledger.troubles_due(10) == [Trouble("2", "WorkerDied", "it died", 0, 0)]
    ledger.settle("2", 2, Done(regions=1, score=0.1))
    assert ledger.waiting() == 0 and ledger.fields()["done"] == "2"
    for number in range(60):
        score = (number * 37 % 60) / 60
        if ledger.would_show(score):
            ledger.show(str(number), score, b"x")
    least = ledger.least_certain()
    assert len(least) == 24 and [score for _, score in least] == sorted(i / 60 for i in range(24))
    assert client.hlen(f"pallas:bulk:{ledger.job}:shown") == 24


def test_the_books_of_ended_jobs_go_after_a_season(client: redis.Redis) -> None:
    ledger = Ledger.create(client, spec())
    ledger.settle("1", 1, Done(score=0.5, labels=("a",)))
    ledger.set_state(PAUSED)
    assert client.ttl(f"pallas:bulk:{ledger.job}") == -1
    ledger.set_state(FINISHED)
    books = [key for key in client.scan_iter(f"pallas:bulk:{ledger.job}*") if not key.endswith(b":lease")]
    assert len(books) >= 3
    assert all(0 < client.ttl(key) <= 90 * 86_400 for key in books)
    ledger.set_state(RUNNING)  # `bulk retry`
    assert all(client.ttl(key) == -1 for key in books)
    assert ledger.job in names(client)
    client.delete(*books)
    assert ledger.job not in names(client) and client.zscore("pallas:bulk", ledger.job) is None


def test_times_are_those_of_redis(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.create(client, spec())
    ledger.later(Trouble("1", "PictureUnreachable", "away"), 3600)
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert ledger.troubles_due(10) == []
    monkeypatch.setattr("time.time", lambda: 0.0)
    ledger.later(Trouble("1", "PictureUnreachable", "away"), 0)
    assert len(ledger.troubles_due(10)) == 1


def test_the_spec_is_kept_as_it_is(tmp_path: Path, client: redis.Redis) -> None:
    own = spec(input=tmp_path / "a.json", output=tmp_path / "b.json", texts=("brief",), limit=7)
    assert Ledger.create(client, own).spec() == own


def test_what_is_looked_for_in_every_picture() -> None:
    """By text with a label or without, and by examples; beside what is drawn."""
    mask = Example(prompt=RegionPrompt(box=(1, 1, 5, 5)), picture="/data/upload/1/b.jpg")
    wanted = spec(find=(("dog", ""), ("red mug", "food"), ("spoon", "")), like={"person": (mask,)})
    (image,) = wanted_roles(read_roles(CONFIG), wanted).images.values()
    assert [(kind.names, kind.labels, kind.like) for kind in image.looked_for] == [
        (("dog",), ("animal",), ()),
        (("red mug",), ("food",), ()),
        (("spoon",), (), ()),
        ((), ("person",), (mask,)),
    ]
    planner = Planner(Settings(_env_file=None), Nothing())
    (plan,) = planner.plans(task(), Roles({image.name: image}))
    asks = [group.find for group in plan.groups() if isinstance(group, Group) and group.find is not None]
    assert [ask.texts for ask in asks] == [("dog",), ("red mug",), ("spoon",), ()]
    assert asks[3].like == (mask,) and all(len(ask.known) == 1 for ask in asks)
    with pytest.raises(ConfigError, match="no label 'cup' for regions; it has animal"):
        wanted_roles(read_roles(CONFIG), spec(find=(("mug", "cup"),)))


def test_annotated_regions_are_examples() -> None:
    settings, roles = Settings(_env_file=None), CONFIG
    tasks = [task(image=f"{number}.jpg") for number in range(12)]
    items = [Item(str(number), number, one) for number, one in enumerate(tasks)]
    found = examples(settings, items, roles, ["food"])
    assert len(found["food"]) == MOST
    assert found["food"][0] == Example(prompt=RegionPrompt(box=(1, 1, 6, 6)), picture="0.jpg")
    with pytest.raises(BadRequest, match="animal: no annotated region"):
        examples(settings, items, roles, ["food", "animal"])
