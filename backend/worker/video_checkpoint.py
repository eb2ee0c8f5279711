"""What is known of a video under way, in Redis: whoever takes its work up after a worker's death goes on from there."""

from __future__ import annotations

import logging
import zlib
from typing import Any

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from backend.job import LabelReply, ObjectReply, TextReply

MOST_BYTES = 8 << 20
"""Compressed; a longer or fuller video than that (about an hour with 16 things) is begun anew after a death."""

_KEY = "pallas:clip:"
_TTL_S = 86_400

log = logging.getLogger(__name__)


class ObjectSoFar(BaseModel):
    """One object.

    Attributes:
        found: what a reply says of it.
        seen: frames on which it was seen, which `found.iou` is the mean over.
        masks: by frame, RLE: see `model.Progress`.
        told: number of the frame from which on its events are still to be told; None where that has not begun.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    found: ObjectReply
    seen: int
    masks: dict[int, dict[str, Any]]
    told: int | None = None


class Checkpoint(BaseModel):
    """A video's work at one moment.

    Attributes:
        model_version: of the model; another one begins anew.
        video: bytes, width, height and frames; another file at the address begins anew.
        steps: frames that were tracked.
        objects: as asked.
        texts, labels: of the whole video.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_version: str
    video: tuple[int, int, int, int]
    steps: int
    objects: tuple[ObjectSoFar, ...]
    texts: dict[str, TextReply] = {}
    labels: tuple[LabelReply, ...] = ()


class Checkpoints:
    """The checkpoints, by the key of the work; each is forgotten after a day."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def get(self, key: str) -> Checkpoint | None:
        """None also where it is of another version, or Redis is away: then the work begins anew."""
        try:
            packed = self._redis.get(_KEY + key)
            if not isinstance(packed, bytes):
                return None
            return Checkpoint.model_validate_json(zlib.decompress(packed))
        except (redis.RedisError, ValidationError, zlib.error) as error:
            log.info("a video's checkpoint cannot be read (%s)", type(error).__name__)
            return None

    def keep(self, key: str, checkpoint: Checkpoint) -> None:
        """In place of the one before; what cannot be kept is only logged."""
        packed = zlib.compress(checkpoint.model_dump_json().encode(), 1)
        if len(packed) > MOST_BYTES:
            log.info("a video's checkpoint has %d bytes: it is not kept", len(packed))
            return
        try:
            self._redis.set(_KEY + key, packed, ex=_TTL_S)
        except redis.RedisError as error:
            log.info("a video's checkpoint is not kept (%s)", type(error).__name__)

    def drop(self, key: str) -> None:
        """The work is over."""
        try:
            self._redis.delete(_KEY + key)
        except redis.RedisError as error:
            log.debug("a checkpoint stays until its time is over (%s)", type(error).__name__)
