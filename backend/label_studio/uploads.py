"""Storing predictions in Label Studio: exactly one for each task and model version, whoever tries and however often."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Iterator

import redis

from backend.errors import LabelStudioAway
from backend.label_studio.api import LabelStudioApi
from backend.label_studio.protocol import Prediction

_CLAIM = "pallas:upload:"
_UNFINISHED = "(so far,"
_CLAIM_S = 45  # longer than one look or one POST may take; a program that is killed holds up the next so long
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
        with self._claimed(task, prediction.model_version) as renew:
            tries = 0
            while True:
                if self._api.has_prediction(task, prediction.model_version):
                    return tries > 0
                tries += 1
                renew()
                try:
                    self._api.post_prediction(task, prediction)
                    return True
                except LabelStudioAway as error:
                    # it may have been stored all the same: look before the next try
                    if self._stop.wait(_PAUSES_S[min(tries, len(_PAUSES_S)) - 1]):
                        raise
                    log.debug("task %s: %s", task, error)
                renew()

    def drop_unfinished(self, task: int, model_version: str) -> None:
        """Delete what was answered about a video before its work was over. Raises what the API raises."""
        self._api.drop_predictions(task, lambda found: is_unfinished(found, model_version))

    @contextlib.contextmanager
    def _claimed(self, task: int, version: str) -> Iterator[_Renew]:
        key, token = claim_key(task, version), self._me.encode()
        # a claim of our own is left where Redis went away in the middle of an earlier try
        while not self._redis.set(key, token, nx=True, ex=_CLAIM_S) and self._redis.get(key) != token:
            if self._stop.is_set():
                raise LabelStudioAway("stopped while another program uploads the same prediction")
            time.sleep(_LOOK_S)
        try:
            yield _Renew(self._redis, key)
        finally:
            with contextlib.suppress(redis.RedisError):
                if self._redis.get(key) == token:
                    self._redis.delete(key)


class _Renew:
    def __init__(self, client: redis.Redis, key: str) -> None:
        self._redis, self._key = client, key

    def __call__(self) -> None:
        self._redis.expire(self._key, _CLAIM_S)


def unfinished_version(version: str, share: float) -> str:
    """The model version of a prediction that a whole one replaces later."""
    return f"{version} {_UNFINISHED} {100 * share:.0f} % done)"


def is_unfinished(found: str, version: str) -> bool:
    """Whether a stored prediction's version is that of an unfinished one of this version."""
    return found.startswith(f"{version} {_UNFINISHED}")


def claim_key(task: int, version: str) -> str:
    """In Redis, there while a prediction of this version is being stored in the task."""
    return f"{_CLAIM}{task}:{hashlib.sha256(version.encode()).hexdigest()[:16]}"
