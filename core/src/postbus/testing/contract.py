"""The contract of `postbus.transport` as tests: what a plugin's author subclasses."""

from __future__ import annotations

from postbus.testing.rules.batches import Batches
from postbus.testing.rules.browsing import Browsing
from postbus.testing.rules.concurrency import Concurrency
from postbus.testing.rules.counting import Counting
from postbus.testing.rules.crashes import Crashes
from postbus.testing.rules.delays import Delays
from postbus.testing.rules.dsns import Dsns
from postbus.testing.rules.failures import Failures
from postbus.testing.rules.fidelity import Fidelity
from postbus.testing.rules.foreign import Foreign
from postbus.testing.rules.groups import Groups
from postbus.testing.rules.leases import Leases
from postbus.testing.rules.notes import Notes
from postbus.testing.rules.order import Order
from postbus.testing.rules.queues import Queues
from postbus.testing.rules.restarts import Restarts
from postbus.testing.rules.settling import Settling
from postbus.testing.rules.setup import Setup
from postbus.testing.rules.waiting import Waiting


class TransportContract(
    Fidelity,
    Foreign,
    Settling,
    Order,
    Groups,
    Queues,
    Batches,
    Waiting,
    Delays,
    Failures,
    Crashes,
    Restarts,
    Leases,
    Counting,
    Browsing,
    Notes,
    Setup,
    Concurrency,
    Dsns,
):
    """Every promise of a connection, as one test each.

    Subclass it, and say what is tested::

        class TestRedis(TransportContract):
            guarantees = Guarantees(durable=True, lease=True)
            short_lease = {"redeliver_timeout": 1}

            def dsn(self) -> str:
                return f"redis://localhost:6379/contract-{uuid4()}"

    Each test has queues of its own. One that notices that the machine stood still, so that what came of it says
    nothing about the plugin, begins anew. What may be set besides is listed in `Workbench`: how a message
    gets a priority or into a certain queue, how foreign messages get there, and a broker that may be stopped.
    """
