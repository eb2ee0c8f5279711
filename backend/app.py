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
    MethodNotAllowed,
    NotFound,
    QueueDown,
    WorkerError,
)
from backend.metrics import Metrics
from backend.protocol import PredictRequest, SetupRequest, WebhookRequest, parse
from backend.queues import Dispatcher
from backend.review import Reviews
from backend.roles import read_roles
from backend.service import Service
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
    service = Service(settings, dispatcher, metrics)
    _add_pages(app, service, dispatcher, metrics, Reviews(dispatcher.redis, service.answers))
    _add_bookkeeping(app, metrics)
    return app


def _add_pages(app: Flask, service: Service, dispatcher: Dispatcher, metrics: Metrics, reviews: Reviews) -> None:
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
        return jsonify(model_version=service.setup(parse(SetupRequest, _json()).label_schema))

    @app.post("/predict")
    def predict() -> Response:
        outcome = service.predict(parse(PredictRequest, _json()), g.request_id)
        g.seconds = outcome.seconds
        # an empty list is how Label Studio stores no prediction; it would keep an empty one and never ask again
        results = [[] if answer is None else answer.to_wire() for answer in outcome.answers]
        if not outcome.late:
            return jsonify(results=results)
        response = jsonify(results=results, late=outcome.late)
        response.headers["X-Pallas-Late"] = str(len(outcome.late))
        return response

    @app.post("/webhook")
    def webhook() -> Response:
        event = parse(WebhookRequest, _json())
        # a label of a metric may not be whatever a stranger sends
        known = event.action if event.action.isidentifier() and len(event.action) <= 40 else "other"
        metrics.webhooks.labels(known).inc()
        reviews.take(event)
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
