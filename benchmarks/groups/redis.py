"""Redis, as a stream.

The raw equivalent is redis-py with hiredis, on a stream with the same entries: see the README.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

import redis

from benchmarks import broker, machine, queues
from benchmarks.groups import Prepared
from benchmarks.queues import Part
from benchmarks.raw.redis import BATCH, Stream


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure with the server on one core and this process on another."""
    with (
        broker.running("redis_plain") as url,
        queues.figures(
            partial(Stream, url),
            worker=Part(f"XREADGROUP COUNT {BATCH}, and one pipeline of XACK and XDEL", target=0.6),
            dispatch_many=Part(f"pipelines of {BATCH} XADD", target=0.9),
            dispatch=Part("XADD, one by one", target=0.85),
        ) as all_figures,
    ):
        with redis.Redis.from_url(url) as client:
            server = client.info()
        libraries = machine.versions("postbus", "postbus-redis", "redis", "hiredis")
        conditions = {
            "Libraries": f"{libraries}, Redis {server['redis_version']}",
            "Durability": f"appendonly {'yes' if server['aof_enabled'] else 'no'}; the same for both",
            "Cores": broker.CORES,
        }
        yield conditions, all_figures
