"""The books of a bulk job: each task once, whatever becomes of Redis' answers; the input is not read once a failure."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from backend.bulk.ledger import FINISHED, Done, Ledger, Trouble
from backend.bulk.pump import Pump
from backend.bulk.sinks import FileSink
from backend.bulk.sources import Item, JsonSource, ProjectSource
from backend.bulk.spec import Spec
from backend.errors import PictureUnreachable
from backend.label_studio.api import LabelStudioApi
from backend.queueing.connection import connect
from backend.queueing.dispatcher import Dispatcher
from backend.run.embedded_redis import running
from backend.settings import Settings
from benchmarks.stand_in import TOKEN, StandIn
from tests.http.stack import CONFIG


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = Settings(state_dir=tmp_path_factory.mktemp("books"))
    with running(settings):
        yield settings


class Unsure(redis.Redis):
    """A third of all transactions is lost, of another third the answer."""

    chance = random.Random(7)

    def pipeline(self, *arguments: Any, **named: Any) -> redis.client.Pipeline:
        pipe = super().pipeline(*arguments, **named)
        plain = pipe.execute

        def execute(raise_on_error: bool = True) -> list[Any]:
            turn = self.chance.randrange(3)
            if turn == 0:
                raise redis.ConnectionError("lost before it was done")
            found = plain(raise_on_error)
            if turn == 1:
                raise redis.ConnectionError("done, and the answer lost")
            return found

        pipe.execute = execute  # type: ignore[method-assign]
        return pipe


def unsure(settings: Settings) -> redis.Redis:
    client = connect(settings)
    return Unsure(connection_pool=client.connection_pool)


def again(write: Any) -> None:
    """Until it is answered."""
    while True:
        try:
            return write()
        except redis.RedisError:
            continue


def pump(settings: Settings, ledger: Ledger, source: JsonSource, output: Path) -> str:
    stop = threading.Event()
    return Pump(settings, Dispatcher(settings), ledger, source, FileSink(output, ledger.job), stop, lambda: None).run()


def test_each_task_counts_once_across_errors_of_redis(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # every fourth is no task at all, the others have nothing to predict: no worker is needed
    tasks = [number if number % 4 == 3 else {"data": {"image": "x.png"}} for number in range(80)]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    monkeypatch.setattr(Pump, "_outage", lambda *_: None)
    spec = Spec(input=tmp_path / "tasks.json", output=tmp_path / "out.json", label_config=CONFIG)
    ledger = Ledger.create(connect(settings), spec)
    watched = Ledger(unsure(settings), ledger.job)
    watched.state, watched.set_state = ledger.state, ledger.set_state  # type: ignore[method-assign]
    assert pump(settings, watched, JsonSource(tmp_path / "tasks.json"), tmp_path / "out.json") == FINISHED
    assert ledger.fields()["skipped nothing marked"] == "60" and ledger.failures() == 20
    assert ledger.cursor() == 79 and ledger.ahead() == set() and ledger.waiting() == 0


def test_what_was_settled_between_two_tries_does_not_mislead(settings: Settings) -> None:
    ledger = Ledger.create(connect(settings), Spec(label_config=CONFIG))
    other = Ledger(unsure(settings), ledger.job)
    again(lambda: other.settle("2", 2, Done(regions=1)))
    ledger.settle("0", 0, Done(regions=1), ["0"], 0)
    ledger.settle("1", 1, Done(regions=1))
    again(lambda: other.settle("0", 0, Done(regions=1), ["0", "1", "2"], 2))
    again(lambda: other.settle("2", 2, Done(regions=1), ["0", "1", "2"], 2))
    assert ledger.fields()["done"] == "3" and ledger.cursor() == 2 and ledger.ahead() == set()


def test_tries_count_once_too(settings: Settings) -> None:
    ledger = Ledger.create(connect(settings), Spec(label_config=CONFIG))
    other = Ledger(unsure(settings), ledger.job)
    for tries in (1, 2):
        again(lambda tries=tries: other.later(Trouble("7", "PictureUnreachable", "away", tries), 0))
    again(lambda: ledger.settle("7", 7, None, ["7"], 7))
    assert ledger.fields()["retried"] == "2" and ledger.waiting() == 1
    again(lambda: other.settle("7", 7, Done(regions=2)))
    assert ledger.fields()["done"] == "1" and ledger.fields()["regions"] == "2" and ledger.waiting() == 0
    assert ledger.ahead() == set()


class Counting(JsonSource):
    read_items = 0

    def _raw(self) -> Iterator[Any]:
        for raw in super()._raw():
            self.read_items += 1
            yield raw


def test_the_input_is_not_read_again_for_each_few_failures(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 600
    (tmp_path / "tasks.json").write_text(json.dumps([{"data": {"image": "x.png"}}] * count))
    monkeypatch.setattr("backend.bulk.pump._FIRST_PAUSE_S", 0.0)
    tried: Counter[str] = Counter()

    def submit(self: Pump, item: Item) -> bool:
        tried[item.key] += 1
        self._fail(item, PictureUnreachable("the host is away"))
        return True

    monkeypatch.setattr(Pump, "_submit", submit)
    spec = Spec(input=tmp_path / "tasks.json", output=tmp_path / "out.json", label_config=CONFIG)
    ledger, source = Ledger.create(connect(settings), spec), Counting(tmp_path / "tasks.json")
    assert pump(settings, ledger, source, tmp_path / "out.json") == FINISHED
    assert ledger.failures() == count and set(tried.values()) == {settings.bulk_tries}
    # once for each try; the last look for what is due may find a few left
    assert source.read_items <= count * (settings.bulk_tries + 2)


class Named(tuple[int, ...]):
    """Task ids that count how often they are gone through."""

    read = 0

    def __iter__(self) -> Iterator[int]:
        Named.read += 1
        return super().__iter__()


def test_a_views_tasks_are_chosen_in_one_pass(settings: Settings, label_studio: StandIn) -> None:
    for _ in range(1200):
        label_studio.add({"image": "x"})
    label_studio.views[3] = list(range(1200, 0, -1))
    spec = Spec.model_construct(label_config=CONFIG, project=1, view=3, task_ids=Named(range(2, 1300, 2)), regions=None)
    client = connect(settings)
    own = settings.model_copy(update={"label_studio_url": label_studio.url})
    api = LabelStudioApi(Settings(label_studio_url=own.label_studio_url, label_studio_api_key=TOKEN))
    ProjectSource(api, spec, client, "pallas:bulk:x:tasks")
    found: Any = client.lrange("pallas:bulk:x:tasks", 0, -1)
    assert [int(number) for number in found] == list(range(1200, 0, -2))
    assert Named.read < 5
