"""What is put through faults, and who each process is that does it."""

from __future__ import annotations

from msgspec import Struct

from postbus.testing.faults.deaths import Death


class Queues(Struct, frozen=True, kw_only=True):
    """A queue and its failure transport, which nobody else uses, and what is to be known of their broker.

    Where deliveries are on a lease, it should be a second or two.
    """

    work: str
    """The DSN of the queue."""
    failed: str
    """The DSN of the failure transport."""
    plugin: str | None = None
    """Where the hooks are if the plugin is not installed: ``package`` or ``package:object``."""
    unanswered: float = 0.0
    """Seconds after which a settle has certainly reached a broker that answers none; 0 for one that answers."""
    moving: float = 0.0
    """Seconds after which what a worker has moved on when it was due is certainly known to others; 0 if none does."""
    copying: str | None = None
    """Where a function is, ``module:function``, that is called in each process; None if nothing stores copies.

    It is given `Watch.copying`, to be entered while a fetch stores messages once more that it took: who dies in there
    may leave both.
    """


class Role(Struct, frozen=True, kw_only=True):
    """What a process is told: its name, where the ledger is, what it works on, and how it is to die."""

    name: str
    ledger: str
    queues: Queues
    death: Death | None = None


VARIABLE = "POSTBUS_FAULTS_ROLE"
"""The variable of the environment that holds a role, as JSON."""
