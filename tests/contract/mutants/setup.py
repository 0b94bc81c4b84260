"""Mutants for the rules in `postbus.testing.rules.setup`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from postbus.errors import TransportError
from tests.contract.healthy import Shared
from tests.contract.mutants.entry import breaks


@breaks(
    "setup_is_repeatable",
    # It sets up twice, too.
    also=["setup_keeps_what_is_there"],
)
class SetsUpOnce(Shared):
    """Raises when it has set up already."""

    done = False

    def setup(self) -> None:
        if self.done:
            raise TransportError("The queue exists.")
        super().setup()
        self.done = True


@breaks("setup_keeps_what_is_there")
class SetsUpAnew(Shared):
    """Begins with an empty queue."""

    def setup(self) -> None:
        super().setup()
        self.purge()


@breaks("setup_may_run_in_several_processes_at_once")
class SetsUpWhatItSawMissing(Shared):
    """Looks whether the file is there, and makes it a moment later."""

    def setup(self) -> None:
        if self.missing():
            time.sleep(0.2)
            self.queue.path.open("x").close()


@breaks("nothing_is_missing_after_setup")
class AlwaysMissesSomething(Shared):
    """Says that something is missing, always."""

    def missing(self) -> Sequence[str]:
        return ["There is no exchange."]


@breaks("looking_for_what_is_missing_makes_nothing")
class MakesWhatItLooksFor(Shared):
    """Makes what it was only asked to look for."""

    def missing(self) -> Sequence[str]:
        missing = super().missing()
        self.setup()
        return missing
