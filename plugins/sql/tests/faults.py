"""How the tests in ``tests/faults/`` come to queues of this plugin."""

from tests.faults.subjects import Subject


def sqlite_dsn(folder: str, queue: str) -> str:
    """Return the DSN of a queue in a file."""
    return f"sqlite:///{folder}/messages.db?queue_name={queue}&redeliver_timeout=1"


SUBJECTS = [
    Subject(name="sqlite", scheme="sqlite", dsn=sqlite_dsn, broker="own_folder", faults=["cut", "bury_nothing"]),
]
