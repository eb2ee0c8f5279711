"""`python -m backend fit`: from reviewed work to a version that is promoted, or refused with its figures."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from backend.adapters.runs import FAILED, FINISHED, INTERRUPTED, QUEUED, RUNNING, FitRun, Runs, where
from backend.adapters.store import Store
from backend.adapters.table import Table
from backend.errors import BackendError, FitError, VersionError, from_model
from backend.settings import Settings
from backend.tuning import scenes
from backend.tuning.gather import Gathered, is_held
from backend.tuning.pace import Pace, Stopped
from backend.tuning.wanted import Wanted
from backend.tuning.work import Work, since_of

if TYPE_CHECKING:
    from model import Adapter, Example, Outcome, PerceiveAnything

log = logging.getLogger(__name__)

_NOTE_EVERY_S = 1.0
_WAIT_S = 1.0
_WAITING_NOTE_S = 60.0
_NICE = 10


class Fit:
    """One run, in the project's folder of versions; one at a time, of whichever project.

    Args:
        settings: for the model, for reading the work, for the folder.
        client: Redis.
        stop: set by a signal.
        tell: called with lines for the terminal and the log.
        show: called with the stage and its share, often.
    """

    def __init__(
        self,
        settings: Settings,
        client: redis.Redis,
        stop: threading.Event,
        tell: Callable[[str], None],
        show: Callable[[str, float], None],
    ) -> None:
        self._settings = settings
        self._redis = client
        self._stop = stop
        self._tell = tell
        self._show = show
        self._runs = Runs(client)
        self._store = Store(settings)
        self._noted = 0.0
        self._run = FitRun(project=None, job="", state=QUEUED)

    def begin(self, asked: Wanted) -> FitRun:
        """To the end, or until it is stopped; the run as the books have it.

        Raises:
            FitError: another run is under way; the disk is full. Besides, what reading the work raises.
        """
        before = self._runs.get(asked.spec.project)
        began = before.began if before is not None and before.job == asked.job else time.time()
        self._run = FitRun(
            project=asked.spec.project, job=asked.job, state=QUEUED, by_button=asked.by_button, began=began
        )
        lease = self._runs.lease(uuid.uuid4().hex)
        while not lease.hold():
            if not asked.by_button:
                busy = next((run for run in self._runs.all() if run.state == RUNNING), None)
                of = "another run" if busy is None else f"a run of `fit {where(busy.project)}`"
                raise FitError(f"{of} is under way: one at a time, begin this one when that is over")
            if time.monotonic() - self._noted > _WAITING_NOTE_S:
                self._note(message="waits for another run")
            if self._stop.wait(_WAIT_S):
                return self._note(state=INTERRUPTED, message=self._how_to_go_on(asked))
        try:
            with lease.renewed():
                os.nice(_NICE)
                return self._begin(asked)
        finally:
            with suppress(redis.RedisError):
                lease.release()

    def _begin(self, asked: Wanted) -> FitRun:
        try:
            self._note(state=RUNNING, stage="reading the work")
            return self._work(asked)
        except Stopped:
            return self._note(state=INTERRUPTED, message=self._how_to_go_on(asked))
        except BackendError as error:
            self._note(state=FAILED, message=str(error))
            raise
        except OSError as error:
            why = f"{self._store.root} cannot be written ({error.strerror or error}): free some room, then fit goes on"
            self._note(state=FAILED, message=why)
            raise FitError(why) from None
        except Exception as error:
            known = from_model(error)
            self._note(state=FAILED, message=str(known or f"{type(error).__name__}: see the log"))
            if known is None:
                raise
            raise known from None

    def _work(self, asked: Wanted) -> FitRun:
        folder = self._folder(asked)
        near = asked.spec.input.parent if asked.spec.input is not None else None
        gathered = Gathered(self._settings, folder, near)
        work = Work(self._settings, asked.spec, since_of(asked.since))
        examples = gathered.examples(work.regions, lambda count: self._say(f"reading the work, {count} regions", 0.0))
        left_out = work.left_out + gathered.left_out
        for reason, count in sorted(left_out.items()):
            self._tell(f"left out: {count} {reason}")
        train = [example for example in examples if not is_held(example.group)]
        held = [example for example in examples if is_held(example.group)]
        self._tell(f"{len(train)} reviewed regions to learn from, {len(held)} of other tasks held out")
        self._check(train, held, asked.what)
        self._say("loading the model", 0.0)
        pam = self._model()
        outcome, seconds = self._learn(asked, pam, folder, gathered, train, held)
        card = {
            "figures": outcome.figures(),
            "regions": {"learned": len(train), "held_out": len(held)},
            "left_out": dict(left_out),
            "what": list(asked.what),
            "minutes": round(seconds / 60, 2),
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        message = self._finish(asked, pam, outcome, card)
        shutil.rmtree(folder, ignore_errors=True)
        return self._note(state=FINISHED, stage="", share=1.0, message=message, figures=outcome.figures())

    @staticmethod
    def _check(train: list[Example], held: list[Example], what: tuple[str, ...]) -> None:
        """Before the model is loaded. Raises FitError."""
        from model import TuningRun

        lacking = TuningRun.lacking(train, held, what)
        if len(lacking) == len(what):
            raise FitError(f"too little was reviewed: {'; '.join(lacking.values())}")

    def _folder(self, asked: Wanted) -> Path:
        """Of this run; what another run left there goes, unless this one goes on with it."""
        folder = self._store.root / asked.project / "run"
        book = folder / "run.json"
        with suppress(OSError, ValueError):
            if json.loads(book.read_text("utf-8")) == asked.same_as():
                self._tell("goes on where it was stopped")
                return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        part = book.with_suffix(".part")
        part.write_text(json.dumps(asked.same_as()), encoding="utf-8")
        part.replace(book)
        return folder

    def _model(self) -> PerceiveAnything:
        from model import PerceiveAnything, share_cores

        settings = self._settings
        share_cores(settings.workers + 1)
        # not in eight bits, which cannot learn; nothing compiled, since weights change
        return PerceiveAnything.from_pretrained(
            *settings.checkpoint,
            resident=False,
        )

    def _learn(
        self,
        asked: Wanted,
        pam: PerceiveAnything,
        folder: Path,
        gathered: Gathered,
        train: list[Example],
        held: list[Example],
    ) -> tuple[Outcome, float]:
        from model import Lessons, TuningRun

        def picture(name: str) -> Any:
            return scenes.picture(name) if name.startswith(scenes.PREFIX) else gathered.picture(name)

        def waiting(on: bool) -> None:
            self._note(message="waits while others are served" if on else "")

        lessons = Lessons(train, held, scenes.guard(), picture, asked.what, scenes.rehearsed())
        pace = Pace(self._redis, self._stop, waiting)
        run = TuningRun(pam, lessons, folder, asked.minutes * 60, pace, self._say, self._current(asked, pam))
        begin = time.monotonic()
        return run.run(), time.monotonic() - begin

    def _current(self, asked: Wanted, pam: PerceiveAnything) -> Adapter | None:
        """The version that answers now, which a new one has to beat; None: the base."""
        name = self._store.in_use(asked.project).active
        if name is None:
            return None
        try:
            adapter = self._store.read(name)
        except VersionError as error:
            self._tell(f"{name} is not counted: {error}")
            return None
        return adapter if adapter.base == pam.base_version else None

    def _finish(self, asked: Wanted, pam: PerceiveAnything, outcome: Outcome, card: dict[str, Any]) -> str:
        """Promote what is better; the message that says what came of it."""
        if not outcome.kept:
            reasons = "; ".join(f"{kind}: {why}" for kind, why in outcome.reasons.items())
            return f"nothing is promoted ({reasons})"
        name = self._store.next_name(asked.project)
        self._store.write(outcome.adapter(name, pam.base_version, card))
        state = self._store.in_use(asked.project)
        state = state.model_copy(update={"key": asked.key, "before": [*state.before, state.active], "active": name})
        self._store.use(asked.project, state)
        Table(self._redis).publish(self._store, asked.project)
        return f"promoted {pam.base_version}+{name}: better {' and '.join(outcome.kept)}"

    def _how_to_go_on(self, asked: Wanted) -> str:
        return f"it was stopped: `python -m backend fit {where(asked.spec.project)}` goes on where it was"

    def _say(self, stage: str, share: float) -> None:
        if self._stop.is_set():
            raise Stopped
        self._show(stage, share)
        if stage != self._run.stage or time.monotonic() - self._noted > _NOTE_EVERY_S:
            self._note(stage=stage, share=share)

    def _note(self, **changes: Any) -> FitRun:
        self._run = self._run.model_copy(update=changes)
        self._noted = time.monotonic()
        try:
            self._runs.note(self._run)
        except redis.RedisError as error:
            log.warning("Redis does not answer (%s): the run goes on", type(error).__name__)
        return self._run
