from __future__ import annotations

from tests.http.conftest import host, stack

__all__ = ["host", "stack"]
