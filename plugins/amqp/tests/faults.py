"""How the tests in ``tests/faults/`` come to queues of this plugin."""

from msgspec.structs import replace

from tests.faults.subjects import Subject

FAULTS = ("stop", "kill", "pause", "cut", "black_hole", "bury_nothing", "close_connections", "delete_queue")
OPTIONS = "heartbeat=2&confirm_timeout=5&connect_timeout=2"


def classic_dsn(address: str, queue: str) -> str:
    """Return the DSN of an exchange with a classic queue of the same name."""
    return f"{address}/{queue}?{OPTIONS}"


def quorum_dsn(address: str, queue: str) -> str:
    """Return the DSN of an exchange with a quorum queue of the same name."""
    return f"{address}/{queue}?{OPTIONS}&queues[{queue}][arguments][x-queue-type]=quorum"


RABBITMQ = Subject(
    name="rabbitmq", scheme="amqp", dsn=classic_dsn, broker="own_rabbitmq", faults=FAULTS, unanswered=1.0
)
SUBJECTS = [RABBITMQ, replace(RABBITMQ, name="rabbitmq-quorum", dsn=quorum_dsn)]
