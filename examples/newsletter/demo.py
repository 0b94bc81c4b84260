"""Runs the newsletter whole, kills a worker in the middle, and counts what became of every message.

    python demo.py [--recipients FILE] [--seed N] [--keep] [--json]

It ends with 0 only if nothing is lost and everything else is as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

from mail_server import GONE
from newsletter.tally import Maildir, Tally, make_table, tally
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from postbus import PostbusError

HERE = Path(__file__).resolve().parent

REDELIVER_TIMEOUT = 5
"""Seconds until what a dead worker held comes again. The default is an hour; who watches a demo has no hour."""

PATIENCE = 20.0
"""Seconds within which something must happen: a process starts or ends, or what is seen changes."""

LONGEST = 300.0
"""Seconds after which it is over in any case."""


class DemoFailed(Exception):
    """The demo cannot go on; the text says why."""


class Processes:
    """The processes of the demo, each with a log. None is left running when this is left, for whatever reason."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> None:
        """Start Python with these arguments."""
        command = [sys.executable, *arguments]
        with self.log_of(name).open("wb") as log:
            # In a session of its own: Ctrl-C is for the demo alone, which then ends the others.
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._running[name] = process

    def stop(self, name: str, number: signal.Signals) -> int:
        """Send a signal, wait until the process has ended, and return its exit code."""
        process = self._running[name]
        process.send_signal(number)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"{name} goes on {PATIENCE:.0f} s after {number.name}. {self._end_of(name)}") from None
        del self._running[name]
        return code

    def check(self) -> None:
        """Raise `DemoFailed` if one has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise DemoFailed(f"{name} has ended by itself, with {process.returncode}. {self._end_of(name)}")

    def log_of(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _end_of(self, name: str) -> str:
        return "\n".join(["Its log ends with:", *self.log_of(name).read_text(errors="replace").splitlines()[-20:]])

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        deadline = time.monotonic() + 5
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(frozen=True, slots=True)
class Sight:
    """What can be seen from outside at one moment."""

    delivered: int
    duplicates: int
    buried: int
    left: int

    def __str__(self) -> str:
        return (
            f"{self.delivered:,} delivered, {self.duplicates} duplicates, {self.buried} buried, "
            f"{self.left:,} on the broker"
        )


class Watch:
    """Looks at what the workers bring about and shows it: as a bar on a terminal, in lines elsewhere."""

    def __init__(self, look: Callable[[], Sight], processes: Processes, console: Console, total: int) -> None:
        self._look = look
        self._processes = processes
        self._console = console
        self._progress = Progress(
            BarColumn(), TextColumn("{task.description}"), console=console, disable=not console.is_terminal
        )
        self._bar = self._progress.add_task("", total=total)
        self._end = time.monotonic() + LONGEST
        self._line_due = time.monotonic() + 2

    def __enter__(self) -> Watch:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def until(self, condition: Callable[[Sight], bool]) -> Sight:
        """Return what is seen once the condition holds, or once there is no hope for it any more."""
        last, changed_at = None, time.monotonic()
        while True:
            sight, now = self._look(), time.monotonic()
            self._show(sight, now)
            if sight != last:
                last, changed_at = sight, now
            if condition(sight) or now > min(changed_at + PATIENCE, self._end):
                return sight
            self._processes.check()
            time.sleep(0.1)

    def _show(self, sight: Sight, now: float) -> None:
        self._progress.update(self._bar, completed=sight.delivered + sight.buried, description=str(sight))
        if not self._console.is_terminal and now >= self._line_due:
            self._console.print(f"  {sight}")
            self._line_due = now + 2


def run(folder: Path, recipients_file: Path, seed: int, console: Console) -> Tally:
    """Do everything once, and return what became of the messages."""
    database = f"sqlite:///{quote(str(folder))}/newsletter.db"
    if "NEWSLETTER_DSN" not in os.environ:
        os.environ["NEWSLETTER_DSN"] = f"{database}?redeliver_timeout={REDELIVER_TIMEOUT}"
        console.print(f"Sending through SQLite; what a dead worker held comes again after {REDELIVER_TIMEOUT} s.")
    os.environ.setdefault("NEWSLETTER_FAILED_DSN", f"{database}?queue_name=failed")
    os.environ["POSTBUS_APP"] = "newsletter.app:app"

    # Not at the top of this file, because the app reads the environment when it is imported.
    from newsletter.app import app
    from newsletter.dispatch import read_recipients
    from newsletter.report import buried_addresses, count

    chance = random.Random(seed)
    maildir = Maildir(folder / "maildir")
    recipients = read_recipients(recipients_file)

    def look() -> Sight:
        mails = maildir.mails()
        delivered = len({mail.message_id for mail in mails})
        return Sight(delivered, len(mails) - delivered, count("failed"), count("mail"))

    with app, Processes(folder) as processes:
        os.environ["NEWSLETTER_SMTP"] = start_mail_server(processes, folder / "maildir")
        if look() != Sight(0, 0, 0, 0):
            raise DemoFailed(f"It begins with empty queues; there are {look()}.")

        dispatch(recipients_file, console)
        if look() != Sight(0, 0, 0, len(recipients)):
            raise DemoFailed(f"{len(recipients)} messages were dispatched, but there are {look()}.")

        workers = ["worker-1", "worker-2"]
        for worker in workers:
            start_worker(processes, worker)
        console.print("Started worker-1 and worker-2.")

        with Watch(look, processes, console, len(recipients)) as watch:
            a_third = len(recipients) * chance.uniform(0.30, 0.36)
            before = watch.until(lambda sight: sight.delivered >= a_third)
            victim = chance.choice(workers)
            processes.stop(victim, signal.SIGKILL)
            console.print(f"Killed {victim} with SIGKILL. What it held comes again.")

            # What systemd, Kubernetes or any other supervisor would do.
            workers[workers.index(victim)] = "worker-3"
            start_worker(processes, "worker-3")
            console.print("Started worker-3 in its place.")

            watch.until(lambda sight: sight.left == 0 and sight.delivered + sight.buried >= len(recipients))

        codes = {worker: processes.stop(worker, signal.SIGTERM) for worker in workers}
        console.print(f"Stopped {' and '.join(workers)} with SIGTERM.")
        buried = buried_addresses()
        counted = tally(recipients, maildir.mails(), buried, count("mail"))

    problems = [*counted.problems]
    problems += [f"{worker} ended with {code} after SIGTERM." for worker, code in codes.items() if code != 0]
    if before.delivered + before.buried >= len(recipients):
        problems.append("The worker was killed too late: everything was done.")
    if set(buried) != {address for address in recipients if address.endswith(f"@{GONE}")}:
        problems.append("What was buried is not what the mail server refuses for good.")
    return replace(counted, problems=tuple(problems))


def start_mail_server(processes: Processes, maildir: Path) -> str:
    """Start it on a free port; return its address."""
    processes.start("mail-server", "mail_server.py", "--port", "0", "--maildir", str(maildir))
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if match := re.match(r"Listening on (\S+),", processes.log_of("mail-server").read_text()):
            return match[1]
        processes.check()
        time.sleep(0.05)
    raise DemoFailed(f"The mail server did not say within {PATIENCE:.0f} s where it listens.")


def dispatch(recipients_file: Path, console: Console) -> None:
    """Run the program that dispatches, which shows its own progress."""
    command = [sys.executable, "-m", "newsletter.dispatch", str(recipients_file)]
    try:
        subprocess.run(command, stdout=console.file, check=True, timeout=PATIENCE * 3, start_new_session=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise DemoFailed(f"Dispatching failed: {error}") from None


def start_worker(processes: Processes, name: str) -> None:
    """Start what an operator would start: ``postbus consume mail``."""
    processes.start(name, "-m", "postbus", "consume", "mail", "-v")


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description="Runs the newsletter whole and kills a worker in the middle.")
    parser.add_argument("--recipients", type=Path, default=HERE / "recipients.csv", metavar="FILE")
    parser.add_argument("--seed", type=int, default=0, help="for which worker is killed, and when exactly")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the mails, the database and the logs")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and everything else to stderr")
    arguments = parser.parse_args()

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))

    console = Console(stderr=arguments.json, highlight=False)
    recipients_file = arguments.recipients.resolve()
    if not recipients_file.is_file():
        parser.error(f"There is no file {arguments.recipients}.")
    folder = Path(tempfile.mkdtemp(prefix="newsletter-"))
    os.chdir(HERE)  # Where all its processes run, so that a relative path in a DSN is the same file for each.
    started = time.monotonic()
    try:
        counted = run(folder, recipients_file, arguments.seed, console)
    except (DemoFailed, PostbusError) as error:
        console.print(f"The demo failed. {error}", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; everything is stopped.")
        return 130
    finally:
        if arguments.keep:
            console.print(f"Kept {folder}.")
        else:
            shutil.rmtree(folder, ignore_errors=True)

    seconds = round(time.monotonic() - started, 1)
    console.print(make_table(counted), f"It took {seconds} s.", *counted.problems, sep="\n")
    if arguments.json:
        print(json.dumps({**asdict(counted), "seconds": seconds}))
    return 1 if counted.problems else 0


if __name__ == "__main__":
    sys.exit(main())
