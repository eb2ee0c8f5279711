"""The front: Label Studio's ML protocol over HTTP (Flask). It imports no torch and computes nothing itself."""

from __future__ import annotations

import importlib
import logging
import time
import uuid
from typing import Any

import redis
from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.exceptions import MethodNotAllowed as WrongMethod
from werkzeug.exceptions import NotFound as NoPage

from backend.errors import (
    BackendError,
    BadRequest,
    BodyTooLarge,
    ConfigError,
    MethodNotAllowed,
    NotFound,
    PromptError,
    QueueDown,
    WorkerError,
)
from backend.job import JobReply, JobRequest, RegionPrompt
from backend.metrics import Metrics
from backend.pictures import park
from backend.prompts import read_prompts
from backend.protocol import (
    Context,
    LabelStudioTask,
    Prediction,
    PredictRequest,
    SetupRequest,
    WebhookRequest,
    parse,
)
from backend.queues import Dispatcher
from backend.results import shape
from backend.roles import Roles, read_roles
from backend.settings import Settings

log = logging.getLogger(__name__)


def preload() -> None:
    """Import what the first request would else wait for."""
    read_roles(
        '<View><Image name="i" value="$i"/><BrushLabels name="m" toName="i"><Label value="a"/></BrushLabels></View>'
    )
    importlib.import_module("label_studio_sdk.converter.brush")


def create_app(settings: Settings) -> Flask:
    """The WSGI app."""
    app = Flask("pallas")
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    dispatcher = Dispatcher(settings)
    metrics = Metrics(dispatcher)
    _add_pages(app, settings, dispatcher, metrics)
    _add_bookkeeping(app, metrics)
    return app


def _add_pages(app: Flask, settings: Settings, dispatcher: Dispatcher, metrics: Metrics) -> None:
    @app.get("/")
    @app.get("/health")
    def health() -> Response:
        workers = dispatcher.workers()
        return jsonify(
            status="UP",
            model_class="Pallas",
            model_version=dispatcher.model_version(),
            workers={state: sum(w.state == state for w in workers) for state in ("loading", "ready")},
        )

    @app.post("/setup")
    def setup() -> Response:
        read_roles(parse(SetupRequest, _json()).label_schema)
        return jsonify(model_version=dispatcher.model_version())

    @app.post("/predict")
    def predict() -> Response:
        asked = parse(PredictRequest, _json())
        roles = read_roles(asked.label_config)
        context = asked.params.context
        if context is None or not context.result:
            # no prompt, nothing to draw: one empty result for each task is what Label Studio takes without an error
            version = dispatcher.model_version()
            return _predictions([Prediction(model_version=version) for _ in range(max(1, len(asked.tasks)))])
        if len(asked.tasks) != 1:
            raise BadRequest(f"tasks: an interactive request is about one task, this one has {len(asked.tasks)}")
        return _predictions([interactive(asked.tasks[0], context, roles)])

    def interactive(task: LabelStudioTask, context: Context, roles: Roles) -> Prediction:
        # a config may show several pictures: the newest prompt says which one is meant
        image = context.result[-1].to_name
        prompts = read_prompts([region for region in context.result if region.to_name == image], roles)
        if not prompts:
            return Prediction(model_version=dispatcher.model_version())
        if len(prompts) > settings.max_prompts:
            raise PromptError(
                f"{len(prompts)} regions in one request, the limit is {settings.max_prompts}: accept some"
            )
        outputs = roles.outputs_of(image)
        if not any(control.is_geometry for control in outputs):
            raise ConfigError(f"the picture {image!r} has no control for masks: add <BrushLabels toName={image!r}>")
        job = JobRequest(
            request_id=g.request_id,
            picture=_picture(task, roles.images[image]),
            prompts=tuple(prompts),
            tasks=tuple(dict.fromkeys(text for control in outputs for text in control.tasks())),
            language=settings.language,
            max_new_tokens=settings.max_new_tokens,
            sent_at=time.time(),
        )
        return answer(job, prompts, roles, image)

    def answer(job: JobRequest, prompts: list[RegionPrompt], roles: Roles, image: str) -> Prediction:
        begin = time.perf_counter()
        picture = park(job.picture, dispatcher.redis, settings)
        reply: JobReply = dispatcher.run(job.model_copy(update={"picture": picture}))
        shaping = time.perf_counter()
        prediction = shape(reply, prompts, roles.outputs_of(image))
        end = time.perf_counter()
        metrics.observe(reply, end - shaping, end - begin)
        g.seconds = reply.seconds | {"shape": end - shaping}
        return prediction

    @app.post("/webhook")
    def webhook() -> Response:
        event = parse(WebhookRequest, _json())
        # a label of a metric may not be whatever a stranger sends
        known = event.action if event.action.isidentifier() and len(event.action) <= 40 else "other"
        metrics.webhooks.labels(known).inc()
        return jsonify(status="ok")

    @app.get("/versions")
    def versions() -> Response:
        return jsonify(versions=[dispatcher.model_version()])

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(metrics.text(), mimetype="text/plain; version=0.0.4")


def _add_bookkeeping(app: Flask, metrics: Metrics) -> None:
    @app.before_request
    def begin() -> None:
        g.request_id = uuid.uuid4().hex
        g.begin = time.perf_counter()
        g.seconds = {}

    @app.after_request
    def end(response: Response) -> Response:
        page = request.url_rule.rule if request.url_rule else "other"
        metrics.requests.labels(page, response.status_code).inc()
        stages = " ".join(f"{name}={seconds:.3f}" for name, seconds in g.get("seconds", {}).items())
        level = logging.DEBUG if page in ("/", "/health", "/metrics") else logging.INFO
        log.log(
            level,
            "%s %s %d %.3fs request=%s %s",
            request.method,
            page,
            response.status_code,
            time.perf_counter() - g.begin,
            g.request_id,
            stages,
        )
        response.headers["X-Request-Id"] = g.request_id
        if stages:
            response.headers["Server-Timing"] = ", ".join(f"{k};dur={1000 * v:.1f}" for k, v in g.seconds.items())
        return response

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        known = _as_backend_error(error)
        metrics.errors.labels(known.type).inc()
        # escaped, since a message may quote what a stranger sent; Label Studio shows the annotator none of it
        reason = str(known).encode("unicode_escape").decode("ascii")
        level = logging.WARNING if known.status >= 500 else logging.INFO
        log.log(level, "request=%s %s: %s", g.get("request_id", "-"), known.type, reason)
        response = jsonify(error=known.to_wire() | {"request_id": g.get("request_id")})
        response.status_code = known.status
        if known.retry_after_s is not None:
            response.headers["Retry-After"] = str(known.retry_after_s)
        return response


def _as_backend_error(error: Exception) -> BackendError:
    if isinstance(error, BackendError):
        return error
    if isinstance(error, redis.RedisError):
        log.warning("request=%s Redis failed (%s)", g.get("request_id", "-"), error)
        return QueueDown("the queue (Redis) cannot be reached: start it, or correct REDIS_URL")
    if isinstance(error, RequestEntityTooLarge):
        return BodyTooLarge("the request is too large: raise PALLAS_MAX_BODY_BYTES, or send pictures by URL")
    if isinstance(error, NoPage):
        return NotFound("no such page: /health, /setup, /predict, /webhook, /versions, /metrics are there")
    if isinstance(error, WrongMethod):
        return MethodNotAllowed(f"this page does not take {request.method}")
    if isinstance(error, HTTPException) and error.code is not None and error.code < 500:
        return BadRequest(error.description or error.name)
    log.exception("request=%s failed in the front", g.get("request_id", "-"))
    return WorkerError("the front failed on this request; its log says why under the request's id")


def _json() -> Any:
    body = request.get_json(silent=True, force=True)
    if body is None:
        raise BadRequest("the body is not JSON: send a JSON object")
    return body


def _picture(task: LabelStudioTask, key: str) -> str:
    value = task.data.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadRequest(
            f"tasks.0.data.{key}: the labelling config reads the picture from there, and the task has "
            f"{', '.join(sorted(task.data)) or 'no data'}"
        )
    return value.strip()


def _predictions(predictions: list[Prediction]) -> Response:
    return jsonify(results=[prediction.model_dump() for prediction in predictions])
