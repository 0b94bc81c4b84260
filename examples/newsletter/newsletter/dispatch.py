"""Dispatches one message for each recipient of a file: python -m newsletter.dispatch recipients.csv."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from newsletter.app import SendNewsletter, app

BATCH = 500
"""How many messages are stored in one round trip, and so at most forgotten if this program dies."""


def read_recipients(file: Path) -> dict[str, str]:
    """Return the names of the recipients by address, so nobody is listed twice."""
    with file.open(encoding="utf-8", newline="") as lines:
        return {row["address"]: row["name"] for row in csv.DictReader(lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Dispatches one message for each recipient.")
    parser.add_argument("recipients", type=Path, help="a CSV file with the columns name and address")
    parser.add_argument("--edition", default="No. 42")
    arguments = parser.parse_args()

    recipients = read_recipients(arguments.recipients)
    messages = [SendNewsletter(arguments.edition, address, name) for address, name in recipients.items()]
    console = Console()
    with app, Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("Dispatching", total=len(messages))
        for start in range(0, len(messages), BATCH):
            app.dispatch_many(messages[start : start + BATCH])
            progress.update(task, completed=start + BATCH)
    console.print(f"Dispatched {len(messages):,} messages.")


if __name__ == "__main__":
    main()
