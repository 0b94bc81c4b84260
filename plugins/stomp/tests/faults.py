"""How the tests in ``tests/faults/`` come to queues of this plugin."""

from tests.faults.subjects import Subject


def dsn(address: str, queue: str) -> str:
    """Return the DSN of a queue."""
    return f"{address}/{queue}?heartbeat=2&confirm_timeout=5&connect_timeout=2"


SUBJECTS = [Subject(name="activemq", scheme="stomp", dsn=dsn, broker="own_activemq")]
