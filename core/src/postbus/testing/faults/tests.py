"""Faults as tests: what a plugin's author subclasses."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ClassVar

from postbus.testing import reporting
from postbus.testing.faults import kills, restarts
from postbus.testing.faults.account import Account
from postbus.testing.faults.roles import Queues
from postbus.testing.workbench import Workbench, with_options


class TransportFaults(Workbench):
    """Whatever dies in the middle, no message is lost, and none comes again that was not at risk.

    Subclass it as `TransportContract`, and with the same attributes::

        class TestFaults(TransportFaults):
            guarantees = Guarantees(durable=True, lease=True)
            short_lease = {"redeliver_timeout": 2}

            def dsn(self) -> str:
                return f"redis://localhost:6379/faults-{uuid4()}"

    Producers and workers are real processes. Each worker dies by SIGKILL at a point of its work that the seed
    decides, and a ledger tells of every message what became of it. With ``POSTBUS_TEST_KILLS=200`` so many die, and
    as many are replaced; ``POSTBUS_TEST_SEED=7`` makes them die elsewhere. What came out is said at the end of the
    run. This is for transports that are durable and shared, and takes about a minute.
    """

    kills: ClassVar[int] = 9
    """How many workers are killed: at each point as often as at the others."""
    restarts: ClassVar[int] = 3
    """How many workers are replaced by others."""
    seed: ClassVar[int] = 1
    """The same deaths come of the same seed, as far as brokers and processors let them."""
    unanswered: ClassVar[float] = 0.0
    """Seconds after which a settle has certainly reached a broker that answers none; 0 for one that answers."""
    moving: ClassVar[float] = 0.0
    """Seconds after which what a worker has moved on when it was due is certainly known to others; 0 if none does."""
    copying: ClassVar[str | None] = None
    """As `Queues.copying`, for a fetch that stores messages once more."""

    def failed_dsn(self) -> str:
        """Return the DSN of a failure transport that is new and empty; by default of another queue."""
        return self.dsn()

    def test_killed_workers_lose_nothing(self) -> None:
        """Wherever a worker dies, each message is handled or buried, and again only if one died with it in hand."""
        number = self._number(self.kills)
        self._judge(
            f"{number} kills", lambda: kills.run(self._queues(), self.tmp_path, kills=number, seed=self._seed())
        )

    def test_replaced_workers_lose_and_repeat_nothing(self) -> None:
        """A rolling restart by SIGTERM leaves no message unhandled, and has none handled twice; all exit with 0."""
        number = self._number(self.restarts)
        self._judge(
            f"{number} restarts",
            lambda: restarts.run(self._queues(), self.tmp_path, restarts=number, seed=self._seed()),
        )

    def _number(self, usual: int) -> int:
        self.requires(durable=True, shared=True)
        return int(os.environ.get("POSTBUS_TEST_KILLS") or usual)

    def _seed(self) -> int:
        return int(os.environ.get("POSTBUS_TEST_SEED") or self.seed)

    def _queues(self) -> Queues:
        return Queues(
            work=with_options(self.dsn(), self.short_lease),
            failed=self.failed_dsn(),
            plugin=self.plugin,
            unanswered=self.unanswered,
            moving=self.moving,
            copying=self.copying,
        )

    def _judge(self, faults: str, run: Callable[[], Account]) -> None:
        account = run()
        figures = ", ".join(f"{number:,} {name}" for name, number in account.figures.items())
        self._request.node.user_properties.append((reporting.FAULTS, f"{type(self).__name__}, {faults}: {figures}."))
        account.check()
