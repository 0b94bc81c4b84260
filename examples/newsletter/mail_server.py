"""An SMTP server for the demo: it stores what it takes in a maildir, and does not take everything.

    python mail_server.py [--port 8025] [--maildir maildir]

Recipients at gone.invalid are refused for good, those at greylisted.test twice before they are accepted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from collections import Counter
from itertools import count
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

GONE = "gone.invalid"
GREYLISTED = "greylisted.test"
REFUSALS = 2
"""How often a greylisted recipient is refused."""


class Mailroom:
    """What the server answers: whom it accepts mail for, and that it has stored one. aiosmtpd calls the methods."""

    def __init__(self, maildir: Path) -> None:
        for folder in ("tmp", "new", "cur"):
            (maildir / folder).mkdir(parents=True, exist_ok=True)
        self._maildir = maildir
        self._numbers = count(1)
        self._attempts: Counter[str] = Counter()

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        domain = address.rpartition("@")[2].lower()
        if domain == GONE:
            return "550 5.1.1 There is no such mailbox"
        if domain == GREYLISTED:
            self._attempts[address] += 1
            if self._attempts[address] <= REFUSALS:
                return "451 4.7.1 Greylisted, try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Recipient accepted"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        name = f"{time.time_ns()}.{os.getpid()}_{next(self._numbers)}.localhost"
        recipients = "".join(f"Delivered-To: {address}\r\n" for address in envelope.rcpt_tos)
        try:
            # A mail appears in new/ whole or not at all. To survive a power failure, which is not what this
            # demo shows, the file and its folder would have to be synced before the answer.
            (self._maildir / "tmp" / name).write_bytes(recipients.encode() + envelope.content)
            (self._maildir / "tmp" / name).rename(self._maildir / "new" / name)
        except OSError as error:
            return f"452 4.3.1 Cannot store it now: {error.strerror}"
        return "250 2.0.0 Stored"


async def serve(port: int, maildir: Path) -> None:
    """Take mail until SIGTERM or SIGINT."""
    mailroom = Mailroom(maildir)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(lambda: SMTP(mailroom, hostname="localhost"), "127.0.0.1", port)
    print(f"Listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}, storing to {maildir}.", flush=True)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An SMTP server that stores what it takes in a maildir.")
    parser.add_argument("--port", type=int, default=8025, help="0 for any that is free (default: 8025)")
    parser.add_argument("--maildir", type=Path, default=Path("maildir"), help="default: ./maildir")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.maildir))
