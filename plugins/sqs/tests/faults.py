"""How the tests in ``tests/faults/`` come to queues of this plugin."""

from tests.faults.subjects import Subject


def sqs_dsn(address: str, queue: str) -> str:
    """Return the DSN of a queue."""
    return (
        f"sqs://key:secret@{address.removeprefix('sqs://')}/{queue}?sslmode=disable&region=us-east-1"
        "&visibility_timeout=2&timeout=4&read_timeout=4"
    )


# ElasticMQ 1.7.1 writes a moment after it has answered, and what is not written by then is undone even by SIGTERM: of
# 170 messages whose deletion it had confirmed 20 were there again. AWS writes first. So nobody reaches it when it goes.
FAULTS = ["stop_out_of_reach", "pause", "black_hole", "bury_nothing"]
SUBJECTS = [Subject(name="sqs", scheme="sqs", dsn=sqs_dsn, broker="own_elasticmq", faults=FAULTS)]
