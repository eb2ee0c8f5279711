"""Pallas as a model of the package label-studio-ml: for who runs `label-studio-ml start` or its gunicorn template.

    from backend.runner import Pallas

is all there is to write: with 1.0.9 in a script of its own (`label-studio-ml init mine --script pallas.py:Pallas`),
with 2.x in `_wsgi.py` instead of the line that imports the template's model (`… import Pallas as NewModel`). No file
there may be called model.py, since our own package has that name. The web server is then that package's; queue, workers
and answers are the same as with `python -m backend front`. REDIS_URL and the PALLAS_* settings are read from the
environment; start workers with `python -m backend worker`.
"""

from __future__ import annotations

import uuid
from functools import lru_cache
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

try:
    import model.values.task  # noqa: F401
except ImportError as error:
    raise ImportError(
        "a file model.py hides Pallas's own package `model`: give yours another name (see docs/operating.md)"
    ) from error

from backend.front.review import Reviews
from backend.label_studio.protocol import PredictRequest, WebhookRequest, parse
from backend.predict.late_courier import LateCourier
from backend.predict.service import Service, preload
from backend.predict.teacher import Teacher
from backend.queueing.dispatcher import Dispatcher
from backend.queueing.janitor import Janitor
from backend.settings import Settings

# here and not at the first request, whose annotator would wait for it
preload()


@lru_cache(maxsize=1)
def _service() -> tuple[Service, Dispatcher]:
    # made at the first request, not at import: gunicorn forks in between, and connections must not be shared
    settings = Settings()
    dispatcher = Dispatcher(settings)
    # no front of ours may be there to look after lost jobs
    Janitor(settings).start()
    LateCourier(settings, dispatcher).start()
    Teacher(settings, dispatcher).start()
    return Service(settings, dispatcher), dispatcher


class Pallas(LabelStudioMLBase):  # the package is no dependency of ours
    """The model class for label-studio-ml 1.0.9 (PyPI) and 2.x (git)."""

    def setup(self) -> None:
        """2.x calls it for each request: the version is that of the model in the workers."""
        self.set("model_version", _service()[1].model_version())

    def predict(self, tasks: list[dict[str, Any]], context: Any = None, **_: Any) -> list[Any]:
        """One entry for each task, in Label Studio's format; an empty list where nothing is to be predicted.

        Raises:
            BackendError: see `backend.errors`; the package answers 500 with the message.
        """
        body = {
            "tasks": tasks,
            "label_config": self.label_config,
            "project": str(getattr(self, "project_id", "") or ""),
            # 2.x hands an empty dictionary over where Label Studio sent none
            "params": {"context": context or None},
        }
        outcome = _service()[0].predict(parse(PredictRequest, body), uuid.uuid4().hex)
        return [[] if prediction is None else prediction.to_wire() for prediction in outcome.predictions]

    def fit(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Webhook events: what people kept of the answers is counted. Nothing is trained.

        1.0.9 calls fit((), event=…, data=…), 2.x fit(event, data).
        """
        event = named.get("event", arguments[0] if arguments else "")
        data = named.get("data", arguments[1] if len(arguments) > 1 else {})
        service, dispatcher = _service()
        told = parse(WebhookRequest, {**(data or {}), "action": str(event)})
        Reviews(dispatcher.redis, service.answers, service.confidences).take(told)
        service.learn(told)
        return {}
