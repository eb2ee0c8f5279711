"""HTTP for requests that carry a secret: they go to whom they are meant for, whatever the environment says."""

from __future__ import annotations

import os

import requests


def direct_session(proxy: str | None = None) -> requests.Session:
    """A session that takes nothing from HTTP_PROXY, ALL_PROXY, NO_PROXY and netrc.

    A proxy would read the token of an http request, and a netrc entry would replace our Authorization header.
    REQUESTS_CA_BUNDLE holds, since it can only say whom to trust.

    Args:
        proxy: URL of the one proxy that requests are to go through; None for none.
    """
    session = requests.Session()
    session.trust_env = False
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
    if proxy is not None:
        session.proxies = {"http": proxy, "https": proxy}
    return session
