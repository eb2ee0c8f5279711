"""The name under which jobs in Redis call the worker, in every version: workers before an upgrade refuse another."""

from backend.worker.engine import perform

__all__ = ["perform"]
