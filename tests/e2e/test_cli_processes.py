"""The command line in real processes, with messages in a real file: signals, exit codes, and nothing lost."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.once]

APP = """
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from postbus import Postbus

# A shell lets its background jobs ignore Ctrl-C, and with them what they start: the tests, and this.
signal.signal(signal.SIGINT, signal.default_int_handler)

app = Postbus(
    transports={
        "orders": "sqlite:///shop.db?queue_name=orders",
        "mails": "sqlite:///shop.db?queue_name=mails",
        "failed": "sqlite:///shop.db?queue_name=failed",
    },
    routing={"shop.Order": "orders"},
    failure_transport="failed",
    retry={"max_retries": 0},
)


@app.message
@dataclass(frozen=True)
class Order:
    number: int


@app.handler
def handle(order: Order) -> None:
    print("handling", order.number, flush=True)
    if Path("block").exists():
        threading.Event().wait()
    if not Path("mended").exists():
        raise ValueError(f"order {order.number} is unlucky")
"""

POSTBUS = [sys.executable, "-m", "postbus", "--app", "shop:app"]


class Shop:
    """An app in a folder of its own, and processes that run the program on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Popen[str]] = []
        (folder / "shop.py").write_text(APP)

    def start(self, *arguments: str, **options: Any) -> Popen[str]:
        """Start a command and do not wait for it."""
        environment = {**os.environ, "POSTBUS_STATE_DIR": str(self.folder)}
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": PIPE, "stderr": PIPE, **options}
        process = Popen([*POSTBUS, *arguments], cwd=self.folder, env=environment, text=True, **pipes)
        self.running.append(process)
        return process

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        """Run a command to its end, which must have this exit code; return what it printed to stdout."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=60)
        assert exit_code == process.returncode, errors
        assert "Traceback" not in errors
        return output

    def json(self, *arguments: str, exit_code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--format", "json", exit_code=exit_code))

    def answer(self, answers: str, *arguments: str) -> tuple[int, str, str]:
        """Run a command on a terminal on which somebody types; return its exit code, stdout and stderr."""
        ours, its = pty.openpty()
        try:
            os.write(ours, answers.encode())
            process = self.start(*arguments, stdin=its)
            output, errors = process.communicate(timeout=60)
        finally:
            os.close(ours)
            os.close(its)
        assert "Traceback" not in errors
        return process.returncode, output, errors

    def dispatch(self, *numbers: int, handle: bool = False) -> None:
        """Dispatch orders in one other process, which handles them too if it is told to."""
        code = (
            f"import shop; from postbus import Limits; shop.app.dispatch_many(map(shop.Order, {numbers}))\n"
            f"if {handle}: shop.app.worker('orders', limits=Limits(messages={len(numbers)})).run()"
        )
        subprocess.run([sys.executable, "-c", code], cwd=self.folder, capture_output=True, timeout=60, check=True)

    def bury(self, *numbers: int) -> None:
        """Let orders fail for good."""
        self.dispatch(*numbers, handle=True)

    def mend(self) -> None:
        (self.folder / "mended").touch()

    def counts(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.json("stats", name)["transports"][name]
        return found

    def failed(self) -> list[str]:
        """Return the ids of the failed messages."""
        return [line["id"] for line in self.json("failed", "show")]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    for process in shop.running:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)


def wait_for(process: Popen[str], text: str) -> None:
    """Read what a process logs until a text comes."""
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} did not come. What came: {''.join(seen)}")


def wait_until_handling(process: Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().startswith("handling")


# stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_ends_a_worker_well(shop: Shop, number: signal.Signals) -> None:
    """A worker that gets a signal stops after the message in hand; its exit code is 0."""
    shop.mend()
    shop.dispatch(1)
    worker = shop.start("consume", "orders", "-v")
    wait_for(worker, "Handled Order")
    worker.send_signal(number)
    _, errors = worker.communicate(timeout=60)

    assert 0 == worker.returncode, errors
    assert f"Stopped, because it got {number.name}: 1 handled, 0 failed" in errors


def test_a_second_signal_ends_a_worker_at_once(shop: Shop) -> None:
    """A second signal interrupts the handler: exit code 130, no traceback, and the message is not lost."""
    (shop.folder / "block").touch()
    shop.dispatch(1)
    worker = shop.start("consume", "orders")
    wait_until_handling(worker)
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGINT)
    _, errors = worker.communicate(timeout=60)

    assert 130 == worker.returncode, errors
    assert "Traceback" not in errors
    assert 1 == shop.counts("orders")["waiting"]


def test_stop_workers_ends_a_worker(shop: Shop) -> None:
    """``stop-workers`` stops a worker in another process; its exit code is 0."""
    shop.mend()
    shop.dispatch(1)
    worker = shop.start("consume", "orders", "-v")
    wait_for(worker, "Handled Order")
    shop.run("stop-workers")
    _, errors = worker.communicate(timeout=60)

    assert 0 == worker.returncode, errors
    assert "all workers were told to" in errors


def test_a_worker_writes_json_only(shop: Shop) -> None:
    """In a real process too, every line of a JSON log is JSON."""
    shop.dispatch(1)
    worker = shop.start("consume", "orders", "-l", "1", "-vv", "--log-format", "json")
    _, errors = worker.communicate(timeout=60)

    assert 0 == worker.returncode
    assert all(json.loads(line)["level"] for line in errors.splitlines())


# counting again and again


@pytest.mark.parametrize("format", ["table", "json"])
def test_stats_that_are_watched(shop: Shop, format: str) -> None:
    """In a pipe each count is a table of its own, or a line of JSON; Ctrl+C ends it well."""
    shop.dispatch(1, 2)
    watching = shop.start("stats", "orders", "--watch", "--interval", "0.1", "--format", format)
    assert watching.stdout is not None
    lines: list[str] = []
    while not lines or sum("orders" in line for line in lines) < 3:
        lines.append(watching.stdout.readline())
        assert lines[-1]
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=60)

    assert (0, "") == (watching.returncode, errors)
    if format == "json":
        assert [2, 2, 2] == [json.loads(line)["transports"]["orders"]["waiting"] for line in lines]
    else:
        assert ["TRANSPORT", "orders", "", "TRANSPORT", "orders", "", "TRANSPORT", "orders"] == [
            line.rstrip().partition(" ")[0] for line in lines
        ]


def test_stats_that_are_watched_on_a_terminal(shop: Shop) -> None:
    """On a terminal the table is drawn in the place of the one before."""
    shop.dispatch(1, 2)
    ours, its = pty.openpty()
    try:
        watching = shop.start("stats", "orders", "--watch", "--interval", "0.1", stdout=its)
        seen = b""
        while seen.count(b"orders") < 3:
            seen += os.read(ours, 4096)
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(its)

    assert 0 == watching.returncode
    assert seen.count(b"\033[2J") >= 3


# failed messages


def test_a_failed_message_goes_round(shop: Shop) -> None:
    """Dispatched, failed, retried in vain, mended, retried, gone."""
    shop.bury(1)
    [id] = shop.failed()
    shop.run("failed", "retry", id, exit_code=1)
    [again] = shop.failed()
    assert 2 == shop.json("failed", "show", again)["attempts"]
    shop.mend()
    shop.run("failed", "retry", again)

    assert [] == shop.failed()


def test_a_retry_that_is_killed_loses_nothing(shop: Shop) -> None:
    """A process that dies while it handles a failed message leaves it where it is."""
    shop.bury(1)
    (shop.folder / "block").touch()
    process = shop.start("failed", "retry", "--all")
    wait_until_handling(process)
    process.kill()
    process.communicate(timeout=60)

    assert 1 == len(shop.failed())


def test_setup_then_check(shop: Shop) -> None:
    """``check`` finds what the first use will set up, which is no problem, and makes nothing; ``setup`` does."""
    found = [line for line in shop.json("check") if line["what"].startswith("transport")]
    assert {"ok"} == {line["status"] for line in found}
    assert all(line["detail"].endswith(", is set up at the first use") for line in found)
    assert not (shop.folder / "shop.db").exists()

    shop.run("setup")
    assert {"ok"} == {line["status"] for line in shop.json("check")}


# on a terminal


def test_each_failed_message_is_asked_about(shop: Shop) -> None:
    """Each message is shown once: retried, deleted, or skipped; skipping all comes to an end."""
    shop.bury(1, 2, 3)
    first, second, third = shop.failed()
    shop.mend()
    code, output, errors = shop.answer("r\nx\nd\ns\n", "failed", "retry")

    assert 0 == code
    lines = [line for line in output.splitlines() if not line.startswith("handling")]
    assert [f"{first} shop.Order handled", f"{second} shop.Order deleted", f"{third} shop.Order skipped"] == lines
    assert 3 == errors.count("Message id:")
    assert "Answer r, d, s or q." in errors
    assert [third] == shop.failed()


def test_an_interactive_retry_can_be_ended(shop: Shop) -> None:
    """``q`` ends it; what was not asked about stays."""
    shop.bury(1, 2)
    code, output, _ = shop.answer("q\n", "failed", "retry")

    assert (0, "") == (code, output)
    assert 2 == len(shop.failed())


def test_ids_are_retried_without_a_question(shop: Shop) -> None:
    """Whoever names ids has decided already."""
    shop.bury(1)
    shop.mend()

    assert 0 == shop.answer("", "failed", "retry", *shop.failed())[0]


def test_removing_asks(shop: Shop) -> None:
    """On a terminal, ``failed remove`` goes ahead only after a yes."""
    shop.bury(1, 2)

    code, _, errors = shop.answer("n\n", "failed", "remove", "--all")
    assert 1 == code
    assert "Remove 2 messages from 'failed', for good?" in errors
    assert 2 == len(shop.failed())
    assert 0 == shop.answer("y\n", "failed", "remove", "--all")[0]
    assert [] == shop.failed()


def test_purging_asks(shop: Shop) -> None:
    """On a terminal, ``purge`` says how much there is, and goes ahead only after a yes."""
    shop.dispatch(1, 2)

    code, _, errors = shop.answer("n\n", "purge", "orders")
    assert 1 == code
    assert "Delete all messages of orders (2 messages)?" in errors
    assert 2 == shop.counts("orders")["waiting"]
    assert 0 == shop.answer("y\n", "purge", "orders")[0]
    assert 0 == shop.counts("orders")["waiting"]


@pytest.mark.parametrize(
    ("answer", "consumed"),
    [("", "'orders'"), ("2", "'mails'"), ("2 1", "'mails', then 'orders'"), ("mails", "'mails'")],
)
def test_a_worker_asks_what_to_consume(shop: Shop, answer: str, consumed: str) -> None:
    """Without names, on a terminal, the transports are offered by number and name."""
    code, _, errors = shop.answer(f"{answer}\n", "consume", "--time-limit", "0.01")

    assert 0 == code
    assert "  1  orders\n  2  mails\n" in errors
    assert f"Consuming {consumed}." in errors


def test_a_table_on_a_terminal(shop: Shop) -> None:
    """On a terminal a table is framed, whatever is in it."""
    shop.bury(1)
    ours, its = pty.openpty()
    process = shop.start("failed", "show", stdout=its)
    os.close(its)
    _, errors = process.communicate(timeout=60)
    output = os.read(ours, 65536).decode()
    os.close(ours)

    assert 0 == process.returncode, errors
    assert "─" in output or "━" in output
    assert "shop.Order" in output


# completion


def complete(shop: Shop, line: str) -> list[str]:
    """Return what the shell would offer after a line."""
    environment = {
        **os.environ,
        "POSTBUS_APP": "shop:app",
        "_POSTBUS_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    command = [sys.executable, "-m", "postbus"]
    result = subprocess.run(command, cwd=shop.folder, env=environment, capture_output=True, text=True, timeout=60)
    assert "" == result.stderr
    return [line.partition(",")[2] for line in result.stdout.split()]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("postbus co", ["consume", "completion"]),
        ("postbus consume ", ["orders", "mails", "failed"]),
        ("postbus consume orders m", ["mails"]),
        ("postbus consume --bus ", ["default"]),
        ("postbus failed show --transport ", ["failed"]),
        ("postbus dispatch ", ["shop.Order"]),
        ("postbus debug d", ["default"]),
        ("postbus plugins in-m", ["in-memory"]),
        ("postbus --app nowhere:app consume ", []),
    ],
)
def test_names_complete(shop: Shop, line: str, offered: list[str]) -> None:
    """Commands, transports, buses, messages and plugins complete; an app that cannot be loaded offers nothing."""
    assert offered == complete(shop, line)


def test_ids_complete(shop: Shop) -> None:
    """The ids of failed messages complete, without those that are named already."""
    shop.bury(1, 2)
    first, second = shop.failed()

    assert [first, second] == complete(shop, "postbus failed retry ")
    assert [second] == complete(shop, f"postbus failed retry {first} ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell(shop: Shop, shell: str) -> None:
    """``completion`` prints what the shell must run."""
    assert f"_POSTBUS_COMPLETE={shell}_complete" in shop.run("completion", shell)
