"""How the tests in ``tests/faults/`` come to queues of this plugin."""

from msgspec.structs import replace

from tests.faults.subjects import Subject

FAULTS = ("stop", "kill", "pause", "cut", "black_hole", "bury_nothing", "close_connections", "delete_queue")
OPTIONS = "heartbeat=2&confirm_timeout=5&connect_timeout=2&delay[arguments][x-expires]=3000"
"""A delay queue that did expire would do so in the midst of each run, with what waits in it."""


def classic_dsn(address: str, queue: str) -> str:
    """Return the DSN of an exchange with a classic queue of the same name."""
    return f"{address}/{queue}?{OPTIONS}"


def quorum_dsn(address: str, queue: str) -> str:
    """Return the DSN of an exchange with a quorum queue of the same name."""
    return f"{address}/{queue}?{OPTIONS}&queues[{queue}][arguments][x-queue-type]=quorum"


def auto_delete_dsn(address: str, queue: str) -> str:
    """Return the DSN of an exchange with a queue that is deleted, with all that is in it, when nobody consumes it."""
    return f"{classic_dsn(address, queue)}&queues[{queue}][flags]={18 if queue.startswith('work') else 2}"


RABBITMQ = Subject(
    name="rabbitmq", scheme="amqp", dsn=classic_dsn, broker="own_rabbitmq", faults=FAULTS, unanswered=1.0
)
SUBJECTS = [
    RABBITMQ,
    replace(RABBITMQ, name="rabbitmq-quorum", dsn=quorum_dsn),
    replace(RABBITMQ, name="rabbitmq-auto-delete", dsn=auto_delete_dsn, faults=(), is_left_alone=True),
]
