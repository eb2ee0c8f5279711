"""What we answered, remembered in Redis: to correct a region later, and to see what people keep of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from backend.job import RegionPrompt
from backend.label_studio.regions import words_of
from backend.label_studio.video_sequences import Keyframe, keyframes_of
from backend.settings import Settings

_KEY = "pallas:answer:"
_TASK = "pallas:answers:"
_REVIEWED = "pallas:reviewed:"
_PROMPTS = "pallas:prompts"
_MOST_PROMPTS = 100_000  # 10 MB
_MOST_OF_TASK = 200
_NEWEST = "pallas:answered"
"""All remembered regions by time, the oldest first; and beside it how many bytes they take."""
_BYTES = "pallas:answered:bytes"
_DAY_S = 86_400

_OF_REGION, _OF_TASK = 420, 750
"""Bytes that Redis takes for a region beside its text, and for a task's list of them (`benchmarks.keys`)."""

# A member of the zset is "length:idindex", by which a region is found in the list of its task. What is older than its
# time has no other end than this; so the sum of bytes stays exact.
_KEEP = """
local newest, sum, key, reviewed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now, kept, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local of_region, of_task = tonumber(ARGV[4]), tonumber(ARGV[5])
local index, longest = ARGV[6], tonumber(ARGV[7])
local total = tonumber(redis.call('GET', sum) or 0)
local function forget(member)
  local length, rest = member:match('^(%d+):(.*)$')
  local id, of = rest:sub(1, tonumber(length)), rest:sub(tonumber(length) + 1)
  local size = redis.call('STRLEN', key .. id)
  if size > 0 then total = total - size - of_region end
  redis.call('DEL', key .. id, reviewed .. id)
  if of ~= '' and redis.call('LREM', of, 0, id) > 0 and redis.call('EXISTS', of) == 0 then total = total - of_task end
  redis.call('ZREM', newest, member)
end
if index ~= '' and redis.call('EXISTS', index) == 0 then total = total + of_task end
for i = 8, #ARGV, 2 do
  local id, text = ARGV[i], ARGV[i + 1]
  local before = redis.call('STRLEN', key .. id)
  if before > 0 then total = total - before - of_region end
  redis.call('SET', key .. id, text, 'EX', kept + 86400)
  redis.call('ZADD', newest, now, #id .. ':' .. id .. index)
  total = total + #text + of_region
  if index ~= '' then redis.call('LPUSH', index, id) end
end
if index ~= '' then
  redis.call('LTRIM', index, 0, longest - 1)
  redis.call('EXPIRE', index, kept + 86400)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', newest, '-inf', now - kept, 'LIMIT', 0, 1000)) do forget(member) end
for _ = 1, 1000 do
  local oldest = redis.call('ZRANGE', newest, 0, 0)[1]
  if total <= most or oldest == nil then break end
  forget(oldest)
end
if redis.call('ZCARD', newest) == 0 then total = 0 end
redis.call('SET', sum, total)
redis.call('EXPIRE', newest, kept + 86400)
redis.call('EXPIRE', sum, kept + 86400)
"""


class Remembered(BaseModel):
    """One answered region.

    Attributes:
        id: of the region in Label Studio.
        at: when it was answered, seconds since the epoch; `Answers.keep` says so.
        image: name of the <Image> or <Video>.
        mask: COCO RLE of our mask; None where a person's own geometry was described.
        prompt: the clicks and the box that made it, for corrections; Label Studio does not keep them.
        prompts: their ids in Label Studio, which keeps them as long as nobody has decided on the suggestion.
        labels: by control name, the labels or choices that we set, joined by ", " (the parts of a path by " / ").
        texts: by control name, the text that we set.
        sequence: keyframes of our tracked region; empty where it is none.
        frames: of the video, by Label Studio's count.
        version: of the model that answered.
        signs, sure: what was known of how sure the answer is, and the confidence that was said, 0..1; None: none was.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    image: str
    page: int | None = None
    at: float = 0.0
    mask: dict[str, Any] | None = None
    prompt: RegionPrompt | None = None
    prompts: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    texts: dict[str, str] = {}
    sequence: tuple[Keyframe, ...] = ()
    frames: int = 0
    version: str = ""
    signs: dict[str, float] = {}
    sure: float | None = None

    @classmethod
    def of(
        cls, items: Sequence[dict[str, Any]], mask: dict[str, Any] | None, prompt: RegionPrompt | None = None
    ) -> Remembered:
        """From the items of one region, as they are answered."""
        labels, texts = words_of(items)
        kept = prompt.model_copy(update={"mask": None}) if prompt is not None else None
        name, image = items[0]["id"], items[0]["to_name"]
        value = items[0]["value"]
        return cls(
            **{"id": name, "image": image, "page": items[0].get("item_index"), "mask": mask, "prompt": kept},
            **{"labels": labels, "texts": texts},
            sequence=keyframes_of(value),
            frames=value.get("framesCount", 0),
        )


class Memory(Protocol):
    """What planning asks of it."""

    def get(self, ids: Sequence[str]) -> dict[str, Remembered]:
        """Those of the regions that we answered and remember."""

    def of_task(self, project: str, task: int | None) -> list[Remembered]:
        """Regions that we answered for a task, the newest first."""

    def prompted(self, task: int | None, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are prompts which were answered with a suggestion.

        Label Studio deletes them when the suggestion is accepted or rejected: in a saved annotation they are what is
        left of one that nobody decided on.
        """


class Answers:
    """The memory; every entry is forgotten after its time, and the oldest earlier where there are too many.

    Args:
        client: Redis.
        keep_s: seconds.
        most_bytes: of Redis' memory that all of them may take, nearly.
    """

    def __init__(self, client: redis.Redis, keep_s: int, most_bytes: int = 256 << 20) -> None:
        self._redis = client
        self._keep_s = keep_s
        self._most_bytes = most_bytes
        self._script = client.register_script(_KEEP)

    @classmethod
    def of(cls, settings: Settings, client: redis.Redis) -> Answers:
        """The memory as it is set."""
        return cls(client, round(settings.remember_days * _DAY_S), settings.remember_bytes)

    def keep(self, project: str, task: int | None, answered: Sequence[Remembered], prompts: Sequence[str] = ()) -> None:
        """Remember regions of a task (projects are `id.created_at`, as Label Studio sends them), and their prompts."""
        if not answered:
            return
        now = time.time()
        index = _index(project, task) if task is not None else ""
        entries: list[str] = []
        for region in answered:
            kept = region.model_copy(update={"at": now, "prompts": tuple(prompts)})
            entries += [region.id, kept.model_dump_json()]
        limits: list[Any] = [now, self._keep_s, self._most_bytes, _OF_REGION, _OF_TASK, index, _MOST_OF_TASK]
        named = {} if task is None else {f"{task}:{prompt}": now for prompt in prompts}

        def write() -> None:
            pipe = self._redis.pipeline()
            pipe.evalsha(self._script.sha, 4, _NEWEST, _BYTES, _KEY, _REVIEWED, *limits, *entries)
            if named:
                pipe.zadd(_PROMPTS, named)
                pipe.zremrangebyscore(_PROMPTS, "-inf", now - self._keep_s)
                pipe.zremrangebyrank(_PROMPTS, 0, -_MOST_PROMPTS - 1)
                pipe.expire(_PROMPTS, self._keep_s)
            pipe.execute()

        try:
            write()
        except redis.exceptions.NoScriptError:
            # a Redis that was just started; nothing is written twice
            self._redis.script_load(_KEEP)
            write()

    def claim(self, task: int | None, prompts: Sequence[str]) -> bool:
        """Note prompts that are being answered; whether none of them was there."""
        if task is None or not prompts:
            return True
        new = self._redis.zadd(_PROMPTS, {f"{task}:{name}": time.time() for name in prompts}, nx=True)
        self._redis.expire(_PROMPTS, self._keep_s)
        return new == len(prompts)

    def disclaim(self, task: int | None, prompts: Sequence[str]) -> None:
        """They were not answered after all."""
        if task is not None and prompts:
            self._redis.zrem(_PROMPTS, *(f"{task}:{name}" for name in prompts))

    def reviewed(self, region: str, verdict: str) -> bytes | None:
        """Note what was kept of a region, as long as that is remembered; what was noted before."""
        before = self._redis.set(_REVIEWED + region, verdict, ex=self._keep_s, get=True)
        return before if isinstance(before, bytes) else None

    def get(self, ids: Sequence[str]) -> dict[str, Remembered]:
        """Those of the regions that we answered and remember."""
        if not ids:
            return {}
        found: dict[str, Remembered] = {}
        for text in self._redis.mget([_KEY + name for name in ids]):
            if text is None:
                continue
            try:
                region = Remembered.model_validate_json(text)
            except ValidationError:
                continue  # written by another version
            # what is past its time goes from Redis when the next one is written
            if region.at > time.time() - self._keep_s:
                found[region.id] = region
        return found

    def prompted(self, task: int | None, ids: Sequence[str]) -> set[str]:
        if task is None or not ids:
            return set()
        found: Any = self._redis.zmscore(_PROMPTS, [f"{task}:{name}" for name in ids])
        return {name for name, at in zip(ids, found, strict=True) if at is not None}

    def of_task(self, project: str, task: int | None) -> list[Remembered]:
        """Regions that we answered for a task, the newest first."""
        if task is None:
            return []
        ids = [
            name.decode() if isinstance(name, bytes) else name
            for name in self._redis.lrange(_index(project, task), 0, -1)
        ]
        found = self.get(list(dict.fromkeys(ids)))
        return [found[name] for name in dict.fromkeys(ids) if name in found]


def _index(project: str, task: int) -> str:
    return f"{_TASK}{project}:{task}"
