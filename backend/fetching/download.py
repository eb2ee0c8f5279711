"""Downloads within limits of time, bytes and redirects, from hosts that may be asked."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import certifi
import urllib3
from urllib3.connection import HTTPConnection
from urllib3.util import Url

from backend.errors import BadRequest, PictureForbidden, PictureNotFound, PictureTooLarge
from backend.errors import PictureUnreachable as Unreachable
from backend.label_studio.access import LabelStudio
from backend.net.address import Origin, parse, shorten
from backend.net.hosts import AllowedHosts
from backend.settings import Settings

MAX_REDIRECTS = 5

_CHUNK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Limits:
    """Of one fetch.

    Attributes:
        max_bytes: after decoding whatever the host encoded for the way.
        seconds: for all of it: names, connections, redirects and bytes.
        noun: what is fetched, for messages.
    """

    max_bytes: int
    seconds: float
    noun: str = "picture"

    def too_large(self, where: str) -> PictureTooLarge:
        return PictureTooLarge(f"the {self.noun} {where} is larger than {self.max_bytes:,} bytes: make it smaller")


class Downloads:
    """GET of http(s) addresses; safe to use from many threads.

    The address that a host's name resolves to is checked against the allowed hosts, and that very address is
    connected to, anew for each redirect: a name that resolves to another one the next time (DNS rebinding) gains
    nothing. Proxies of the environment are not used, since they would resolve names themselves, and read tokens; the
    settings may name one for Label Studio itself.
    """

    def __init__(self, settings: Settings) -> None:
        self._label_studio = LabelStudio(settings)
        own = [parse(settings.label_studio_url)[1]] if settings.label_studio_url else []
        # whoever configured Label Studio meant that host, wherever it lies
        self._hosts = AllowedHosts([*settings.allowed_hosts, *(_entry(origin) for origin in own)])
        # the system's authorities (a company's own among them) and those of browsers
        self._tls = ssl.create_default_context()
        self._tls.load_verify_locations(os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where())
        self._own = own
        self._proxy: urllib3.ProxyManager | None = None
        if settings.label_studio_proxy is not None:
            proxy = settings.label_studio_proxy.get_secret_value()
            auth = urllib3.util.parse_url(proxy).auth
            headers = urllib3.make_headers(proxy_basic_auth=urllib.parse.unquote(auth)) if auth else None
            self._proxy = urllib3.ProxyManager(proxy, proxy_headers=headers, ssl_context=self._tls)

    def fetch(self, address: str, sink: BinaryIO, limits: Limits) -> None:
        """Write what an address answers with into `sink`; after an error the sink may hold a part of it.

        Raises:
            PictureForbidden: the host may not be asked, or wants a token that we lack.
            PictureNotFound, PictureUnreachable, PictureTooLarge, BadRequest.
        """
        deadline = time.monotonic() + limits.seconds
        where = shorten(address)
        try:
            url, origin = parse(address)
        except ValueError as error:
            raise BadRequest(f"the {limits.noun}'s address cannot be read ({error}): correct the task's data") from None
        for _ in range(MAX_REDIRECTS + 1):
            target = self._try(url, origin, sink, limits, deadline)
            if target is None:
                return
            try:
                url, origin = parse(target)
            except ValueError as error:
                raise PictureForbidden(f"{where} redirects to an address that is not followed ({error})") from None
        raise Unreachable(f"{where} redirects more than {MAX_REDIRECTS} times: give the address where it ends")

    def _try(self, url: Url, origin: Origin, sink: BinaryIO, limits: Limits, deadline: float) -> str | None:
        """Fetch, or return where the host says to look instead."""
        where = shorten(url.url)
        late = Unreachable(f"{where} did not send the {limits.noun} within {limits.seconds:g} s: is its host up?")
        headers = _headers(url, origin) | self._label_studio.headers_for(url.url)
        try:
            with self._asked(url, origin, headers, deadline) as answer:
                if answer.status in _REDIRECTS and answer.headers.get("Location"):
                    return urllib.parse.urljoin(url.url, answer.headers["Location"])
                _check_status(answer.status, where, limits.noun)
                _receive(answer, sink, limits, where, deadline)
        except TimeoutError:
            raise late from None
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            if time.monotonic() >= deadline:
                raise late from None
            raise Unreachable(
                f"{where} cannot be reached ({type(error).__name__}): is the address right, as seen from the worker?"
            ) from None
        if time.monotonic() >= deadline:
            # cut off in the middle of a body without a length, which looks like its end
            raise late
        return None

    @contextlib.contextmanager
    def _asked(
        self, url: Url, origin: Origin, headers: dict[str, str], deadline: float
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer to a GET, its body unread."""
        if self._proxy is None or origin not in self._own:
            with self._connected(origin, deadline) as connection:
                connection.request("GET", url.request_uri, headers=headers, preload_content=False)
                yield connection.getresponse()
            return
        left = max(0.1, deadline - time.monotonic())
        answer = self._proxy.request(
            "GET", url.url, headers=headers, timeout=left, retries=False, redirect=False, preload_content=False
        )
        try:
            yield answer
        finally:
            answer.close()

    @contextlib.contextmanager
    def _connected(self, origin: Origin, deadline: float) -> Iterator[HTTPConnection]:
        """A connection that is cut off at the deadline, whatever the host does: trickle headers, body, handshake."""
        raw = self._connect(origin, deadline)
        # the same connection under a number of its own, since TLS takes the first one over
        twin = raw.dup()
        timer = threading.Timer(max(0.0, deadline - time.monotonic()), _shut, [twin])
        timer.daemon = True
        timer.start()
        try:
            if origin.scheme == "https":
                raw = self._tls.wrap_socket(raw, server_hostname=origin.host.rstrip("."))
            connection = HTTPConnection(origin.host, origin.port, timeout=max(0.1, deadline - time.monotonic()))
            connection.sock = raw
            yield connection
        finally:
            timer.cancel()
            _shut(twin)
            raw.close()
            twin.close()

    def _connect(self, origin: Origin, deadline: float) -> socket.socket:
        found = _resolve(origin, deadline)
        allowed = [
            (family, address)
            for family, address in found
            # of an IPv6 address the zone after % is no part
            if self._hosts.permit(origin.host, origin.port, ipaddress.ip_address(address[0].partition("%")[0]))
        ]
        if not allowed:
            raise PictureForbidden(
                f"the host {origin.header()} is at a private or local address, or not in PALLAS_ALLOWED_HOSTS: whoever "
                "runs Pallas can add it there"
            )
        error: OSError = TimeoutError("no time left")
        for family, address in allowed:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                connection.settimeout(left)
                connection.connect(address)
                return connection
            except OSError as failed:
                error = failed
                connection.close()
            except BaseException:
                connection.close()
                raise
        raise error


def _resolve(origin: Origin, deadline: float) -> list[tuple[int, tuple[str, int]]]:
    """Families and socket addresses of a host; in a thread, since a resolver knows no deadline of ours."""
    found: list[tuple[int, tuple[str, int]]] = []
    failed: list[OSError] = []

    def ask() -> None:
        try:
            for family, _, _, _, address in socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM):
                found.append((family, (str(address[0]), int(address[1]))))
        except (OSError, ValueError) as error:
            failed.append(error if isinstance(error, OSError) else OSError(str(error)))

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if thread.is_alive():
        raise TimeoutError("the name's resolution takes too long")
    if failed:
        raise failed[0]
    return found


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _entry(origin: Origin) -> str:
    return f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"


def _headers(url: Url, origin: Origin) -> dict[str, str]:
    headers = {"Host": origin.header(), "Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "Pallas"}
    if url.auth:
        headers |= urllib3.make_headers(basic_auth=urllib.parse.unquote(url.auth))
    return headers


def _check_status(code: int, where: str, noun: str) -> None:
    if code in (401, 403):
        raise PictureForbidden(
            f"{where} answers {code}: set LABEL_STUDIO_URL to its host and LABEL_STUDIO_API_KEY to a token "
            "(a legacy token must be enabled in the organization's settings)"
        )
    if code in (404, 410):
        raise PictureNotFound(f"{where} answers {code}: the {noun} is not there; is the task's data right?")
    if not 200 <= code < 300:
        raise Unreachable(f"{where} answers {code}: try again later")


def _receive(answer: urllib3.BaseHTTPResponse, sink: BinaryIO, limits: Limits, where: str, deadline: float) -> None:
    if int(answer.headers.get("Content-Length") or 0) > limits.max_bytes:
        raise limits.too_large(where)
    received = 0
    # never more than a chunk at once, also of what unpacks to a thousand times its size
    while chunk := answer.read1(_CHUNK, decode_content=True):
        received += len(chunk)
        if received > limits.max_bytes:
            raise limits.too_large(where)
        if time.monotonic() >= deadline:
            raise TimeoutError("no time left")
        sink.write(chunk)
