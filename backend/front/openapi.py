"""The protocol as an OpenAPI description, made from the very models that check requests."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from backend import errors
from backend.label_studio.protocol import (
    JobStatusRequest,
    Prediction,
    PredictRequest,
    SetupRequest,
    TrainRequest,
    WebhookRequest,
)

_REF = "#/components/schemas/{model}"
_CODES = {
    "/setup": (400, 413),
    "/predict": (400, 403, 404, 413, 422, 500, 502, 503, 504),
    "/webhook": (400, 413, 422, 503),
    "/train": (400, 413, 422, 503),
    "/job_status": (400, 404, 413, 503),
    "/health": (503,),
    "/versions": (),
}


def describe() -> dict[str, Any]:
    """The description, OpenAPI 3.1."""
    requests = (PredictRequest, SetupRequest, WebhookRequest, TrainRequest, JobStatusRequest)
    _, found = models_json_schema(
        [*((model, "validation") for model in requests), (Prediction, "serialization")], ref_template=_REF
    )
    schemas = found["$defs"] | {"Error": _error()}
    version = {"type": "object", "properties": {"model_version": {"type": "string"}}, "required": ["model_version"]}
    # an empty list is how Label Studio stores no prediction for a task
    result = {"anyOf": [_ref("Prediction"), {"type": "array", "maxItems": 0}]}
    results = {
        "type": "object",
        "properties": {"results": {"type": "array", "items": result}},
        "required": ["results"],
    }
    anything = {"type": "object"}
    job = {"type": "object", "properties": {"job": {"type": "string"}}, "required": ["job"]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pallas: Perceive Anything for Label Studio",
            "version": "0.1.0",
            "description": "The machine learning backend protocol of Label Studio 1.23.",
        },
        "paths": {
            "/health": {"get": _operation("/health", "Whether the front and Redis are there", anything)},
            "/versions": {"get": _operation("/versions", "The model's version", anything)},
            "/setup": {"post": _operation("/setup", "Check a labelling config", version, "SetupRequest")},
            "/predict": {"post": _operation("/predict", "Answer prompts, or whole tasks", results, "PredictRequest")},
            "/webhook": {"post": _operation("/webhook", "Take an event", anything, "WebhookRequest")},
            "/train": {"post": _operation("/train", "Begin a run of fit", job, "TrainRequest")},
            "/job_status": {"post": _operation("/job_status", "How far a run is", anything, "JobStatusRequest")},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "password": {"type": "http", "scheme": "basic"},
                "webhook": {"type": "http", "scheme": "bearer", "description": "for /webhook alone"},
            },
        },
        # {}: where no password is set
        "security": [{"password": []}, {}],
    }


def _error() -> dict[str, Any]:
    types = sorted(errors.names())
    inner = {
        "type": "object",
        "properties": {
            "type": {"enum": types},
            "message": {"type": "string"},
            "request_id": {"type": "string"},
        },
        "required": ["type", "message", "request_id"],
    }
    return {"type": "object", "properties": {"error": inner}, "required": ["error"]}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(model=name)}


def _operation(page: str, summary: str, answer: dict[str, Any], body: str | None = None) -> dict[str, Any]:
    responses = {str(code): _response("an error", _ref("Error")) for code in (401, 403, *_CODES[page])}
    operation: dict[str, Any] = {"summary": summary, "responses": {"200": _response("the answer", answer), **responses}}
    if page == "/webhook":
        operation["security"] = [{"password": []}, {"webhook": []}, {}]
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    return operation


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
