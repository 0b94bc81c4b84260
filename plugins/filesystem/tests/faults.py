"""How the tests in ``tests/faults/`` come to queues of this plugin."""

from tests.faults.subjects import Subject


def dsn(folder: str, queue: str) -> str:
    """Return the DSN of a queue."""
    return f"filesystem://{folder}/{queue}?redeliver_timeout=1&poll_interval=0.02"


SUBJECTS = [
    Subject(name="filesystem", scheme="filesystem", dsn=dsn, broker="own_folder", faults=["cut", "bury_nothing"])
]
