"""Pictures on the disk of who runs the bulk job: put into Redis while their task is in the queue.

So any worker on any machine can read them, and none needs to be allowed to read local files. Whoever wrote the tasks
need not be who runs the job: no path of theirs leads out of the input's folder and PALLAS_LOCAL_ROOTS.
"""

from __future__ import annotations

import hashlib
import io
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import redis

from backend.errors import BadRequest, QueueFull
from backend.fetching import local
from backend.fetching.download import Limits
from backend.net import data_url
from backend.queueing.blobs import Blobs
from backend.settings import Settings
from backend.tasks.plan import Plan
from backend.tasks.video_plan import ClipPlan

_MOST_IN_REDIS = 512 << 20  # one value of Redis


class LocalPictures:
    """Knows which pictures are here, and which of them lie in Redis for which tasks.

    Args:
        settings: limits and roots.
        client: Redis.
        folder: of the input; relative paths are below it.
        job: the bulk job's name.
    """

    def __init__(self, settings: Settings, client: redis.Redis, folder: Path, job: str = "") -> None:
        self._most = Limits(settings.max_picture_bytes, 0)
        self._most_of_video = Limits(min(settings.max_video_bytes, _MOST_IN_REDIS), 0, "video")
        self._blobs = Blobs.of_bulk(settings, client)
        self._folder = folder.resolve()
        self._job = job
        self.roots = (self._folder, *settings.local_roots)
        self._sizes: dict[str, int] = {}
        self._users: dict[str, set[str]] = {}  # tasks by blob

    def park(self, task: str, plans: Sequence[Plan]) -> list[Plan]:
        """The plans of a task, with their places in Redis instead of those pictures and videos that are files here.

        They stay there until the task is released.

        Raises:
            QueueFull: their share of Redis is full; once others are released there is room.
            PictureForbidden, PictureTooLarge, PictureNotFound, BadRequest; redis.RedisError.
        """
        parked, addresses, sizes = list(plans), {}, {}
        for place, plan in enumerate(plans):
            address = self.address(plan.picture)
            if address is None:
                continue
            limits = self._most_of_video if isinstance(plan, ClipPlan) else self._most
            size, changed = self._look(address)
            if size > limits.max_bytes:
                raise limits.too_large(repr(Path(plan.picture).name))
            known = f"{address} {size} {changed}"
            name = f"{self._job}-{hashlib.sha256(known.encode()).hexdigest()[:40]}"
            addresses[name], sizes[name] = (address, limits), size
            parked[place] = plan.moved(f"blob:{name}")
        if sizes and not self._blobs.take_room(sizes):
            raise QueueFull("waiting for room in Redis: the pictures in the queue fill PALLAS_PICTURE_QUEUE_BYTES")
        for name, (address, limits) in addresses.items():
            # another task's, or a run's before this one
            if not self._blobs.renew({name: sizes[name]}):
                sink = io.BytesIO()
                local.copy(address, self.roots, sink, limits, "this machine")
                self._blobs.put(name, sink.getbuffer())
            self._sizes[name] = sizes[name]
            self._users.setdefault(name, set()).add(task)
        return parked

    def release(self, task: str) -> None:
        """The task's jobs are over; to say it twice does nothing. Raises redis.RedisError."""
        for name in [name for name, users in self._users.items() if task in users]:
            if self._users[name] == {task}:
                self._blobs.release({name: self._sizes[name]})
                del self._users[name], self._sizes[name]
            else:
                self._users[name].discard(task)

    def renew(self) -> None:
        """All of them are still wanted. Safe to call from another thread. Raises redis.RedisError."""
        self._blobs.renew(dict(self._sizes))

    def close(self) -> None:
        """None of them is wanted any longer. Raises redis.RedisError."""
        self._blobs.release(self._sizes)
        self._users.clear()
        self._sizes.clear()

    def _look(self, address: str) -> tuple[int, int]:
        """Bytes of a file, and when it was changed; zeros where that cannot be known, which reading it will tell."""
        try:
            found = Path(local.path_of(address)).stat()
        except (OSError, ValueError):
            return 0, 0
        return found.st_size, found.st_mtime_ns

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
