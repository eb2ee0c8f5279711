"""Label Studio as a client sees it: addresses of uploads, and tokens for its own origin alone."""

from __future__ import annotations

import base64
import threading
import time

import requests

from backend.errors import PictureForbidden, PictureUnreachable
from backend.net.address import climbs, parse
from backend.net.direct import direct_session
from backend.settings import Settings

PATHS = ("/data/", "/tasks/")
"""What Label Studio serves files under: uploads, local storage, cloud storage."""

_CLOUDS = ("s3:", "gs:", "azure-blob:")
_ACCESS_LIFETIME_S = 240  # Label Studio's access tokens live 300 s


def cloud_path(reference: str, task: int | None) -> str:
    """Label Studio's own way to a cloud storage's file (s3:, gs:, azure-blob:); other references stay as they are.

    It answers there with the file or with a signed address, so that the storage's keys never leave it
    (GET /tasks/<id>/presign/, the file's URI in URL-safe base64).
    """
    if task is None or not reference.startswith(_CLOUDS):
        return reference
    encoded = base64.urlsafe_b64encode(reference.encode()).decode()
    return f"/tasks/{task}/presign/?fileuri={encoded}"


class LabelStudio:
    """Knows where Label Studio is and how to ask it for files.

    A legacy token is sent as `Token ...`. A personal access token is a JWT that refreshes: it is exchanged for an
    access token (POST /api/token/refresh), which is sent as `Bearer ...` and renewed before it expires.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.label_studio_url
        self._key = settings.label_studio_api_key.get_secret_value() if settings.label_studio_api_key else ""
        self._timeout_s = settings.fetch_timeout_s
        self._proxy = settings.label_studio_proxy
        self._below = _below(self._url)
        self._access = ""
        self._access_until = 0.0
        self._lock = threading.Lock()

    def session(self) -> requests.Session:
        """For requests to Label Studio; not for several threads at once."""
        return direct_session(self._proxy.get_secret_value() if self._proxy is not None else None)

    def serves(self, path: str) -> bool:
        """Whether a path is one of Label Studio's, e.g. /data/upload/1/x.png, also below the sub-path that it has."""
        return self._own(path).startswith(PATHS)

    def absolute(self, path: str) -> str:
        """The URL of a path that Label Studio gave; below a sub-path it may name that or leave it out.

        Raises:
            PictureForbidden: LABEL_STUDIO_URL is not set.
        """
        if not self._url:
            raise PictureForbidden(
                "the picture is a Label Studio upload, and Pallas does not know where Label Studio is: "
                "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"
            )
        return self._url + self._own(path)

    def _own(self, path: str) -> str:
        """A path without the sub-path."""
        own = path.removeprefix(self._below)
        return own if own.startswith(PATHS) else path

    def headers_for(self, url: str) -> dict[str, str]:
        """The Authorization header for a URL of Label Studio's own origin below PATHS; nothing for any other.

        Not for its other pages: a task's address, or a host that redirects, must not make us call the API.
        """
        if not self._key or not self._url:
            return {}
        try:
            (asked, origin), (own, home) = parse(url), parse(self._url)
        except ValueError:
            return {}
        path = (asked.path or "/").removeprefix((own.path or "").rstrip("/"))
        if origin != home or not path.startswith(PATHS) or climbs(path):
            return {}
        return {"Authorization": self.authorization()}

    def authorization(self) -> str:
        """The value of the Authorization header.

        Raises:
            PictureForbidden: Label Studio refuses the personal access token.
            PictureUnreachable: Label Studio does not answer.
        """
        if self._key.count(".") != 2:
            return f"Token {self._key}"
        with self._lock:
            if time.monotonic() >= self._access_until:
                self._access = self._exchange()
                self._access_until = time.monotonic() + _ACCESS_LIFETIME_S
            return f"Bearer {self._access}"

    def _exchange(self) -> str:
        try:
            with self.session() as session:
                answer = session.post(
                    f"{self._url}/api/token/refresh",
                    json={"refresh": self._key},
                    timeout=self._timeout_s,
                    allow_redirects=False,
                )
        except requests.RequestException as error:
            raise PictureUnreachable(
                f"Label Studio at {self._url} does not answer ({type(error).__name__}): is LABEL_STUDIO_URL right?"
            ) from None
        if answer.status_code != 200:
            raise PictureForbidden(
                f"Label Studio refuses the personal access token ({answer.status_code}): make a new one under "
                "Account & Settings, and set LABEL_STUDIO_API_KEY"
            )
        return str(answer.json()["access"])


def _below(url: str | None) -> str:
    """The path below which Label Studio lies, without a slash at its end."""
    try:
        return (parse(url)[0].path or "").rstrip("/") if url else ""
    except ValueError:
        return ""
