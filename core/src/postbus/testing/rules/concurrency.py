"""Many at once lose nothing, and get nothing twice."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from postbus.testing.promises import promise
from postbus.testing.workbench import Workbench, in_background
from postbus.transport import Connection, Outgoing


class Concurrency(Workbench):
    """Many at once lose nothing, and get nothing twice."""

    @promise("concurrency-1", since="0.1")
    def test_many_producers_and_consumers_share_a_queue(self) -> None:
        """Of what five publish, each message is delivered to one of five consumers, once."""
        each = self.load // 5
        connections = [self.connect() for _ in range(10)]
        seen: list[bytes] = []
        over = threading.Event()

        def produce(connection: Connection, first: int) -> None:
            for number in range(first, first + each, 20):
                batch = range(number, min(number + 20, first + each))
                self.publish(connection, [Outgoing(b"%d" % number, {}) for number in batch])

        def consume(connection: Connection) -> None:
            while not over.is_set():
                if deliveries := self.fetch(connection, 20, self.quiet):
                    connection.ack([delivery.tag for delivery in deliveries])
                    seen.extend(delivery.body for delivery in deliveries)

        consuming = [in_background(partial(consume, connection)) for connection in connections[5:]]
        producing = [in_background(partial(produce, connections[n], n * each)) for n in range(5)]
        for thread in producing:
            thread.result(self._long)
        self._wait_for(seen, 5 * each)
        over.set()
        for thread in consuming:
            thread.result(self._long)

        assert Counter(b"%d" % number for number in range(5 * each)) == Counter(seen)
        self.assert_empty(connections[0])

    @promise("concurrency-2", since="0.1")
    def test_a_connection_serves_several_threads(self) -> None:
        """One thread fetches while others publish and settle; nothing is lost, and no answer goes to the wrong one."""
        each = self.load // 20
        connection = self.connect()
        fetched: queue.SimpleQueue[Any] = queue.SimpleQueue()
        settled: list[bytes] = []
        over = threading.Event()

        def produce(first: int) -> Sequence[str | None]:
            return [id for n in range(first, first + each) for id in connection.publish([Outgoing(b"%d" % n, {})])]

        def settle() -> None:
            while delivery := fetched.get():
                connection.ack([delivery.tag])
                settled.append(delivery.body)

        def fetch() -> None:
            while not over.is_set():
                for delivery in self.fetch(connection, 20, self.quiet):
                    fetched.put(delivery)

        fetching, settling = in_background(fetch), [in_background(settle) for _ in range(2)]
        producing = [in_background(partial(produce, n * each)) for n in range(3)]
        ids = [id for thread in producing for id in thread.result(self._long)]
        self._wait_for(settled, 3 * each)
        over.set()
        fetching.result(self._long)
        for _ in settling:
            fetched.put(None)
        for thread in settling:
            thread.result(self._long)

        assert Counter(b"%d" % number for number in range(3 * each)) == Counter(settled)
        assert len(ids) == 3 * each
        self.assert_empty(connection)

    @property
    def _long(self) -> float:
        # Where thousands of messages go through, a broker may take a while.
        return 6 * self.patience

    def _wait_for(self, things: Sequence[object], number: int) -> None:
        deadline = time.monotonic() + self._long
        while len(things) < number and time.monotonic() < deadline:
            threading.Event().wait(0.01)
