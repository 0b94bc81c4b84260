"""Where deliveries have an ordering key, messages of one key are handled one after the other."""

from __future__ import annotations

from postbus import stamps
from postbus.testing.promises import promise
from postbus.testing.workbench import Workbench
from postbus.transport import Connection, Outgoing

ANY_TEXT = [
    "",
    "a",
    "A",
    "a ",
    "\u00e4",
    "a\n",
    "a\0",
    "a/b:c.d*#$",
    "13",
    "\U0001f680",
    *("k" * 400 + end for end in "12"),
]
"""Keys of which a broker might not take one, cut one off, or take one for another."""


class Groups(Workbench):
    """Where deliveries have an ordering key, messages of one key are handled one after the other."""

    @promise("groups-1", since="0.1")
    def test_a_delivery_tells_its_group(self) -> None:
        """Deliveries of one key have the same ``group``, those of another key another one."""
        self.requires(groups=True)
        connection = self.connect()
        self.publish(connection, [grouped("one", b"a"), grouped("two", b"b"), grouped("one", b"c")])

        groups = self._groups(connection, 3)

        assert None not in groups.values(), "A delivery has no group."
        assert groups[b"a"] == groups[b"c"] != groups[b"b"]

    @promise("groups-2", since="0.1")
    def test_a_group_comes_in_its_order(self) -> None:
        """Messages of one key come in the order in which they were published, whatever comes between them."""
        self.requires(groups=True)
        connection = self.connect()
        bodies = [b"%d" % number for number in range(12)]
        self.publish(connection, [grouped(f"group-{n % 3}", body) for n, body in enumerate(bodies)])

        came: list[bytes] = []
        while len(came) < len(bodies):
            deliveries = self.take(connection, 1)
            came += [delivery.body for delivery in deliveries]
            connection.ack([delivery.tag for delivery in deliveries])

        assert [bodies[n::3] for n in range(3)] == [[body for body in came if int(body) % 3 == n] for n in range(3)]

    @promise("groups-3", since="0.1")
    def test_a_group_is_in_one_hand(self) -> None:
        """While a message is in flight, nobody else gets one of the same key; then the next one comes."""
        self.requires(groups=True)
        first = self.connect()
        self.publish(first, [grouped("one", b"a"), grouped("one", b"b")])
        [delivery] = self.take(first, 1)
        assert b"a" == delivery.body, "The first of its group comes first."

        other = self.connect()
        self.assert_quiet(other)

        first.ack([delivery.tag])
        [after] = self.take(first, 1)
        assert b"b" == after.body

    @promise("groups-4", since="0.1")
    def test_what_is_given_back_keeps_its_place(self) -> None:
        """What was released comes again before what is behind it in its group."""
        self.requires(groups=True)
        connection = self.connect()
        self.publish(connection, [grouped("one", b"a"), grouped("one", b"b")])
        [delivery] = self.take(connection, 1)

        connection.release([delivery.tag])

        [again] = self.take(connection, 1)
        assert b"a" == again.body, "What was behind it has overtaken it."

    @promise("groups-5", since="0.1")
    def test_any_text_is_a_key(self) -> None:
        """Keys that differ in anything make different groups, whatever is in them and however long they are."""
        self.requires(groups=True)
        connection = self.connect()
        keys = {b"%d" % number: key for number, key in enumerate(ANY_TEXT * 2)}
        self.publish(connection, [grouped(key, body) for body, key in keys.items()])

        groups = self._groups(connection, len(keys))

        of_key = {key: {groups[body] for body in keys if keys[body] == key} for key in ANY_TEXT}
        assert [] == [key for key, of_it in of_key.items() if len(of_it) != 1], "A key has several groups."
        assert len(ANY_TEXT) == len(set(groups.values())), "Several keys have one group."

    @promise("groups-6", since="0.1")
    def test_a_copy_stays_in_its_group(self) -> None:
        """What is published with the ``group`` of a delivery as its key is of the same group."""
        self.requires(groups=True)
        connection = self.connect()
        self.publish(connection, [grouped(key, b"%d" % number) for number, key in enumerate(ANY_TEXT)])
        groups = self._groups(connection, len(ANY_TEXT))

        self.publish(connection, [grouped(group, body) for body, group in groups.items() if group is not None])

        assert groups == self._groups(connection, len(ANY_TEXT))

    @promise("groups-7", since="0.1")
    def test_a_group_keeps_no_other_waiting(self) -> None:
        """While a message is in flight, those of other keys come, and those without one."""
        self.requires(groups=True)
        connection = self.connect()
        others = [grouped("two", b"c"), grouped("three", b"d"), Outgoing(b"e", {})]
        self.publish(connection, [grouped("one", b"a"), grouped("one", b"b"), *others])

        self.take_all_of(connection, {b"a", b"c", b"d", b"e"})

    def _groups(self, connection: Connection, number: int) -> dict[bytes, str | None]:
        """Take so many messages, one after the other, and return their groups by their bodies."""
        groups: dict[bytes, str | None] = {}
        while len(groups) < number:  # What is behind the first of its group may come only when that is settled.
            deliveries = self.take(connection, 1)
            groups |= {delivery.body: delivery.group for delivery in deliveries}
            connection.ack([delivery.tag for delivery in deliveries])
        return groups


def grouped(key: str, body: bytes) -> Outgoing:
    """Return a message that belongs to something."""
    return Outgoing(body, {}, stamps=(stamps.Key(key),))
