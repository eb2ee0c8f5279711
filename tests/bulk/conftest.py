from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.stand_in import StandIn, run_stand_in
from tests.conftest import PICTURES
from tests.http.stack import CONFIG


@pytest.fixture
def label_studio() -> Iterator[StandIn]:
    """A stand-in for Label Studio with our config and the demo's pictures."""
    with run_stand_in(CONFIG, PICTURES) as running:
        yield running
