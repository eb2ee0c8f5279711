"""The pump of a bulk job: a few tasks at a time through the queue, each settled in the books exactly once."""

from __future__ import annotations

import json
import logging
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Any

import redis

from backend.bulk.grouping import Grouping
from backend.bulk.ledger import CANCELLED, FINISHED, NOTHING_MARKED, PAUSED, RUNNING, Done, Ledger, Trouble
from backend.bulk.local import LocalPictures
from backend.bulk.naming import file_of_item
from backend.bulk.rate import Rate
from backend.bulk.sinks import Sink
from backend.bulk.sources import Item, Source
from backend.bulk.tally import tally
from backend.bulk.wanted import wanted_roles, wanted_task
from backend.errors import (
    BackendError,
    LabelStudioAway,
    LabelStudioFault,
    LabelStudioRefused,
    ModelLoading,
    NoWorker,
    QueueFull,
    WorkerDied,
)
from backend.labeling.roles import read_roles
from backend.learning.confidence import Confidences
from backend.predict.in_flight import InFlight
from backend.queueing.dispatcher import Dispatcher
from backend.queueing.queues import BULK
from backend.settings import Settings
from backend.tasks.answers import Answers
from backend.tasks.planner import Planner, TaskResult

DEATHS = 2
"""A task that was in hand when so many workers died is given up: it may be what kills them."""

_LOOK_S = 1.0
_UPLOADS = 4
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 300.0
_DRAIN_S = 15.0
_LEASE_S = 2.0
_RENEW_S = 60.0  # pictures in the queue, which expire after a quarter of an hour
_DUE_AT_ONCE = 10_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Storing:
    """A task whose answer is being stored."""

    item: Item
    result: TaskResult


class Pump:
    """Works on one job until it is finished, paused, cancelled or stopped.

    Args:
        settings, dispatcher: as everywhere.
        ledger: the books.
        source: where tasks come from.
        sink: where predictions go.
        stop: set it, and the pump puts the job down as soon as what is in hand is done.
        tell: called about once a second.
    """

    def __init__(
        self,
        settings: Settings,
        dispatcher: Dispatcher,
        ledger: Ledger,
        source: Source,
        sink: Sink,
        stop: threading.Event,
        tell: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._spec = ledger.spec()
        self._roles = read_roles(self._spec.label_config, settings.language)
        self._source = source
        self._sink = sink
        self._stop = stop
        self._tell = tell
        self._dispatcher = dispatcher
        confidences = Confidences(dispatcher.redis, settings.learn_confidence)
        self._planner = Planner(settings, Answers.of(settings, dispatcher.redis), confidences)
        self._grouping = Grouping.of(settings, dispatcher.redis, self._spec)
        self._in_flight = InFlight(settings, dispatcher, BULK, look=self._grouping is not None)
        self._local: LocalPictures | None = None
        if source.folder is not None:
            self._local = LocalPictures(settings, dispatcher.redis, source.folder, ledger.job)
        self._items: dict[str, Item] = {}
        self._troubles: dict[str, Trouble] = {}
        self._order: deque[tuple[str, int]] = deque()
        self._settled: set[str] = set()
        self._arrived: deque[TaskResult] = deque()
        self._storing: dict[Future[Done], _Storing] = {}
        self._looked = 0.0
        self._renewed = time.monotonic()
        self._ousted = False
        self._noted = False
        self._pool = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="upload")
        self._rate = Rate(dispatcher.redis, ledger)

    def run(self) -> str:
        """Work; the state that the job is left in.

        Raises:
            LabelStudioRefused, BadRequest, ConfigError: the source cannot be read.
        """
        self._renew()
        threading.Thread(target=self._keep_lease, name="lease", daemon=True).start()
        try:
            self._first_pass()
            self._second_pass()
            state = self._state()
            if state == RUNNING and not self._stop.is_set():
                state = FINISHED
                self._ledger.set_state(state)
        finally:
            self._put_down()
        return state if state != RUNNING else self._ledger.state()

    def _first_pass(self) -> None:
        """All tasks once, in order; what fails is put down for later."""
        ahead = self._ledger.ahead()
        cursor = self._ledger.cursor()
        for item in self._limited(cursor):
            if item.key in ahead:
                self._order.append((item.key, item.place))
                self._settled.add(item.key)
                continue
            self._order.append((item.key, item.place))
            if not self._admit(item):
                return
        self._until_idle()

    def _limited(self, cursor: int) -> Iterator[Item]:
        if self._spec.limit is None:
            return self._source.items(cursor)
        # places need not be dense: count again from the beginning
        return (item for item in islice(self._source.items(-1), self._spec.limit) if item.place > cursor)

    def _second_pass(self) -> None:
        """What was put down for later: again when it is due, and what was in hand at a death alone."""
        while self._goes_on() and (self._ledger.waiting() or self._items):
            # very many at once: to find them the source is read again, from its beginning
            due = [t for t in self._ledger.troubles_due(_DUE_AT_ONCE) if t.key not in self._items]
            calm = [trouble for trouble in due if not trouble.deaths]
            chosen = calm or ([] if self._items else due[:1])
            missing = {trouble.key: trouble for trouble in chosen}
            for item in self._source.pick(list(missing)) if chosen else ():
                self._troubles[item.key] = missing.pop(item.key)
                if not self._admit(item):
                    return
            for trouble in missing.values():
                gone = replace(trouble, type="TaskGone", message="the input has no such task any more")
                self._ledger.failed(gone)
            self._turn()

    def _admit(self, item: Item) -> bool:
        """Wait for room and put the task into the queue; False where the job does not go on."""
        while self._goes_on():
            try:
                if len(self._items) < self._dispatcher.window() and self._submit(item):
                    return True
            except redis.RedisError as error:
                self._outage(error)
                continue
            self._turn()
        return False

    def _submit(self, item: Item) -> bool:
        """False where there is no room, or nobody to work."""
        key = item.key
        if item.task is None or self._spec.model_version in item.versions:
            if item.error is not None:
                self._fail(item, item.error)
            else:
                self._settle(item, Done(skipped="predicted already"))
            return True
        try:
            predictions = item.raw.get("predictions") or []
            roles = wanted_roles(self._roles.of(item.task.data), self._spec)
            task = wanted_task(item.task, predictions, roles, self._spec)
            plans = [plan for plan in self._planner.plans(task, roles) if plan.groups()]
            if not plans:
                bare = self._planner.lacks_marks(task, roles)
                self._settle(item, Done(skipped=NOTHING_MARKED if bare else "nothing to predict"))
                return True
            if self._local is not None:
                plans = self._local.park(key, plans)
            died = key in self._troubles and self._troubles[key].deaths > 0
            self._in_flight.submit(key, task, plans, f"bulk-{self._ledger.job}-{key}", died, self._spec.project_key)
        except (NoWorker, QueueFull, ModelLoading) as error:
            self._ledger.note(note=str(error))
            self._noted = True
            return False
        except BackendError as error:
            self._release(key)
            self._fail(item, error)
            return True
        self._items[key] = item
        if self._noted:
            self._ledger.note(note="")
            self._noted = False
        return True

    def _turn(self) -> None:
        """Take what is completed and what is stored; renew the lease, tell."""
        try:
            if len(self._in_flight):
                self._arrived += self._in_flight.completed(_LOOK_S if not self._storing else 0.05)
            elif self._storing:
                wait(self._storing, _LOOK_S, FIRST_COMPLETED)
            else:
                self._stop.wait(0.2)
            # what Redis goes away in the middle of is done once more
            while self._arrived:
                self._completed(self._arrived[0])
                self._arrived.popleft()
            for future in [future for future in self._storing if future.done()]:
                self._stored(future)
                del self._storing[future]
            if time.monotonic() - self._looked > _LOOK_S:
                self._looked = time.monotonic()
                self._rate.write()
                self._ledger.note(under_way=sum(self._in_flight.share(key) for key in self._in_flight))
                self._tell()
        except redis.RedisError as error:
            self._outage(error)

    def _completed(self, result: TaskResult) -> None:
        self._release(result.key)
        if result.errors:
            self._fail(self._items[result.key], result.errors[0])
            self._items.pop(result.key)
        else:
            self._store(_Storing(self._items[result.key], result))

    def _release(self, key: str) -> None:
        if self._local is not None:
            self._local.release(key)

    def _store(self, storing: _Storing) -> None:
        self._storing[self._pool.submit(self._finish, storing)] = storing

    def _finish(self, storing: _Storing) -> Done:
        """In a thread of the pool: shape the prediction and store it."""
        begin = time.perf_counter()
        # not remembered for corrections and review: there are too many
        prediction = self._planner.shape(storing.result.replies, self._spec.project_key).stored
        shaped = time.perf_counter()
        if prediction is None:
            return Done(skipped="nothing found")
        if self._grouping is not None:
            prediction = self._grouping.grouped(prediction, storing.result)
        self._sink.store(storing.item, prediction)
        done = tally(storing.result, prediction, shaped - begin, time.perf_counter() - shaped)
        if done.score is not None and self._ledger.would_show(done.score):
            result = _result_of(storing, prediction.result)
            shown = json.dumps({"picture": _picture(storing), "result": result, "score": done.score})
            self._ledger.show(storing.item.key, done.score, zlib.compress(shown.encode(), 1))
        return done

    def _stored(self, future: Future[Done]) -> None:
        storing = self._storing[future]
        item = storing.item
        try:
            self._settle(item, future.result())
        except redis.RedisError:
            if future.exception() is None:
                raise  # it is stored; the books are to be written
            self._store(storing)
            return
        except LabelStudioAway:
            pass  # stopped: the next run looks whether it was stored
        except (LabelStudioRefused, OSError) as error:
            # nothing can be stored at all: not this task's fault
            self._halt(f"{error}")
        except BackendError as error:
            self._fail(item, error)
        except Exception:
            log.exception("task %s: its answer cannot be stored", item.key)
            self._fail(item, LabelStudioFault("the answer could not be made or stored: the log says why"))
        self._items.pop(item.key)

    def _settle(self, item: Item, done: Done | None) -> None:
        """Into the books, and only then out of hand: where Redis goes away in between, it is done once more."""
        key = item.key
        if key in self._troubles:
            if done is not None:
                self._ledger.settle(key, item.place, done)
            del self._troubles[key]
        else:
            passed = list(takewhile(lambda one: one[0] == key or one[0] in self._settled, self._order))
            cursor = passed[-1][1] if passed else None
            self._ledger.settle(key, item.place, done, [first for first, _ in passed], cursor)
            self._settled.add(key)
            for first, _ in passed:
                self._order.popleft()
                self._settled.discard(first)
        self._rate.count(done is not None and not done.skipped)

    def _fail(self, item: Item, error: BackendError) -> None:
        key = item.key
        before = self._troubles.get(key)
        tries = (before.tries if before else 0) + 1
        deaths = (before.deaths if before else 0) + isinstance(error, WorkerDied)
        trouble = Trouble(key, error.type, str(error), tries, deaths, file_of_item(item, self._roles))
        if error.status >= 500 and tries < self._settings.bulk_tries and deaths < DEATHS:
            self._ledger.later(trouble, min(_FIRST_PAUSE_S * 2 ** (tries - 1), _LONGEST_PAUSE_S))
        else:
            self._ledger.failed(trouble)
        log.info("task %s: %s: %s (try %d)", key, error.type, ascii(str(error)), tries)
        self._settle(item, None)

    def _keep_lease(self) -> None:
        # in a thread: whoever waits for Label Studio in the middle of a page still works on the job
        while not self._stop.wait(_LEASE_S):
            try:
                self._renew()
            except redis.RedisError:
                log.debug("the lease cannot be renewed while Redis is away")

    def _renew(self) -> None:
        if not self._ledger.lease():
            self._ousted = True
            self._stop.set()
            log.error("another program works on this job")
        if self._local is not None and time.monotonic() - self._renewed > _RENEW_S:
            self._renewed = time.monotonic()
            self._local.renew()

    def _halt(self, note: str) -> None:
        if self._state() == RUNNING:
            log.error("%s", note)
            self._ledger.set_state(PAUSED, note)

    def _goes_on(self) -> bool:
        return not self._stop.is_set() and self._state() == RUNNING

    def _state(self) -> str:
        try:
            return self._ledger.state()
        except redis.RedisError as error:
            self._outage(error)
            return RUNNING

    def _outage(self, error: redis.RedisError) -> None:
        log.warning("Redis does not answer (%s): waiting for it", type(error).__name__)
        self._stop.wait(1)

    def _until_idle(self) -> None:
        while self._items and self._goes_on():
            self._turn()

    def _put_down(self) -> None:
        """What is in hand is finished if that takes not long; what waits in the queue is taken out."""
        until = time.monotonic() + _DRAIN_S
        try:
            if self._ledger.state() == CANCELLED:
                self._in_flight.withdraw()
                self._items = {storing.item.key: storing.item for storing in self._storing.values()}
            while self._items and time.monotonic() < until:
                self._turn()
                self._ledger.lease()
            self._in_flight.withdraw()
            if self._local is not None and not self._ousted:
                self._local.close()
            if self._stop.is_set() and not self._ousted and self._ledger.state() == RUNNING:
                self._ledger.set_state(PAUSED, "stopped")
            if not self._ousted:
                self._rate.write(over=True)
                if self._grouping is not None:
                    self._grouping.keep()
            self._ledger.release()
        except redis.RedisError as error:
            log.warning("Redis does not answer (%s): the job can be resumed later", type(error).__name__)
        finally:
            # whoever still waits for Label Studio gives up
            self._stop.set()
            self._pool.shutdown(wait=False, cancel_futures=True)


def _picture(storing: _Storing) -> str:
    """Where the picture of a task is, also when its job read it from Redis."""
    plan, _ = storing.result.replies[0]
    return plan.address(storing.result.task.data) if plan.picture.startswith("blob:") else plan.picture


def _result_of(storing: _Storing, result: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is about that picture, of a task that has several."""
    plan, _ = storing.result.replies[0]
    return [item for item in result if plan.has(item)]
