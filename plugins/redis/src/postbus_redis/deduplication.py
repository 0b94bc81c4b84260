"""`RedisStore`: where `postbus.deduplication.Deduplicate` holds its keys for all processes that share a Redis."""

from __future__ import annotations

from typing import Any

from redis import Redis

ACQUIRE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""

RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
return 1
"""

RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0
"""


class RedisStore:
    """Holds each key as a string with an expiry; ``prefix`` keeps apart apps that share a database.

    Give it a client of your own: ``RedisStore(Redis.from_url("redis://localhost:6379"))``.
    """

    def __init__(self, client: Redis, *, prefix: str = "postbus:deduplication:") -> None:
        self._prefix = prefix
        self._acquire = client.register_script(ACQUIRE)
        self._renew = client.register_script(RENEW)
        self._release = client.register_script(RELEASE)

    def acquire(self, key: str, owner: str, ttl: float) -> str | None:
        holder: Any = self._acquire(keys=[self._prefix + key], args=[owner, _milliseconds(ttl)])
        return holder.decode() if isinstance(holder, bytes) else holder

    def renew(self, key: str, owner: str, ttl: float, successor: str) -> bool:
        return bool(self._renew(keys=[self._prefix + key], args=[owner, _milliseconds(ttl), successor]))

    def release(self, key: str, owner: str) -> None:
        self._release(keys=[self._prefix + key], args=[owner])


def _milliseconds(seconds: float) -> int:
    return max(int(seconds * 1000), 1)
