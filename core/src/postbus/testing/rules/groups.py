"""Where deliveries have an ordering key, messages of one key are handled one after the other."""

from __future__ import annotations

from postbus.testing.workbench import Workbench


class Groups(Workbench):
    """Where deliveries have an ordering key, messages of one key are handled one after the other."""

    def test_a_delivery_tells_its_group(self) -> None:
        """Deliveries of one key have the same ``group``, those of another key another one."""
        self.requires(groups=True)
        connection = self.connect()
        self.publish(connection, [self.grouped("one", b"a"), self.grouped("two", b"b"), self.grouped("one", b"c")])

        groups: dict[bytes, str | None] = {}
        while len(groups) < 3:  # What is behind the first of its group may come only when that is settled.
            deliveries = self.take(connection, 1)
            groups |= {delivery.body: delivery.group for delivery in deliveries}
            connection.ack([delivery.tag for delivery in deliveries])

        assert None not in groups.values(), "A delivery has no group."
        assert groups[b"a"] == groups[b"c"] != groups[b"b"]

    def test_a_group_comes_in_its_order(self) -> None:
        """Messages of one key come in the order in which they were published, whatever comes between them."""
        self.requires(groups=True)
        connection = self.connect()
        bodies = [b"%d" % number for number in range(12)]
        self.publish(connection, [self.grouped(f"group-{n % 3}", body) for n, body in enumerate(bodies)])

        came: list[bytes] = []
        while len(came) < len(bodies):
            deliveries = self.take(connection, 1)
            came += [delivery.body for delivery in deliveries]
            connection.ack([delivery.tag for delivery in deliveries])

        assert [bodies[n::3] for n in range(3)] == [[body for body in came if int(body) % 3 == n] for n in range(3)]

    def test_a_group_is_in_one_hand(self) -> None:
        """While a message is in flight, nobody else gets one of the same key; then the next one comes."""
        self.requires(groups=True)
        first = self.connect()
        self.publish(first, [self.grouped("one", b"a"), self.grouped("one", b"b")])
        [delivery] = self.take(first, 1)
        assert b"a" == delivery.body, "The first of its group comes first."

        other = self.connect()
        self.assert_quiet(other)

        first.ack([delivery.tag])
        [after] = self.take(first, 1)
        assert b"b" == after.body

    def test_what_is_given_back_keeps_its_place(self) -> None:
        """What was released comes again before what is behind it in its group."""
        self.requires(groups=True)
        connection = self.connect()
        self.publish(connection, [self.grouped("one", b"a"), self.grouped("one", b"b")])
        [delivery] = self.take(connection, 1)

        connection.release([delivery.tag])

        [again] = self.take(connection, 1)
        assert b"a" == again.body, "What was behind it has overtaken it."
