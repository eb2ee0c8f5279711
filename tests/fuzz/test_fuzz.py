"""Thousands of requests that nobody foresaw: no fault of ours, no dead worker, no failure without a type."""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from backend import errors
from tests.fuzz import bodies
from tests.fuzz.conftest import Front, check
from tests.waiting import wait_until

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
"""How many times as many, for who changes what reads requests."""

CHECKS = [response_schema_conformance, status_code_conformance, content_type_conformance]


def profile(examples: int) -> settings:
    # the same requests each time; what fails is made small, and stays failing
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )


@pytest.mark.parametrize(
    ("page", "strategy", "count"),
    [
        ("/setup", bodies.setups, 800 * TIMES),
        ("/webhook", bodies.webhooks, 1000 * TIMES),
        ("/predict", bodies.predicts, 1500 * TIMES),
    ],
)
def test_requests_that_nobody_foresaw(front: Front, page: str, strategy: st.SearchStrategy[Any], count: int) -> None:
    before, jobs = front.answered.copy(), front.jobs()

    @profile(count)
    @given(bodies.raw(strategy))
    def ask(body: bytes) -> None:
        front.post(page, body)

    ask()
    assert front.asked[page] >= count
    answered = front.answered - before
    # neither all refused at the door nor all let through
    assert answered["answered"] >= count / 20 and answered["BadRequest"] >= count / 20, answered
    if page == "/predict":
        # many came through the queue to the worker, with good pictures and with bad ones
        wait_until(lambda: front.jobs() - jobs >= count / 30)
        assert answered["PictureError"] + answered["PictureTooLarge"] >= count / 300, answered
        assert answered["ConfigError"] >= count / 300, answered
        # what comes late in what is made up
        assert answered["PictureForbidden"] >= (10 if TIMES >= 3 else 0), answered


def test_requests_by_the_description_that_we_ship(front: Front) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", front.app)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found

        @profile(60)
        @given(found.ok().as_strategy())
        def ask(case: schemathesis.Case) -> None:
            answer = case.call()
            check(answer.status_code, answer.headers["content-type"][0], answer.json())
            # whether a labelling config can be worked with no schema can say: a valid request may be refused
            case.validate_response(answer, checks=CHECKS)

        ask()


def test_the_description_names_every_error(front: Front) -> None:
    described = front.app.test_client().get("/openapi.json").get_json()
    kinds = described["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["type"]["enum"]
    assert set(kinds) == errors.names()
    assert set(described["paths"]) == {
        *("/health", "/versions", "/setup", "/predict", "/webhook", "/train", "/job_status"),
    }
