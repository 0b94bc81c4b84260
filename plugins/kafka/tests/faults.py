"""How the tests in ``tests/faults/`` come to topics of this plugin."""

import os

from tests.brokers.kafka import THOROUGHLY
from tests.faults.subjects import Subject

OPTIONS = (
    "partitions=4&session_timeout=2&heartbeat_interval=0.3&metadata_interval=2&timeout=3&lost_after=1"
    "&commit_interval=0.2"
)


def kafka_dsn(address: str, queue: str) -> str:
    """Return the DSN of a topic; what fails is kept on a compacted one."""
    return f"{address}/{queue}?{OPTIONS}{'&mode=store' if queue.startswith('failed') else ''}"


IS_THOROUGH = os.environ.get(THOROUGHLY) == "1"

FAULTS = ["kill"]
if IS_THOROUGH:  # Others are in the contract, and in this folder.
    FAULTS += ["pause", "cut", "bury_nothing", "stop", "black_hole"]

# Nothing can be committed while a group divides its partitions anew, and that takes until the dead are given up.
SUBJECTS = [
    Subject(
        name="kafka",
        scheme="kafka",
        dsn=kafka_dsn,
        broker="own_kafka",
        faults=FAULTS,
        restarts=3 if IS_THOROUGH else 1,  # So are workers that are replaced.
        unanswered=3.0,
        moving=5.0,
    )
]
