"""A note is read by everybody, stays until it is replaced, and has nothing to do with messages.

These rules apply where `Guarantees.notes` promises it.
"""

from __future__ import annotations

from concurrent.futures import wait
from functools import partial
from typing import Protocol, runtime_checkable
from uuid import uuid4

from postbus.testing.promises import promise
from postbus.testing.workbench import Workbench, in_background
from postbus.transport import (
    Connection,
    Outgoing,
    SupportsBrowse,
    SupportsCount,
    SupportsNotes,
    SupportsPurge,
    SupportsSetup,
    supports,
)

TEXT = '{"by": "ada@web-1", "said": "it\'s \\\\ 你好 🙂"}'


@runtime_checkable
class NotingConnection(Connection, SupportsNotes, Protocol):
    """A connection that keeps notes."""


class Notes(Workbench):
    """A note is read by everybody, stays until it is replaced, and has nothing to do with messages."""

    @promise("notes-1", since="0.1")
    def test_a_note_is_read_by_others(self) -> None:
        """Another connection reads the text as it was written, and None under names that nobody has used."""
        name, other = self._name(), self._name()
        connection = self._noting_connection()
        assert [None, None] == list(connection.read_notes([name, other]))

        connection.write_note(name, TEXT)

        assert [None, TEXT, None] == list(self._noting_connection().read_notes([other, name, self._name()]))

    @promise("notes-2", since="0.1")
    def test_a_note_takes_the_place_of_the_one_before(self) -> None:
        """The last text counts, and None removes it; where there is none, that is quiet."""
        name = self._name()
        connection = self._noting_connection()
        connection.write_note(name, None)

        for text in ("first", "second", "third"):
            connection.write_note(name, text)
            assert [text] == list(connection.read_notes([name]))

        for _ in range(2):
            connection.write_note(name, None)
            assert [None] == list(connection.read_notes([name]))

    @promise("notes-3", since="0.1")
    def test_notes_are_told_apart_by_their_names(self) -> None:
        """Names that differ in one letter, or its case, are different, and as long as they may be; so are texts."""
        name = self._name()
        names = [
            name,
            name.upper(),
            f"{name}/paused",
            f"{name}/%2Fpaused",
            f"{name}*",
            f"{name}'\"\\;:",
            f"{name:~<200}",
        ]
        connection = self._noting_connection()

        for number, each in enumerate(names):
            connection.write_note(each, f"{number:你<1000}")

        assert [f"{number:你<1000}" for number in range(len(names))] == list(connection.read_notes(names))
        connection.write_note(name, None)
        assert [None] == list(connection.read_notes([name]))
        assert None not in connection.read_notes(names[1:])

    @promise("notes-4", since="0.1")
    def test_a_note_is_no_message(self) -> None:
        """It is neither delivered nor counted nor shown, and stays when all messages are deleted."""
        name = self._name()
        connection = self._noting_connection()

        connection.write_note(name, TEXT)

        if supports(connection, SupportsCount):
            counts = connection.count()
            assert (0, 0, 0) == (counts.waiting, counts.delayed or 0, counts.in_flight or 0)
        if supports(connection, SupportsBrowse):
            assert [] == list(connection.browse(10))
        connection.publish([Outgoing(b"message", {})])
        [delivery] = self.take(connection, 1)
        assert b"message" == delivery.body
        assert [] == [delivery.body for delivery in self.fetch(connection, 10, 0)]
        if supports(connection, SupportsPurge):
            assert 1 == connection.purge()
        assert [TEXT] == list(connection.read_notes([name]))

    @promise("notes-5", since="0.1")
    def test_notes_are_read_and_written_while_another_thread_waits(self) -> None:
        """A `fetch` that waits keeps nobody from it."""
        name = self._name()
        connection = self._noting_connection()
        waiting = in_background(partial(self.fetch, connection, 10, 3 * self.patience))
        wait([waiting], self.quiet)

        self.in_time(in_background(partial(connection.write_note, name, TEXT)))
        assert [TEXT] == list(self.in_time(in_background(partial(connection.read_notes, [name]))))

    @promise("notes-6", since="0.1")
    def test_a_note_survives_a_crash(self) -> None:
        """What `write_note` has returned for is there when the broker was killed and started again."""
        self.requires(durable=True)
        name = self._name()
        connection = self._noting_connection()
        broker = self.broker()
        if broker is None:
            self.unproven("broker()", "No broker is known that may be stopped")
        connection.write_note(name, TEXT)

        broker.kill()
        broker.start()

        assert [TEXT] == list(self._noting_connection().read_notes([name]))

    @promise("notes-7", since="0.1")
    def test_to_read_notes_sets_nothing_up(self) -> None:
        """Where nothing is there yet, there is no note; and afterwards as much is missing as of another queue."""
        connection = self._noting_connection(setup=False)

        assert [None] == list(connection.read_notes([self._name()]))

        if supports(connection, SupportsSetup):
            other = self.connect(self.dsn(), setup=False)
            assert isinstance(other, SupportsSetup)
            assert len(connection.missing()) == len(other.missing())

    def _name(self) -> str:
        # Several queues may share their notes, and so may tests.
        return f"contract/{uuid4().hex}"

    def _noting_connection(self, *, setup: bool = True) -> NotingConnection:
        self.requires(notes=True)
        connection = self.connect(setup=setup)
        assert supports(connection, NotingConnection), f"{type(connection).__name__} promises notes, and has none."
        return connection
