"""redis-py alone, on a stream: ``python -m benchmarks.raw.redis URL STREAM`` receives pings."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import redis

BATCH = 500
GROUP, CONSUMER = "raw", "raw"
SENT_AT = b"sent_at"


class Stream:
    """A stream and its consumer group. The client is as it comes, but for pipelines without a transaction."""

    def __init__(self, url: str, name: str, entry: Any = None) -> None:
        self.dsn = f"{url}/{name}"
        self.listener: Sequence[str] = ("benchmarks.raw.redis", url, name)
        self._url, self._name = url, name
        self._entry = entry
        self._client = _connect(url)

    def setup(self) -> None:
        self._client.xgroup_create(self._name, GROUP, id="0", mkstream=True)

    def pop(self) -> Any:
        [(id, entry)] = self._client.xrange(self._name)
        self._client.xdel(self._name, id)
        return entry

    def store(self, count: int) -> None:
        for start in range(0, count, BATCH):
            pipeline = self._client.pipeline(transaction=False)
            for _ in range(min(BATCH, count - start)):
                pipeline.xadd(self._name, self._entry)
            pipeline.execute()

    def store_singly(self, count: int) -> None:
        for _ in range(count):
            self._client.xadd(self._name, self._entry)

    def take(self, count: int) -> None:
        with _connect(self._url) as client:
            while count:
                [(_, entries)] = client.xreadgroup(GROUP, CONSUMER, {self._name: ">"}, count=min(BATCH, count))
                self._settle(client, entries)
                count -= len(entries)

    def ping(self, sent_at: float) -> None:
        self._client.xadd(self._name, {SENT_AT: repr(sent_at)})

    def listen(self) -> None:
        """Tell how old each ping is."""
        print("ready", flush=True)
        while True:
            reply = self._client.xreadgroup(GROUP, CONSUMER, {self._name: ">"}, count=BATCH, block=1000)
            for _, entries in reply or ():
                for _, entry in entries:
                    print(time.monotonic() - float(entry[SENT_AT]), flush=True)
                self._settle(self._client, entries)

    def empty(self) -> None:
        self._client.xtrim(self._name, maxlen=0, approximate=False)

    def delete(self) -> None:
        self._client.delete(self._name, f"{self._name}__wake")  # The second is the plugin's.

    def close(self) -> None:
        self._client.close()

    def _settle(self, client: redis.Redis, entries: Sequence[tuple[bytes, Any]]) -> None:
        ids = [id for id, _ in entries]
        pipeline = client.pipeline(transaction=False)
        pipeline.xack(self._name, GROUP, *ids)
        pipeline.xdel(self._name, *ids)
        pipeline.execute()


def _connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(url)


if __name__ == "__main__":
    Stream(*sys.argv[1:]).listen()
