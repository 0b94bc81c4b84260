"""Counts what became of a newsletter, from the mails that arrived and the messages that were buried.

No worker is asked: one that loses a message does not know of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from pathlib import Path

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail in a maildir, as far as counting needs it."""

    recipient: str
    message_id: str
    attempt: int


class Maildir:
    """The mails that have arrived in a folder; each is read once, so looking again is cheap."""

    def __init__(self, folder: Path) -> None:
        self._arrived = folder / "new"
        self._mails: dict[str, Mail] = {}

    def mails(self) -> Collection[Mail]:
        """Return all mails that are there now."""
        for path in self._arrived.iterdir():
            if path.name not in self._mails:
                with path.open("rb") as file:
                    headers = BytesHeaderParser().parse(file)
                self._mails[path.name] = Mail(headers["Delivered-To"], headers["Message-ID"], int(headers["X-Attempt"]))
        return self._mails.values()


@dataclass(frozen=True, slots=True)
class Tally:
    """How many messages came to which end."""

    dispatched: int
    delivered: int
    duplicates: int
    retried: int
    buried: int
    lost: int
    left: int
    problems: tuple[str, ...] = ()
    """What is not as it must be, in sentences."""


def tally(recipients: Collection[str], mails: Collection[Mail], buried: Collection[str], left: int) -> Tally:
    """Count; ``recipients`` and ``buried`` are addresses, ``left`` says how many messages the broker still holds."""
    reached = {mail.recipient for mail in mails}
    delivered = {mail.message_id for mail in mails}
    missing = set(recipients) - reached - set(buried)
    strangers = (reached | set(buried)) - set(recipients)
    lost = max(len(missing) - left, 0)  # What the broker holds may be late; it is not lost.

    problems = []
    if lost:
        problems.append(f"{lost} messages are lost; nothing came of those to {_some(missing)}.")
    if left:
        problems.append(f"{left} messages are still on the broker.")
    if strangers:
        problems.append(f"{len(strangers)} who are no recipients got mail: {_some(strangers)}.")
    if len(delivered) + len(buried) + len(missing) != len(recipients):
        problems.append("The sum is not right: some message was delivered and buried, or dispatched twice.")
    return Tally(
        dispatched=len(recipients),
        delivered=len(delivered),
        duplicates=len(mails) - len(delivered),
        retried=len({mail.message_id for mail in mails if mail.attempt > 1}),
        buried=len(buried),
        lost=lost,
        left=left,
        problems=tuple(problems),
    )


def make_table(counted: Tally) -> Table:
    """Return the numbers for people, and where each comes from."""
    origins = {
        "dispatched": "recipients, each once",
        "delivered": "maildir: different Message-IDs",
        "duplicates": "maildir: further mails of the same Message-ID",
        "retried": "maildir: delivered, but not at the first attempt",
        "buried": "failure transport",
        "lost": "recipients who are in neither",
    }
    table = Table("", "messages", "counted from")
    table.columns[1].justify = "right"
    for word, origin in origins.items():
        table.add_row(word, f"{getattr(counted, word):,}", origin)
    return table


def _some(addresses: Iterable[str]) -> str:
    first, *others = sorted(addresses)
    return ", ".join([first, *others[:4]]) + (" and others" if len(others) > 4 else "")
