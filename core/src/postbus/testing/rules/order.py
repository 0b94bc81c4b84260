"""Where the guarantees say so, messages come in the order in which they were published."""

from __future__ import annotations

from postbus.testing.promises import promise
from postbus.testing.workbench import Workbench
from postbus.transport import Outgoing

MESSAGES = [Outgoing(b"%d" % number, {}) for number in range(20)]


class Order(Workbench):
    """Where the guarantees say so, messages come in the order in which they were published."""

    @promise("order-1", since="0.1")
    def test_messages_come_in_the_order_of_publishing(self) -> None:
        """A single consumer gets what was published later later."""
        self.requires(ordering="fifo")
        connection = self.connect()
        for message in MESSAGES:
            connection.publish([message])

        deliveries = self.take(connection, len(MESSAGES))

        assert [message.body for message in MESSAGES] == [delivery.body for delivery in deliveries]

    @promise("order-2", since="0.1")
    def test_a_batch_comes_in_its_order(self) -> None:
        """A single consumer gets the messages of a batch in the order that they have there."""
        self.requires(ordering="fifo")
        connection = self.connect()
        batch = MESSAGES[: self.guarantees.publish_batch]
        connection.publish(batch)

        deliveries = self.take(connection, len(batch))

        assert [message.body for message in batch] == [delivery.body for delivery in deliveries]

    @promise("order-3", since="0.1")
    def test_order_holds_from_one_fetch_to_the_next(self) -> None:
        """A consumer that fetches one message at a time, and acks each, gets them in the same order."""
        self.requires(ordering="fifo")
        connection = self.connect()
        self.publish(connection, MESSAGES)

        bodies: list[bytes] = []
        for _ in MESSAGES:
            [delivery] = self.take(connection, 1)
            connection.ack([delivery.tag])
            bodies.append(delivery.body)

        assert [message.body for message in MESSAGES] == bodies

    @promise("order-4", since="0.1")
    def test_order_holds_while_fetches_grow_and_shrink(self) -> None:
        """A consumer that asks for ever more messages, as a worker does, and for fewer again, gets each in its turn."""
        self.requires(ordering="fifo")
        connection = self.connect()
        messages = [Outgoing(b"%d" % number, {}) for number in range(200)]
        self.publish(connection, messages)

        bodies: list[bytes] = []
        for limit in (1, 2, 4, 8, 16, 64, 1, 3, 32, 69):
            deliveries = self.take(connection, limit)
            connection.ack([delivery.tag for delivery in deliveries])
            bodies += [delivery.body for delivery in deliveries]

        assert [message.body for message in messages] == bodies

    @promise("order-5", since="0.1")
    def test_a_higher_priority_overtakes(self) -> None:
        """A message of a higher priority comes before those that have waited for longer."""
        self.requires(priority=True)
        connection = self.connect()
        self.publish(connection, [*MESSAGES[:3], self.urgent(b"urgent")])

        assert b"urgent" == self.take(self.connect(), 4)[0].body

    @promise("order-6", since="0.1")
    def test_one_priority_has_one_order(self) -> None:
        """Messages of the same higher priority come in the order in which they were published."""
        self.requires(priority=True, ordering="fifo")
        connection = self.connect()
        urgent = [self.urgent(message.body) for message in MESSAGES]
        self.publish(connection, urgent)

        deliveries = self.take(self.connect(), len(urgent))

        assert [message.body for message in urgent] == [delivery.body for delivery in deliveries]
