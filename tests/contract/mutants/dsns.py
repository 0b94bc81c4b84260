"""Mutants for the rules in `postbus.testing.rules.dsns`."""

from __future__ import annotations

from postbus.dsn import Dsn
from postbus.queue_transport import QueueTransport
from postbus.transport import TransportContext
from postbus_in_memory import InMemoryOptions
from tests.contract.healthy import Plain
from tests.contract.mutants.entry import breaks


@breaks("an_unknown_option_is_refused_with_the_nearest_name")
class TakesAnyOption(Plain):
    """Ignores options that it does not know."""

    @classmethod
    def make(cls, dsn: Dsn, context: TransportContext) -> QueueTransport:
        known = {info.name for info in InMemoryOptions.describe()}
        options = {name: value for name, value in dsn.options.items() if name in known}
        return super().make(Dsn(dsn.scheme, hosts=dsn.hosts, options=options), context)


@breaks("an_option_of_a_wrong_type_is_refused")
class TakesAnyValue(Plain):
    """Takes the default for a value that it cannot read."""

    @classmethod
    def make(cls, dsn: Dsn, context: TransportContext) -> QueueTransport:
        wrong = {info.name for info in InMemoryOptions.describe() if info.problem(dsn.options.get(info.name))}
        options = {name: value for name, value in dsn.options.items() if name not in wrong}
        return super().make(Dsn(dsn.scheme, hosts=dsn.hosts, options=options), context)


@breaks("a_secret_is_never_shown")
class ShowsItsPassword(Plain):
    """Is shown with the password that it logs in with."""

    password: str | None = None

    @classmethod
    def make(cls, dsn: Dsn, context: TransportContext) -> QueueTransport:
        def connect() -> ShowsItsPassword:
            connection = cls(cls.queue_for(dsn), lease=InMemoryOptions.from_dsn(dsn).lease)
            connection.password = dsn.password
            return connection

        connect()
        return QueueTransport(connect, context)

    def __repr__(self) -> str:
        return f"<ShowsItsPassword {self.password}>"
