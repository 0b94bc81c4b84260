"""Setting up makes what is missing, as often as one likes, and harms nothing that is there."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Protocol, runtime_checkable

from postbus.testing.promises import promise
from postbus.testing.workbench import Workbench, hear, tell, unable
from postbus.transport import Connection, Outgoing, SupportsSetup, supports


@runtime_checkable
class PreparableConnection(Connection, SupportsSetup, Protocol):
    """A connection that can set up its broker."""


class Setup(Workbench):
    """Setting up makes what is missing, as often as one likes, and harms nothing that is there."""

    @promise("setup-1", since="0.1")
    def test_setup_is_repeatable(self) -> None:
        """A second setup, by the same connection or another one, is no error."""
        connection = self._preparable_connection()
        connection.setup()

        connection.setup()
        self._preparable_connection().setup()

        connection.publish([Outgoing(b"message", {})])
        self.take(connection, 1)

    @promise("setup-2", since="0.1")
    def test_setup_keeps_what_is_there(self) -> None:
        """The messages of a queue outlive it."""
        connection = self._preparable_connection()
        connection.setup()
        connection.publish([Outgoing(b"message", {})])

        connection.setup()

        self.take(connection, 1)

    @promise("setup-3", since="0.1")
    def test_setup_may_run_in_several_processes_at_once(self) -> None:
        """Workers that are started together all set up, and none fails."""
        self.requires(shared=True)
        connection = self._preparable_connection()

        with ExitStack() as stack:
            children = [stack.enter_context(self.child("setup")) for _ in range(3)]
            assert ["ready"] * 3 == [hear(child) for child in children]
            for child in children:
                tell(child, "go")
            assert [0, 0, 0] == [child.wait(60) for child in children]

        connection.publish([Outgoing(b"message", {})])
        self.take(connection, 1)

    @promise("setup-4", since="0.1")
    def test_nothing_is_missing_after_setup(self) -> None:
        """`missing` has nothing to say when everything is there."""
        connection = self._preparable_connection()

        connection.setup()

        assert [] == list(connection.missing())

    @promise("setup-5", since="0.1")
    def test_looking_for_what_is_missing_makes_nothing(self) -> None:
        """`missing` says the same when it is asked again."""
        connection = self._preparable_connection()

        assert list(connection.missing()) == list(connection.missing())

    def _preparable_connection(self) -> PreparableConnection:
        connection = self.connect(setup=False)
        if not supports(connection, PreparableConnection):
            unable(connection, SupportsSetup)
        return connection
