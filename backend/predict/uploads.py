"""Storing predictions in Label Studio: exactly one for each task and model version, whoever tries and however often."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import uuid
from collections.abc import Iterator

import redis

from backend.errors import LabelStudioAway
from backend.label_studio.api import LabelStudioApi
from backend.label_studio.protocol import Prediction
from backend.queueing.leases import Lease

_CLAIM = "pallas:upload:"
_UNFINISHED = "(so far,"
_CLAIM_S = 45.0  # longer than one POST may take, or Redis be silent; a program that is killed holds up the next so long
_LOOK_S = 0.2
_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)

log = logging.getLogger(__name__)


class Uploader:
    """Asks Label Studio first, under a claim that only one program holds, and again after a POST that broke off.

    Safe to use from many threads, each with tasks of its own.
    """

    def __init__(self, client: redis.Redis, api: LabelStudioApi, stop: threading.Event | None = None) -> None:
        self._redis = client
        self._api = api
        self._stop = stop or threading.Event()
        self._me = uuid.uuid4().hex

    def upload(self, task: int, prediction: Prediction) -> bool:
        """Store a prediction; False where the task had one of this version already.

        Raises:
            LabelStudioAway: a stop was asked for before Label Studio came back.
            LabelStudioRefused, TaskGone, LabelStudioFault.
        """
        claim = Lease(self._redis, claim_key(task, prediction.model_version), _CLAIM_S, self._me)
        with claim.renewed(), self._released(claim):
            tries = 0
            while True:
                self._wait_for(claim)
                if self._api.has_prediction(task, prediction.model_version):
                    return tries > 0
                if not claim.renew():
                    continue  # Redis was away for long, and somebody else may have stored it meanwhile: look again
                tries += 1
                try:
                    self._api.post_prediction(task, prediction)
                    return True
                except LabelStudioAway as error:
                    # it may have been stored all the same: look before the next try
                    if self._stop.wait(_PAUSES_S[min(tries, len(_PAUSES_S)) - 1]):
                        raise
                    log.debug("task %s: %s", task, error)

    def drop_unfinished(self, task: int, model_version: str) -> None:
        """Delete what was answered about a video before its work was over. Raises what the API raises."""
        self._api.drop_predictions(task, lambda found: is_unfinished(found, model_version))

    def _wait_for(self, claim: Lease) -> None:
        while not claim.hold():
            if self._stop.wait(_LOOK_S):
                raise LabelStudioAway("stopped while another program uploads the same prediction")

    @contextlib.contextmanager
    def _released(self, claim: Lease) -> Iterator[None]:
        try:
            yield
        finally:
            with contextlib.suppress(redis.RedisError):
                claim.release()


def unfinished_version(version: str, share: float) -> str:
    """The model version of a prediction that a whole one replaces later."""
    return f"{version} {_UNFINISHED} {100 * share:.0f} % done)"


def is_unfinished(found: str, version: str) -> bool:
    """Whether a stored prediction's version is that of an unfinished one of this version."""
    return found.startswith(f"{version} {_UNFINISHED}")


def claim_key(task: int, version: str) -> str:
    """In Redis, there while a prediction of this version is being stored in the task."""
    return f"{_CLAIM}{task}:{hashlib.sha256(version.encode()).hexdigest()[:16]}"
