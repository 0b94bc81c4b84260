"""How the tests in ``tests/faults/`` come to queues of this plugin."""

from __future__ import annotations

from collections.abc import Sequence

from postbus_beanstalkd import fetching
from postbus_beanstalkd.counting import Taken
from postbus_beanstalkd.link import Link
from tests.faults.subjects import Copying, Subject


def dsn(address: str, queue: str) -> str:
    """Return the DSN of a tube."""
    return f"{address}?tube_name={queue}&ttr=2&read_timeout=2"


def tell_of_copies(copying: Copying) -> None:
    """Tell of each job that is replaced by one which says how often its message came; see `keeping`."""
    keep_counts = fetching.keep_counts

    def keep(link: Link, taken: Sequence[Taken]) -> None:
        again = [one.content for one in taken if one.stats is not None and one.count > max(1, one.content.attempts)]
        with copying(again):
            keep_counts(link, taken)

    fetching.keep_counts = keep


SUBJECTS = [Subject(name="beanstalkd", scheme="beanstalkd", dsn=dsn, broker="own_beanstalkd", copying=tell_of_copies)]
