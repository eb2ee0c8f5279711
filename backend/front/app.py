"""The front: Label Studio's ML protocol over HTTP (Flask). It imports no torch and computes nothing itself."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from typing import Any

import orjson
import redis
from flask import Flask, Response, g, jsonify, make_response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.exceptions import MethodNotAllowed as WrongMethod
from werkzeug.exceptions import NotFound as NoPage

from backend import logs
from backend.errors import (
    BackendError,
    BadRequest,
    BodyTooLarge,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
    WorkerError,
)
from backend.front import openapi, status
from backend.front.auth import BasicAuth
from backend.front.metrics import Metrics
from backend.front.review import Reviews
from backend.front.status import ErrorLog
from backend.front.training import Training
from backend.label_studio.protocol import (
    ACTIONS,
    JobStatusRequest,
    PredictRequest,
    SetupRequest,
    TrainRequest,
    WebhookRequest,
    parse,
)
from backend.predict.service import Service
from backend.queueing.connection import queue_down
from backend.queueing.dispatcher import Dispatcher
from backend.settings import Settings

log = logging.getLogger(__name__)

_HALVES = re.compile(rb"\\u[dD][89a-fA-F]")


def create_app(settings: Settings, dispatcher: Dispatcher) -> Flask:
    """The WSGI app."""
    app = Flask("pallas")
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    metrics = Metrics(dispatcher)
    service = Service(settings, dispatcher)
    error_log = ErrorLog()
    training = Training(settings, dispatcher)
    reviews = Reviews(dispatcher.redis, service.answers, service.confidences)
    _add_pages(app, service, dispatcher, metrics, reviews, error_log, training)
    _add_bookkeeping(app, BasicAuth(settings), metrics, error_log)
    return app


def _add_pages(
    app: Flask,
    service: Service,
    dispatcher: Dispatcher,
    metrics: Metrics,
    reviews: Reviews,
    error_log: ErrorLog,
    training: Training,
) -> None:
    @app.get("/")
    def overview() -> Response:
        shown = status.full(dispatcher, error_log, service, training)
        code = 200 if shown["status"] == "UP" else 503
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html":
            return make_response(jsonify(shown), code)
        page = Response(status.page(shown), code, mimetype="text/html")
        page.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
        return page

    @app.get("/health")
    def health() -> Response:
        return jsonify(status.brief(dispatcher))

    @app.get("/live")
    def live() -> Response:
        return jsonify(status="UP")

    @app.post("/setup")
    def setup() -> Response:
        asked = parse(SetupRequest, _json())
        return jsonify(model_version=service.setup(asked.label_schema, asked.project))

    @app.post("/predict")
    def predict() -> Response:
        outcome = service.predict(parse(PredictRequest, _json()), g.request_id)
        if outcome.reply is not None:
            metrics.observe(outcome.reply, outcome.seconds, outcome.whole_s)
        g.seconds = outcome.seconds
        g.error = outcome.shown
        # an empty list is how Label Studio stores no prediction; it would keep an empty one and never ask again
        results = [[] if prediction is None else prediction.to_wire() for prediction in outcome.predictions]
        if not outcome.late:
            return _answer({"results": results})
        response = _answer({"results": results, "late": outcome.late})
        response.headers["X-Pallas-Late"] = str(len(outcome.late))
        return response

    @app.post("/webhook")
    def webhook() -> Response:
        event = parse(WebhookRequest, _json())
        # a label of a metric may not be whatever a stranger sends
        metrics.webhooks.labels(event.action if event.action in ACTIONS else "other").inc()
        reviews.take(event)
        service.lost.take(event)
        service.corrected.take(event)
        service.learn(event)
        job = training.take(event)
        return jsonify(status="ok") if job is None else jsonify(status="ok", job=job)

    @app.post("/train")
    def train() -> Response:
        return jsonify(job=training.start(parse(TrainRequest, _json()).project))

    @app.post("/job_status")
    def job_status() -> Response:
        return jsonify(training.status(parse(JobStatusRequest, _json()).job))

    @app.get("/versions")
    def versions() -> Response:
        return jsonify(versions=training.versions(dispatcher.model_version()))

    @app.get("/openapi.json")
    def show_openapi() -> Response:
        return jsonify(openapi.describe())

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(metrics.text(), mimetype="text/plain; version=0.0.4")


def _add_bookkeeping(app: Flask, auth: BasicAuth, metrics: Metrics, error_log: ErrorLog) -> None:
    @app.before_request
    def begin() -> None:
        g.request_id = logs.sane_id(request.headers.get("X-Request-Id")) or uuid.uuid4().hex
        logs.begin_request(g.request_id)
        g.begin = time.perf_counter()
        g.seconds = {}
        g.error = None
        auth.admit(request.path, request.headers.get("Authorization"))
        if request.method == "POST" and "Origin" in request.headers:
            # Label Studio's server sends none; a page that an annotator has open must not reach a front on loopback
            raise Forbidden("requests that a page in a browser sends are not taken")

    @app.after_request
    def end(response: Response) -> Response:
        page = request.url_rule.rule if request.url_rule else "other"
        metrics.requests.labels(page, response.status_code).inc()
        error: BackendError | None = g.error
        if error is not None:
            metrics.errors.labels(error.type).inc()
            error_log.add(error, page, g.request_id)
        _log(page, response.status_code, time.perf_counter() - g.begin, error)
        response.headers["X-Request-Id"] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        if g.seconds:
            response.headers["Server-Timing"] = ", ".join(f"{k};dur={1000 * v:.1f}" for k, v in g.seconds.items())
        return response

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        g.error = known = _as_backend_error(error)
        response = make_response(jsonify(error=known.to_wire() | {"request_id": g.request_id}), known.status)
        if known.retry_after_s is not None:
            response.headers["Retry-After"] = str(known.retry_after_s)
        if isinstance(known, Unauthorized):
            response.headers["WWW-Authenticate"] = 'Basic realm="Pallas", charset="UTF-8"'
        return response


def _log(page: str, code: int, seconds: float, error: BackendError | None) -> None:
    """The one line of a request."""
    stages = {name: round(value, 4) for name, value in g.seconds.items()}
    fields: dict[str, Any] = {"method": request.method, "page": page, "status": code, "seconds": round(seconds, 4)}
    words = [request.method, page, str(code), f"{seconds:.3f}s", *(f"{k}={v:.3f}" for k, v in stages.items())]
    if stages:
        fields["stages"] = stages
    if error is not None:
        fields["error"] = error.to_wire()
        words.append(f"{error.type}: {error}" + (" (shown to the annotator)" if code < 400 else ""))
    level = logging.DEBUG if page in ("/", "/health", "/live", "/metrics") else logging.INFO
    if error is not None:
        level = logging.WARNING if error.status >= 500 else logging.INFO
    log.log(level, "%s", " ".join(words), extra={"fields": fields})


def _as_backend_error(error: Exception) -> BackendError:
    if isinstance(error, BackendError):
        return error
    if isinstance(error, redis.RedisError):
        log.warning("Redis failed (%s)", error)
        return queue_down(error)
    if isinstance(error, RequestEntityTooLarge):
        return BodyTooLarge("the request is too large: raise PALLAS_MAX_BODY_BYTES, or send pictures by URL")
    if isinstance(error, NoPage):
        return NotFound(
            "no such page: /, /health, /live, /setup, /predict, /webhook, /train, /job_status, /versions, /metrics, "
            "/openapi.json are there"
        )
    if isinstance(error, WrongMethod):
        return MethodNotAllowed(f"this page does not take {request.method}")
    if isinstance(error, HTTPException) and error.code is not None and error.code < 500:
        return BadRequest(error.description or error.name)
    log.exception("failed in the front")
    return WorkerError("the front failed on this request; its log says why under the request's id")


def _answer(found: dict[str, Any]) -> Response:
    """As JSON; of the bytes of masks, which are lists of numbers, the usual way takes ten times as long."""
    try:
        return Response(orjson.dumps(found), mimetype="application/json")
    except orjson.JSONEncodeError:
        # somebody's own region with a number of more than 64 bits
        return jsonify(found)


def _json() -> Any:
    try:
        # not Flask's own reader: it lets halves of surrogate pairs through, which nobody can encode again
        body = json.loads(request.get_data().decode("utf-8"))
        if _HALVES.search(request.get_data()):
            json.dumps(body, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadRequest("the body has half a character (a lone surrogate) in it: send whole ones") from None
    except ValueError:
        raise BadRequest("the body is not JSON: send a JSON object") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    return body
