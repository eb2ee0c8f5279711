"""`python -m backend health`: for a container's own health check; says what is wrong, and that is all it does."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

import redis
import requests

from backend.net.direct import direct_session
from backend.queueing import heartbeat
from backend.queueing.connection import connect
from backend.settings import Settings

_PATIENCE_S = 5


def front(settings: Settings) -> str:
    """What is wrong with the front of these settings on this machine; empty when it answers and reaches Redis."""
    host = settings.host
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        # what listens everywhere is asked here
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if address.version == 6 else host)
    auth = (settings.user, settings.password.get_secret_value()) if settings.password is not None else None
    try:
        with direct_session() as session:
            answer = session.get(f"http://{host}:{settings.port}/health", auth=auth, timeout=_PATIENCE_S)
    except requests.RequestException as error:
        return f"the front does not answer ({type(error).__name__})"
    return "" if answer.ok else f"the front answers {answer.status_code}: {answer.text[:200].strip()}"


def worker(settings: Settings) -> str:
    """What is wrong with the workers of this machine; empty when one has a heartbeat, also while it loads."""
    try:
        with contextlib.closing(connect(settings)) as client:
            workers = heartbeat.everybody(client)
    except redis.RedisError as error:
        return f"Redis does not answer ({type(error).__name__})"
    if any(worker.host == socket.gethostname() for worker in workers):
        return ""
    return "no worker of this machine has a heartbeat"
