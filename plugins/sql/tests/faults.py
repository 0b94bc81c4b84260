"""How the tests in ``tests/faults/`` come to queues of this plugin."""

from tests.faults.subjects import Subject


def sqlite_dsn(folder: str, queue: str) -> str:
    """Return the DSN of a queue in a file."""
    return f"sqlite:///{folder}/messages.db?queue_name={queue}&redeliver_timeout=1"


def server_dsn(address: str, queue: str) -> str:
    """Return the DSN of a queue in a table of a server."""
    return f"{address}?queue_name={queue}&redeliver_timeout=2&read_timeout=2"


SUBJECTS = [
    Subject(name="sqlite", scheme="sqlite", dsn=sqlite_dsn, broker="own_folder", faults=["cut", "bury_nothing"]),
    Subject(name="postgresql", scheme="postgresql", dsn=server_dsn, broker="own_postgresql"),
    Subject(name="mariadb", scheme="mysql", dsn=server_dsn, broker="own_mariadb"),
]
