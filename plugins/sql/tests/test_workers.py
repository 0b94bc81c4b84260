"""Many workers of one queue, on each server."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from plugins.sql.tests.place import Place
from postbus.transport import Outgoing
from postbus_sql.connection import SqlConnection
from tests.brokers.broker import Brokers

pytestmark = [pytest.mark.slow, pytest.mark.once]


@pytest.mark.parametrize(("server", "workers", "number"), [("postgresql", 20, 2000), ("mariadb", 10, 1000)])
def test_many_workers_get_each_message_once(
    brokers: Brokers, connect: Callable[..., SqlConnection], server: str, workers: int, number: int
) -> None:
    """They and a sender are in each other's way, and nobody notices: no error, nothing twice, nothing lost."""
    place = Place(brokers[server], connect)
    place.connect().setup()
    seen: Counter[bytes] = Counter()
    lock = threading.Lock()

    def send() -> None:
        connection = place.connect()
        for start in range(0, number, 20):
            connection.publish([Outgoing(b"%d" % n, {}) for n in range(start, start + 20)])

    def work() -> None:
        connection = place.connect()
        while sum(seen.values()) < number:
            deliveries = connection.fetch(7, 0.1)
            assert [] == connection.ack([delivery.tag for delivery in deliveries])
            with lock:
                seen.update(delivery.body for delivery in deliveries)

    with ThreadPoolExecutor(workers + 1) as pool:
        for future in [pool.submit(send), *(pool.submit(work) for _ in range(workers))]:
            future.result(110)

    assert Counter(b"%d" % n for n in range(number)) == seen
