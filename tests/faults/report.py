"""The table of what came out, for the tests and for the long run."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from postbus.testing.faults.account import Account

COLUMNS = ("messages", "handled", "buried", "lost", "duplicates", "at risk", "in doubt", "seconds")


class Report:
    """One row for each run."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, int, dict[str, int]]] = []

    def run(self, transport: str, faults: str, seed: int, run: Callable[[], Account]) -> None:
        """Run something, enter what came out, and raise if that is not as it must be."""
        figures: dict[str, int] = {}
        self.rows.append((transport, faults, seed, figures))
        started = time.monotonic()
        account = run()
        figures |= {**account.figures, "seconds": round(time.monotonic() - started)}
        account.check()

    def show(self, console: Console | None = None) -> None:
        """Print the table."""
        table = Table("transport", "faults", "seed", *COLUMNS)
        for column in table.columns[2:]:
            column.justify = "right"
        for transport, faults, seed, figures in self.rows:
            numbers = (f"{figures[column]:,}" if column in figures else "?" for column in COLUMNS)
            table.add_row(transport, faults.replace("_", " "), str(seed), *numbers)
        (console or Console(width=140)).print(table)
