"""Pictures on the disk of who runs the bulk job: put into Redis while their task is in the queue.

So any worker on any machine can read them, and none needs to be allowed to read local files. Whoever wrote the tasks
need not be who runs the job: no path of theirs leads out of the input's folder and PALLAS_LOCAL_ROOTS.
"""

from __future__ import annotations

import hashlib
import io
import urllib.parse
from collections import Counter
from pathlib import Path

import redis

from backend.errors import BadRequest
from backend.fetching import local
from backend.fetching.download import Limits
from backend.fetching.pictures import BLOB_KEY
from backend.net import data_url
from backend.settings import Settings
from backend.tasks.plan import Plan
from backend.tasks.video_plan import ClipPlan

_TTL_S = 86_400
_MOST_IN_REDIS = 512 << 20  # one value of Redis


class LocalPictures:
    """Knows which pictures are here, and which of them lie in Redis.

    Args:
        settings: limits and roots.
        client: Redis.
        folder: of the input; relative paths are below it.
    """

    def __init__(self, settings: Settings, client: redis.Redis, folder: Path) -> None:
        self._most = Limits(settings.max_picture_bytes, 0)
        self._most_of_video = Limits(min(settings.max_video_bytes, _MOST_IN_REDIS), 0, "video")
        self._redis = client
        self._folder = folder.resolve()
        self.roots = (self._folder, *settings.local_roots)
        self._uses: Counter[str] = Counter()

    def park(self, plan: Plan) -> Plan:
        """The plan with the picture's place in Redis, if it is a file here; else as it is.

        Raises:
            PictureForbidden, PictureTooLarge, PictureNotFound, BadRequest; redis.RedisError.
        """
        address = self.address(plan.picture)
        if address is None:
            return plan
        sink = io.BytesIO()
        limits = self._most_of_video if isinstance(plan, ClipPlan) else self._most
        local.copy(address, self.roots, sink, limits, "this machine")
        digest = hashlib.sha256(sink.getbuffer()).hexdigest()
        self._redis.set(BLOB_KEY + digest, sink.getbuffer(), ex=_TTL_S)
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

    def address(self, reference: str) -> str | None:
        """The `file:` URL of what is to be read here, whether it may be or not; None for what workers fetch.

        Of absolute paths those that are there and below a root are read here; the others may mean a worker's disk, or
        a Label Studio's, and are theirs to judge.

        Raises:
            BadRequest: it is no address.
        """
        remote = "://" in reference and not reference.lower().startswith("file:")
        if remote or reference.startswith("blob:") or data_url.is_data_url(reference):
            return None
        try:
            raw = Path(local.path_of(reference))
            if raw.is_absolute() and not self._is_here(raw):
                return None
        except (OSError, ValueError) as error:
            raise BadRequest(f"the picture's address cannot be read ({error}): correct the task's data") from None
        return f"file:{urllib.parse.quote(str(self._folder / raw))}"

    def _is_here(self, path: Path) -> bool:
        there = path.resolve()
        return there.is_file() and any(there.is_relative_to(root.resolve()) for root in self.roots)
