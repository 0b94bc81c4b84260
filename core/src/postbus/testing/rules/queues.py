"""Who names queues gets what is in these, and nothing else."""

from __future__ import annotations

import threading
from functools import partial
from typing import Protocol, runtime_checkable
from uuid import uuid4

import pytest

from postbus.errors import ConnectionLost, TransportError
from postbus.testing.promises import promise
from postbus.testing.workbench import Workbench, in_background, unable
from postbus.transport import Connection, Delivery, SupportsQueues, supports

ROUNDS = 3


@runtime_checkable
class PickyConnection(Connection, SupportsQueues, Protocol):
    """A connection that can fetch from some of its queues only."""


class Queues(Workbench):
    """Who names queues gets what is in these, and nothing else."""

    @promise("queues-1", since="0.1")
    def test_only_named_queues_deliver(self) -> None:
        """Neither at once nor later does a message come from a queue that was not named; it waits there for others."""
        connection, first, second = self._queues()
        connection.publish([self.outgoing_for(first, b"first"), self.outgoing_for(second, b"second")])

        [delivery] = connection.fetch_from([second], 10, self.patience)
        assert b"second" == delivery.body
        assert [] == list(connection.fetch_from([second], 10, self.quiet))

        [delivery] = connection.fetch_from([first], 10, self.patience)
        assert b"first" == delivery.body

    @promise("queues-2", since="0.1")
    def test_every_queue_delivers_when_none_is_named(self) -> None:
        """A plain `fetch` takes from all of them."""
        connection, first, second = self._queues()
        connection.publish([self.outgoing_for(first, b"first"), self.outgoing_for(second, b"second")])

        assert {b"first", b"second"} == {delivery.body for delivery in self.take(connection, 2)}

    @promise("queues-3", since="0.1")
    def test_the_first_named_queue_comes_first(self) -> None:
        """When a message waits in each of them, the one in the first is delivered first."""
        connection, first, second = self._queues()
        connection.fetch_from([first, second], 1, 0)

        in_turn, pause = 0, self.quiet
        while in_turn < ROUNDS:
            connection.publish([self.outgoing_for(second, b"second"), self.outgoing_for(first, b"first")])
            # A broker that pushes has sent both when this is over.
            threading.Event().wait(pause)
            bodies: list[bytes] = []
            while len(bodies) < 2:
                [delivery] = self._one_from(connection, first, second)
                connection.ack([delivery.tag])
                bodies.append(delivery.body)
            if bodies == [b"first", b"second"]:
                in_turn += 1
                continue
            # It may have been held up; a longer pause tells.
            assert pause < self.patience / 4, f"{bodies} came, although both had waited for {pause:.1f} s."
            in_turn, pause = 0, 2 * pause

    @promise("queues-4", since="0.1")
    def test_a_fetch_waits_for_all_named_queues(self) -> None:
        """It returns when a message arrives in any of them, not only in the first."""
        connection, first, second = self._queues()
        waiting = in_background(partial(connection.fetch_from, [first, second], 10, 3 * self.patience))
        self.assert_still_waiting(waiting)

        connection.publish([self.outgoing_for(second, b"second")])

        assert [b"second"] == [delivery.body for delivery in self.in_time(waiting)]

    @promise("queues-5", since="0.1")
    def test_what_came_from_a_named_queue_is_settled_as_ever(self) -> None:
        """What is acked is gone; what is released is in the same queue again."""
        connection, _, second = self._queues()
        self.publish(connection, [self.outgoing_for(second, b"second")] * 2)
        [acked] = self._one_from(connection, second)
        [released] = self._one_from(connection, second)

        connection.ack([acked.tag])
        connection.release([released.tag])

        [again] = self._one_from(connection, second)
        connection.ack([again.tag])
        self.assert_empty(connection)

    @promise("queues-6", since="0.1")
    def test_an_unknown_queue_is_named_in_an_error(self) -> None:
        """Nobody waits for a queue that is misspelt: the `TransportError` names it, and the connection goes on."""
        connection, first, _ = self._queues()
        connection.publish([self.outgoing_for(first, b"first")])

        with pytest.raises(TransportError, match="no-such-queue") as caught:
            self.in_time(in_background(partial(connection.fetch_from, ["no-such-queue"], 10, 3 * self.patience)))

        assert not isinstance(caught.value, ConnectionLost), "A new connection would not find it either."
        self._one_from(connection, first)

    def _queues(self) -> tuple[PickyConnection, str, str]:
        unique = uuid4().hex
        first, second = f"first-{unique}", f"second-{unique}"
        dsn = self.dsn_with([first, second])
        if dsn is None:
            pytest.skip("No DSN with several queues is known: see dsn_with().")
        connection = self.connect(dsn)
        if not supports(connection, PickyConnection):
            unable(connection, SupportsQueues)
        return connection, first, second

    def _one_from(self, connection: PickyConnection, *queues: str) -> list[Delivery]:
        return list(connection.fetch_from(queues, 1, self.patience))
