"""Who may ask the front: Basic auth, which Label Studio's model settings send, and a token for its webhooks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress

from backend.errors import Unauthorized
from backend.settings import Settings

OPEN_PAGES = ("/live",)
"""For whoever only asks whether the front runs; it tells nothing."""


class BasicAuth:
    """Lets in who knows the password; everybody where none is set."""

    def __init__(self, settings: Settings) -> None:
        self._known: bytes | None = None
        if settings.password is not None:
            self._known = _digest(f"{settings.user}:{settings.password.get_secret_value()}".encode())
            self._token = _digest(webhook_token(settings).encode())

    def admit(self, path: str, authorization: str | None) -> None:
        """Raises Unauthorized unless the Authorization header's value opens this page."""
        if self._known is None or path in OPEN_PAGES:
            return
        kind, _, value = (authorization or "").strip().partition(" ")
        value = value.strip()
        if kind.lower() == "basic" and hmac.compare_digest(_digest(_decoded(value)), self._known):
            return
        if path == "/webhook" and hmac.compare_digest(_digest(value.encode()), self._token):
            return
        if path == "/webhook":
            raise Unauthorized(
                "a webhook without its token: run `python -m backend webhooks URL`, which gives it to Label Studio"
            )
        raise Unauthorized(
            "user and password of Pallas (PALLAS_USER, PALLAS_PASSWORD) are missing or wrong: in Label Studio, "
            "Settings → Model → Basic authentication"
        )


def webhook_token(settings: Settings) -> str:
    """What Label Studio's webhooks show: made from the password, opens that page alone, and does not tell the password.

    Label Studio sends no Basic auth with webhooks, only the headers that each webhook is given.
    """
    assert settings.password is not None
    # slow on purpose: whoever reads the token in Label Studio should not try many passwords
    return hashlib.pbkdf2_hmac(
        "sha256", settings.password.get_secret_value().encode(), b"pallas webhook", 200_000
    ).hex()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(value: bytes) -> bytes:
    # of equal length, so that comparing takes equally long whatever was sent
    return hashlib.sha256(value).digest()


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""
