from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from backend.queueing.connection import connect
from backend.run.embedded_redis import running
from backend.settings import Settings


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A real Redis of the tests' own."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("redis"))
    with running(settings):
        yield connect(settings)
