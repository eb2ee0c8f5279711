"""Pictures and videos that travel through Redis: each kind within its share of bytes, so that neither fills it up."""

from __future__ import annotations

from collections.abc import Mapping

import redis

from backend.settings import Settings

KEY = "pallas:blob:"

_SHARE = "pallas:blobs:"
_REQUESTS, _BULK = "requests", "bulk"
_KEPT_S = {_REQUESTS: 600, _BULK: 900}

# Members are "name size" by the time of their last use. What is wanted has room where it and all others fit into the
# budget, or where it is alone; the oldest others that nobody can wait for any longer make room.
_TAKE_ROOM = """
local keep, spare, budget, prefix = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mine, wanted, total, others = {}, 0, 0, {}
for i = 5, #ARGV, 2 do
  mine[ARGV[i]] = true
  wanted = wanted + tonumber(ARGV[i + 1])
end
local found = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #found, 2 do
  local name, size = found[i]:match('^(.*) (%d+)$')
  local age = now - tonumber(found[i + 1])
  if age > keep then
    redis.call('ZREM', KEYS[1], found[i])
  elseif not mine[name] then
    total = total + size
    others[#others + 1] = {found[i], name, tonumber(size), age}
  end
end
for _, other in ipairs(others) do
  if total + wanted > budget and other[4] > spare then
    redis.call('DEL', prefix .. other[2])
    redis.call('ZREM', KEYS[1], other[1])
    total = total - other[3]
  end
end
if total > 0 and total + wanted > budget then return 0 end
for i = 5, #ARGV, 2 do redis.call('ZADD', KEYS[1], now, ARGV[i] .. ' ' .. ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], keep)
return 1
"""


class Blobs:
    """One kind's share. What is in it expires unless it is renewed.

    Raises (of every method): redis.RedisError.
    """

    def __init__(self, client: redis.Redis, share: str, most_bytes: int, spare_s: float) -> None:
        self._redis = client
        self._index = _SHARE + share
        self._kept_s = _KEPT_S[share]
        self._spare_s = min(spare_s, self._kept_s)
        self._most_bytes = most_bytes
        self._script = client.register_script(_TAKE_ROOM)

    @classmethod
    def of_requests(cls, settings: Settings, client: redis.Redis) -> Blobs:
        """What comes inside requests; those that nobody has used for longer than a click waits make room."""
        return cls(client, _REQUESTS, settings.picture_queue_bytes, settings.wait_s)

    @classmethod
    def of_bulk(cls, settings: Settings, client: redis.Redis) -> Blobs:
        """What bulk jobs read from their own disk, all jobs together; what is in their hand stays."""
        return cls(client, _BULK, settings.picture_queue_bytes, _KEPT_S[_BULK])

    def take_room(self, sizes: Mapping[str, int]) -> bool:
        """Room for all of these (name → bytes), whether they are there already or not; False where there is none.

        What is alone always has room: it has limits of its own.
        """
        limits: list[str | int] = [round(1000 * self._kept_s), round(1000 * self._spare_s), self._most_bytes, KEY]
        named: list[str | int] = [part for entry in sizes.items() for part in entry]
        return bool(self._script(keys=[self._index], args=[*limits, *named]))

    def put(self, name: str, data: bytes | memoryview) -> None:
        """After room was taken."""
        self._redis.set(KEY + name, data, ex=self._kept_s)

    def renew(self, sizes: Mapping[str, int]) -> list[str]:
        """These are still wanted; the names of those that are there."""
        pipe = self._redis.pipeline(transaction=False)
        for name in sizes:
            pipe.expire(KEY + name, self._kept_s)
        there = [name for name, kept in zip(sizes, pipe.execute(), strict=True) if kept]
        if there:
            seconds, micros = self._redis.time()
            now = int(seconds) * 1000 + int(micros) // 1000
            self._redis.zadd(self._index, {f"{name} {sizes[name]}": now for name in there}, xx=True)
            self._redis.expire(self._index, self._kept_s)
        return there

    def release(self, sizes: Mapping[str, int]) -> None:
        """Nobody wants these any longer."""
        if sizes:
            pipe = self._redis.pipeline()
            pipe.delete(*(KEY + name for name in sizes))
            pipe.zrem(self._index, *(f"{name} {size}" for name, size in sizes.items()))
            pipe.execute()


def read_blob(client: redis.Redis, name: str) -> bytes | None:
    """The bytes, where they are still there."""
    data = client.get(KEY + name)
    return data if isinstance(data, bytes) else None
