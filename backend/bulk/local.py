"""Pictures on the disk of who runs the bulk job: put into Redis while their task is in the queue.

So any worker on any machine can read them, and none needs to be allowed to read local files.
"""

from __future__ import annotations

import hashlib
import urllib.parse
from collections import Counter
from pathlib import Path

import redis

from backend.errors import PictureNotFound, PictureTooLarge
from backend.fetching.pictures import BLOB_KEY
from backend.settings import Settings
from backend.tasks.plan import Plan
from backend.tasks.video_plan import ClipPlan

_TTL_S = 86_400
_MOST_IN_REDIS = 512 << 20  # one value of Redis


class LocalPictures:
    """Knows which pictures are here, and which of them lie in Redis."""

    def __init__(self, settings: Settings, client: redis.Redis, folder: Path) -> None:
        self._most = settings.max_picture_bytes
        self._most_of_video = min(settings.max_video_bytes, _MOST_IN_REDIS)
        self._redis = client
        self._folder = folder
        self._uses: Counter[str] = Counter()

    def park(self, plan: Plan) -> Plan:
        """The plan with the picture's place in Redis, if it is a file here; else as it is.

        Raises:
            PictureTooLarge, PictureNotFound; redis.RedisError.
        """
        path = self.path(plan.picture)
        if path is None:
            return plan
        most = self._most_of_video if isinstance(plan, ClipPlan) else self._most
        try:
            if path.stat().st_size > most:
                raise PictureTooLarge(f"{path.name} is larger than {most:,} bytes: make it smaller")
            data = path.read_bytes()
        except OSError as error:
            raise PictureNotFound(f"{path} cannot be read ({error.strerror})") from None
        digest = hashlib.sha256(data).hexdigest()
        self._redis.set(BLOB_KEY + digest, data, ex=_TTL_S)
        self._uses[digest] += 1
        return plan.moved(f"blob:{digest}")

    def release(self, plan: Plan) -> None:
        """The plan's job is over."""
        digest = plan.picture.removeprefix("blob:")
        if digest in self._uses:
            self._uses[digest] -= 1
            if self._uses[digest] <= 0:
                del self._uses[digest]
                self._redis.delete(BLOB_KEY + digest)

    def path(self, reference: str) -> Path | None:
        """The file that a reference means, if it is one here."""
        if reference.lower().startswith("file:"):
            reference = urllib.parse.unquote(urllib.parse.urlsplit(reference).path)
        if "://" in reference or reference.startswith(("data:", "blob:")) or len(reference) > 4096:
            return None
        path = self._folder / reference  # an absolute path stays one
        try:
            return path if path.is_file() else None
        except (OSError, ValueError):
            return None
