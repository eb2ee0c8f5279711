"""Addresses that strangers wrote: read once, by the same rules wherever one is judged or used."""

from __future__ import annotations

import re
import urllib.parse
from typing import NamedTuple

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

_HIERARCHY = re.compile(r"([a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Scheme, host (lower case, an IPv6 address without its brackets) and port of an http(s) URL."""

    scheme: str
    host: str
    port: int

    def header(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def parse(address: str) -> tuple[Url, Origin]:
    """An http(s) URL in its normal form (dot segments resolved, unsafe characters encoded), and its origin.

    Raises:
        ValueError: not an http(s) URL with a host.
    """
    try:
        url = parse_url(address)
    except LocationParseError as error:
        raise ValueError(f"{error.location!r} is no address") from None
    if url.scheme not in _PORTS:
        raise ValueError(f"{url.scheme or 'without a scheme'} is neither http nor https")
    if not url.host or (url.port is not None and not 0 < url.port < 65536):
        raise ValueError("it names no host, or no port that there is")
    host = url.host.removeprefix("[").removesuffix("]")
    return url, Origin(url.scheme, host.lower(), url.port or _PORTS[url.scheme])


def climbs(path: str) -> bool:
    """Whether a path would leave its folder for a server that decodes it before it resolves it."""
    return ".." in urllib.parse.unquote(path).replace("\\", "/").split("/")


def shorten(address: str) -> str:
    """An address for messages: without user, password and query (which may hold signatures), at most 120 characters."""
    # a file's name may have ? and # in it
    if _HIERARCHY.match(address):
        scheme, _, rest = address.partition("//")
        host, slash, path = rest.partition("/")
        address = f"{scheme}//{host.rpartition('@')[2]}{slash}{path}".partition("?")[0].partition("#")[0]
    return address if len(address) <= 120 else f"{address[:117]}..."
