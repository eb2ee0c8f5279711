from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from backend import logs


@pytest.fixture(autouse=True)
def of_no_request() -> Iterator[None]:
    """Jobs that other tests computed in this process leave theirs, as in a worker until its next one."""
    with logs.of_request(""):
        yield


def logged(formatter: logging.Formatter) -> tuple[logging.Logger, io.StringIO]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    handler.addFilter(logs._mark)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger, out


HOSTILE = "a\nINFO forged\r\x1b[2J\x00\x85\u2028\u202e\ud800é→"


def test_a_message_cannot_begin_a_line_or_move_the_cursor() -> None:
    logger, out = logged(logs.Text())
    logger.info("%s", HOSTILE)
    text = out.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    assert not any(c in text for c in "\r\x1b\x00\x85\u2028\u202e\ud800")
    assert "é→" in text and r"a\nINFO forged\r\x1b[2J\x00" in text


def test_a_traceback_is_indented_and_as_harmless() -> None:
    logger, out = logged(logs.Text())
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.exception("failed")
    first, *more = out.getvalue().splitlines()
    assert first.endswith("failed") and more and all(line.startswith("    ") for line in more)
    assert "\x1b" not in out.getvalue()


def test_json_is_one_object_a_line_with_the_request() -> None:
    logger, out = logged(logs.Json())
    with logs.of_request("abc-12345"):
        logger.info("hello %s", HOSTILE, extra={"fields": {"status": 200}})
    logger.info("after")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first["request"] == "abc-12345" and first["status"] == 200 and first["message"].startswith("hello a")
    assert first["level"] == "INFO" and first["time"].endswith("Z") and "request" not in second


@pytest.mark.parametrize("given", [None, "", "short", "a" * 65, "has space", "new\nline12", "ünicode-id", "a/b/c/d/"])
def test_ids_that_are_not_taken(given: str | None) -> None:
    assert logs.sane_id(given) is None


def test_ids_that_are() -> None:
    assert logs.sane_id("3f2504e0-4f89-11d3-9a0c-0305e82c3301") == "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
