"""Tracked regions that a person corrected and saved: *Retrieve predictions* is to ask about their tasks again.

Label Studio skips tasks that have a prediction of the model's version already, so the version of what was corrected
gets a word behind it.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from backend.errors import BackendError
from backend.label_studio.api import LabelStudioApi
from backend.label_studio.protocol import Annotation, WebhookRequest
from backend.settings import Settings
from backend.tasks.answers import Answers
from backend.tasks.video_corrected import corrected_ids

CORRECTED = " (corrected)"
_PATIENCE_S = 20.0

log = logging.getLogger(__name__)


class CorrectedTracks:
    """Takes webhooks; what Label Studio is asked for it is done behind, since a webhook has a second.

    Args:
        settings: Label Studio's address and key; without them nothing is done.
        answers: what we answered before.
    """

    def __init__(self, settings: Settings, answers: Answers) -> None:
        self._settings = settings
        self._answers = answers

    def take(self, event: WebhookRequest) -> None:
        """Look for corrected tracks in the annotations of an event."""
        if not event.action.startswith("ANNOTATION") or "DELETED" in event.action:
            return
        works = event.annotation if isinstance(event.annotation, list) else [event.annotation]
        for work in works:
            if work is not None and work.task is not None and not work.unseen:
                self._take(work.task, work)

    def _take(self, task: int, work: Annotation) -> None:
        ours = self._answers.get([str(item["id"]) for item in work.result if item.get("id")])
        ids = corrected_ids(work.result, ours)
        if not ids:
            return
        if self._settings.label_studio_url is None or self._settings.label_studio_api_key is None:
            log.info("task %s: a track was corrected; delete its prediction to have it tracked on", task)
            return
        threading.Thread(target=self._rename, args=(task, ids), name="corrected", daemon=True).start()

    def _rename(self, task: int, ids: frozenset[str]) -> None:
        def named(prediction: dict[str, Any]) -> str | None:
            version = str(prediction.get("model_version"))
            result = prediction.get("result")
            has = isinstance(result, list) and any(str(item.get("id")) in ids for item in result)
            return version + CORRECTED if has and not version.endswith(CORRECTED) else None

        try:
            LabelStudioApi(self._settings, patience_s=_PATIENCE_S).rename_predictions(task, named)
        except BackendError as error:
            log.warning("task %s: a track was corrected, its prediction keeps its version: %s", task, error)
