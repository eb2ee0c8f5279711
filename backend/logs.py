"""What is logged: one line for each thing that happened, as text or JSON, with the id of the request it belongs to."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

_request: ContextVar[str] = ContextVar("request", default="")
_SANE = re.compile(r"[A-Za-z0-9._-]{8,64}")
# what starts a line or moves a cursor: C0 but the tab, DEL, C1, Unicode's separators and directions
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@contextlib.contextmanager
def of_request(request_id: str) -> Iterator[None]:
    """What this thread logs while the block runs belongs to that request."""
    token = _request.set(request_id)
    try:
        yield
    finally:
        _request.reset(token)


def begin_request(request_id: str) -> None:
    """What this thread logs from now on, until the next call, belongs to that request."""
    _request.set(request_id)


def sane_id(given: str | None) -> str | None:
    """A request id that somebody sent, if it is a plain word of 8 to 64 characters."""
    return given if given is not None and _SANE.fullmatch(given) else None


def clean(text: str) -> str:
    """The text in one line: control characters, which a stranger may have sent, as escapes."""
    return _CONTROLS.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def set_up(level: str, log_format: str) -> None:
    """Log to standard error, in `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if log_format == "json" else Text())
    handler.addFilter(_mark)
    logging.basicConfig(level=level, handlers=[handler], force=True)


class Text(logging.Formatter):
    """A line for people; a traceback follows in indented lines."""

    def format(self, record: logging.LogRecord) -> str:
        request = getattr(record, "request", "")
        line = f"{self.formatTime(record)} {record.levelname} {record.name} {clean(record.getMessage())}"
        line += f" request={request}" if request else ""
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {clean(part)}" for part in trace)
        return line


class Json(logging.Formatter):
    """A JSON object in a line; `fields` given as `extra` are its own keys."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": clean(record.getMessage()),
        }
        if request := getattr(record, "request", ""):
            line["request"] = request
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _mark(record: logging.LogRecord) -> bool:
    record.request = _request.get()
    return True
