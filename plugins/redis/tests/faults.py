"""How the tests in ``tests/faults/`` come to queues of this plugin."""

from tests.faults.subjects import Subject


def redis_dsn(address: str, queue: str) -> str:
    """Return the DSN of a stream."""
    return f"{address}/{queue}?redeliver_timeout=2&claim_interval=200&read_timeout=2"


def sentinel_dsn(address: str, queue: str) -> str:
    """Return the DSN of a stream, each entry of which the replica must have before it counts as stored."""
    return f"{address}&stream={queue}&redeliver_timeout=2&claim_interval=200&wait_replicas=1"


SUBJECTS = [
    Subject(name="redis", scheme="redis", dsn=redis_dsn, broker="own_redis"),
    Subject(name="redis-sentinel", scheme="redis", dsn=sentinel_dsn, broker="redis_sentinel", faults=["fail_over"] * 2),
]
